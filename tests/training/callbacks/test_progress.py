"""Tests of the progress bar: on a terminal, on stderr, with the newest loss."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alexnet_exp.training.callbacks.progress import Progress, wants_bar


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_bar_is_shown_on_a_terminal_by_default(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: terminal))
    assert wants_bar(None) is terminal
    assert wants_bar(True)
    assert not wants_bar(False)


def test_progress_bar_shows_the_newest_loss() -> None:
    bar, trainer = Progress(), SimpleNamespace()
    module: Any = SimpleNamespace(last_loss=torch.tensor(1.23456))
    assert bar.get_metrics(trainer, module) == {"loss": "1.2346"}  # type: ignore[arg-type]
    module.last_loss = None
    assert bar.get_metrics(trainer, module) == {}  # type: ignore[arg-type]
