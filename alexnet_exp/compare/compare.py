"""From runs to a Comparison: the one function behind every view and the command."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alexnet_exp.compare.arms import (
    EXPERIMENT,
    Folded,
    check_group,
    column,
    counts,
    fold,
    matching,
    own_arm_each,
    parse_settings,
)
from alexnet_exp.compare.caveats import caveats
from alexnet_exp.compare.paper_claim_status import ANALOGUE, figure_text, status_text
from alexnet_exp.compare.power import plan
from alexnet_exp.compare.result import Arm, Claim, Comparison, Difference, Metric, Table, Verdict
from alexnet_exp.compare.select import (
    MISSING,
    Condition,
    best_first,
    check_names,
    decides,
    metric_keys,
    runs_table,
    title,
    value,
)
from alexnet_exp.compare.tuning import tuning_caveats
from alexnet_exp.compare.verdict import Family, Judge, images_text, includes_zero, names
from alexnet_exp.errors import UserError, suggest_name, yaml_text
from alexnet_exp.runs.metric import (
    difference_text,
    direction_text,
    higher_is_better,
    is_accuracy,
    label,
    value_text,
)
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

# The metric when none is asked for: the first of these that every finished run has.
USUAL = ("test/top1", "test/acc", "test/accuracy", "val/top1", "val/acc", "val/accuracy")
# What every view knows of an arm beyond its settings and metrics, and the heading of it.
ARM_COLUMNS = {
    "n": "seeds",
    "values": "values",
    "sd": "sd",
    "interval": "95% interval",
    "difference": "difference",
    "difference_interval": "its interval",
    "verdict": "verdict",
    "claim": "paper",
    "claim_status": "the claim",
    "images_per_s": "images/s",
    "minutes": "minutes",
    "status": "runs",
}
_FEW = 5  # values that are all shown
_MANY = 10  # names that are listed in a message


@dataclass(frozen=True)
class Options:
    """How runs are compared. Settings are written as one types them: `model.norm=none`, or a group's `model=none`.

    metric: what verdicts are about; by default test/top1 where all have it, else val/top1, else what there is.
    rank: what orders the arms and chooses among them (best_of); by default the runs' `objective`. Any column will do.
    baseline: `key=value`, several with commas: what every other arm is set against.
    group_by: the keys that make arms, instead of all that varies. paired: over common seeds. margin: M of "no
    difference above M", in the metric's units (an accuracy's 0.005 is half a point). best_of: keys of which each arm
    takes its own best value, by `rank`. average_over: keys that make no arms; of the runs of one seed the mean counts.
    top: only so many arms (the baseline always), and as many lines of runs.
    columns: of the tables, instead of what varies. seed_key: which setting is the seed. images: whether the interval
    for new images is computed where predictions are there.
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


def compare(
    runs: Sequence[Run], options: Options | None = None, skipped: Sequence[str] = (), guessed: Sequence[str] = ()
) -> Comparison:
    """What the runs say. They are selected (`--where`) before; `skipped` is passed on, `guessed` ends the caveats.

    Raises UserError where an option fits none of the runs.
    """
    options = options or Options()
    _check(runs, options)
    metric = _metric(runs, options.metric)
    if options.margin is not None and metric.percent and options.margin >= 1:
        points = f"{100 * options.margin:g} points of {metric.label}"
        raise UserError(f"--margin {options.margin:g}: that is {points}; half a point is 0.005 or 0.5%")
    conditions = parse_settings(options.baseline) if options.baseline else []
    folded = fold(
        runs,
        metric.key,
        group_by=options.group_by,
        best_of=options.best_of,
        average_over=options.average_over,
        named=[condition.key for condition in conditions],
        seed_key=options.seed_key,
    )
    rank = options.rank or _rank(runs, metric.key)
    arms = _ordered(folded.arms, rank)
    notes: list[str] = []
    tuning: list[str] = []
    if options.best_of:
        check_group(options.best_of, folded.factors, "--best-of")
        every = arms
        arms = _at_their_best(every, folded.factors, options.best_of, rank)
        tuning = tuning_caveats(every, arms, folded.factors, options.best_of) if len(arms) < len(every) else []
        notes += [*_about_best(every, arms, folded.factors, options.best_of, rank, metric.key), *tuning]
    families: list[Family] = []
    if options.baseline:
        families, alone = _families(folded, arms, conditions, options)
        notes += alone
    # the second interval takes each run for a seed
    with_images = options.images and not options.average_over
    judge = Judge(metric, options.margin, options.paired, options.seed_key, with_images)
    judged = judge.judge(families)
    shown_arms, differences = _top(arms, judged, options.top)
    ordered = best_first(runs, rank)
    listed = runs_table(ordered[: options.top], folded.factors, options.columns)
    several = any(arm.n > 1 or arm.repeated for arm in arms)
    return Comparison(
        metric=metric,
        sentence=_sentence(metric, arms, judged, rank, options, chosen=len(arms) < len(folded.arms)),
        arms=shown_arms,
        differences=differences,
        table=_arms_table(shown_arms, differences, folded.factors, metric, rank, options) if several else listed,
        runs_table=listed,
        caveats=[*notes, *_about_images(metric, differences), *caveats(folded, arms, metric.key), *guessed],
        varying=folded.factors,
        runs=list(runs),
        skipped=list(skipped),
        margin=options.margin,
        tuning=tuning,
        plan=plan(metric, families, options.margin) if options.margin is not None else "",
    )


