"""Describes one run in full, and the differences between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_exp.compare.runs_list import progress_text
from alexnet_exp.errors import yaml_text
from alexnet_exp.runs.metric import label, value_text
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status, status_label

LOG_LINES = 15  # last lines of a failed run's log
# keys of result.json in the order of `runs show`
SHOWN_FACTS = (
    *("start", "end", "seconds", "epochs", "best_epoch", "tested", "metrics_epoch", "test_images", "images_per_s"),
    *(
        "test_views",
        "stopped_early",
        "parameters",
        "multiply_adds",
        "device",
        "ranks",
        "precision",
        "kernels",
        "threads",
    ),
    *("deterministic", "effective_batch", "fingerprint", "commit", "dirty", "host", "note", "tags"),
)
# facts that differ between any two runs
RUN_SPECIFIC_FACTS = (
    "start",
    "end",
    "pid",
    "seconds",
    "images_per_s",
    "overrides",
    "choices",
    "traceback",
    "name",
    "seed",
)


def describe_run(found: Run) -> list[str]:
    """Returns all information about a run as lines; for a run that did not succeed with the end of its log."""
    state = status_label(found.status)
    lines = [f"{found.path}: {state}{'' if found.status == Status.DONE else f', {progress_text(found)}'}"]
    if found.facts.get("error"):
        lines.append(f"error: {found.facts['error']}")
    lines += _section("metrics", [(label(key), value_text(key, had)) for key, had in found.metrics.items()])
    lines += _section("options", [(group, option) for group, option in found.choices.items() if option is not None])
    lines += _section("overrides", [_override(text) for text in found.facts.get("overrides") or []])
    lines += _section("facts", [(key, _text(found.facts[key])) for key in SHOWN_FACTS if _has(found.facts.get(key))])
    lines += _section("versions", list((found.facts.get("versions") or {}).items()))
    lines += _section("files", [(path.name, _size(path)) for path in sorted(found.path.iterdir())])
    log = found.path / "train.log"
    if found.status not in (Status.DONE, Status.RUNNING) and log.is_file():
        lines += ["", f"the end of {log.name}:"]
        lines += [f"  {line}" for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]]
    return lines


def describe_difference(first: Run, second: Run) -> list[str]:
    """Returns the settings, code, versions, machine and metrics in which two runs differ, side by side."""
    lines = [f"A  {first.path}", f"B  {second.path}"]
    parts = {
        "options": (first.choices, second.choices),
        "settings": (first.config, second.config),
        "facts": tuple(
            {"status": status_label(one.status)}
            | {key: had for key, had in one.facts.items() if key not in (*RUN_SPECIFIC_FACTS, "versions")}
            for one in (first, second)
        ),
        "versions": (first.facts.get("versions") or {}, second.facts.get("versions") or {}),
    }
    for title, (ours, theirs) in parts.items():
        lines += _differences(title, ours, theirs)
    if len(lines) == 2:
        lines += ["", "identical settings, code, versions and machine"]
    pairs = {key: (first.metrics.get(key), second.metrics.get(key)) for key in first.metrics | second.metrics}
    rows = [[label(key), *(value_text(key, had) for had in pair)] for key, pair in pairs.items() if pair[0] != pair[1]]
    if rows:
        lines += _columns("metrics", rows)
    elif pairs:
        lines += ["", "identical metrics"]
    return lines


def _differences(title: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    absent = object()
    rows = []
    for key in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(key, absent), theirs.get(key, absent)
        if one != other:
            rows.append([key, *("(absent)" if had is absent else _text(had) for had in (one, other))])
    return _columns(title, rows) if rows else []


def _columns(title: str, rows: list[list[str]]) -> list[str]:
    wide = [max(len(row[place]) for row in [[title, "A", "B"], *rows]) for place in range(3)]
    return [
        "",
        *(
            "  ".join(text.ljust(width) for text, width in zip(row, wide, strict=True)).rstrip()
            for row in [[title, "A", "B"], *([f"{row[0]}", *row[1:]] for row in rows)]
        ),
    ]


def _section(title: str, pairs: Sequence[tuple[str, Any]]) -> list[str]:
    if not pairs:
        return []
    wide = max(len(key) for key, _ in pairs)
    return ["", title, *(f"  {key:<{wide}}  {had}".rstrip() for key, had in pairs)]


def _override(text: str) -> tuple[str, str]:
    key, _, had = str(text).partition("=")
    return key, had


def _text(had: Any) -> str:
    if isinstance(had, float):
        return f"{had:.6g}"
    return f"{had:,}" if isinstance(had, int) and not isinstance(had, bool) and had >= 10_000 else yaml_text(had)


def _has(had: Any) -> bool:
    return had is not None and had != "" and had != []


def _size(path: Path) -> str:
    if path.is_dir():
        inner = sorted(entry.name for entry in path.iterdir())
        return ", ".join(inner[:8]) + (f" and {len(inner) - 8} more" if len(inner) > 8 else "")
    size = path.stat().st_size
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{size / 2**10:.1f} kB"
