"""Provides the callback that saves the checkpoints `last`, `previous` and `best`, atomically and with checksums."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from signal import Signals
from typing import Any

import pytorch_lightning as pl
import torch

from alexnet_exp.config.schema import Interval, Keep, Unit
from alexnet_exp.errors import UserError
from alexnet_exp.processes import signals
from alexnet_exp.runs import checksum
from alexnet_exp.runs.disk_errors import UnwritableError, is_lost
from alexnet_exp.runs.folder import CHECKPOINTS, RunFolder, checkpoint_file
from alexnet_exp.runs.status import NotFiniteError
from alexnet_exp.training.callbacks.recorder import NOT_FINITE_ADVICE, AfterMetrics, Recorder
from alexnet_exp.training.checkpoints.format import (
    CARD,
    RUN_STATE,
    STEP,
    TIMER,
    UNFINISHED,
    FlushedIO,
    NotSavedError,
    close_epoch,
    disk_reason,
)
from alexnet_exp.training.datamodule import ImageData
from alexnet_exp.training.distributed import Agreement
from alexnet_exp.training.module import AlexNetModule

log = logging.getLogger(__name__)

BEST_METRIC = "val/top1"
# Conditions beside the settings that the bits of a result depend on, and the effect of changing one on resume.
RESUME_CONDITIONS = {
    "precision": "the same experiment, but rounding differs from that of an uninterrupted run",
    "threads": "the same experiment, but sums are accumulated in another order, so the result is not bit-identical",
}


class Checkpoints(AfterMetrics):
    """Saves all that a bit-identical resume needs, at each epoch's end and in between as often as `every` demands.

    In mid-epoch it saves only between two optimizer steps, where no gradient is half accumulated and no validation is
    due, and only where module and data are ours: a user's own may not know their position in an epoch. At the same
    boundaries it reacts to a stop signal that any rank received: it saves, and raises the signal's exception.

    Where the disk is full it logs an error, keeps the last good checkpoint, and training continues. The checkpoint of
    the last epoch is then kept in memory, for `RunFolder.save`: without it the run has failed. Weights that are not
    finite are never saved. `best` is the epoch with the greatest `val/top1` among those whose end was validated, the
    later of equals; without validation there is none. `epoch` is the last epoch that ended, whether or not it could be
    saved.
    """

    def __init__(
        self,
        folder: RunFolder,
        card: dict[str, Any],
        recorder: Recorder,
        every: Interval,
        keep: Keep,
        fingerprint: str | None = None,
        conditions: Mapping[str, Any] | None = None,
    ):
        self.conditions = dict(conditions or {})
        self.folder, self.card, self.recorder, self.every, self.keep = folder, card, recorder, every, keep
        self.fingerprint = fingerprint
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.epoch = 0
        self.saving_seconds = 0.0
        self._saved: str | None = None  # the step or epoch of `last`
        self._saved_step = 0
        self._saved_at = self._started = time.monotonic()
        self._seconds_before = 0.0
        self._stopped_early: str | None = None
        self._ended: int | None = None  # the epoch that has just ended, while its checkpoint is being saved
        self._agreement = Agreement()
        self._in_mid_epoch = True
        self._between_epochs = self._just_saved = self._warned = False

    def file(self, name: str) -> Path:
        """Returns the file of the checkpoint `name` (last, previous, best)."""
        return checkpoint_file(self.folder.path, name)

    @property
    def seconds(self) -> float:
        """Seconds of training, of all attempts together, as far as they were saved."""
        return self._seconds_before + time.monotonic() - self._started

    def stopped_early(self, trainer: pl.Trainer) -> str | None:
        """Returns why early stopping ended the training, in this attempt or an earlier one."""
        for callback in trainer.early_stopping_callbacks:
            reason = getattr(callback, "stopping_reason_message", None)
            if reason:
                self._stopped_early = reason.removesuffix(" Signaling Trainer to stop.")
        return self._stopped_early

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "fingerprint": self.fingerprint,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_epoch, self.epoch = (state_dict[key] for key in ("best", "best_epoch", "epoch"))
        self._seconds_before = state_dict["seconds"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CARD] = self.card
        checkpoint[RUN_STATE] = {
            "ranks": trainer.world_size,
            **self.conditions,
            "between_epochs": self._ended is not None,
            "should_stop": trainer.should_stop,
            "stopped_early": self.stopped_early(trainer),
            "random": torch.get_rng_state(),
        }
        if self._ended is not None:
            close_epoch(checkpoint)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = checkpoint.get(RUN_STATE, {})
        # Without this, training that early stopping had ended would continue for an epoch. Lightning's Timer decides
        # again whether `trainer.max_time` is over, since that may have become longer.
        self._stopped_early = state.get("stopped_early")
        by_time = TIMER in checkpoint.get("callbacks", {}) and self._stopped_early is None
        trainer.should_stop = state.get("should_stop", False) and not by_time
        if state.get("ranks", trainer.world_size) != trainer.world_size:
            log.warning(
                f"the checkpoint was saved by {state['ranks']} processes and is resumed by {trainer.world_size}: the "
                "same experiment, but sums are accumulated in another order, so the result is not bit-identical"
            )
        for key, effect in RESUME_CONDITIONS.items():
            now, then = self.conditions.get(key), state.get(key)
            if None not in (now, then) and str(now).partition(":")[0] != str(then).partition(":")[0]:
                log.warning(f"{key}: {then} when the checkpoint was saved, {now} now: {effect}")
        if "random" in state:  # a user's data module draws from it; ours draws from the seed alone
            torch.set_rng_state(state["random"].cpu())
        self._saved_step = int(checkpoint[STEP])
        self._saved = f"step {self._saved_step}"
        self._between_epochs = state.get("between_epochs", False)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._started = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at = time.monotonic()
        if self._between_epochs:
            # Where a number of steps ends the training, Lightning would treat the epoch that begins as interrupted.
            trainer.fit_loop.epoch_loop.restarting = False
            self._between_epochs = False
        ours = trainer.global_step
        greatest, least = self._agreement.ask_now(trainer, ours, -ours)
        if greatest != -least:  # a network file system may show the ranks different checkpoints for a while
            steps = f"the ranks are at different steps ({-least} to {greatest})"
            raise UserError(f"{self.folder.path}: {steps}; resume again")
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._in_mid_epoch = isinstance(pl_module, AlexNetModule) and isinstance(data, ImageData)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._in_mid_epoch and not _is_boundary(trainer):
            return
        signal_number, due = self._agreement.ask(trainer, int(signals.stop_signal() or 0), int(self._is_due(trainer)))
        # With several ranks the answer is one step old: it was sent before the last save and does not count again.
        due, self._just_saved = due and not self._just_saved, False
        if self._in_mid_epoch and (signal_number or due):
            # raises where a loss since the last save is not a number
            self.recorder.read_steps(trainer)
            self._save_or_log(trainer, improved=False, what=f"step {trainer.global_step}")
            self._just_saved = trainer.world_size > 1
        if signal_number:
            raise signals.stop_error(Signals(signal_number))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch = trainer.current_epoch + 1
        value = self._end_metric(trainer)
        before = self.best, self.best_epoch
        # The later of equals: few validation images cannot rank epochs, and more training rarely harms.
        improved = value is not None and (self.best is None or value >= self.best)
        if improved:  # before saving, so that the checkpoint itself records that it is the best
            self.best, self.best_epoch = value, self.epoch
        signal_number, _ = self._agreement.ask_now(trainer, int(signals.stop_signal() or 0), 0)
        skipped = self.every.unit is Unit.epochs and self.epoch % self.every.count != 0
        if improved or signal_number or not skipped or _is_last_epoch(trainer):
            self._ended = self.epoch
            try:
                saved = self._save_or_log(trainer, improved, f"epoch {self.epoch}")
                if not saved and _is_last_epoch(trainer) and self._keeps_last:
                    self._save_later(trainer)
            finally:
                self._ended = None
            if not saved:
                self.best, self.best_epoch = before
        if signal_number:
            raise signals.stop_error(Signals(signal_number))

    def _end_metric(self, trainer: pl.Trainer) -> float | None:
        """Returns `BEST_METRIC` at the epoch's end; None where these weights were not validated."""
        value = self.recorder.by_epoch[self.epoch].get(BEST_METRIC)
        at = self.recorder.validated_at
        if value is None or at == trainer.global_step:
            return value
        if not self._warned:
            self._warned = True
            log.warning(
                f"epoch {self.epoch} was validated at step {at}, before its end at step {trainer.global_step}: its "
                "checkpoint cannot become `best`; write a trainer.val_check_interval that divides the epoch"
            )
        return None

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if self.every.unit is Unit.steps:
            return trainer.global_step - self._saved_step >= self.every.count
        return self.every.unit is Unit.seconds and time.monotonic() - self._saved_at >= self.every.count

    def _save_or_log(self, trainer: pl.Trainer, improved: bool, what: str) -> bool:
        """Saves, and logs an error where that failed; returns whether it succeeded, the same on every rank."""
        begun = time.monotonic()
        _refuse_not_finite(trainer)
        failure = self._save(trainer, improved)
        self._saved_at, self._saved_step = (
            time.monotonic(),
            trainer.global_step,
        )  # also after a failure, so that not every step tries
        self.saving_seconds += self._saved_at - begun
        failed = bool(trainer.strategy.broadcast(failure is not None))
        if failure is not None:
            kept = f"the checkpoint of {self._saved} is kept" if self._saved else "no checkpoint has been saved yet"
            log.error(f"cannot save the checkpoint of {what}: {failure}; {kept}; training continues")
        if not failed:
            self._saved = what
        return not failed

    @property
    def _keeps_last(self) -> bool:
        """Whether `last` stays in the folder once the run is done."""
        return self.keep is Keep.all or (self.keep is Keep.best and not self.file("best").exists())

    def _save_later(self, trainer: pl.Trainer) -> None:
        """Lets the folder save the checkpoint later, when the disk has room. A collective, like saving."""
        content = trainer._checkpoint_connector.dump_checkpoint()
        if not trainer.is_global_zero:
            return
        kept = copy.deepcopy(content)  # testing may replace the weights by those of the best epoch

        def write() -> None:
            fresh = self.file(UNFINISHED)
            try:
                FlushedIO().save_checkpoint(kept, fresh)
                self._rotate(fresh, improved=False)
            finally:
                fresh.unlink(missing_ok=True)

        self.folder.save("checkpoints/last.ckpt", write)

    def _save(self, trainer: pl.Trainer, improved: bool) -> str | None:
        """Saves, on rank 0; returns the reason where it failed."""
        # Rows that still wait for room would be missing if the run were killed and resumed from this checkpoint.
        unwritten = self.folder.settle() if trainer.is_global_zero else None
        unwritten = trainer.strategy.broadcast(unwritten)
        if unwritten:
            return str(unwritten)
        fresh = self.file(UNFINISHED)
        try:
            trainer.save_checkpoint(fresh)
        except NotSavedError as error:
            trainer.strategy.barrier()  # the other ranks wait in the barrier that the failed save did not reach
            return str(error)
        if not trainer.is_global_zero:
            return None
        try:
            self._rotate(fresh, improved)
        except OSError as error:
            if is_lost(error):
                raise UnwritableError(self.folder.path, CHECKPOINTS, error) from None
            return disk_reason(error)
        finally:
            fresh.unlink(missing_ok=True)
        return None

    def _rotate(self, fresh: Path, improved: bool) -> None:
        """Gives `fresh` its names. From the first save on, `last` is an intact checkpoint at every moment.

        `best` is first: a crash or a full disk in between leaves names of older checkpoints, never a wrong `best`.
        """
        digest = checksum.digest(fresh)
        if improved:
            _link_checkpoint(fresh, self.file("best"), digest)
        last = self.file("last")
        if last.exists():
            _link_checkpoint(last, self.file("previous"), checksum.read(last))
        _link_checkpoint(fresh, last, digest)

    def finish(self) -> None:
        """Removes the checkpoints that `checkpoint.keep` does not keep, once the run is done and tested."""
        drop = ["previous"]
        if not self._keeps_last:  # without validation, `last` takes the place of `best`
            drop += ["last", "best"] if self.keep is Keep.none else ["last"]
        for name in drop:
            checksum.checksum_file(self.file(name)).unlink(missing_ok=True)
            self.file(name).unlink(missing_ok=True)