def _check(runs: Sequence[Run], options: Options) -> None:
    check_names(options.group_by, runs, "--group-by")
    check_names(options.average_over, runs, "--average-over")
    for key in options.average_over:
        if key in options.group_by or key in options.best_of:
            raise UserError(f"--average-over {key}: it is in --group-by or --best-of too; name it once")
    asked = [condition.key for condition in parse_settings(options.baseline)] if options.baseline else []
    for option, keys in (("--baseline", asked), ("--best-of", options.best_of), ("--group-by", options.group_by)):
        if options.seed_key in keys or "seed" in keys:
            raise UserError(
                f"{option} seed: an arm is the runs of all its seeds; name a setting, or use --where seed=1"
            )
    if options.rank:
        check_names([options.rank], runs, "--rank")
    if options.margin is not None and not 0 < options.margin < math.inf:
        raise UserError(f"--margin {options.margin}: must be greater than 0")
    if options.top is not None and options.top < 1:
        raise UserError(f"--top {options.top}: must be at least 1")
    if options.margin is not None and not options.baseline:
        raise UserError("--margin: against what? add --baseline KEY=VALUE")
    if options.paired and not options.baseline:
        raise UserError("--paired: against what? add --baseline KEY=VALUE")


def _metric(runs: Sequence[Run], asked: str | None) -> Metric:
    known = metric_keys(runs)
    if asked is not None and runs and asked not in known:
        raise UserError(
            f"--metric: no run has {asked}; {suggest_name(asked, known) if known else 'no run has a metric'}"
        )
    key = default_metric(runs) if asked is None else asked
    return Metric(key, label(key), higher_is_better(key), is_accuracy(key))


def default_metric(runs: Sequence[Run]) -> str:
    """The metric that is compared where none is named."""
    done = [run for run in runs if run.status == Status.DONE]
    known = metric_keys(runs)
    of_all = [key for key in known if all(key in run.metrics for run in done)]
    others = sorted(of_all, key=lambda key: (not is_accuracy(key), not key.startswith("test"), key.startswith("train")))
    return next(iter([*(key for key in USUAL if key in of_all), *others, *known]), USUAL[0])


def _rank(runs: Sequence[Run], metric: str) -> str:
    """The runs' own objective where they agree and have it, else val/top1, else the verdicts' metric."""
    done = [run for run in runs if counts(run, metric)]
    objectives = {run.config.get("objective") for run in done}
    split, _, name = metric.partition("/")
    for key in (*(objectives if len(objectives) == 1 else ()), f"val/{name}" if split == "test" else metric):
        if isinstance(key, str) and done and all(key in run.metrics for run in done):
            return key
    return metric


def _ordered(arms: Sequence[Arm], rank: str) -> list[Arm]:
    """The best first, those without a value last."""
    sign = -1 if higher_is_better(rank) else 1
    return sorted(arms, key=lambda arm: math.inf if (mean := mean_of(arm, rank)) is None else sign * mean)


def mean_of(arm: Arm, key: str) -> float | None:
    """The mean over the arm's counted runs of a metric or any other number; None where one of them has none."""
    found = [value(run, key) for run in arm.runs]
    if not found or not all(isinstance(one, int | float) and math.isfinite(one) for one in found):
        return None
    return math.fsum(found) / len(found)


