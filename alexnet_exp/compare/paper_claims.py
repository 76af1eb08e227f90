"""Provides the table of claims of any number of sweeps, and of shipped experiments that were not run."""

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
from alexnet_exp.compare.arms import is_counted, parse_settings
from alexnet_exp.compare.compare import compare
from alexnet_exp.compare.options import CompareOptions
from alexnet_exp.compare.paper_claim_status import (
    ANALOGUE,
    claim_values,
    figure_text,
    interval_text,
    measured_text,
    read_claims,
    status_text,
)
from alexnet_exp.compare.result import Claim, ClaimStatus, ComparisonTable, Difference
from alexnet_exp.compare.select import value
from alexnet_exp.compare.verdict import names
from alexnet_exp.config.paper_claim import PaperClaim, paper_claims
from alexnet_exp.errors import Refused, UserError
from alexnet_exp.paths import conf_dir
from alexnet_exp.runs.reader import YAML_LOADER
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status
from alexnet_exp.sanitize import spreadsheet_cell

PINNED_PRECISIONS = ("32-true", "64-true")  # of a reproduction
DIRECTION_STATUSES = (ClaimStatus.reproduced, ClaimStatus.same_direction, ClaimStatus.contradicted)
CLAIM_TITLES = {
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
class ClaimRow:
    """A row of the table of claims.

    experiment: the override `experiment=NAME`, or the name of the runs. seeds: of the arm and of its baseline. arms:
    the names of both, if a claim has several rows. precisions: of the runs that are not float32.
    """

    claim: Claim
    experiment: str
    seeds: tuple[int, int] = (0, 0)
    arms: str = ""
    precisions: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClaimReport:
    """The rows of the table, those with runs first, and its caveats."""

    rows: list[ClaimRow]
    caveats: list[str] = field(default_factory=list)

    @property
    def tested(self) -> list[ClaimRow]:
        """The rows with an interval, one per test."""
        return [row for row in self.rows if row.claim.p is not None]

    @cached_property
    def adjusted(self) -> dict[int, float]:
        """The p of each tested row, by its id, with Holm's correction over all rows."""
        order = sorted(self.tested, key=lambda row: row.claim.p or 0.0)
        found, largest = {}, 0.0
        for step, row in enumerate(order):
            largest = min(1.0, max(largest, (row.claim.p or 0.0) * (len(order) - step)))
            found[id(row)] = largest
        return found

    @property
    def notes(self) -> list[str]:
        """The notes below the table: how many claims were tested together and what follows, then the caveats."""
        tested, rows = self.tested, self.rows
        if not rows:
            return ["no run has a paper's claim (paper_claim)"]
        lines = [f"{len(tested)} of {_counted(len(rows), 'claim')} tested here"]
        if tested:
            expected = st.ALPHA * len(tested)
            lines[0] += (
                f", each at 95%: if none were true, {expected:.2g} of {len(tested)} would be expected to show a "
                f"direction by chance, half of them the paper's. {self._holm()}"
            )
        if any(row.claim.paper.analogue for row in rows):
            lines.append(
                f"{ANALOGUE}: a similar experiment, on other images or with a smaller network; "
                "the size of the effect need not equal the paper's"
            )
        return [*lines, *self.caveats]

    def _holm(self) -> str:
        shown = [row for row in self.tested if row.claim.status in DIRECTION_STATUSES]
        lost = [row for row in shown if self.adjusted[id(row)] >= st.ALPHA]
        if not shown:
            return "None shows a direction"
        text = f"{len(shown) - len(lost)} of {len(shown)} remain significant after Holm correction"
        return f"{text}, without: {'; '.join(row.claim.paper.text for row in lost)}" if lost else text


def evaluate_claims(
    runs: Sequence[Run], *, paired: bool = False, shipped: bool = True, best_of: Sequence[str] = ()
) -> ClaimReport:
    """Returns the claims of `runs`, each tested by `compare`, then those of shipped experiments without a run.

    Runs with the same name and the same claims belong together. best_of: for claims without a `best_of` of their own.
    Raises UserError if the claim of a shipped file is invalid.
    """
    rows: list[ClaimRow] = []
    caveats: list[str] = []
    groups: dict[tuple[str, str], list[Run]] = {}
    claims_of: dict[tuple[str, str], list[PaperClaim]] = {}
    for run in runs:
        try:
            paper = read_claims(run)
        except Refused as refused:
            caveats.append(f"{run.name}: omitted, because {'; '.join(map(str, refused.problems))}")
            continue
        if paper:
            key = str(run.config.get("name", "")), repr(paper)
            groups.setdefault(key, []).append(run)
            claims_of[key] = paper
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
                    ClaimRow(Claim(one, ClaimStatus.not_run), f"experiment={option}")
                    for one in claims
                    if repr(one) not in known
                ]
    return ClaimReport(rows, list(dict.fromkeys(caveats)))


