"""The finding of the report: table of arms, differences, legend of the dot plot and caveats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from alexnet_exp.compare.next_seeds import options_note
from alexnet_exp.compare.paper_claim_status import ANALOGUE, figure_text, sentence, status_text
from alexnet_exp.compare.render.dotplot import MOST_DRAWN_ARMS, lanes
from alexnet_exp.compare.render.html.filters import counted
from alexnet_exp.compare.result import Arm, Comparison, Difference, Verdict
from alexnet_exp.compare.statistics import Interval
from alexnet_exp.compare.tables import verdict_text
from alexnet_exp.runs.metric import difference_text, value_text

MOST_LISTED_SEEDS = 5  # the values of an arm with more seeds are not listed
MOST_LISTED_FOLDERS = 50  # further skipped folders are only counted
VERDICT_SIGNS = {Verdict.better: "▲", Verdict.worse: "▼", Verdict.no_difference: "=", Verdict.inconclusive: "?"}
NO_VALUE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """A cell of the table of arms.

    second: a line below the text. tag: a label after the text. style: `strong`, `quiet`, `settings` or `claim`.
    verdict: the class of a verdict, which has a `sign`.
    """

    text: str
    second: str = ""
    tag: str = ""
    style: str = ""
    verdict: str = ""
    sign: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the table of arms: its heading, the cell of an arm, and whether it holds numbers."""

    title: str
    cell: Callable[[Arm], Cell]
    is_number: bool = True


@dataclass(frozen=True)
class ArmTable:
    """The table of arms, best first; no rows without arms."""

    columns: list[Column]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Detail:
    """A difference in full sentences. Each part may be empty; `needs` is what else `command` needs."""

    sentence: str
    claim: str
    command: str
    needs: str


def arm_table(comparison: Comparison) -> ArmTable:
    """Returns the table of arms: verdict, difference from the baseline and values of each."""
    columns = _columns(comparison)
    return ArmTable(columns, [[column.cell(arm) for column in columns] for arm in comparison.arms])


def legend(comparison: Comparison) -> str:
    """Returns what the marks of the dot plot mean."""
    drawn = lanes(comparison)
    parts = ["Each dot is one seed; the number is the mean"]
    if any(lane.arm.interval for lane in drawn):
        parts.append("the bar is the 95% interval of the mean")
    if any(lane.grey for lane in drawn):
        parts.append("grey arms are inconclusive against the baseline")
    if any(lane.claim is not None for lane in drawn):
        parts.append("the hollow diamond is the value that the paper claims")
    more = (
        f" The table has {counted(len(drawn) - MOST_DRAWN_ARMS, 'more arm')}." if len(drawn) > MOST_DRAWN_ARMS else ""
    )
    return f"{'; '.join(parts)}.{more}"


def details(comparison: Comparison) -> list[Detail]:
    """Returns each difference in full sentences, with the paper's claim and the command that runs more seeds."""
    found = []
    for difference in comparison.differences:
        is_headline = comparison.sentence[1:].startswith(difference.sentence[1:])
        detail = Detail(
            "" if is_headline else difference.sentence,
            sentence(difference.claim) if difference.claim is not None else "",
            difference.command or "",
            (options_note(difference.command) or "") if difference.command else "",
        )
        if detail != Detail("", "", "", ""):
            found.append(detail)
    return found


def caveats(comparison: Comparison) -> list[str]:
    """Returns the caveats of the comparison and the folders that were skipped, one line each."""
    lines = [*comparison.caveats, *(f"Skipped: {line}" for line in comparison.skipped[:MOST_LISTED_FOLDERS])]
    if len(comparison.skipped) > MOST_LISTED_FOLDERS:
        lines.append(f"Skipped: {len(comparison.skipped) - MOST_LISTED_FOLDERS} more")
    return lines


def _columns(comparison: Comparison) -> list[Column]:
    key = comparison.metric.key
    differences = {difference.arm.label: difference for difference in comparison.differences}
    baselines = {difference.baseline.label for difference in comparison.differences}
    unit = " in points" if comparison.metric.percent else ""

    def of_difference(cell: Callable[[Difference], Cell]) -> Callable[[Arm], Cell]:
        """Returns the cell of an arm's difference; it is empty for an arm without one, such as the baseline."""
        return lambda arm: cell(differences[arm.label]) if arm.label in differences else Cell("")

    columns = [
        Column(
            "Arm",
            lambda arm: Cell(arm.label, tag="baseline" if arm.label in baselines else "", style="settings"),
            False,
        )
    ]
    if differences:
        columns += [
            Column("Verdict", of_difference(lambda difference: _verdict(comparison, difference)), False),
            Column(
                f"Difference{unit}, with interval",
                of_difference(lambda difference: _difference(key, difference)),
            ),
        ]
    if any(difference.images_interval for difference in differences.values()):
        columns.append(
            Column(
                "Interval for new images",
                of_difference(lambda difference: Cell("", second=_interval(key, difference.images_interval))),
            )
        )
    if any(difference.claim for difference in differences.values()):
        columns.append(
            Column(
                "Paper's claim",
                lambda arm: _claim(differences.get(arm.label)),
                False,
            )
        )
    columns += [
        Column(f"Mean {comparison.metric.label}, with 95% interval", lambda arm: _mean(key, arm)),
        Column(f"SD{unit}", lambda arm: Cell(NO_VALUE if arm.sd is None else difference_text(key, arm.sd))),
        Column("Seeds", _seeds),
    ]
    if any(0 < arm.n <= MOST_LISTED_SEEDS for arm in comparison.arms):
        columns.append(Column("Each seed", lambda arm: _values(key, arm)))
    return columns


def _verdict(comparison: Comparison, difference: Difference) -> Cell:
    """Returns the verdict as sign, words and colour, because some readers cannot distinguish the colours."""
    verdict = difference.verdict
    return Cell(
        verdict_text(difference, comparison.metric),
        verdict=verdict.name.replace("_", "-"),
        sign=VERDICT_SIGNS[verdict],
    )


def _difference(key: str, difference: Difference) -> Cell:
    if math.isnan(difference.difference):
        return Cell(NO_VALUE)
    return Cell(_signed(key, difference.difference), second=_interval(key, difference.interval))


def _claim(difference: Difference | None) -> Cell:
    if difference is None or difference.claim is None:
        return Cell(NO_VALUE)
    claim = difference.claim
    figure = figure_text(claim.paper).replace("-", MINUS)
    return Cell(status_text(claim), figure, ANALOGUE if claim.paper.analogue else "", "claim")


def _mean(key: str, arm: Arm) -> Cell:
    if arm.mean is None:
        return Cell(NO_VALUE)
    interval = "" if arm.interval is None else " to ".join(value_text(key, end) for end in arm.interval)
    return Cell(value_text(key, arm.mean), interval, style="strong")


def _seeds(arm: Arm) -> Cell:
    return Cell(str(arm.n), f"{len(arm.uncounted)} not counted" if arm.uncounted else "")


def _values(key: str, arm: Arm) -> Cell:
    if not 0 < arm.n <= MOST_LISTED_SEEDS:
        return Cell(NO_VALUE)
    return Cell(" ".join(value_text(key, value).rstrip("%") for value in arm.values), style="quiet")


def _interval(key: str, interval: Interval | None) -> str:
    return "" if interval is None else f"{_signed(key, interval[0])} to {_signed(key, interval[1])}"


def _signed(key: str, value: float) -> str:
    return difference_text(key, value, sign=True).replace("-", MINUS)