def _at_their_best(arms: Sequence[Arm], factors: Sequence[str], best_of: Sequence[str], rank: str) -> list[Arm]:
    """Of the arms that differ in nothing but `best_of`, the first by rank.

    Arms with fewer than half the seeds of the fullest are passed over: one lucky seed would win.
    """
    rest = [factor for factor in factors if factor not in best_of]
    groups: dict[tuple[str, ...], list[Arm]] = {}
    for arm in arms:
        groups.setdefault(_at(arm, rest), []).append(arm)
    chosen = []
    for members in groups.values():
        most = max(arm.n for arm in members)
        ranked = [arm for arm in members if 2 * arm.n >= most and (mean_of(arm, rank) is not None or not most)]
        chosen.append((ranked or members)[0])
    ids = {id(arm) for arm in chosen}
    return [arm for arm in arms if id(arm) in ids]


def _about_best(
    every: Sequence[Arm], chosen: Sequence[Arm], factors: Sequence[str], best_of: Sequence[str], rank: str, metric: str
) -> list[str]:
    keys, was = ", ".join(best_of), "was" if len(best_of) == 1 else "were"
    if len(chosen) == len(every):
        lines = [f"--best-of {','.join(best_of)} had nothing to choose: no two arms differ in {keys} alone"]
        pairs = [
            _unequal(arm, other, [factor for factor in factors if factor not in best_of])
            for place, arm in enumerate(every)
            for other in every[:place]
            if _unequal(arm, other, best_of)
        ]
        if nearest := min(pairs, key=len, default=[]):
            lines[0] += f"; those that differ in it differ in {', '.join(nearest)} too"
        return lines
    notes = [
        f"{keys} {was} chosen for each arm by {label(rank)} of the same runs: what was chosen looks a little better "
        "than it is; fresh seeds would tell (sweep confirm)"
    ]
    if rank.startswith("test/") or rank == metric:
        notes.append(
            f"{keys} {was} chosen by {label(rank)}, on which the verdict rests too: choose by a validation metric"
        )
    return notes


def _about_images(metric: Metric, differences: Sequence[Difference]) -> list[str]:
    """Verdicts that hold for these test images and perhaps for no others."""
    return [
        f"{images_text(metric, difference)}: on other images of the kind there may be no difference"
        for difference in differences
        if _on_these_images(difference)
    ]


def _on_these_images(difference: Difference) -> bool:
    """Whether a verdict holds for other seeds, but perhaps not for other test images."""
    return (
        difference.verdict in (Verdict.better, Verdict.worse)
        and difference.images_interval is not None
        and includes_zero(difference.images_interval)
    )


def _families(
    folded: Folded, arms: Sequence[Arm], conditions: Sequence[Condition], options: Options
) -> tuple[list[Family], list[str]]:
    """Each baseline arm with the arms that are like it in everything else; and a line on those without one."""
    first_runs = [[*arm.runs, *arm.uncounted][0] for arm in arms]
    check_names([condition.key for condition in conditions], first_runs, "--baseline")
    base = matching(arms, conditions)
    if not base:
        had = {
            condition.key: dict.fromkeys(yaml_text(value(run, condition.key)) for run in first_runs)
            for condition in conditions
        }
        there = "; ".join(f"{key} is {', '.join(list(values)[:8])}" for key, values in had.items())
        raise UserError(f"--baseline {options.baseline}: no arm has it; {there}")
    if len(base) == len(arms):
        raise UserError(f"--baseline {options.baseline}: every run has it, so there is nothing to set against it")
    axis = {factor for condition in conditions for factor in _axis(condition.key, folded, first_runs)}
    # --group-by says which settings are meant to tell arms apart: what goes with them is named, and not matched
    matched = [*options.group_by, "fingerprint"] if options.group_by else folded.factors
    rest = [key for key in folded.factors if key in matched and key not in axis and key not in options.best_of]
    baselines: dict[tuple[str, ...], Arm] = {}
    for arm in base:
        other = baselines.setdefault(_at(arm, rest), arm)
        if other is not arm:
            both = " and ".join(names(arm, other))
            raise UserError(f"--baseline {options.baseline}: fits both {both}; name one of them{_each_row(folded)}")
    in_base = {id(arm) for arm in base}
    others = [arm for arm in arms if id(arm) not in in_base]
    images = {id(arm): found for arm, found in zip(folded.arms, folded.data, strict=True)}
    found: dict[tuple[str, ...], list[Arm]] = {at: [] for at in baselines}
    alone = []
    for arm in others:
        if (at := _at(arm, rest)) in found:
            found[at].append(arm)
        else:
            alone.append(arm.label)
    families = [
        Family(baselines[at], members, [arm for arm in members if _unlike(images[id(arm)], images[id(baselines[at])])])
        for at, members in found.items()
        if members
    ]
    if not families:
        raise UserError(f"--baseline {options.baseline}: {_in_the_way(folded, base, others, rest, options)}")
    lines = []
    if alone:
        lines.append(f"nothing to compare with, since the baseline has no run like it otherwise: {', '.join(alone)}")
    left = sum(not members for members in found.values())
    if left:
        lines.append(
            f"{left} more arm{' has' if left == 1 else 's have'} {options.baseline} and no arm to compare with: every "
            "other differs in a further setting"
        )
    return families, lines


