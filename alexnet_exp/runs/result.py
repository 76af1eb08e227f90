"""Records the outcome of a run in its result.json. Does not import torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from alexnet_exp.errors import ExitCode
from alexnet_exp.runs import provenance
from alexnet_exp.runs.disk_errors import UnwritableError
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.reader import chosen_options
from alexnet_exp.runs.status import Ending, Status

log = logging.getLogger(__name__)

COPIED_SETTINGS = ("name", "seed", "tags", "note", "paper_claim")


def record(
    folder: RunFolder, container: Mapping[str, Any], ending: Ending, facts: Mapping[str, Any] | None = None
) -> Ending:
    """Writes the ending to result.json and returns it, marked as recorded.

    If there is no result.json, because the process was killed before the run started, it is made of what is known
    without the run. A successful ending becomes a failed one if a file of the run could not be written. If that file is
    result.json itself, or the folder no longer exists, only the log reports it.
    """
    try:
        unwritten = folder.write_waiting()
        if unwritten and ending.code == ExitCode.OK:
            ending = _failed(f"{folder.path}: {unwritten}")
        _close(folder, container, ending, facts or {})
    except UnwritableError as error:
        if ending.reason != str(error):
            ending = _failed(str(error))
    return replace(ending, recorded=True)


def _failed(reason: str) -> Ending:
    log.error(f"failed: {reason}")
    return Ending(Status.FAILED, ExitCode.FAILED, reason)


def _close(folder: RunFolder, container: Mapping[str, Any], ending: Ending, facts: Mapping[str, Any]) -> None:
    if not folder.result.exists():
        code = provenance.code()
        settings = {key: container[key] for key in COPIED_SETTINGS if key in container}
        known = {**settings, "commit": code.commit, "dirty": code.dirty, **provenance.environment()}
        folder.begin(container, {**known, **chosen_options(folder.path)})
    texts = {"error": ending.reason, "traceback": ending.trace}
    folder.finish(ending.status, **facts, **{key: text for key, text in texts.items() if text})