def _is_boundary(trainer: pl.Trainer) -> bool:
    """Returns whether a checkpoint after this batch is complete: no accumulated gradients, no validation due.

    From a checkpoint after an epoch's last batch, or before a validation in mid-epoch, Lightning would resume after
    that validation.
    """
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    if loop._should_accumulate() or loop._num_ready_batches_reached() or fetcher is None:
        return False
    at_the_end = 0 <= trainer.max_steps <= trainer.global_step
    return not at_the_end and not loop._should_check_val_fx(fetcher)


def _is_last_epoch(trainer: pl.Trainer) -> bool:
    epochs, steps = trainer.max_epochs, trainer.max_steps
    ended = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return bool(trainer.should_stop) or ended or 0 <= steps <= trainer.global_step


def _refuse_not_finite(trainer: pl.Trainer) -> None:
    """Raises NotFiniteError on every rank where a weight of any rank is not finite: such a run cannot be resumed."""
    finite = all(bool(torch.isfinite(each).all()) for each in trainer.lightning_module.parameters())
    if not trainer.strategy.reduce_boolean_decision(finite):
        raise NotFiniteError(f"a weight is not finite after step {trainer.global_step}; {NOT_FINITE_ADVICE}")


def _link_checkpoint(source: Path, target: Path, digest: str | None) -> None:
    """Makes `target` a second name of `source`'s content: a hard link where the file system has them, else a copy.

    The old checksum is removed first and the new one written last, so that a checksum is never beside another file
    than its own: a crash in between leaves an unchecked file, never an intact one that looks damaged.
    """
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
        checksum.checksum_file(target).unlink(missing_ok=True)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    if digest:
        checksum.write_known(target, digest)
