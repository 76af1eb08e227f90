"""Provides the resume point of a run, and prepares its folder for the next attempt."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from alexnet_exp.atomic import temporary_files
from alexnet_exp.errors import UserError
from alexnet_exp.runs import checksum, provenance
from alexnet_exp.runs.folder import CHECKPOINTS, RunFolder, checkpoint_file
from alexnet_exp.runs.reader import read_result
from alexnet_exp.runs.start import refuse_another_experiment
from alexnet_exp.runs.status import Status
from alexnet_exp.training.checkpoints.format import (
    LEFTOVER_PATTERNS,
    NEWEST_FIRST,
    ResumePoint,
    read_checkpoint,
    refuse_another_network,
)
from alexnet_exp.training.child_task import RENDEZVOUS_PREFIX, RENDEZVOUS_VARIABLE

log = logging.getLogger(__name__)

ATTEMPT_KEYS = ("status", "commit", "dirty", "pid", "host", "end", "error")
CARRIED_KEYS = ("metrics", "metrics_epoch", "epochs", "best_epoch", "seconds", "images_per_s")


def find_resume_point(run: Path) -> ResumePoint | None:
    """Returns the newest intact checkpoint of a run; None where there is none, so that training starts anew.

    Logs a warning for each damaged checkpoint. Raises UserError for an intact one without the state of a training, as
    an earlier version wrote it: training anew would overwrite it.
    """
    damaged = False
    for path in _files(run):
        try:
            content = read_checkpoint(path)
        except UserError as error:
            log.warning(f"{error}; the previous checkpoint is used")
            damaged = True
        else:
            return ResumePoint.of(path, content)
    if damaged:
        log.warning(f"{run}: no checkpoint is intact; training starts from the beginning")
    return None


def _files(run: Path) -> list[Path]:
    files = [checkpoint_file(run, name) for name in NEWEST_FIRST]
    return [file for file in files if file.exists()]


def refuse_another_run(run: Path, config: Mapping[str, Any], found: ResumePoint | None) -> None:
    """Raises UserError where the nested `config` contradicts the run's result.json or checkpoint."""
    refuse_another_experiment(run, config)
    if found is not None and isinstance(config.get("model"), Mapping):
        refuse_another_network(found.path, found.model, config["model"], run)


def refuse_other_data(run: Path, found: ResumePoint, fingerprint: str | None) -> None:
    """Raises UserError where the data, of this `fingerprint`, is not what the checkpoint was trained on."""
    if None not in (fingerprint, found.fingerprint) and fingerprint != found.fingerprint:
        raise UserError(
            f"{run}: the data has changed since the run started (fingerprint {found.fingerprint}, now {fingerprint}); "
            "restore it, or start a new run"
        )


def restore_folder(run: RunFolder, found: ResumePoint | None) -> None:
    """Restores the run folder to its state at `found`, the resume point. The lock is held.

    Removes unfinished files of a killed process, and table rows after that point, which training will write again. A
    damaged checkpoint is renamed to `NAME.ckpt.damaged`: under its own name it would be kept as `previous`, in place
    of an intact one.
    """
    _clear(run)
    for path in _files(run.path):
        if found is None or not _is_intact(path):
            path.replace(path.with_name(f"{path.name}.damaged"))
            checksum.checksum_file(path).unlink(missing_ok=True)
    run.cut_back(*((found.step, found.epoch) if found else (0, 0)))


def _is_intact(path: Path) -> bool:
    try:
        return checksum.verify(path) or bool(read_checkpoint(path))
    except UserError:
        return False


def _clear(run: RunFolder) -> None:
    left = [file for pattern in LEFTOVER_PATTERNS for file in (run.path / CHECKPOINTS).glob(pattern)]
    left += temporary_files(run.path / "predictions")
    # of other attempts: the ranks of this one still need theirs
    left += [
        file for file in run.path.glob(f"{RENDEZVOUS_PREFIX}*") if file.name != os.environ.get(RENDEZVOUS_VARIABLE)
    ]
    for file in left:
        file.unlink(missing_ok=True)


def earlier_attempts(run: Path, code: provenance.Code) -> dict[str, Any]:
    """Returns for result.json how the earlier attempts ended, and their metrics, until this attempt has newer ones.

    Empty for a new run. code: of this attempt, which may differ from that of the earlier ones. The lock is held.
    """
    earlier: dict[str, Any] = {}
    with suppress(UserError):
        earlier = read_result(run)
    if not earlier:
        return {}
    ended = {key: earlier[key] for key in ATTEMPT_KEYS if key in earlier}
    if ended["status"] == Status.RUNNING:  # we hold its lock
        ended["status"] = Status.DIED
    if (earlier.get("commit"), _patch(run)) != (code.commit, code.patch):
        log.warning(
            f"the code has changed since the previous attempt: commit {earlier.get('commit')} then, {code.commit} now"
        )
    before = earlier.get("attempts")
    kept = {key: earlier[key] for key in CARRIED_KEYS if key in earlier}
    return {**kept, "attempts": [*(before if isinstance(before, list) else []), ended]}


def _patch(run: Path) -> str:
    file = run / "code.patch"
    return file.read_text(encoding="utf-8", errors="surrogateescape") if file.is_file() else ""