def shipped_claims(folder: Path | None = None) -> Iterator[tuple[str, list[PaperClaim]]]:
    """Yields the option of each shipped experiment with claims, such as `analogue/lrn`, and its claims."""
    root = (folder or conf_dir()) / "experiment"
    for file in sorted(root.rglob("*.yaml")):
        try:
            content = yaml.load(file.read_bytes(), Loader=YAML_LOADER)
            found = paper_claims(content.get("paper_claim")) if isinstance(content, dict) else []
        except Refused as refused:
            raise UserError(f"{file}: {'; '.join(map(str, refused.problems))}") from None
        except yaml.YAMLError as error:
            raise UserError(f"{file}: is not valid YAML ({' '.join(str(error).split())})") from None
        if found:
            yield file.relative_to(root).with_suffix("").as_posix(), found


def as_table(claims: ClaimReport) -> ComparisonTable:
    """Returns the rows as a table of texts."""
    times = Counter(row.claim.paper.text for row in claims.rows)
    rows = [
        [
            row.claim.paper.text + (f" [{row.arms}]" if times[row.claim.paper.text] > 1 and row.arms else ""),
            ANALOGUE if row.claim.paper.analogue else "",
            row.claim.paper.source,
            figure_text(row.claim.paper),
            measured_text(row.claim),
            interval_text(row.claim),
            _seeds(row),
            status_text(row.claim),
            row.experiment,
        ]
        for row in claims.rows
    ]
    return ComparisonTable(list(CLAIM_TITLES), list(CLAIM_TITLES.values()), rows)


