"""The table of claims: a row a claim over any number of sweeps, and the shipped experiments that were never run."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from alexnet_exp.compare import statistics as st
from alexnet_exp.compare.arms import counts, parse_settings
from alexnet_exp.compare.compare import Options, compare
from alexnet_exp.compare.paper_claim_status import (
    ANALOGUE,
    figure_text,
    interval_text,
    measured_text,
    plain,
    stated,
    status_text,
)
from alexnet_exp.compare.result import Claim, ClaimStatus, Difference, Table
from alexnet_exp.compare.select import value
from alexnet_exp.compare.verdict import names
from alexnet_exp.config.paper_claim import PaperClaim, paper_claims
from alexnet_exp.errors import Refused, UserError
from alexnet_exp.paths import conf_dir
from alexnet_exp.runs.reader import YAML_LOADER
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status
from alexnet_exp.sanitize import spreadsheet_cell

PINNED = ("32-true", "64-true")  # the precisions of a reproduction
DIRECTIONS = (ClaimStatus.reproduced, ClaimStatus.same_direction, ClaimStatus.contradicted)
TITLES = {
    "claim": "claim",
    "label": "label",
    "source": "where",
    "paper": "the paper",
    "measured": "measured",
    "interval": "95% interval",
    "seeds": "seeds",
    "status": "status",
    "experiment": "experiment",
}


@dataclass(frozen=True)
class Row:
    """One claim. experiment: as one would type it, or the name of the runs. seeds: of the arm and of its baseline.

    arms: the two in words, where a claim has several rows. precisions: those of the runs that are not float32.
    """

    claim: Claim
    experiment: str
    seeds: tuple[int, int] = (0, 0)
    arms: str = ""
    precisions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claims:
    """All rows, those with runs first. caveats: a line each."""

    rows: list[Row]
    caveats: list[str] = field(default_factory=list)

    @property
    def tested(self) -> list[Row]:
        """The rows that have an interval: so many tests were made."""
        return [row for row in self.rows if row.claim.p is not None]

    @cached_property
    def adjusted(self) -> dict[int, float]:
        """Of each tested row, by its id, p after Holm's steps over all of them."""
        order = sorted(self.tested, key=lambda row: row.claim.p or 0.0)
        found, largest = {}, 0.0
        for step, row in enumerate(order):
            largest = min(1.0, max(largest, (row.claim.p or 0.0) * (len(order) - step)))
            found[id(row)] = largest
        return found

    @property
    def notes(self) -> list[str]:
        """How many claims were tested together and what that means, then what else must be known of the table."""
        tested, rows = self.tested, self.rows
        if not rows:
            return ["no run here says what a paper claims (paper_claim)"]
        lines = [f"{len(tested)} of {_counted(len(rows), 'claim')} tested here"]
        if tested:
            expected = st.ALPHA * len(tested)
            lines[0] += (
                f", each at 95%: if none were true, {expected:.2g} of {len(tested)} would be expected to show a "
                f"direction all the same, half of them the paper's. {self._holm()}"
            )
        if any(row.claim.said.analogue for row in rows):
            lines.append(
                f"{ANALOGUE}: not the paper's experiment but one like it, on other images or with a smaller network; "
                "the size of the effect need not be the paper's"
            )
        return [*lines, *self.caveats]

    def _holm(self) -> str:
        shown = [row for row in self.tested if row.claim.status in DIRECTIONS]
        lost = [row for row in shown if self.adjusted[id(row)] >= st.ALPHA]
        if not shown:
            return "None shows one"
        if not lost:
            return f"All {len(shown)} that show one keep it when all are held to 5% together (Holm)"
        told = "; ".join(row.claim.said.text for row in lost)
        return f"When all are held to 5% together (Holm), {len(shown) - len(lost)} of {len(shown)} keep it, not: {told}"


