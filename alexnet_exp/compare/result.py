"""Provides the result of a comparison as plain values, from which every output format is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from alexnet_exp.compare.statistics import Interval
from alexnet_exp.config.paper_claim import PaperClaim
from alexnet_exp.runs.run import Run


class Verdict(Enum):
    """The verdict on a difference."""

    better = "better"
    worse = "worse"
    no_difference = "no difference above"
    inconclusive = "inconclusive"


class ClaimStatus(Enum):
    """The status of a claim, as defined in `paper_claim_status`."""

    reproduced = "reproduced"
    same_direction = "same direction"
    inconclusive = "inconclusive"
    contradicted = "contradicted"
    not_run = "not run"


@dataclass(frozen=True)
class Metric:
    """A metric: `key` as in result.json (`test/top1`) and `label` as printed.

    percent: whether it is printed in percent, with differences in points (accuracies).
    """

    key: str
    label: str
    higher_is_better: bool
    percent: bool


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in the seed.

    settings: what distinguishes it from the other arms, dotted key or group to value. label: the same as text
    (`model=lrn`). runs, values, seeds: the counted runs, one per seed, in the order of the seeds. sd: over seeds, with
    n - 1; None for one seed. interval: 95% t interval of the mean; None for fewer than three seeds. uncounted: failed,
    running and interrupted runs. repeated: further runs of a counted seed.
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
        """The number of counted seeds."""
        return len(self.values)


@dataclass(frozen=True)
class Claim:
    """A claim of a paper about an arm and its baseline, and its status (see `paper_claim_status`).

    why: the reason for the status, in a few words. measured, interval: on the scale of the claim, a difference in the
    metric's units or a ratio. p: of the test that gave the interval.
    """

    paper: PaperClaim
    status: ClaimStatus
    why: str = ""
    measured: float | None = None
    interval: Interval | None = None
    p: float | None = None

    def place(self, baseline: float) -> float | None:
        """Returns the arm's value by the paper's claim for this baseline; None if it only claims a direction."""
        paper = self.paper
        if paper.ratio is not None:
            return baseline * paper.ratio
        figure = next((one for one in (paper.difference, paper.at_least, paper.at_most) if one is not None), None)
        return baseline + figure if figure else None


@dataclass(frozen=True)
class Difference:
    """An arm against the baseline. All numbers are arm minus baseline in the metric's units (accuracies in 0..1).

    interval: 95%, over seeds, of `method`, adjusted for the number of arms. bound: the margin of `no_difference`, the
    detectable difference of `inconclusive`; None if unknown. images_interval: over new test images and seeds.
    correlation: over the seeds of a paired comparison. more_seeds: the seeds that each arm needs in addition to detect
    the margin, or without one the measured difference, with 80% power; None if `statistics.MOST_SEEDS` are too few.
    more_seeds_range: the same for the ends of the 80% interval of the sds. command: runs `more_seeds`. sentence: the
    finding as text.
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
class ComparisonTable:
    """A table of unformatted cells. `keys`: the names of the columns in result.json."""

    keys: list[str]
    titles: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    sentence: the finding. arms: best first. differences: of every other arm against the baseline; empty without one.
    table: of the arms, or of the runs if seeds were not averaged. runs_table: of every run. caveats: one line each.
    varying: settings in which the runs differ. skipped: folders that could not be read, one line each. tuning: the
    caveats about the values of `--best-of`. plan: how many seeds the margin needs, for the next sweep.
    """

    metric: Metric
    sentence: str
    arms: list[Arm]
    differences: list[Difference]
    table: ComparisonTable
    runs_table: ComparisonTable
    caveats: list[str]
    varying: list[str]
    runs: list[Run]
    skipped: list[str] = field(default_factory=list)
    margin: float | None = None
    tuning: list[str] = field(default_factory=list)
    plan: str = ""
