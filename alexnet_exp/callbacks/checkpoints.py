"""Checkpoints that survive: `last`, `previous` and `best`, each written beside its name, flushed, renamed, checksummed."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from alexnet_exp.build import CARD
from alexnet_exp.callbacks.recorder import metrics_of
from alexnet_exp.runs import checksum
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.schema import Keep

log = logging.getLogger(__name__)

MONITOR = "val/top1"


class FlushedIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name, flushes it to the disk, renames it: a crash leaves the old or the new."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


class Checkpoints(Checkpoint):
    """Saves after every epoch. Where the disk is full it says so, keeps the last good checkpoint, and training goes on.

    `best` is by `val/top1`, the earlier of equals; without validation there is none.
    """

    def __init__(self, folder: RunFolder, card: dict[str, Any], keep: Keep):
        self.folder, self.card, self.keep = folder, card, keep
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.saved_epoch: int | None = None
        self.failed = False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[CARD] = self.card

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = metrics_of(trainer, pl_module, ("val",)).get(MONITOR)
        improved = value is not None and (self.best is None or value > self.best)
        if improved:
            self.best, self.best_epoch = value, trainer.current_epoch + 1
        fresh = self._file("next")
        try:
            trainer.save_checkpoint(fresh)
            if trainer.is_global_zero:
                self._rotate(fresh, improved)
            self.saved_epoch = trainer.current_epoch + 1
        except (OSError, RuntimeError) as error:
            if not _is_disk(error):
                raise
            self.failed = True
            fresh.unlink(missing_ok=True)
            kept = f"the checkpoint of epoch {self.saved_epoch} is kept" if self.saved_epoch else "there is no checkpoint yet"
            log.error(f"cannot save the checkpoint of epoch {trainer.current_epoch + 1}: {_reason(error)}; {kept}; training goes on")

    def _file(self, name: str) -> Path:
        return self.folder.checkpoints / f"{name}.ckpt"

    def _rotate(self, fresh: Path, improved: bool) -> None:
        last, previous = self._file("last"), self._file("previous")
        checksum.write(fresh)
        if last.exists():
            _move(last, previous)
        _move(fresh, last)
        if improved:
            _copy(last, self._file("best"))

    def finish(self) -> None:
        """Removes what `checkpoint.keep` does not keep, once the run is done and tested."""
        drop = {Keep.all: ["previous"], Keep.best: ["previous", "last"], Keep.none: ["previous", "last", "best"]}[self.keep]
        if self.keep is Keep.best and not self._file("best").exists():
            drop = ["previous"]  # without validation the last is the best there is
        for name in drop:
            path = self._file(name)
            checksum.beside(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    checksum.beside(target).unlink(missing_ok=True)  # no moment where a file stands beside another's checksum
    source.replace(target)
    if checksum.beside(source).exists():
        checksum.beside(source).replace(checksum.beside(target))


def _copy(source: Path, target: Path) -> None:
    """A second name of the same file where the file system has hard links, else a copy."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    checksum.beside(target).unlink(missing_ok=True)
    partial.replace(target)
    checksum.write(target)


def _is_disk(error: Exception) -> bool:
    """Whether saving failed at the disk; torch's zip writer turns a short write into a RuntimeError of its own."""
    return isinstance(error, OSError) or "inline_container" in str(error) or "PytorchStreamWriter" in str(error)


def _reason(error: Exception) -> str:
    cause = error if isinstance(error, OSError) else error.__context__
    return cause.strerror if isinstance(cause, OSError) and cause.strerror else "the disk took only a part of it"