def table_of_claims(
    runs: Sequence[Run], *, paired: bool = False, shipped: bool = True, best_of: Sequence[str] = ()
) -> Claims:
    """The claims that `runs` carry, each judged by `compare`, then those of shipped experiments without a run.

    Runs of one name with the same claims belong together. best_of: for the claims that name none. Raises UserError
    where a shipped file states no usable claim.
    """
    rows: list[Row] = []
    caveats: list[str] = []
    groups: dict[tuple[str, str], list[Run]] = {}
    claims_of: dict[tuple[str, str], list[PaperClaim]] = {}
    for run in runs:
        try:
            said = stated(run)
        except Refused as refused:
            caveats.append(f"{run.name}: left out, since {'; '.join(map(str, refused.problems))}")
            continue
        if said:
            key = str(run.config.get("name", "")), repr(said)
            groups.setdefault(key, []).append(run)
            claims_of[key] = said
    for key, members in groups.items():
        for one in claims_of[key]:
            found, tuning = _rows(one, members, paired, best_of)
            rows += found
            caveats += tuning
    rows = _once(rows)
    for row in rows:
        if row.precisions:
            caveats.append(f"{row.experiment}: runs in {', '.join(row.precisions)}; a reproduction pins 32-true")
    if shipped:
        begun = {str(run.choices.get("experiment")) for run in runs}
        known = {repr(one) for found in claims_of.values() for one in found}
        for option, claims in shipped_claims():
            if option not in begun:
                rows += [
                    Row(Claim(one, ClaimStatus.not_run), f"experiment={option}")
                    for one in claims
                    if repr(one) not in known
                ]
    return Claims(rows, list(dict.fromkeys(caveats)))


def shipped_claims(folder: Path | None = None) -> Iterator[tuple[str, list[PaperClaim]]]:
    """Each shipped experiment that states claims: its option, such as `analogue/lrn`, and them."""
    root = (folder or conf_dir()) / "experiment"
    for file in sorted(root.rglob("*.yaml")):
        try:
            content = yaml.load(file.read_bytes(), Loader=YAML_LOADER)
            found = paper_claims(content.get("paper_claim")) if isinstance(content, dict) else []
        except Refused as refused:
            raise UserError(f"{file}: {'; '.join(map(str, refused.problems))}") from None
        except yaml.YAMLError as error:
            raise UserError(f"{file}: no YAML ({' '.join(str(error).split())})") from None
        if found:
            yield file.relative_to(root).with_suffix("").as_posix(), found


def as_table(claims: Claims) -> Table:
    """The rows as text, for people."""
    times = Counter(row.claim.said.text for row in claims.rows)
    rows = [
        [
            row.claim.said.text + (f" [{row.arms}]" if times[row.claim.said.text] > 1 and row.arms else ""),
            ANALOGUE if row.claim.said.analogue else "",
            row.claim.said.source,
            figure_text(row.claim.said),
            measured_text(row.claim),
            interval_text(row.claim),
            _seeds(row),
            status_text(row.claim),
            row.experiment,
        ]
        for row in claims.rows
    ]
    return Table(list(TITLES), list(TITLES.values()), rows)


