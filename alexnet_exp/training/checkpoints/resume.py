"""Where a run stands: the checkpoint that it goes on from, and what its folder says of its attempts so far."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from alexnet_exp.atomic import temporary_files
from alexnet_exp.errors import UserError
from alexnet_exp.runs import checksum, provenance
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.reader import read_result
from alexnet_exp.runs.run import DIED, RUNNING
from alexnet_exp.runs.start import refuse_another_experiment
from alexnet_exp.training.checkpoints.callback import TIMER, Checkpoints
from alexnet_exp.training.checkpoints.format import CARD, STANDING, read_checkpoint, refuse_another_network
from alexnet_exp.training.launch import MEETING, RENDEZVOUS

log = logging.getLogger(__name__)

NAMES = ("last", "previous", "best")  # in the order in which they are tried
OF_AN_ATTEMPT = ("status", "commit", "dirty", "pid", "host", "end", "error")
KEPT = ("metrics", "metrics_epoch", "epochs", "best_epoch", "seconds", "images_per_s")
LEFT_OVER = (".*.partial", "next.ckpt")  # of a process that was killed while it saved


@dataclass(frozen=True)
class Standing:
    """A checkpoint to go on from: behind `step` optimizer steps, `epoch` epochs and `batch` batches of the next one.

    model: the settings of its network. fingerprint: of the data that it was trained on; None where that has none.
    """

    path: Path
    step: int
    epoch: int
    batch: int
    model: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    seconds: float | None = None  # that count against `trainer.max_time`; None without one

    def __str__(self) -> str:
        batch = f", batch {self.batch} of the next" if self.batch else ""
        return f"{self.path.name}: step {self.step}, epoch {self.epoch} done{batch}"

    def weights(self) -> dict[str, Any]:
        """What validation and test use of it: the averaged weights, where they are averaged."""
        weights: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)["state_dict"]
        return weights


def standing(run: Path) -> Standing | None:
    """The newest checkpoint of a run that is whole; None where there is none, so that it starts from nothing.

    Says so where a damaged one is passed over. Raises UserError for one that is whole and was not made to go on from,
    as by an earlier version: to start over in its place would lose it.
    """
    damaged = False
    for path in _files(run):
        try:
            content = read_checkpoint(path)
        except UserError as error:
            log.warning(f"{error}; the checkpoint before it is taken")
            damaged = True
        else:
            return _of(path, content)
    if damaged:
        log.warning(f"{run}: no checkpoint of it is whole: it starts over")
    return None


def _files(run: Path) -> list[Path]:
    files = [run / "checkpoints" / f"{name}.ckpt" for name in NAMES]
    return [file for file in files if file.exists()]


def _of(path: Path, content: dict[str, Any]) -> Standing:
    try:
        loop = content["loops"]["fit_loop"]
        epoch = int(loop["epoch_progress"]["current"]["processed"])
        between = content[STANDING]["between_epochs"]
        batch = 0 if between else int(loop["epoch_loop.batch_progress"]["current"]["ready"])
        callbacks = content.get("callbacks", {})
        fingerprint = callbacks.get(Checkpoints.__name__, {}).get("fingerprint")
        seconds = float(callbacks[TIMER]["time_elapsed"]["train"]) if TIMER in callbacks else None
        step, model = int(content["global_step"]), content[CARD]["model"]
        return Standing(path, step, epoch, batch, model, fingerprint, seconds)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a checkpoint that a training can go on from ({error!r})") from None


def refuse_another_run(run: Path, config: Mapping[str, Any], found: Standing | None) -> None:
    """Raises UserError where `config` contradicts what result.json or the checkpoint say of the run. Nested."""
    refuse_another_experiment(run, config)
    if found is not None and isinstance(config.get("model"), Mapping):
        refuse_another_network(found.path, found.model, config["model"], run)


def refuse_other_data(run: Path, found: Standing, fingerprint: str | None) -> None:
    """Raises UserError where the run's data, of this `fingerprint`, is not that which the checkpoint was trained on."""
    if None not in (fingerprint, found.fingerprint) and fingerprint != found.fingerprint:
        raise UserError(
            f"{run}: its data has changed since the run began (fingerprint {found.fingerprint}, now {fingerprint}); "
            "bring it back, or start a new run"
        )


def settle(run: RunFolder, found: Standing | None) -> None:
    """Makes the folder that of a run which stands at `found`, its newest whole checkpoint. The lock is held.

    What a killed process left unfinished is removed, and rows behind that point, which are of a training that is no
    more. A damaged checkpoint gets the name `NAME.ckpt.damaged`: by its own it would be kept as `previous`, in place of
    a whole one.
    """
    _clear(run)
    for path in _files(run.path):
        if found is None or not _is_whole(path):
            path.replace(path.with_name(f"{path.name}.damaged"))
            checksum.beside(path).unlink(missing_ok=True)
    run.cut_back(*((found.step, found.epoch) if found else (0, 0)))


def _is_whole(path: Path) -> bool:
    try:
        return checksum.verify(path) or bool(read_checkpoint(path))
    except UserError:
        return False


def _clear(run: RunFolder) -> None:
    left = [file for pattern in LEFT_OVER for file in (run.path / "checkpoints").glob(pattern)]
    left += temporary_files(run.path / "predictions")
    # of other attempts: this one's ranks still meet by theirs
    left += [file for file in run.path.glob(f"{RENDEZVOUS}*") if file.name != os.environ.get(MEETING)]
    for file in left:
        file.unlink(missing_ok=True)


def attempts(run: Path, code: provenance.Code) -> dict[str, Any]:
    """For result.json: how the attempts before this one ended, and what they came to, until this one comes to more.

    Empty for a run that has none. code: of this attempt, which need not be that of the ones before. The lock is held.
    """
    earlier: dict[str, Any] = {}
    with suppress(UserError):
        earlier = read_result(run)
    if not earlier:
        return {}
    told = {key: earlier[key] for key in OF_AN_ATTEMPT if key in earlier}
    if told["status"] == RUNNING:  # its lock is ours
        told["status"] = DIED
    if (earlier.get("commit"), _patch(run)) != (code.commit, code.patch):
        log.warning(f"not the code of the attempt before: commit {earlier.get('commit')} then, {code.commit} now")
    before = earlier.get("attempts")
    kept = {key: earlier[key] for key in KEPT if key in earlier}
    return {**kept, "attempts": [*(before if isinstance(before, list) else []), told]}


def _patch(run: Path) -> str:
    file = run / "code.patch"
    return file.read_text(encoding="utf-8", errors="surrogateescape") if file.is_file() else ""
