"""Tests of metrics against torchmetrics, and of a training step against PyTorch without Lightning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from alexnet_exp.config.compose import compose_run
from alexnet_exp.config.schema import Loss
from alexnet_exp.model.preprocess import Preprocess
from alexnet_exp.model.spec import Input
from alexnet_exp.optim.schedule_spec import Constant
from alexnet_exp.optim.schedules import factor
from alexnet_exp.seeds import derive
from alexnet_exp.training.build import build, prepare
from alexnet_exp.training.metrics import Tally, rank_of_truth
from alexnet_exp.training.module import AlexNetModule
from tests.conftest import TINY, Run

# Dropout apart, everything random is in the batch: a bare loop then needs no random numbers of its own. It computes in
# torch's own memory layout.
PLAIN = (
    *("model.dropout=0", "optim=sgd", "optim.lr=0.05", "schedule=one_cycle", "trainer.max_epochs=2"),
    "trainer.channels_last=false",
)


def random_batch(images: int = 200, classes: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(images, classes, generator=generator), torch.randint(classes, (images,), generator=generator)


@pytest.mark.parametrize("k", [1, 5])
def test_ranks_agree_with_torchmetrics(k: int) -> None:
    logits, labels = random_batch()
    ours = (rank_of_truth(logits, labels) < k).double().mean()
    theirs = multiclass_accuracy(logits, labels, 12, average="micro", top_k=k)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-7)


def test_ranks_agree_with_a_loop_where_logits_are_equal() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randint(3, (50, 6), generator=generator).float()
    labels = torch.randint(6, (50,), generator=generator)
    by_hand = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        order = sorted(range(6), key=lambda c: (-row[c], c))
        by_hand.append(order.index(label))
    assert rank_of_truth(logits, labels).tolist() == by_hand


class ReusedOutput(torch.nn.Module):
    """A network that writes each output over the last one, as one that is replayed from CUDA graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)
        self.kept: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.layer(images.flatten(1))
        if self.kept is None:
            self.kept = output.detach().clone()
        return self.kept.copy_(output.detach())


def test_logits_of_a_replayed_network_outlive_the_next_batch() -> None:
    module = AlexNetModule(ReusedOutput(), Preprocess(Input(), 3, 1), None, None, Loss())
    module.eval()
    first, second = torch.zeros(2, 3, 1, 1, dtype=torch.uint8), torch.full((2, 3, 1, 1), 255, dtype=torch.uint8)
    assert torch.equal(module(first), module(second)), "the same memory"
    module.replays_graphs = True
    kept = module(first)
    before = kept.clone()
    assert not torch.equal(module(second), kept)
    assert torch.equal(kept, before)


def test_constant_logits_score_at_chance() -> None:
    labels = torch.arange(10).repeat(7)
    ranks = rank_of_truth(torch.full((70, 10), 0.3), labels)
    assert float((ranks < 1).double().mean()) == pytest.approx(1 / 10)
    assert float((ranks < 5).double().mean()) == pytest.approx(5 / 10)


def test_nan_logits_count_as_wrong() -> None:
    labels = torch.arange(10)
    assert rank_of_truth(torch.full((10, 10), torch.nan), labels).tolist() == [9] * 10
    logits = torch.eye(10)
    logits[3, 5] = torch.nan  # another class's: nothing is known to come after it
    assert rank_of_truth(logits, labels)[3] == 1


