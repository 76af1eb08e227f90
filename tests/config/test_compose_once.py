"""A configuration is composed once and validated once, however many processes use it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from alexnet_exp.__main__ import main
from alexnet_exp.config.compose import compose_run
from alexnet_exp.config.composition import Composition
from alexnet_exp.runs.status import Ending
from alexnet_exp.sweep.execute import local
from alexnet_exp.training import train as training
from tests.conftest import TINY
from tests.counts import counting
from tests.sweep import works

SHORT = (*TINY, "trainer.max_epochs=1", "trainer.limit_train_batches=1")
ONCE = {"compositions": 1, "validations": 1}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def counts_of(*arguments: str) -> dict[str, int]:
    with counting() as counts:
        assert main(list(arguments)) == 0
    return dict(counts)


def test_a_run_is_composed_and_validated_once() -> None:
    assert counts_of(*SHORT) == ONCE


def test_printing_a_configuration_composes_once() -> None:
    assert counts_of("--cfg", "job", *SHORT) == {"compositions": 1}


def test_each_job_of_a_sweep_is_validated_once() -> None:
    """Compositions: of the sweep, of the first job, and of what all four jobs have in common."""
    assert counts_of("-m", *SHORT, "seed=1,2,3,4", "hydra.launcher.jobs=0") == {"compositions": 3, "validations": 4}


def test_a_run_of_two_ranks_is_composed_and_validated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[Composition] = []

    def run_ranks(work: Any, ranks: int, backend: str, given: Composition, folder: Path) -> Ending:
        received.extend(pickle.loads(pickle.dumps(given)) for _ in range(ranks))
        return Ending("done", 0, recorded=True)

    monkeypatch.setattr(training, "run_ranks", run_ranks)
    monkeypatch.setattr("alexnet_exp.cli.train.print_result", lambda *_: None)
    assert counts_of(*SHORT, "trainer=ddp_cpu") == ONCE
    with counting() as counts:
        config = compose_run([*SHORT, "trainer=ddp_cpu"]).config
    assert [each.config for each in received] == [config, config]
    assert counts == ONCE


def test_training_validates_nothing(tmp_path: Path) -> None:
    composition = compose_run(SHORT)
    with counting() as counts:
        assert training.train_rank(composition, tmp_path / "run").status == "done"
    assert not counts


def test_a_run_that_is_resumed_is_validated_once() -> None:
    assert main([*SHORT, "hydra.run.dir=run"]) == 0
    assert counts_of("resume", "run", "trainer.max_epochs=2") == {"validations": 1}


def test_planning_a_sweep_without_running_it_does_not_import_torch() -> None:
    script = "import sys; from alexnet_exp.__main__ import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    words = ["-m", *SHORT, "seed=1,2", "hydra.launcher.jobs=0"]
    subprocess.run([sys.executable, "-c", script, *words], check=True)


@pytest.mark.slow
def test_ranks_do_not_compose_or_validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train_rank", works.train_and_count)
    assert counts_of(*SHORT, "trainer=ddp_cpu", "hydra.run.dir=run") == ONCE
    assert [json.loads((tmp_path / "run" / f"counts{rank}.json").read_text()) for rank in (0, 1)] == [{}, {}]


@pytest.mark.slow
def test_jobs_of_a_sweep_do_not_compose_or_validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LocalPool", partial(local.LocalPool, work=works.train_and_count))
    counts = counts_of("-m", *SHORT, "seed=1,2,3,4", "hydra.sweep.dir=sweep")
    assert counts == {"compositions": 3, "validations": 4}
    assert [json.loads(file.read_text()) for file in (tmp_path / "sweep").glob("*/counts.json")] == [{}] * 4
    assert counts_of("sweep", "work", "sweep") == {}, "all jobs are done"
