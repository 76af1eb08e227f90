"""Provides the LightningModule: network, loss, optimizer and metrics of one experiment.

A batch is `(images, labels)`: uint8 [N, C, H, W] (float32 on 0..255 with colour noise; a list of them in a test of
several views), and int64 [N]. Metrics are sums on the device, read once per epoch (`Tally`): no step waits for them,
and an image of a smaller batch counts like any other.
"""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_exp.config.schema import Loss
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.data.augment import center_view
from alexnet_exp.errors import UserError
from alexnet_exp.kernels import lrn
from alexnet_exp.optim.optimizers import build_optimizer, parts_of
from alexnet_exp.optim.schedule_spec import Constant, Plateau
from alexnet_exp.optim.schedules import WHOLE_SCHEDULE, SchedulePart, factor, part_factor
from alexnet_exp.seeds import derive
from alexnet_exp.training.checkpoints.format import ModuleState
from alexnet_exp.training.distributed import replica, replicas
from alexnet_exp.training.metrics import Tally, restored_tally, widest_float


def _wide(logits: Tensor) -> Tensor:
    """Logits for a loss: at least float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _seed(seed: int, device: torch.device) -> None:
    """Calls `torch.manual_seed` for the CPU and this device only.

    torch's own seeds every kind of device. For a kind that the machine does not have it queues the call, with a
    traceback as text: a list that would grow with every step.
    """
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
    torch.default_generator.manual_seed(seed)


class AlexNetModule(pl.LightningModule):
    """Trains `network` on batches that `preprocess` converts from bytes to the network's input.

    The learning rate of a step is set before it, as `optim.lr` times a pure function of the step: no scheduler has a
    state that could be lost. Dropout and noise draw from f(seed, epoch, batch, rank).
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
        self.metrics: dict[str, float] = {}  # the exact means of this epoch, `split/metric`
        self.base_lrs: list[float] = []
        self.parts: list[SchedulePart] = []  # of the schedule, that the optimizer's groups are
        self.last_loss: Tensor | None = None
        self.compiled = False  # whether the network is compiled
        self.replays_graphs = False  # whether it is replayed from CUDA graphs, whose outputs share memory
        self.only_finite = False  # whether the epoch's means exclude batches with a non-finite loss
        self.lay_out(channels_last)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets the current hook some forty times a step, and torch checks each time if it is a parameter.
        if name in ("_current_fx_name", "last_loss"):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def lay_out(self, channels_last: bool) -> None:
        """Converts the network's weights, and from now on its images, to channels_last memory layout or back."""
        if channels_last != self.channels_last:
            self.network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [N, classes] of images [N, C, H, W] on 0..255: uint8, or float32 after colour noise."""
        dtype = next(self.network.parameters()).dtype  # not float32 in bf16-true and similar
        prepared = self.preprocess(images, dtype, self.channels_last)
        if not self.replays_graphs:
            return self.network(prepared)  # type: ignore[no-any-return]
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self.network(prepared).clone()  # type: ignore[no-any-return]

    def on_fit_start(self) -> None:
        if self.compiled:
            lrn.load_operator(self.device)

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
        """Returns the factor that makes a sum over this rank's `here` images its part of the mean over the step.

        Lightning divides a loss by `accumulate_grad_batches`, also in an epoch's last step, which may have fewer
        batches, and DDP averages the ranks' gradients. Neither may give an image of an uneven batch another weight.
        """
        trainer = self.trainer
        together, batches = trainer.accumulate_grad_batches, int(min(trainer.num_training_batches, 2**62))
        first = batch_idx - batch_idx % together
        global_size = getattr(trainer.datamodule, "global_size", None)  # type: ignore[attr-defined]
        if global_size is None:  # the sizes of the other batches of a user's data module are unknown
            return 1 / here
        images = sum(global_size("train", batch) for batch in range(first, min(first + together, batches)))
        return float(replicas(trainer) * together / images)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor | list[Tensor], Tensor], batch_idx: int) -> Tensor:
        """Returns logits [N, classes]; for a list of views, the logarithms of their averaged probabilities."""
        images, labels = batch
        if isinstance(images, Tensor):
            return self._evaluate("test", (images, labels))
        logs = []
        for number, view in enumerate(images):
            logits = self._logits(view, labels)
            if number == center_view(len(images)):
                self.tally["centre"].add(F.cross_entropy(logits, labels, reduction="sum"), logits, labels)
            logs.append(logits.to(widest_float(logits.device)).log_softmax(1))
        averaged = torch.stack(logs).logsumexp(0) - math.log(len(logs))
        self.tally["test"].add(F.nll_loss(averaged, labels, reduction="sum"), averaged, labels)
        return averaged

    def _logits(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns the network's logits for a batch, at least float32; raises UserError for another output or shape."""
        logits = self(images)
        classes = self.classes or "classes"
        fits = isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(labels)
        if not fits or logits.shape[1] != (self.classes or logits.shape[1]):
            gave = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            wrong = f"returned {gave} for {len(labels)} images; return logits [N, {classes}]"
            raise UserError(f"{type(self.network).__name__}: {wrong}")
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
        """Logs the means of the epoch as `split/loss` and so on, for Lightning and its callbacks."""
        means = self.tally[split].read(self.trainer.strategy if replicas(self.trainer) > 1 else None)
        # The top-5 of training images adds nothing to their top-1: it is neither a column nor a curve.
        wanted = ("loss", "top1") if split == "train" else ("loss", "top1", "top5")
        named = {f"{split}/{key}": value for key, value in means.items() if key in wanted}
        self.metrics |= named
        self.log_dict(named, logger=False)

    # --- optimizer and schedule

    def configure_optimizers(self) -> Any:
        if isinstance(self.optim, UserClass):
            optimizer = self.optim.build(self.network.parameters())
            self.parts = [WHOLE_SCHEDULE] * len(optimizer.param_groups)
        else:
            # A fused step unscales gradients itself, after they are clipped: Lightning rejects clipping with it.
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
        """Returns the factor of the learning rate of each of the optimizer's groups, for the next step."""
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
        """Adds the tallies of all ranks for the epoch in progress. A collective, like saving."""
        mine = self.tally["train"].state()
        everyone: list[Any] = [mine]
        if replicas(self.trainer) > 1:
            everyone = [None] * replicas(self.trainer)
            torch.distributed.all_gather_object(everyone, mine)
        ModuleState(list(self.history), dict(self.metrics), everyone).add_to(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = ModuleState.of(checkpoint)
        self.history, self.metrics = state.history, state.metrics
        rank = replica(self.trainer)
        # where there were more ranks than now, the last rank restores the tallies of the others: no image is lost
        mine = state.tallies[rank : None if rank == replicas(self.trainer) - 1 else rank + 1]
        if mine:
            self.tally["train"] = restored_tally(mine, self.trainer.strategy.root_device)