def as_csv(claims: ClaimReport) -> str:
    """Returns one row per claim as CSV, with numbers in full precision and the interval in two columns."""
    text = io.StringIO()
    keys = ["experiment", *_CLAIM_COLUMNS, "low", "high", "p", "p_holm", "seeds", "baseline_seeds"]
    writer = csv.DictWriter(text, keys, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in _plain(claims):
        low, high = row["interval"] or (None, None)
        cells = row | {"low": low, "high": high}
        writer.writerow({key: spreadsheet_cell(had) for key, had in cells.items()})
    return text.getvalue()


def as_json(claims: ClaimReport) -> str:
    """Returns the claims and notes as JSON."""
    content = {"claims": _plain(claims), "tested": len(claims.tested), "notes": claims.notes}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


_CLAIM_COLUMNS = (
    *("text", "source", "analogue", "metric", "arm", "against", "difference", "at_least", "at_most", "ratio", "about"),
    *("status", "why", "measured"),
)


def _plain(claims: ClaimReport) -> list[dict[str, Any]]:
    return [
        {
            "experiment": row.experiment,
            **claim_values(row.claim),
            "status": row.claim.status.value,
            "p_holm": claims.adjusted.get(id(row)),
            "seeds": row.seeds[0],
            "baseline_seeds": row.seeds[1],
            "arms": row.arms,
        }
        for row in claims.rows
    ]


def _rows(
    paper: PaperClaim, runs: Sequence[Run], paired: bool, best_of_else: Sequence[str]
) -> tuple[list[ClaimRow], list[str]]:
    """Returns one row for each pair of arms that the claim is about, and the caveats about selected values.

    There are several pairs if other settings were varied too.
    """
    option = runs[0].choices.get("experiment")
    experiment = f"experiment={option}" if option else str(runs[0].config.get("name", runs[0].name))

    def without(status: ClaimStatus, why: str) -> tuple[list[ClaimRow], list[str]]:
        return [ClaimRow(Claim(paper, status, why), experiment)], []

    if paper.against is None:
        return without(ClaimStatus.inconclusive, "it has no `against`")
    for side in filter(None, (paper.arm, paper.against)):
        if not any(is_counted(run, paper.metric) for run in _having(side, runs)):
            ended = any(run.status == Status.DONE for run in _having(side, runs))
            return without(ClaimStatus.not_run, f"no finished run of {side}{f' has {paper.metric}' if ended else ''}")
    # The runs get only this claim, so that `compare` tests it.
    ours = [replace(run, facts={**run.facts, "paper_claim": _as_mapping(paper)}) for run in runs]
    wanted = _keys(paper.best_of) or best_of_else
    best_of = [key for key in wanted if len({repr(value(run, key)) for run in runs}) > 1]
    options = CompareOptions(metric=paper.metric, baseline=paper.against, best_of=best_of, paired=paired, images=False)
    try:
        comparison = compare(ours, options)
    except UserError as error:  # without advice on options that --claims rejects
        reason = str(error).removeprefix("--baseline ").partition(", or write --baseline")[0]
        return without(ClaimStatus.inconclusive, reason)
    found = [_row(difference, experiment) for difference in comparison.differences if difference.claim is not None]
    if not found:
        return without(ClaimStatus.inconclusive, "no two of its arms were measured on the same images")
    return found, [f"{experiment}: {line}" for line in comparison.tuning]


def _once(rows: Sequence[ClaimRow]) -> list[ClaimRow]:
    """Returns the rows without duplicates: "not run" appears once, and only for a claim that no run tested."""
    ran = {
        (row.claim.paper.text, row.claim.paper.metric) for row in rows if row.claim.status is not ClaimStatus.not_run
    }
    missing: set[tuple[str, str]] = set()
    kept = []
    for row in rows:
        key = row.claim.paper.text, row.claim.paper.metric
        if row.claim.status is ClaimStatus.not_run:
            if key in ran or key in missing:
                continue
            missing.add(key)
        kept.append(row)
    return kept


def _row(difference: Difference, experiment: str) -> ClaimRow:
    arm, baseline = difference.arm, difference.baseline
    assert difference.claim is not None
    option = arm.runs[0].choices.get("experiment") if arm.runs else None
    precisions = {str(run.facts.get("precision", PINNED_PRECISIONS[0])) for run in [*arm.runs, *baseline.runs]}
    return ClaimRow(
        difference.claim,
        f"experiment={option}" if option else experiment,
        (arm.n, baseline.n),
        " against ".join(names(arm, baseline)),
        tuple(sorted(precisions - set(PINNED_PRECISIONS))),
    )


def _having(settings: str, runs: Iterable[Run]) -> list[Run]:
    conditions = parse_settings(settings)
    return [run for run in runs if all(condition.holds(run) for condition in conditions)]


def _as_mapping(paper: PaperClaim) -> dict[str, Any]:
    return {key: had for key, had in asdict(paper).items() if had is not None}


def _keys(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]


def _seeds(row: ClaimRow) -> str:
    arm, baseline = row.seeds
    if not arm and not baseline:
        return "-"
    return str(arm) if arm == baseline else f"{arm} and {baseline}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
