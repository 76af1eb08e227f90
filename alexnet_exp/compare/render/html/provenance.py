"""The provenance of a comparison's runs: command, commit, device and versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from alexnet_exp import __version__
from alexnet_exp.compare.result import Comparison

_TITLES = {
    "commit": "Commit",
    "dirty": "Uncommitted changes",
    "device": "Device",
    "precision": "Precision",
    "fingerprint": "Data fingerprint",
}
_HASH_CHARACTERS = 12  # of a commit's hash


@dataclass(frozen=True)
class RunEntry:
    """A title and its values, each with the number of runs that have it; the number is None if all runs agree."""

    title: str
    values: list[tuple[str, int | None]]
    is_code: bool = False


def provenance(comparison: Comparison, command: str, when: datetime) -> list[RunEntry]:
    """Returns what created the report and its runs, without entries that have no value in any run."""
    info = [run.facts for run in comparison.runs]
    entries = [
        RunEntry("Created", [(f"{when:%Y-%m-%d %H:%M %Z} by alexnet_exp {__version__}", None)]),
        RunEntry("Command", [(command, None)], is_code=True),
    ]
    entries += [RunEntry(title, _counts(each.get(key) for each in info)) for key, title in _TITLES.items()]
    versions = [each["versions"] for each in info if isinstance(each.get("versions"), dict)]
    packages = dict.fromkeys(package for version in versions for package in version)
    entries += [RunEntry(str(package), _counts(version.get(package) for version in versions)) for package in packages]
    return [entry for entry in entries if entry.values]


def _counts(values: Iterable[Any]) -> list[tuple[str, int | None]]:
    counts = Counter(_text(value) for value in values if value is not None)
    return [(value, None if len(counts) == 1 else count) for value, count in counts.items()]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return text[:_HASH_CHARACTERS] if len(text) >= 40 and text.isalnum() else text