def _in_the_way(
    folded: Folded, base: Sequence[Arm], others: Sequence[Arm], rest: Sequence[str], options: Options
) -> str:
    """Why no arm can be compared with the baseline, and what to write instead: of the two arms that are nearest."""
    pairs = [(_unequal(arm, other, rest), arm, other) for other in base for arm in others]
    keys, arm, other = min(pairs, key=lambda pair: len(pair[0]))
    some = [
        f"{key} ({yaml_text(arm.settings.get(key))} and {yaml_text(other.settings.get(key))})" for key in keys[:_FEW]
    ]
    more = f" and {len(keys) - _FEW} more settings" if len(keys) > _FEW else ""
    start = f"every other arm differs in more than that, {arm.label} in {', '.join(some)}{more}"
    if each := _each_row(folded):
        return start + each
    if more:
        asked = ",".join(condition.key for condition in parse_settings(options.baseline or ""))
        return f"{start}; add --group-by {shlex.quote(asked)} to compare all of it together"
    also = ",".join(f"{key}={yaml_text(other.settings.get(key))}" for key in keys)
    best_of = ",".join([*options.best_of, *keys])
    baseline = f"{options.baseline},{also}"
    return (
        f"{start}; add --best-of {shlex.quote(best_of)} to give each arm its own best value, or write --baseline "
        f"{shlex.quote(baseline)} to compare all of it together"
    )


def _unequal(arm: Arm, other: Arm, factors: Sequence[str]) -> list[str]:
    return [key for key in factors if yaml_text(arm.settings.get(key)) != yaml_text(other.settings.get(key))]


def _each_row(folded: Folded) -> str:
    """What to do where a column that is no setting makes an arm of every run."""
    keys = own_arm_each(folded)
    told = ", ".join(keys)
    added = shlex.quote(",".join(keys))
    return f". {told} differs in every run: if it is no setting, add --average-over {added}" if keys else ""


def _axis(key: str, folded: Folded, runs: Sequence[Run]) -> list[str]:
    """Which factors the baseline's key names: itself, the one with which it always changes, or its group or node
    (`model` of model.norm); every factor where it is no setting of an arm (`run`, `commit`).
    """
    if together := [factor for factor, others in folded.together.items() if key in others]:
        return together
    around = [factor for factor in folded.factors if key.startswith(f"{factor.replace('/', '.')}.")]
    had = column(runs, key)
    deciding = [factor for factor in [*around, EXPERIMENT] if factor in folded.factors]
    deciding = [factor for factor in deciding if decides(column(runs, factor), had)][:1]
    if key in folded.factors:
        return [key, *deciding]
    return deciding or sorted(around, key=len)[-1:] or list(folded.factors)


def _unlike(images: Any, other: Any) -> bool:
    return images is not None and other is not None and images != other


def _at(arm: Arm, factors: Sequence[str]) -> tuple[str, ...]:
    return tuple(yaml_text(arm.settings.get(factor)) for factor in factors)


def _top(arms: Sequence[Arm], differences: list[Difference], top: int | None) -> tuple[list[Arm], list[Difference]]:
    """The first arms and the baselines; every arm was judged, so leaving some out changes no verdict."""
    if top is None:
        return list(arms), differences
    ids = {id(arm) for arm in arms[:top]}
    kept = [difference for difference in differences if id(difference.arm) in ids]
    baselines = {id(difference.baseline) for difference in kept or differences}
    return [arm for arm in arms if id(arm) in ids | baselines], kept


