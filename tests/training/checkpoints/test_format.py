"""Tests of the format of a checkpoint: its keys, and checkpoints that lack some of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_exp.errors import UserError
from alexnet_exp.training.checkpoints import format
from alexnet_exp.training.checkpoints.callback import Checkpoints
from alexnet_exp.training.checkpoints.format import ModuleState, ResumePoint
from tests.conftest import Run


def test_keys_in_files_do_not_change(finished: Run) -> None:
    content = finished.checkpoint("last")
    assert {"alexnet_exp", "alexnet_exp_standing", "half_epoch", "schedule_history"} <= content.keys()
    assert {"state_dict", "optimizer_states", "loops", "callbacks", "global_step"} <= content.keys()
    ours = (format.CARD, format.RUN_STATE, format.HALF_EPOCH, format.HISTORY, format.WEIGHTS, format.OPTIMIZERS)
    assert {*ours, format.STEP} <= content.keys()
    assert content["alexnet_exp_standing"].keys() == {
        *("ranks", "precision", "kernels", "kernel_choice", "threads"),
        *("between_epochs", "should_stop", "stopped_early", "random"),
    }
    assert Checkpoints.__qualname__ == format.CHECKPOINTS_CALLBACK
    assert format.CHECKPOINTS_CALLBACK in content["callbacks"]


def test_a_resume_point_is_read_from_a_checkpoint(finished: Run) -> None:
    path = finished.path / "checkpoints" / "last.ckpt"
    point = ResumePoint.of(path, format.read_checkpoint(path))
    assert (point.epoch, point.batch, str(point)) == (2, 0, f"last.ckpt: step {point.step}, epoch 2 done")
    assert point.fingerprint == finished.result["fingerprint"]
    assert point.weights().keys() == finished.checkpoint("last")["state_dict"].keys()


def test_module_state_round_trip() -> None:
    checkpoint: dict[str, object] = {}
    state = ModuleState([0.5], {"val/top1": 0.5}, [{"losses": [], "logits": 0}])
    state.add_to(checkpoint)
    assert ModuleState.of(checkpoint) == state
    assert ModuleState.of({}) == ModuleState([], {}, [])


def test_a_setting_that_is_newer_than_the_checkpoint_is_no_contradiction() -> None:
    theirs = {"norm": "bn", "stages": {"conv1": {"out": 3}, "conv3": None}}

    def check(ours: dict[str, object]) -> None:
        format.refuse_another_network(Path("last.ckpt"), theirs, ours, Path("run"))

    check({"norm": "bn", "new": 1, "stages": {"conv1": {"out": 3, "whiten": False}}})
    for other in ({"conv1": {"out": 4}}, {"conv1": {"out": 3}, "conv2": {"out": 3}}, {"conv3": {"out": 3}}):
        with pytest.raises(UserError, match="another network"):
            check({"norm": "bn", "stages": other})
