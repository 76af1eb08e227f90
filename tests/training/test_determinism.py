"""Test of `trainer.deterministic=true`: two processes with one command are bit-identical."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.test_resume import assert_equal, state

PATHS = {
    "columns of one device, LRN": ("model=paper", "model.num_classes=10", "model.in_channels=1", "data.batch_size=16"),
    "batch norm, dropout, crops": ("model=bn", "model.dropout=0.5", "data.pad=2", "data.mirror=true", "callbacks=ema"),
    "bf16": ("model=lrn", "trainer.precision=bf16-mixed"),
    "two ranks": ("model=bn", "trainer=ddp_cpu"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", PATHS)
def test_two_processes_are_bit_identical(
    case: str, command: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        process = command(*PATHS[case], "trainer.deterministic=true", f"hydra.run.dir={folder}")
        assert process.wait(300) == 0, process.communicate()
    assert_equal(*folders)
    assert state(folders[0])["global_step"] > 0
