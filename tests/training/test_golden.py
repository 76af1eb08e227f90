"""Tests that 20 deterministic steps have the recorded losses.

They move with any change of the network, its initial weights, the data, the order, the augmentation, the optimizer or
the schedule. After an intended change, `python tests/training/test_golden.py` writes them again, and the commit shows
how far they moved.

The tolerance holds across CPUs. It grows, because rounding does: digits have a black ground, and rounding decides which
of its equal pixels a pool takes. Another number of threads, SSE 4.1 for AVX2, and PyTorch's own convolutions for
oneDNN's moved the first five losses by at most 2e-4 and the others by at most 8e-3. By SGD: Adam divides by the size of
the gradient, so that where this is zero but for rounding, rounding decides a whole step.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"
STEPS = 20
TOLERANCES = [min(2e-2, 1e-5 * 4**step) for step in range(STEPS)]
OVERRIDES = (
    *("data.subset=null", "data.pad=2", "data.mirror=true", "data.val=none", "test.run=false"),
    *("model.width=0.25", "optim=sgd", "optim.lr=0.003", "schedule=constant", f"trainer.max_steps={STEPS}"),
    *("trainer.precision=32-true", "trainer.channels_last=false"),
)


def losses(model: str, folder: Path) -> list[float]:
    from tests.conftest import train_into

    run = train_into(folder / model, f"model={model}", *OVERRIDES)
    assert run.code == 0, run.log
    return run.losses


@pytest.mark.parametrize("model", ["bn", "lrn"])
def test_golden_losses(model: str, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / f"{model}.json").read_text())
    found = losses(model, tmp_path)
    assert len(found) == len(golden) == STEPS
    apart = [abs(ours / theirs - 1) for ours, theirs in zip(found, golden, strict=True)]
    assert [step for step in range(STEPS) if apart[step] > TOLERANCES[step]] == []


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import torch

    torch.set_num_threads(1)
    for name in ("bn", "lrn"):
        with tempfile.TemporaryDirectory() as scratch:
            text = json.dumps([round(loss, 6) for loss in losses(name, Path(scratch))], indent=1)
        (GOLDEN / f"{name}.json").write_text(text + "\n")
