"""What a comparison found, in plain values: every view (terminal, Markdown, JSON, HTML) shows one of these."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from alexnet_exp.config.paper_claim import PaperClaim
from alexnet_exp.runs.run import Run

Interval = tuple[float, float]


class Verdict(Enum):
    """The only four things that are ever said of a difference."""

    better = "better"
    worse = "worse"
    no_difference = "no difference above"
    cannot_tell = "cannot tell below"


class ClaimStatus(Enum):
    """The only five things that are ever said of a claim; `compare.claim` defines them."""

    reproduced = "reproduced"
    same_direction = "same direction"
    cannot_tell = "cannot tell"
    contradicted = "contradicted"
    not_run = "not run"


@dataclass(frozen=True)
class Metric:
    """`key` as in result.json (`test/top1`), `label` for people, whether more is better, and whether it is shown in
    percent and differences of it in points (accuracies)."""

    key: str
    label: str
    higher_is_better: bool
    percent: bool


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but the seed.

    settings: what tells it from the other arms, dotted key or group to value. label: the same for people (`model=lrn`).
    runs, values, seeds: what is counted, one of each seed, in the order of the seeds. sd: over seeds, with n - 1; None
    for one. interval: 95% t interval of the mean; None below three.
    uncounted: failed, running, interrupted runs of the arm. repeated: further runs of a seed that is counted.
    """

    settings: dict[str, Any]
    label: str
    runs: list[Run]
    values: list[float]
    seeds: list[int | None]
    mean: float | None
    sd: float | None
    interval: Interval | None
    uncounted: list[Run] = field(default_factory=list)
    repeated: list[Run] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Seeds that count."""
        return len(self.values)


@dataclass(frozen=True)
class Claim:
    """What the paper says of an arm against its baseline, and what was found (see `compare.claim`).

    why: what is to be said beside the status, in a few words. measured, interval: on the claim's own scale, a
    difference in the metric's units or a ratio. p: of the test that made the interval.
    """

    said: PaperClaim
    status: ClaimStatus
    why: str = ""
    measured: float | None = None
    interval: Interval | None = None
    p: float | None = None

    def place(self, baseline: float) -> float | None:
        """Where the paper has the arm if the baseline is where it is; None where it only claims a direction."""
        said = self.said
        if said.ratio is not None:
            return baseline * said.ratio
        figure = next((one for one in (said.difference, said.at_least, said.at_most) if one is not None), None)
        return baseline + figure if figure else None


@dataclass(frozen=True)
class Difference:
    """An arm against the baseline. All numbers in the metric's units (an accuracy's in 0..1), arm minus baseline.

    interval: 95%, over seeds, of `method`, adjusted where several arms are compared. bound: M of `no_difference`, X of
    `cannot_tell`; None where even that cannot be said. images_interval: over new test images and seeds.
    correlation: over the seeds, where pairs were asked for. more_seeds: how many more each arm needs to show the
    margin, or without one the measured difference, in 8 of 10 cases; None where `statistics.MOST_SEEDS` are too few.
    more_seeds_range: the same if the sds are at either end of their 80% interval. command: runs `more_seeds`.
    sentence: all of it for people.
    """

    arm: Arm
    baseline: Arm
    difference: float
    interval: Interval | None
    p: float | None
    method: str
    verdict: Verdict
    bound: float | None
    sentence: str
    images_interval: Interval | None = None
    correlation: float | None = None
    more_seeds: int | None = None
    more_seeds_range: tuple[int, int] | None = None
    command: str | None = None
    claim: Claim | None = None


@dataclass(frozen=True)
class Table:
    """Cells as they are, numbers as numbers; whoever shows them formats. `keys`: the columns' names in result.json."""

    keys: list[str]
    titles: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Comparison:
    """All that there is to show, in the order in which it is shown.

    sentence: the finding. arms: best first. differences: of every other arm against the baseline; empty without one.
    table: of the arms where seeds were folded, else of the runs. runs_table: every run. look_out: one line each.
    varying: settings in which the runs differ. skipped: folders that could not be read, one line each. tuning:
    those of `look_out` that are about `--best-of`'s values. plan: how many
    seeds the margin needs, for the next sweep.
    """

    metric: Metric
    sentence: str
    arms: list[Arm]
    differences: list[Difference]
    table: Table
    runs_table: Table
    look_out: list[str]
    varying: list[str]
    runs: list[Run]
    skipped: list[str] = field(default_factory=list)
    margin: float | None = None
    tuning: list[str] = field(default_factory=list)
    plan: str = ""
