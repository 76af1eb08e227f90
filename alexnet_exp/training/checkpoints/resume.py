"""Where a run stands: the checkpoint that it goes on from, and what its folder says of its attempts so far."""

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
from alexnet_exp.training.launch import MEETING, RENDEZVOUS

log = logging.getLogger(__name__)

OF_AN_ATTEMPT = ("status", "commit", "dirty", "pid", "host", "end", "error")
KEPT = ("metrics", "metrics_epoch", "epochs", "best_epoch", "seconds", "images_per_s")


def find_resume_point(run: Path) -> ResumePoint | None:
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
            return ResumePoint.of(path, content)
    if damaged:
        log.warning(f"{run}: no checkpoint of it is whole: it starts over")
    return None


def _files(run: Path) -> list[Path]:
    files = [checkpoint_file(run, name) for name in NEWEST_FIRST]
    return [file for file in files if file.exists()]


def refuse_another_run(run: Path, config: Mapping[str, Any], found: ResumePoint | None) -> None:
    """Raises UserError where `config` contradicts what result.json or the checkpoint say of the run. Nested."""
    refuse_another_experiment(run, config)
    if found is not None and isinstance(config.get("model"), Mapping):
        refuse_another_network(found.path, found.model, config["model"], run)


def refuse_other_data(run: Path, found: ResumePoint, fingerprint: str | None) -> None:
    """Raises UserError where the run's data, of this `fingerprint`, is not that which the checkpoint was trained on."""
    if None not in (fingerprint, found.fingerprint) and fingerprint != found.fingerprint:
        raise UserError(
            f"{run}: its data has changed since the run began (fingerprint {found.fingerprint}, now {fingerprint}); "
            "bring it back, or start a new run"
        )


def settle(run: RunFolder, found: ResumePoint | None) -> None:
    """Makes the folder that of a run which stands at `found`, its newest whole checkpoint. The lock is held.

    What a killed process left unfinished is removed, and rows behind that point, which are of a training that is no
    more. A damaged checkpoint gets the name `NAME.ckpt.damaged`: by its own it would be kept as `previous`, in place of
    a whole one.
    """
    _clear(run)
    for path in _files(run.path):
        if found is None or not _is_whole(path):
            path.replace(path.with_name(f"{path.name}.damaged"))
            checksum.checksum_file(path).unlink(missing_ok=True)
    run.cut_back(*((found.step, found.epoch) if found else (0, 0)))


def _is_whole(path: Path) -> bool:
    try:
        return checksum.verify(path) or bool(read_checkpoint(path))
    except UserError:
        return False


def _clear(run: RunFolder) -> None:
    left = [file for pattern in LEFTOVER_PATTERNS for file in (run.path / CHECKPOINTS).glob(pattern)]
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
    if told["status"] == Status.RUNNING:  # its lock is ours
        told["status"] = Status.DIED
    if (earlier.get("commit"), _patch(run)) != (code.commit, code.patch):
        log.warning(f"not the code of the attempt before: commit {earlier.get('commit')} then, {code.commit} now")
    before = earlier.get("attempts")
    kept = {key: earlier[key] for key in KEPT if key in earlier}
    return {**kept, "attempts": [*(before if isinstance(before, list) else []), told]}


def _patch(run: Path) -> str:
    file = run / "code.patch"
    return file.read_text(encoding="utf-8", errors="surrogateescape") if file.is_file() else ""
