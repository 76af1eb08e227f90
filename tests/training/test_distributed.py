"""Tests of the agreement of ranks, in two processes with gloo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alexnet_exp.runs.status import Ending
from alexnet_exp.training.launch import run_ranks


def agree(container: Mapping[str, Any], folder: Path) -> Ending:
    import os

    from alexnet_exp.training.distributed import Agreement

    rank = int(os.environ["RANK"])
    trainer: Any = SimpleNamespace(world_size=2)
    fresh, late = Agreement(), Agreement()
    heard = {
        "lowest and highest": fresh.ask_now(
            trainer, -5 - rank, 5 + rank
        ),  # numbers of either sign: nothing stands for 0
        "asked": [late.ask(trainer, -3 - rank), late.ask(trainer, -7 - rank)],
        "with what was asked": late.ask_now(trainer, -9 - rank),
        "afterwards": late.ask_now(trainer, -11 - rank),
    }
    (folder / f"{rank}.json").write_text(json.dumps(heard))
    return Ending("done", 0)


def test_agreement_gives_every_rank_the_maximum_of_all(tmp_path: Path) -> None:
    assert run_ranks(agree, 2, "gloo", {}, tmp_path) == Ending("done", 0)
    heard = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert heard[0] == heard[1]
    assert heard[0] == {
        "lowest and highest": [-5, 6],
        "asked": [[0], [-3]],
        "with what was asked": [-7],
        "afterwards": [-11],
    }


def test_agreement_of_one_rank_is_immediate() -> None:
    from alexnet_exp.training.distributed import Agreement

    trainer: Any = SimpleNamespace(world_size=1)
    assert Agreement().ask(trainer, -2) == Agreement().ask_now(trainer, -2) == (-2,)
