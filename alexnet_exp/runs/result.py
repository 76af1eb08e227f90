"""How a run ended, into its folder: by the run itself, or by whoever started it where the run could not. No torch."""

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

SAID = ("name", "seed", "tags", "note", "paper_claim")


def record(
    folder: RunFolder, container: Mapping[str, Any], ending: Ending, facts: Mapping[str, Any] | None = None
) -> Ending:
    """Closes result.json with the ending, which comes back as recorded.

    Where there is none, because the run died before it could begin, it is made of what can be known without the run.
    A good ending becomes a failed one where something of the run could not be written to its end. Where that is
    result.json itself, or the folder is gone, the log alone says so, and nothing is left to record.
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
        said = {key: container[key] for key in SAID if key in container}
        known = {**said, "commit": code.commit, "dirty": code.dirty, **provenance.environment()}
        folder.begin(container, {**known, **chosen_options(folder.path)})
    told = {"error": ending.reason, "traceback": ending.trace}
    folder.finish(ending.status, **facts, **{key: text for key, text in told.items() if text})
