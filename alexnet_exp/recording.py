"""How a run ended, into its folder: by the run itself, or by whoever started it where the run could not. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from alexnet_exp.endings import Ending
from alexnet_exp.runs import provenance
from alexnet_exp.runs.contents import chosen_options
from alexnet_exp.runs.folder import RunFolder

SAID = ("name", "seed", "tags", "note", "paper_claim")


def record(
    folder: RunFolder, container: Mapping[str, Any], ending: Ending, facts: Mapping[str, Any] | None = None
) -> Ending:
    """Closes result.json with the ending, which comes back as recorded.

    Where there is none, because the run died before it could begin, it is made of what can be known without the run.
    """
    if not folder.result.exists():
        code = provenance.code()
        said = {key: container[key] for key in SAID if key in container}
        known = {**said, "commit": code.commit, "dirty": code.dirty, **provenance.environment()}
        folder.begin(container, {**known, **chosen_options(folder.path)})
    told = {"error": ending.reason, "traceback": ending.trace}
    folder.finish(ending.status, **(facts or {}), **{key: text for key, text in told.items() if text})
    return replace(ending, recorded=True)