def _arms_table(
    arms: Sequence[Arm],
    differences: Sequence[Difference],
    factors: Sequence[str],
    metric: Metric,
    rank: str,
    options: Options,
) -> Table:
    """One row an arm. Cells: numbers, words; `values` a list, the intervals pairs of numbers; None for nothing."""
    by_arm = {id(difference.arm): difference for difference in differences}
    rows_of = {
        "n": lambda arm: arm.n,
        "values": lambda arm: arm.values if arm.n <= _FEW else None,
        "sd": lambda arm: arm.sd,
        "interval": lambda arm: arm.interval,
        "status": _status,
    }

    def cell(arm: Arm, key: str) -> Any:
        if key in rows_of:
            return rows_of[key](arm)
        difference = by_arm.get(id(arm))
        if key in ("difference", "difference_interval", "verdict", "claim", "claim_status"):
            return None if difference is None else _of_difference(difference, key, metric)
        if key in arm.settings:
            return arm.settings[key]
        mean = mean_of(arm, key)
        if mean is not None:
            return mean
        found = {yaml_text(value(run, key)) for run in arm.runs if value(run, key) is not MISSING}
        return found.pop() if len(found) == 1 else None

    of_differences = ["difference", "difference_interval", "verdict"] if differences else []
    claims = ["claim", "claim_status"] if any(difference.claim for difference in differences) else []
    few = ["values"] if any(1 < arm.n <= _FEW for arm in arms) else []
    ranked = [rank] if rank != metric.key else []
    usual = [*factors, "n", metric.key, "sd", "interval", *few, *of_differences, *claims, *ranked]
    keys = list(options.columns) or [*usual, "images_per_s", "minutes", "status"]
    metrics = metric_keys([run for arm in arms for run in arm.runs])
    return Table(
        keys,
        [ARM_COLUMNS.get(key) or title(key, metrics) for key in keys],
        [[cell(arm, key) for key in keys] for arm in arms],
    )


def _of_difference(difference: Difference, key: str, metric: Metric) -> Any:
    if key == "difference":
        return None if math.isnan(difference.difference) else difference.difference
    if key == "difference_interval":
        return difference.interval
    if key in ("claim", "claim_status"):
        return _of_claim(difference.claim, key) if difference.claim else None
    return verdict_text(difference, metric)


def _of_claim(claim: Claim, key: str) -> Any:
    """The paper's figure, as a number where it is one of the metric; and what became of it."""
    if key == "claim":
        said = claim.said
        return figure_text(said) if said.difference is None or said.about else said.difference
    return f"{claim.status.value}{f', {ANALOGUE}' if claim.said.analogue else ''}"


def verdict_text(difference: Difference, metric: Metric) -> str:
    """The verdict in a few words:

    `better`, `worse on these images`, `inconclusive (detectable difference: 0.9 points)`.
    """
    word = difference.verdict.value
    if difference.verdict in (Verdict.better, Verdict.worse):
        return f"{word} on these images" if _on_these_images(difference) else word
    if difference.bound is None:
        return word
    bound = f"{difference_text(metric.key, difference.bound)}{' points' if metric.percent else ''}"
    inconclusive = difference.verdict is Verdict.inconclusive
    return f"{word} (detectable difference: {bound})" if inconclusive else f"{word} {bound}"


def _status(arm: Arm) -> str:
    found = Counter(run.status for run in [*arm.runs, *arm.repeated, *arm.uncounted])
    return ", ".join(f"{times} {status}" for status, times in found.most_common())


def _sentence(
    metric: Metric,
    arms: Sequence[Arm],
    differences: Sequence[Difference],
    rank: str,
    options: Options,
    *,
    chosen: bool,
) -> str:
    counted = [arm for arm in arms if arm.n]
    if not arms:
        return "There are no runs here."
    if not counted:
        found = Counter(run.status for arm in arms for run in arm.uncounted)
        told = ", ".join(f"{times} {status}" for status, times in found.most_common())
        others = _other_metrics(arms)
        if others:
            return f"No run that is done has {metric.label}; {others}."
        return f"No run with {metric.label} is done: {told}."
    text = _verdicts(metric, differences) if differences else _ranking(metric, counted, rank)
    # a ranking goes by `rank`, a verdict by the metric; "inconclusive" has no direction
    if len(counted) > 1 and not text.startswith(("inconclusive", "no ")):
        told = direction_text(metric.key if differences else rank)
        text += f". {told}" if told else ""
    if options.best_of and chosen:
        text += f". Each arm is at its own best {', '.join(options.best_of)} by {label(rank)}"
    return f"{text[0].upper()}{text[1:]}." if text.startswith(("inconclusive", "no ")) else f"{text}."


