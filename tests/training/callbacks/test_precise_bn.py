"""Tests of validation with newly measured statistics, against a computation by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alexnet_exp.inference.classifier import load
from alexnet_exp.runs.folder import METRICS_COLUMNS
from alexnet_exp.training.callbacks.precise_bn import reset_statistics
from tests.conftest import Run, opened_data

TrainRun = Callable[..., Run]


def test_callback_does_not_affect_training(train_run: TrainRun, finished: Run) -> None:
    run = train_run("run", "callbacks=precise_bn")
    assert run.steps == finished.steps
    ours, theirs = run.checkpoint("last"), finished.checkpoint("last")
    for name, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], value), name
    header = (run.path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header == [*METRICS_COLUMNS, "val/loss_precise_bn", "val/top1_precise_bn"]


@pytest.mark.parametrize(("images", "batches"), [(10_000, 3), (40, 2)])
def test_precise_statistics_equal_those_computed_by_hand(train_run: TrainRun, images: int, batches: int) -> None:
    # stages up to conv1's norm alone see inputs that do not depend on another norm: the rest is by the same loop
    run = train_run("run", "callbacks=precise_bn", f"callbacks.precise_bn.images={images}", "trainer.max_epochs=1")
    data = opened_data(run)
    network = load(run.path, "last")
    train, val = data.source.train, data.source.val
    assert val is not None
    # the order of epoch 0, in batches of 32, at the central crop
    order = data.loader("train", shuffle=True).order().split(32)[:batches]
    norms = {name: m for name, m in network.network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    sums = {name: torch.zeros(2, norm.num_features) for name, norm in norms.items()}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            x = inputs[0].transpose(0, 1).flatten(1)
            sums[name] += torch.stack([x.mean(1), x.var(1)]) / len(order)

        return hook

    hooks = [norm.register_forward_pre_hook(keep(name)) for name, norm in norms.items()]
    for norm in norms.values():
        norm.train()
    with torch.no_grad():
        for indices in order:
            network(data.centred(train.images(indices)))
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        norm.eval()
        norm.running_mean, norm.running_var = sums[name]
    with torch.no_grad():
        logits = network(data.centred(val.images(torch.arange(len(val)))))
    row = run.metrics[0]
    assert row["val/loss_precise_bn"] == pytest.approx(float(F.cross_entropy(logits, val.labels)), rel=1e-5)
    assert row["val/loss_precise_bn"] != pytest.approx(row["val/loss"], rel=1e-3)


def test_statistics_are_restored_after_an_error() -> None:
    norm = nn.BatchNorm2d(3, momentum=0.3)
    norm(torch.randn(4, 3, 2, 2))
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    with pytest.raises(RuntimeError), reset_statistics(norm):  # noqa: PT012
        norm(torch.randn(4, 3, 2, 2))
        norm(torch.randn(4, 99, 2, 2))  # of another network
    assert norm.momentum == 0.3
    assert all(torch.equal(value, norm.state_dict()[key]) for key, value in before.items())