def as_csv(claims: Claims) -> str:
    """A row a claim, numbers in full; the interval's ends in two columns."""
    text = io.StringIO()
    keys = ["experiment", *_FOR_PROGRAMS, "low", "high", "p", "p_holm", "seeds", "baseline_seeds"]
    writer = csv.DictWriter(text, keys, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in _plain(claims):
        low, high = row["interval"] or (None, None)
        cells = row | {"low": low, "high": high}
        writer.writerow({key: spreadsheet_cell(had) for key, had in cells.items()})
    return text.getvalue()


def as_json(claims: Claims) -> str:
    """All of it, for a program."""
    content = {"claims": _plain(claims), "tested": len(claims.tested), "notes": claims.notes}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


_FOR_PROGRAMS = (
    *("text", "source", "analogue", "metric", "arm", "against", "difference", "at_least", "at_most", "ratio", "about"),
    *("status", "why", "measured"),
)


def _plain(claims: Claims) -> list[dict[str, Any]]:
    return [
        {
            "experiment": row.experiment,
            **plain(row.claim),
            "status": row.claim.status.value,
            "p_holm": claims.adjusted.get(id(row)),
            "seeds": row.seeds[0],
            "baseline_seeds": row.seeds[1],
            "arms": row.arms,
        }
        for row in claims.rows
    ]


def _rows(
    said: PaperClaim, runs: Sequence[Run], paired: bool, best_of_else: Sequence[str]
) -> tuple[list[Row], list[str]]:
    """The claim for each pair of arms that it is about: one row, or one for every value of what else was varied.

    And the caveats about the values that each arm had to choose from.
    """
    option = runs[0].choices.get("experiment")
    experiment = f"experiment={option}" if option else str(runs[0].config.get("name", runs[0].name))

    def without(status: ClaimStatus, why: str) -> tuple[list[Row], list[str]]:
        return [Row(Claim(said, status, why), experiment)], []

    if said.against is None:
        return without(ClaimStatus.inconclusive, "it names no `against`")
    for side in filter(None, (said.arm, said.against)):
        if not any(counts(run, said.metric) for run in _having(side, runs)):
            ended = any(run.status == Status.DONE for run in _having(side, runs))
            return without(ClaimStatus.not_run, f"no finished run of {side}{f' has {said.metric}' if ended else ''}")
    # only this claim, so that it is the one that is judged
    ours = [replace(run, facts={**run.facts, "paper_claim": _as_stated(said)}) for run in runs]
    wanted = _keys(said.best_of) or best_of_else
    best_of = [key for key in wanted if len({repr(value(run, key)) for run in runs}) > 1]
    options = Options(metric=said.metric, baseline=said.against, best_of=best_of, paired=paired, images=False)
    try:
        comparison = compare(ours, options)
    except UserError as error:  # told without the options that do not go with --claims
        told = str(error).removeprefix("--baseline ").partition(", or write --baseline")[0]
        return without(ClaimStatus.inconclusive, told)
    found = [_row(difference, experiment) for difference in comparison.differences if difference.claim is not None]
    if not found:
        return without(ClaimStatus.inconclusive, "no two arms that it is about were measured on the same images")
    return found, [f"{experiment}: {line}" for line in comparison.tuning]


def _once(rows: Sequence[Row]) -> list[Row]:
    """Without "not run" for a claim that other runs tested, and that only once: sweeps may share a list of claims."""
    ran = {(row.claim.said.text, row.claim.said.metric) for row in rows if row.claim.status is not ClaimStatus.not_run}
    missing: set[tuple[str, str]] = set()
    kept = []
    for row in rows:
        key = row.claim.said.text, row.claim.said.metric
        if row.claim.status is ClaimStatus.not_run:
            if key in ran or key in missing:
                continue
            missing.add(key)
        kept.append(row)
    return kept


def _row(difference: Difference, experiment: str) -> Row:
    arm, baseline = difference.arm, difference.baseline
    assert difference.claim is not None
    option = arm.runs[0].choices.get("experiment") if arm.runs else None
    precisions = {str(run.facts.get("precision", PINNED[0])) for run in [*arm.runs, *baseline.runs]}
    return Row(
        difference.claim,
        f"experiment={option}" if option else experiment,
        (arm.n, baseline.n),
        " against ".join(names(arm, baseline)),
        tuple(sorted(precisions - set(PINNED))),
    )


def _having(settings: str, runs: Iterable[Run]) -> list[Run]:
    conditions = parse_settings(settings)
    return [run for run in runs if all(condition.holds(run) for condition in conditions)]


def _as_stated(said: PaperClaim) -> dict[str, Any]:
    return {key: had for key, had in asdict(said).items() if had is not None}


def _keys(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]


def _seeds(row: Row) -> str:
    arm, baseline = row.seeds
    if not arm and not baseline:
        return "-"
    return str(arm) if arm == baseline else f"{arm} and {baseline}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