def test_means_weight_images_of_uneven_batches_equally() -> None:
    logits, labels = random_batch(70)
    tally = Tally()
    for start in range(0, 70, 32):
        part, truth = logits[start : start + 32], labels[start : start + 32]
        tally.add(F.cross_entropy(part, truth, reduction="sum"), part, truth)
    means = tally.read()
    assert means["images"] == 70
    assert means["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    assert means["top1"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()), abs=1e-12)
    assert tally.read() == {}, "reading starts again from nothing"


class Bare:
    """The experiment of some overrides, trained with nothing but PyTorch."""

    def __init__(self, *overrides: str):
        config = compose_run([*TINY, *overrides]).config
        experiment = build(config)
        prepare(experiment)
        self.config, self.data, self.module = config, experiment.data, experiment.module
        weights = [p for p in self.module.network.parameters() if p.ndim > 1]
        others = [p for p in self.module.network.parameters() if p.ndim == 1]
        groups = [{"params": weights, "weight_decay": config.optim.weight_decay}, {"params": others}]
        self.optimizer = torch.optim.SGD(groups, config.optim.lr, config.optim.momentum)

    def batches(self, epoch: int) -> list[tuple[Tensor, Tensor]]:
        """Images and labels in the order and with the crops that the contract of `seeds` promises."""
        split, size = self.data.source.train, self.config.data.batch_size
        order = torch.randperm(
            len(split), generator=torch.Generator().manual_seed(derive(self.config.seed, "order", epoch))
        )
        found = []
        for batch, indices in enumerate(order.split(size)):
            images = self.data.augment(split.images(indices), epoch, batch)
            found.append((images, split.labels[indices]))
        return found

    def train(
        self, smoothing: float = 0.0, accumulate: int = 1, clip: float | None = None
    ) -> list[tuple[float, float]]:
        """The loss and the learning rate of every step."""
        module, steps = self.module.train(), []
        per_epoch = -(-len(self.batches(0)) // accumulate)
        for epoch in range(2):
            batches = self.batches(epoch)
            for start in range(0, len(batches), accumulate):
                images, labels = (torch.cat(part) for part in zip(*batches[start : start + accumulate], strict=True))
                rate = self.config.optim.lr * factor(self.config.schedule, len(steps), 2 * per_epoch, per_epoch)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                logits = module.network(module.preprocess(images))
                loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
                self.optimizer.zero_grad()
                loss.backward()
                if clip:
                    torch.nn.utils.clip_grad_norm_(module.network.parameters(), clip)
                self.optimizer.step()
                steps.append((loss.item(), rate))
        return steps


def assert_equal_steps(run: Run, bare: list[tuple[float, float]]) -> None:
    assert run.code == 0
    assert [step for step, _, _ in run.steps] == list(range(1, len(bare) + 1))
    assert run.losses == pytest.approx([loss for loss, _ in bare], rel=2e-5)
    assert [rate for _, _, rate in run.steps] == pytest.approx([rate for _, rate in bare], rel=1e-12)


CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "plain": ((), {}),
    "label smoothing": (("loss.label_smoothing=0.1",), {"smoothing": 0.1}),
    "clipping": (("trainer.gradient_clip_val=0.05",), {"clip": 0.05}),
    "augmentation": (("data.pad=4", "data.mirror=true"), {}),
    "an uneven last batch": (("data.subset=80",), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_equal_those_of_a_plain_torch_loop(train_run: Callable[..., Run], case: str) -> None:
    overrides, how = CASES[case]
    run = train_run("run", *PLAIN, *overrides)
    assert_equal_steps(run, Bare(*PLAIN, *overrides).train(**how))


@pytest.mark.parametrize("images", [128, 80])
def test_accumulation_equals_one_step_on_the_joined_batch(train_run: Callable[..., Run], images: int) -> None:
    # 80 images in batches of 32 are steps of 64 and of 16; norms see single batches, so that the network has none
    options = (*PLAIN, "model=none", f"data.subset={images}", "trainer.accumulate_grad_batches=2")
    assert_equal_steps(train_run("run", *options), Bare(*options).train(accumulate=2))


def test_each_parameter_group_has_its_own_learning_rate(
    train_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, float]] = []

    def noted(module: AlexNetModule, batch: Any, batch_idx: int) -> torch.Tensor:
        names = {id(parameter): name for name, parameter in module.network.named_parameters()}
        groups = module.optimizers(use_pl_optimizer=False).param_groups  # type: ignore[union-attr]
        seen.append({names[id(p)]: group["lr"] for group in groups for p in group["params"]})
        return original(module, batch, batch_idx)

    original = AlexNetModule.training_step
    monkeypatch.setattr(AlexNetModule, "training_step", noted)
    staged = ("optim=krizhevsky", "optim.lr=0.004", "schedule=four_stages", "data.subset=128", "model=bn")
    frozen = "+schedule.layers.conv1={milestones:[1,75%],factors:[0.5,0],biases:false}"
    run = train_run("run", *staged, frozen, "data.val=none", "trainer.max_epochs=2")
    assert run.code == 0, run.log
    assert len(seen) == 8  # 4 batches in each of 2 epochs: a stage is 2 steps
    for step, rates in enumerate(seen):
        weights = 0.004 * 250 ** (-(step // 2) / 3)
        for name, rate in rates.items():
            expected = (0.008 if step < 4 else 0.0008) if name.endswith("bias") else weights
            if name.startswith("conv1") and not name.endswith("bias"):
                expected *= 1 if step < 4 else 0.5 if step < 6 else 0
            assert rate == pytest.approx(expected, rel=1e-12), (name, step)
    # what is logged is the weights' rate, of the layers that follow the schedule
    assert [rate for _, _, rate in run.steps] == pytest.approx([rates["conv2.conv.weight"] for rates in seen])


def test_plateau_counts_validations_not_epochs(train_run: Callable[..., Run]) -> None:
    plateau = ("schedule=plateau", "schedule.patience=0", "schedule.threshold=0.9")
    run = train_run("run", *PLAIN, *plateau, "trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2")
    rates = [row["lr"] for row in run.metrics]
    # validated after epochs 2 and 4; the first value is the best so far, the second falls into no epoch any more
    assert rates == [0.05] * 4
    assert [row["val/loss"] is None for row in run.metrics] == [True, False, True, False]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_train_and_clip(train_run: Callable[..., Run], precision: str) -> None:
    run = train_run("run", f"trainer.precision={precision}", "trainer.gradient_clip_val=1", "trainer.max_epochs=1")
    assert run.code == 0, run.log
    assert run.result["precision"] == precision


def test_channels_last_reaches_network_and_images(tmp_path: Path) -> None:
    config = compose_run([*TINY, "trainer.channels_last=true", "data.subset=32"]).config
    experiment = build(config)
    prepare(experiment)
    seen: list[bool] = []
    conv1 = experiment.network.conv1.conv
    conv1.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    experiment.module(experiment.data.source.train.images(torch.arange(4)))
    assert seen == [True]
    conv2 = experiment.network.conv2.conv.weight
    assert conv2.is_contiguous(memory_format=torch.channels_last)


def test_memory_layout_can_be_changed_and_restored() -> None:
    module = build(compose_run([*TINY, "trainer.channels_last=false"]).config).module
    weight = module.network.conv2.conv.weight
    before = weight.detach().clone()
    for last in (True, False):
        module.lay_out(last)
        assert weight.is_contiguous(memory_format=torch.channels_last) is last
        assert weight.is_contiguous() is not last
        assert torch.equal(weight, before)


def test_step_draws_the_random_numbers_of_torch_manual_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build(compose_run(TINY).config).module
    monkeypatch.setattr(module, "_set_rate", lambda: None)
    trainer = SimpleNamespace(current_epoch=3, global_rank=0, distributed_sampler_kwargs=None, world_size=1)
    monkeypatch.setattr(type(module), "trainer", trainer)
    monkeypatch.setattr(type(module), "current_epoch", 3)
    queued = len(torch.cuda._queued_calls)
    module.on_train_batch_start(None, 5)
    drawn = torch.rand(4)
    assert len(torch.cuda._queued_calls) == queued, "no call is kept for a GPU that is not there"
    torch.manual_seed(derive(1, "step", 3, 5, 0))
    assert torch.equal(drawn, torch.rand(4))


@pytest.mark.parametrize("batches", [1, 3, 130])
def test_batched_counting_does_not_change_the_sums(batches: int) -> None:
    tally, by_hand = Tally(), torch.zeros(3, dtype=torch.float64)
    for number in range(batches):
        logits, labels = random_batch(20)
        logits = logits.roll(number, 1)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        tally.add(loss, logits, labels)
        top5 = logits.topk(5).indices
        right = torch.stack([(top5[:, 0] == labels).sum(), (top5 == labels[:, None]).sum()])
        by_hand += torch.cat([loss.double()[None], right.double()])
    means, n = tally.read(), 20 * batches
    assert means["images"] == n
    assert (means["top1"], means["top5"]) == (by_hand[1] / n, by_hand[2] / n)
    assert means["loss"] == pytest.approx(float(by_hand[0]) / n, rel=1e-13)


def test_run_limited_by_time_needs_no_number_of_steps(train_run: Callable[..., Run]) -> None:
    endless = ("schedule=constant", "trainer.max_epochs=null", "trainer.max_time='00:00:00:01'")
    run = train_run("run", *endless)
    assert run.code == 0, run.log
    spec = replace(Constant())
    assert {rate for _, _, rate in run.steps} == {run.result["config"]["optim.lr"] * factor(spec, 0, 0, 1)}


@pytest.mark.parametrize("cut", [1, 49, 50, 51, 77])
def test_restored_tally_is_bit_identical(cut: int) -> None:
    generator = torch.Generator().manual_seed(3)
    batches = [
        (torch.rand((), generator=generator) * 100, torch.randn(7, 9, generator=generator), torch.arange(7))
        for _ in range(120)
    ]
    whole, part = Tally(), Tally()
    for batch in batches:
        whole.add(*batch)
    for batch in batches[:cut]:
        part.add(*batch)
    state = part.state()
    part.add(*batches[0])  # what comes after is not in it
    resumed = Tally()
    resumed.restore(state, torch.device("cpu"))
    for batch in batches[cut:]:
        resumed.add(*batch)
    assert resumed.read() == whole.read()
