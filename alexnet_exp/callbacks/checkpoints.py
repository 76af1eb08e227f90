"""Checkpoints that survive: `last`, `previous` and `best`, written beside their names, renamed, checksummed."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from alexnet_exp.atomic import replacing
from alexnet_exp.build import CARD
from alexnet_exp.callbacks.recorder import AfterMetrics
from alexnet_exp.module import metrics_of
from alexnet_exp.runs import checksum
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.schema import Keep

log = logging.getLogger(__name__)

MONITOR = "val/top1"


class NotSavedError(OSError):
    """The disk did not take a checkpoint; says why."""


class FlushedIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name, flushes it, renames it: a crash leaves the old one or the new.

    Raises `NotSavedError` where the disk is full, and leaves no part behind.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(target) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # an interruption inside torch's writer comes out as the file that it could not finish
            stop = error.__context__
            if isinstance(stop, KeyboardInterrupt | SystemExit):
                raise stop from None
            if not _is_disk(error):
                raise
            raise NotSavedError(_reason(error)) from error


class Checkpoints(AfterMetrics):
    """Saves after every epoch. Where the disk is full it says so, keeps the last good checkpoint, and training goes on.

    `best` is by `val/top1`, the earlier of equals; without validation there is none. `epoch` is the last epoch that
    ended, whether or not it could be saved.
    """

    def __init__(self, folder: RunFolder, card: dict[str, Any], keep: Keep):
        self.folder, self.card, self.keep = folder, card, keep
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.epoch = 0
        self._saved_epoch: int | None = None

    def file(self, name: str) -> Path:
        """Where the checkpoint `name` (last, previous, best) lies."""
        return self.folder.checkpoints / f"{name}.ckpt"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CARD] = self.card

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch = trainer.current_epoch + 1
        value = metrics_of(trainer, pl_module, ("val",)).get(MONITOR)
        before = self.best, self.best_epoch
        improved = value is not None and (self.best is None or value > self.best)
        if improved:  # before saving: the checkpoint knows of itself that it is the best
            self.best, self.best_epoch = value, self.epoch
        failure = self._save(trainer, improved)
        if trainer.strategy.broadcast(failure is not None):
            self.best, self.best_epoch = before
        else:
            self._saved_epoch = self.epoch
        if failure is not None:
            kept = f"that of epoch {self._saved_epoch} is kept" if self._saved_epoch else "there is none yet"
            log.error(f"cannot save the checkpoint of epoch {self.epoch}: {failure}; {kept}; training goes on")

    def _save(self, trainer: pl.Trainer, improved: bool) -> str | None:
        """Saves, on rank 0; returns why it could not."""
        fresh = self.file("next")
        try:
            trainer.save_checkpoint(fresh)
        except NotSavedError as error:
            trainer.strategy.barrier()  # the one that saving did not come to: the other ranks wait in it
            return str(error)
        if not trainer.is_global_zero:
            return None
        try:
            self._rotate(fresh, improved)
        except OSError as error:
            return _reason(error)
        finally:
            fresh.unlink(missing_ok=True)
        return None

    def _rotate(self, fresh: Path, improved: bool) -> None:
        """Gives `fresh` its names. At every moment `last` is a whole checkpoint, from the first one on.

        best first: a crash or a full disk on the way leaves names that are behind, never one that promises too much.
        """
        digest = checksum.digest(fresh)
        if improved:
            _name(fresh, self.file("best"), digest)
        last = self.file("last")
        if last.exists():
            _name(last, self.file("previous"), checksum.noted(last))
        _name(fresh, last, digest)

    def finish(self) -> None:
        """Removes what `checkpoint.keep` does not keep, once the run is done and tested."""
        drop = {Keep.all: ["previous"], Keep.best: ["previous", "last"], Keep.none: ["previous", "last", "best"]}[
            self.keep
        ]
        if self.keep is Keep.best and not self.file("best").exists():
            drop = ["previous"]  # without validation the last is the best there is
        for name in drop:
            checksum.beside(self.file(name)).unlink(missing_ok=True)
            self.file(name).unlink(missing_ok=True)


def _name(source: Path, target: Path, digest: str | None) -> None:
    """Makes `target` a second name of `source`'s content: a hard link where the file system has them, else a copy.

    The old checksum goes first and the new one comes last, so that none ever lies beside another file than its own: a
    crash in between leaves a file unchecked, never a good one that looks damaged.
    """
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
        checksum.beside(target).unlink(missing_ok=True)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    if digest:
        checksum.note(target, digest)


def _is_disk(error: Exception) -> bool:
    """Whether saving failed at the disk; torch's zip writer turns a short write into a RuntimeError of its own."""
    return isinstance(error, OSError) or "inline_container" in str(error) or "PytorchStreamWriter" in str(error)


def _reason(error: BaseException) -> str:
    cause = error if isinstance(error, OSError) else error.__context__
    return cause.strerror if isinstance(cause, OSError) and cause.strerror else "the disk took only a part of it"