def _other_metrics(arms: Sequence[Arm]) -> str:
    """What done runs have instead of the metric: other metrics, else settings that are numbers and could be ones."""
    done = [run for arm in arms for run in arm.uncounted if run.status == Status.DONE]
    if not done:
        return ""
    known = metric_keys(done)
    numeric = dict.fromkeys(
        key
        for run in done
        for key, had in (run.config | run.facts).items()
        if key != "seed" and isinstance(had, int | float) and not isinstance(had, bool)
    )
    some = known or list(numeric)
    if not some:
        return "they have no other metric, and no other number"
    listed = f"{', '.join(some[:_MANY])}{' ...' if len(some) > _MANY else ''}"
    return f"choose {'another metric' if known else 'a column of numbers'} with --metric: {listed}"


def _ranking(metric: Metric, arms: Sequence[Arm], rank: str) -> str:
    """Without a baseline there is a ranking and no verdict: which arm came first is partly luck."""
    best = arms[0]
    told = f"{metric.label} {_mean(metric, best)}"
    if len(arms) == 1:
        return f"{best.label}: {told}"
    level = sum(mean_of(arm, rank) == mean_of(best, rank) for arm in arms) - 1
    shared = f"{best.label} and {level} more are first" if level else f"{best.label} is first"
    first = f"{shared} of {len(arms)} by {label(rank)}: {told}"
    if all(arm.n == 1 for arm in arms):
        return f"{first}; one run each, which does not separate the change from chance"
    return f"{first}. No verdict: run compare with --baseline KEY=VALUE"


def _mean(metric: Metric, arm: Arm) -> str:
    if arm.n == 1:
        return f"{value_text(metric.key, arm.mean)} (one run)"
    if arm.interval is None:
        values = arm.values if arm.n <= _FEW else [arm.mean]
        return f"{' and '.join(value_text(metric.key, one) for one in values)} ({arm.n} seeds)"
    low, high = (value_text(metric.key, end) for end in arm.interval)
    return f"{value_text(metric.key, arm.mean)} (95% interval {low} to {high}; {arm.n} seeds)"


def _verdicts(metric: Metric, differences: Sequence[Difference]) -> str:
    """The sentence of one difference, and how many others there are of each verdict.

    The one of the first verdict in `Verdict`'s order; of several that are better, or worse, the largest; of several of
    another verdict the one with the smallest p.
    """
    order, decided = list(Verdict), (Verdict.better, Verdict.worse)

    def place(one: Difference) -> tuple[int, float]:
        within = -abs(one.difference) if one.verdict in decided else one.p
        return order.index(one.verdict), 2.0 if within is None else within

    first = min(differences, key=place)
    text = first.sentence
    if first.claim is not None:
        text += f"; the paper claims {figure_text(first.claim.said)}: {status_text(first.claim)}"
    others = Counter(one.verdict for one in differences if one is not first)
    if not others:
        return text
    verbs = {
        Verdict.better: ("is", "are", "better"),
        Verdict.worse: ("is", "are", "worse"),
        Verdict.no_difference: ("is", "are", "no different"),
        Verdict.inconclusive: ("cannot", "cannot", "be told from the baseline"),
    }

    def told(verdict: Verdict, number: int, who: str) -> str:
        singular, plural, what = verbs[verdict]
        less = ", by less" if verdict is first.verdict and verdict in decided else ""
        return f"{who} {singular if number == 1 else plural} {what}{less}"

    number = len(differences) - 1
    if len(others) == 1:
        return f"{text}. {told(*next(iter(others.items())), 'The other one' if number == 1 else f'The other {number}')}"
    return f"{text}. Of the others " + ", ".join(
        told(verdict, others[verdict], str(others[verdict])) for verdict in order if others[verdict]
    )
