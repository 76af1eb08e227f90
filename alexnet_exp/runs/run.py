"""One run as everything that compares runs sees it, whatever wrote its folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """What one run was set to and what came of it.

    path: its folder, or the CSV file it is a row of. name: unique among the runs read together, for people.
    status: a value of `Status`; only `done` runs are counted. config: flat, under dotted keys.
    choices: which option of each group was chosen (`{"model": "lrn"}`); empty where nobody recorded it.
    metrics: `split/metric`, of one state of the network. facts: all else that result.json says.
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
        """The seed, where one was recorded."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None
