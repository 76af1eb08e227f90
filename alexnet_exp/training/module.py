"""The LightningModule: network, loss, optimizer and metrics of one experiment.

A batch is `(images, labels)`: uint8 [N, C, H, W] as the data module gives them (float32 on 0..255 with colour noise; in
a test of several views a list of them), and int64 [N]. Metrics are sums on the device, read once an epoch (`Tally`): no
step waits for them, and an image of a smaller batch counts like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_exp.config.schema import Loss
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.data.augment import centre_of
from alexnet_exp.errors import UserError
from alexnet_exp.optim.optimizers import build_optimizer, parts_of
from alexnet_exp.optim.schedules import WHOLE, Part, factor, part_factor
from alexnet_exp.optim.spec import Constant, Plateau
from alexnet_exp.seeds import derive
from alexnet_exp.training.distributed import replica, replicas

# How many batches a tally lets wait, and how many logits of theirs.
BATCHES_AT_ONCE = 50
LOGITS_AT_ONCE = 2**20


class Tally:
    """Sums of loss, top-1 hits, top-5 hits and images since the last `read`, kept on the device.

    Double precision where the device has it, so that 1.2 million images are counted to the last one. What `state` gives
    in mid-epoch and `restore` takes back leads to the same sums, to the last bit: the same batches are summed up
    together.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._losses: list[Tensor] = []  # of batches that wait too, whose hits have been counted already
        self._hits: Tensor | None = None
        self._logits = 0

    def add(self, loss_sum: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds one batch: the sum of its losses, its logits [N, classes] and its labels [N].

        They wait for others: a dozen small operations cost as much for many batches as for one. None may be changed
        in place afterwards.
        """
        self._waiting.append((loss_sum.detach(), logits.detach(), labels))
        self._logits += logits.numel()
        if len(self._waiting) + len(self._losses) >= BATCHES_AT_ONCE or self._logits >= LOGITS_AT_ONCE:
            self._sum_up()

    @torch.no_grad()
    def _count(self) -> None:
        """Counts the hits of the batches that wait, [top-1, top-5, images], and lets their logits go."""
        if not self._waiting:
            return
        losses, logits, labels = zip(*self._waiting, strict=True)
        ranks = rank_of_truth(torch.cat(logits), torch.cat(labels))
        kind = _widest(ranks.device)
        images = torch.full((), len(ranks), device=ranks.device, dtype=kind)
        hits = torch.stack([(ranks < 1).sum().to(kind), (ranks < 5).sum().to(kind), images])
        self._hits = hits if self._hits is None else self._hits + hits
        self._waiting = []
        self._losses += losses

    @torch.no_grad()
    def _sum_up(self) -> None:
        self._count()
        if self._hits is None:
            return
        loss = torch.stack(self._losses).to(self._hits.dtype).sum()
        new = torch.cat([loss[None], self._hits])
        self._losses, self._hits, self._logits = [], None, 0
        self.sums = new if self.sums is None else self.sums + new

    def state(self) -> dict[str, Any]:
        """What has been added so far, as plain containers and tensors on the CPU."""
        self._count()
        kept = {"sums": self.sums, "hits": self._hits}
        tensors = {key: value.cpu() for key, value in kept.items() if value is not None}
        return {**tensors, "losses": [loss.cpu() for loss in self._losses], "logits": self._logits}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Takes back what `state` gave."""
        self.sums, self._hits = (state[key].to(device) if key in state else None for key in ("sums", "hits"))
        self._losses, self._logits = [loss.to(device) for loss in state["losses"]], state["logits"]
        self._waiting = []

    def read(self, strategy: Any = None) -> dict[str, float]:
        """Means of what was added, over all ranks: loss, top1, top5 (0..1) and images; then starts again from nothing.

        A collective: every rank must call it. Empty where nothing was added anywhere.
        """
        self._sum_up()
        device = torch.device("cpu") if strategy is None else strategy.root_device
        sums = self.sums if self.sums is not None else torch.zeros(4, device=device, dtype=_widest(device))
        if strategy is not None:
            sums = strategy.reduce(sums, reduce_op="sum")
        self.sums = None
        loss, top1, top5, images = sums.tolist()
        return {"loss": loss / images, "top1": top1 / images, "top5": top5 / images, "images": images} if images else {}


def _wide(logits: Tensor) -> Tensor:
    """Logits for a loss: at least float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _seed(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for the CPU and this device alone.

    That one goes to every kind of device there could be, and where there is none of a kind it keeps the call, with a
    traceback as text, for the day there is one: a list that grows with every step.
    """
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
    torch.default_generator.manual_seed(seed)


def rank_of_truth(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the true one, [N]: 0 is right by top-1, below 5 by top-5.

    Among equal logits the earlier class comes first, so that a network which gives one value for all is right once in
    `classes`, not always; a logit that is not a number puts the truth last.
    """
    truth = logits.gather(1, labels[:, None])
    index = torch.arange(logits.shape[1], device=logits.device)
    after = (logits < truth) | ((logits == truth) & (index > labels[:, None]))
    return logits.shape[1] - 1 - after.sum(1)


class AlexNetModule(pl.LightningModule):
    """Trains `network` on batches that `preprocess` turns from bytes to what the variant wants.

    The learning rate of a step is set before it, as `optim.lr` times a pure function of the step: there is no scheduler
    whose state could be lost. Dropout and noise draw from f(seed, epoch, batch, rank).
    """

    def __init__(
        self,
        network: nn.Module,
        preprocess: nn.Module,
        optim: Any,
        schedule: Any,
        loss: Loss,
        seed: int = 1,
        channels_last: bool = False,
        classes: int | None = None,
    ):
        super().__init__()
        self.network, self.preprocess = network, preprocess
        self.optim, self.schedule, self.loss = optim, schedule, loss
        self.seed, self.channels_last, self.classes = seed, False, classes
        self.tally = {split: Tally() for split in ("train", "val", "test", "centre")}
        self.history: list[float] = []  # of the monitored metric, for `plateau`
        self.metrics: dict[str, float] = {}  # the means of this epoch, `split/metric`, to the last digit
        self.base_lrs: list[float] = []
        self.parts: list[Part] = []  # of the schedule, that the optimizer's groups are
        self.last_loss: Tensor | None = None
        self.only_finite = False  # whether the epoch's means leave out batches whose loss is no number
        self.lay_out(channels_last)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes some forty times a step which hook it is in, and torch asks each time if that is a parameter
        if name in ("_current_fx_name", "last_loss"):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def lay_out(self, channels_last: bool) -> None:
        """Puts the network's weights, and from now on its images, into that memory layout, or back out of it."""
        if channels_last != self.channels_last:
            self.network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W] on 0..255: uint8, or float32 after colour noise."""
        dtype = next(self.network.parameters()).dtype  # not float32 in bf16-true and its like
        logits: Tensor = self.network(self.preprocess(images, dtype, self.channels_last))
        return logits

    def on_train_epoch_start(self) -> None:
        self.metrics = {}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        _seed(derive(self.seed, "step", self.current_epoch, batch_idx, replica(self.trainer)), self.device)
        self._set_rate()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self._logits(images, labels)
        loss_sum = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.loss.label_smoothing)
        if not self.only_finite or bool(loss_sum.isfinite()):
            self.tally["train"].add(loss_sum, logits, labels)
        loss: Tensor = loss_sum * self._weight(batch_idx, len(labels))
        self.last_loss = loss.detach()
        return loss

    def _weight(self, batch_idx: int, here: int) -> float:
        """What makes a sum over this rank's `here` images its part of the mean over all images of the step.

        Lightning divides a loss by `accumulate_grad_batches`, also in an epoch's last step, which may have fewer
        batches, and DDP averages the ranks' gradients. Neither may make an image of an uneven batch weigh more.
        """
        trainer = self.trainer
        together, batches = trainer.accumulate_grad_batches, int(min(trainer.num_training_batches, 2**62))
        first = batch_idx - batch_idx % together
        global_size = getattr(trainer.datamodule, "global_size", None)  # type: ignore[attr-defined]
        if global_size is None:  # a data module of the user's does not tell how large the other batches are
            return 1 / here
        images = sum(global_size("train", batch) for batch in range(first, min(first + together, batches)))
        return float(replicas(trainer) * together / images)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor | list[Tensor], Tensor], batch_idx: int) -> Tensor:
        """Logits [N, classes]; of a list of views, the logarithms of their averaged probabilities."""
        images, labels = batch
        if isinstance(images, Tensor):
            return self._evaluate("test", (images, labels))
        logs = []
        for number, view in enumerate(images):
            logits = self._logits(view, labels)
            if number == centre_of(len(images)):
                self.tally["centre"].add(F.cross_entropy(logits, labels, reduction="sum"), logits, labels)
            logs.append(logits.to(_widest(logits.device)).log_softmax(1))
        averaged = torch.stack(logs).logsumexp(0) - math.log(len(logs))
        self.tally["test"].add(F.nll_loss(averaged, labels, reduction="sum"), averaged, labels)
        return averaged

    def _logits(self, images: Tensor, labels: Tensor) -> Tensor:
        """The network's answer to a batch, at least float32; refuses one that cannot be its classes' logits."""
        logits = self(images)
        classes = self.classes or "classes"
        fits = isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(labels)
        if not fits or logits.shape[1] != (self.classes or logits.shape[1]):
            gave = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            told = f"gave {gave} of {len(labels)} images; a network gives logits [N, {classes}]"
            raise UserError(f"{type(self.network).__name__} {told}")
        return _wide(logits)

    def _evaluate(self, split: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits = self._logits(images, labels)
        self.tally[split].add(F.cross_entropy(logits, labels, reduction="sum"), logits, labels)
        return logits

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")
        if getattr(self.trainer.datamodule, "test_views", 1) > 1:  # type: ignore[attr-defined]
            self._log("centre")

    def on_train_epoch_end(self) -> None:
        self._log("train")
        if isinstance(self.schedule, Plateau) and self.schedule.monitor in self.metrics:
            self.history.append(self.metrics[self.schedule.monitor])

    def _log(self, split: str) -> None:
        """Means over the epoch, as `split/loss` and so on, where Lightning and its callbacks find them."""
        means = self.tally[split].read(self.trainer.strategy if replicas(self.trainer) > 1 else None)
        # a training image's top-5 says nothing that its top-1 does not: it is neither a column nor a curve
        wanted = ("loss", "top1") if split == "train" else ("loss", "top1", "top5")
        named = {f"{split}/{key}": value for key, value in means.items() if key in wanted}
        self.metrics |= named
        self.log_dict(named, logger=False)

    # --- optimizer and schedule

    def configure_optimizers(self) -> Any:
        if isinstance(self.optim, UserClass):
            optimizer = self.optim.build(self.network.parameters())
            self.parts = [WHOLE] * len(optimizer.param_groups)
        else:
            # a fused step unscales gradients itself, after they are clipped: Lightning refuses to clip for it
            clips_scaled = bool(self.trainer.gradient_clip_val) and str(self.trainer.precision).endswith("mixed")
            schedule = None if isinstance(self.schedule, UserClass) else self.schedule
            optimizer = build_optimizer(self.optim, self.network, fused=not clips_scaled, schedule=schedule)
            self.parts = parts_of(optimizer, self.network, schedule or Constant())
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        if isinstance(self.schedule, UserClass):
            scheduler = self.schedule.build(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        return optimizer

    def rate_factors(self) -> list[float]:
        """What the rate of each of the optimizer's groups is multiplied by in the step that comes next."""
        total = (
            int(self.trainer.estimated_stepping_batches) if self.schedule.needs_total else 0
        )  # a run may have no end
        batches = min(self.trainer.num_training_batches, 2**62)  # infinite for a stream of the user's
        per_epoch = max(1, -(-int(batches) // self.trainer.accumulate_grad_batches))
        step = self.global_step, total, per_epoch
        whole = factor(self.schedule, *step, history=self.history)
        return [part_factor(self.schedule, part, whole, *step) for part in self.parts]

    def _set_rate(self) -> None:
        if isinstance(self.schedule, UserClass):
            return
        groups = self.optimizers(use_pl_optimizer=False).param_groups  # type: ignore[union-attr]
        for group, base, scale in zip(groups, self.base_lrs, self.rate_factors(), strict=True):
            group["lr"] = base * scale

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A collective, as saving is: what each rank has of an epoch that is not over goes into the one file."""
        mine = self.tally["train"].state()
        everyone: list[Any] = [mine]
        if replicas(self.trainer) > 1:
            everyone = [None] * replicas(self.trainer)
            torch.distributed.all_gather_object(everyone, mine)
        checkpoint["half_epoch"] = {"metrics": dict(self.metrics), "tallies": everyone}
        checkpoint["schedule_history"] = list(self.history)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint.get("schedule_history", []))
        half = checkpoint.get("half_epoch")
        if half is not None:
            self.metrics = dict(half["metrics"])
            self._restore_tally(half["tallies"])

    def _restore_tally(self, tallies: Sequence[Mapping[str, Any]]) -> None:
        rank = replica(self.trainer)
        # where there were more ranks than now, the last one takes what theirs had, so that no image is lost
        mine = tallies[rank : None if rank == replicas(self.trainer) - 1 else rank + 1]
        device = self.trainer.strategy.root_device
        parts = []
        for state in mine:
            part = Tally()
            part.restore(state, device)
            parts.append(part)
        if len(parts) == 1:
            self.tally["train"] = parts[0]
        elif parts:
            for part in parts:
                part._sum_up()
            found = [part.sums for part in parts if part.sums is not None]
            self.tally["train"].sums = torch.stack(found).sum(0) if found else None


def metrics_of(trainer: pl.Trainer, module: pl.LightningModule, splits: tuple[str, ...]) -> dict[str, float]:
    """The newest `split/metric` values: our module's exact ones, a user's module's as it logged them."""
    return _of_splits({**trainer.callback_metrics, **getattr(module, "metrics", {})}, splits)


def metrics_of_epoch(trainer: pl.Trainer, module: pl.LightningModule, validated: bool) -> dict[str, float]:
    """The `train/metric` and `val/metric` values of the epoch that ends; for a callback's `on_train_epoch_end`.

    `trainer.callback_metrics` also holds values of earlier epochs, where this one logged none, and rounds all to
    float32. validated: whether this epoch had a validation; else it has no `val/metric` of one.
    """
    of_validation = _of_splits(trainer.callback_metrics, ("val",)) if validated else {}
    logged = trainer._logger_connector.metrics["callback"]  # what the training loop has logged in this epoch
    return _of_splits({**of_validation, **logged, **getattr(module, "metrics", {})}, ("train", "val"))


def _of_splits(values: Mapping[str, Any], splits: tuple[str, ...]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if key.partition("/")[0] in splits}
