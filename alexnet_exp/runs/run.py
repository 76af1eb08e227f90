"""Provides a run as comparisons see it, whatever program recorded it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """The settings and the results of one run.

    path: its folder, or the CSV file with its row. name: unique among the runs that are read together.
    status: a value of `Status`; only `done` runs are counted. config: flat, under dotted keys.
    choices: the option of each group (`{"model": "lrn"}`); empty if not recorded.
    metrics: keys `split/metric`, all of one state of the network. facts: everything else in result.json.
    """

    path: Path
    name: str
    status: str
    config: dict[str, Any]
    metrics: dict[str, float]
    choices: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        """The seed, or None if it was not recorded."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None
