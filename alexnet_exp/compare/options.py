"""Provides the options of a comparison and their checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_exp.compare.arms import parse_settings
from alexnet_exp.compare.select import check_names
from alexnet_exp.errors import UserError
from alexnet_exp.runs.run import Run


@dataclass(frozen=True)
class CompareOptions:
    """How runs are compared. Settings are written as overrides: `model.norm=none`, or `model=none` for a group.

    metric: the metric of the verdicts; default: test/top1 if every run has it, else val/top1, else another metric.
    rank: the column that orders arms and selects among them (best_of); default: the `objective` of the runs.
    baseline: `key=value`, several separated by commas: the arm with which every other arm is compared.
    group_by: the factors of the arms; default: every setting that varies. paired: compare common seeds in pairs.
    margin: the M of "no difference above M", in the units of the metric (0.005 is half a point of accuracy).
    best_of: keys of which each arm takes its own best value, by `rank`. average_over: keys that make no arms; the value
    of a seed is the mean over its runs. top: the number of arms (the baseline is always included) and of runs shown.
    columns: the columns of the tables; default: what varies. seed_key: the setting that is the seed. images: whether
    the interval for new images is computed from saved predictions.
    """

    metric: str | None = None
    rank: str | None = None
    baseline: str | None = None
    group_by: Sequence[str] = ()
    paired: bool = False
    margin: float | None = None
    best_of: Sequence[str] = ()
    average_over: Sequence[str] = ()
    top: int | None = None
    columns: Sequence[str] = ()
    seed_key: str = "seed"
    images: bool = True


def check_options(runs: Sequence[Run], options: CompareOptions) -> None:
    """Raises UserError if an option is invalid, names an unknown column, or contradicts another option."""
    check_names(options.group_by, runs, "--group-by")
    check_names(options.average_over, runs, "--average-over")
    for key in options.average_over:
        if key in options.group_by or key in options.best_of:
            raise UserError(f"--average-over {key}: it is in --group-by or --best-of too; name it once")
    baseline = [condition.key for condition in parse_settings(options.baseline)] if options.baseline else []
    for option, keys in (("--baseline", baseline), ("--best-of", options.best_of), ("--group-by", options.group_by)):
        if options.seed_key in keys or "seed" in keys:
            raise UserError(
                f"{option} seed: an arm contains the runs of all its seeds; name a setting, or use --where seed=1"
            )
    if options.rank:
        check_names([options.rank], runs, "--rank")
    if options.margin is not None and not 0 < options.margin < math.inf:
        raise UserError(f"--margin {options.margin}: must be greater than 0")
    if options.top is not None and options.top < 1:
        raise UserError(f"--top {options.top}: must be at least 1")
    for option, is_set in (("--margin", options.margin is not None), ("--paired", options.paired)):
        if is_set and not options.baseline:
            raise UserError(f"{option}: needs a baseline; add --baseline KEY=VALUE")
