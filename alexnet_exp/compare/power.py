"""Plans the number of seeds for a margin from the spread of the existing seeds."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_exp.compare import statistics as st
from alexnet_exp.compare.result import Metric
from alexnet_exp.compare.verdict import Family
from alexnet_exp.runs.metric import difference_text, unit

MOST_SD_RATIO = 3.0  # sds with a larger ratio have no common value for a plan


def plan_seeds(metric: Metric, families: Sequence[Family], margin: float) -> str:
    """Returns one line with two designs: equal numbers of seeds, and a baseline with twice as many.

    The line is empty if no seed varies, or if the sds differ more than threefold, so that there is no common spread.
    All arms together are tested against the baseline at 5% (Bonferroni's share for each).
    """
    arms = [arm for family in families for arm in (family.baseline, *family.arms)]
    samples = [st.Sample.of(arm.values) for arm in {id(arm): arm for arm in arms}.values() if arm.n > 1]
    sds = [sample.sd or 0.0 for sample in samples]
    if not any(sds) or max(sds) > MOST_SD_RATIO * min(sds):
        return ""
    sd, df = st.pooled_sd(samples)
    together = sum(len(family.arms) for family in families)
    alpha = st.ALPHA / max(1, together)
    even, twice = (st.seeds_for(margin, sd, times, alpha) for times in (1, 2))
    low, high = (difference_text(metric.key, end) for end in st.sd_interval(sd, df))
    spread = (
        f"{difference_text(metric.key, sd)}{' points' if metric.percent else ''} (here; 95% interval {low} to {high})"
    )
    of_all = f" for each of {together} arms" if together > 1 else ""
    designs = [f"{even} in every arm" if even <= st.MOST_SEEDS else f"more than {st.MOST_SEEDS} in every arm"]
    if twice <= st.MOST_SEEDS:
        designs.append(f"{twice} in each arm and {2 * twice} in the baseline")
    return (
        f"seeds for a difference of {difference_text(metric.key, margin)} {unit(metric.key)}, to show in 8 of 10 sweeps"
        f"{of_all}, if seeds spread by {spread}: {'; or '.join(designs)}"
    )
