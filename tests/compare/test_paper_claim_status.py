"""Tests of the status of a claim, of the schema of claims, and of the table of claims."""

import csv
import io
import json
import math
import statistics as plain_statistics
from pathlib import Path

import pytest
from scipy.stats import t as student

from alexnet_exp.__main__ import main
from alexnet_exp.compare import paper_claims as table
from alexnet_exp.compare.compare import compare
from alexnet_exp.compare.options import CompareOptions
from alexnet_exp.compare.paper_claim_status import status_of
from alexnet_exp.compare.paper_claims import evaluate_claims
from alexnet_exp.compare.render.html import write_report
from alexnet_exp.compare.render.text import as_json, markdown
from alexnet_exp.compare.result import Claim, ClaimStatus
from alexnet_exp.config.paper_claim import PaperClaim, paper_claims
from alexnet_exp.errors import Refused, UserError
from alexnet_exp.runs.metric import higher_is_better
from tests.compare.made import arm, made

GOOD, BAD = (0.976, 0.977, 0.975, 0.976), (0.962, 0.961, 0.963, 0.962)  # 1.4 points apart
LRN = {"text": "1.4 points worse without LRN", "arm": "model.norm=none", "against": "model.norm=lrn"}
EPOCHS = "train/epochs_to_25"


def claim(**figure):
    return PaperClaim(text="it is so", **figure)


def runs_of(said, values):
    """Runs of several models, all of which carry what the experiment says."""
    return [one for model, numbers in values.items() for one in arm(model, numbers, paper_claim=said)]


def claims_against(baseline, said, values, **more):
    found = compare(runs_of(said, values), CompareOptions(baseline=f"model={baseline}", images=False, **more))
    return {difference.arm.settings["model"]: difference.claim for difference in found.differences}


@pytest.mark.parametrize(
    ("figure", "interval", "status", "beside"),
    [
        # the paper says +1.4, exactly: its ends belong to the interval
        ({"difference": 1.4}, (0.1, 1.4), ClaimStatus.reproduced, ""),
        ({"difference": 1.4}, (1.4, 2.0), ClaimStatus.reproduced, ""),
        ({"difference": 1.4}, (0.1, 1.39), ClaimStatus.same_direction, "smaller than the paper's"),
        ({"difference": 1.4}, (1.41, 2.0), ClaimStatus.same_direction, "larger than the paper's"),
        ({"difference": 1.4}, (-0.1, 1.4), ClaimStatus.inconclusive, ""),
        ({"difference": 1.4}, (-0.1, 1.39), ClaimStatus.inconclusive, "rules out the paper's size: at most +1.39"),
        ({"difference": 1.4}, (-3.0, 1e-9), ClaimStatus.inconclusive, "rules out the paper's size: at most +1e-09"),
        ({"difference": 1.4}, (-3.0, -1e-9), ClaimStatus.contradicted, "opposite direction"),
        # the same seen from the other arm
        ({"difference": -1.4}, (-1.4, -0.1), ClaimStatus.reproduced, ""),
        ({"difference": -1.4}, (-1.39, -0.1), ClaimStatus.same_direction, "smaller than the paper's"),
        ({"difference": -1.4}, (-2.0, -1.41), ClaimStatus.same_direction, "larger than the paper's"),
        ({"difference": -1.4}, (-1.39, 0.1), ClaimStatus.inconclusive, "rules out the paper's size: at least -1.39"),
        ({"difference": -1.4}, (0.1, 0.2), ClaimStatus.contradicted, "opposite direction"),
        # about 2: from 1.5 to 2.5
        ({"difference": 2.0, "about": True}, (0.1, 1.5), ClaimStatus.reproduced, ""),
        ({"difference": 2.0, "about": True}, (0.1, 1.49), ClaimStatus.same_direction, "smaller than the paper's"),
        ({"difference": 2.0, "about": True}, (2.51, 4.0), ClaimStatus.same_direction, "larger than the paper's"),
        # more than 1: nothing is too large
        ({"at_least": 1.0}, (0.1, 1.0), ClaimStatus.reproduced, ""),
        ({"at_least": 1.0}, (5.0, 9.0), ClaimStatus.reproduced, ""),
        ({"at_least": 1.0}, (0.1, 0.99), ClaimStatus.same_direction, "smaller than the paper's"),
        ({"at_least": 1.0}, (-2.0, -0.1), ClaimStatus.contradicted, "opposite direction"),
        ({"at_most": -1.0}, (-9.0, -5.0), ClaimStatus.reproduced, ""),
        ({"at_most": -1.0}, (-0.9, -0.1), ClaimStatus.same_direction, "smaller than the paper's"),
        # the direction alone
        ({"at_least": 0}, (1e-9, 1.0), ClaimStatus.reproduced, ""),
        ({"at_least": 0}, (-1e-9, 1.0), ClaimStatus.inconclusive, ""),
        ({"at_most": 0}, (1e-9, 1.0), ClaimStatus.contradicted, "opposite direction"),
        # a ratio, on logarithms: about 6 is from 5.5 to 6.5, and a sixth is its mirror image
        ({"ratio": 6, "about": True}, (math.log(2), math.log(5.51)), ClaimStatus.reproduced, ""),
        (
            {"ratio": 6, "about": True},
            (math.log(2), math.log(5.49)),
            ClaimStatus.same_direction,
            "smaller than the paper's",
        ),
        (
            {"ratio": 6},
            (math.log(0.9), math.log(3)),
            ClaimStatus.inconclusive,
            "rules out the paper's size: at most 3 times",
        ),
        ({"ratio": 1 / 6, "about": True}, (-math.log(5.51), -math.log(2)), ClaimStatus.reproduced, ""),
        (
            {"ratio": 1 / 6, "about": True},
            (-math.log(9), -math.log(6.51)),
            ClaimStatus.same_direction,
            "larger than the paper's",
        ),
        ({"ratio": 6}, (math.log(0.5), math.log(0.9)), ClaimStatus.contradicted, "opposite direction"),
    ],
)
def test_statuses_at_their_boundaries(figure, interval, status, beside):
    decided = not interval[0] <= 0 <= interval[1]
    assert status_of(claim(metric="test/loss", **figure), interval, decided) == (status, beside)


def test_an_interval_that_ends_at_zero_may_be_decided():
    assert status_of(claim(difference=1.4), (0.0, 2.0), True)[0] is ClaimStatus.reproduced
    assert status_of(claim(difference=1.4), (-2.0, 0.0), True)[0] is ClaimStatus.contradicted
    assert status_of(claim(difference=1.4), (0.0, 2.0), False)[0] is ClaimStatus.inconclusive


def test_the_status_changes_without_a_jump():
    """Sliding an interval down past 0 goes through "inconclusive", however narrow it is."""
    order = [
        ClaimStatus.same_direction,
        ClaimStatus.reproduced,
        ClaimStatus.same_direction,
        ClaimStatus.inconclusive,
        ClaimStatus.contradicted,
    ]
    wide = [*order[:2], *order[3:]]  # holds 0 as soon as it no longer holds the paper's figure
    for width in (0.05, 0.5, 3.0):
        seen = []
        for step in range(600, -600, -1):
            low = step / 100
            status, _ = status_of(claim(difference=1.4), (low, low + width), not low <= 0 <= low + width)
            if not seen or seen[-1] is not status:
                seen.append(status)
        assert seen == (order if width < 1.4 else wide)


def test_the_status_uses_the_interval_of_the_verdict():
    found = compare(
        runs_of({**LRN, "difference": -0.014}, {"lrn": GOOD, "none": BAD}), CompareOptions(baseline="model=lrn")
    )
    (difference,) = found.differences
    assert difference.claim.status is ClaimStatus.reproduced
    assert difference.claim.interval == difference.interval
    assert difference.claim.measured == pytest.approx(-0.014)
    assert found.sentence.endswith("; the paper claims -1.40 points: reproduced.")


@pytest.mark.parametrize(
    ("values", "status", "beside"),
    [
        ({"lrn": GOOD, "none": [one + 0.011 for one in BAD]}, ClaimStatus.same_direction, "smaller than the paper's"),
        ({"lrn": GOOD, "none": [one - 0.03 for one in BAD]}, ClaimStatus.same_direction, "larger than the paper's"),
        ({"lrn": BAD, "none": GOOD}, ClaimStatus.contradicted, "opposite direction"),
        ({"lrn": (0.9, 0.99, 0.95), "none": (0.9, 0.98, 0.94)}, ClaimStatus.inconclusive, ""),
        ({"lrn": GOOD[:1], "none": BAD}, ClaimStatus.inconclusive, "1 seed"),
        ({"lrn": GOOD, "none": BAD[:2]}, ClaimStatus.inconclusive, "2 seeds"),
        ({"lrn": (0.9,) * 3, "none": (0.8,) * 3}, ClaimStatus.inconclusive, "no spread"),
    ],
)
def test_every_status_from_runs(values, status, beside):
    found = claims_against("lrn", {**LRN, "difference": -0.014}, values)["none"]
    assert (found.status, found.why) == (status, beside)


def test_a_claim_without_a_finished_run_is_not_run():
    said = {**LRN, "difference": -0.014}
    runs = [*arm("lrn", GOOD, paper_claim=said), made("none", 1, status="failed", paper_claim=said)]
    (difference,) = compare(runs, CompareOptions(baseline="model=lrn")).differences
    assert (difference.claim.status, difference.claim.why) == (ClaimStatus.not_run, "no finished run of model=none")


def test_only_the_claimed_arm_has_the_claim():
    found = claims_against("lrn", {**LRN, "difference": -0.014}, {"lrn": GOOD, "none": BAD, "bn": BAD})
    assert found["bn"] is None
    assert found["none"].status is ClaimStatus.reproduced


def test_a_claim_without_an_arm_is_about_every_arm():
    said = {"text": "LRN is best", "against": "model.norm=lrn", "at_most": 0}
    found = claims_against("lrn", said, {"lrn": GOOD, "none": BAD, "bn": BAD})
    assert {one.status for one in found.values()} == {ClaimStatus.reproduced}


def test_a_claim_is_reversed_if_the_baseline_is_its_arm():
    said = {**LRN, "difference": -0.014}
    found = claims_against("none", said, {"lrn": GOOD, "none": BAD, "bn": BAD})
    assert found["bn"] is None
    assert found["lrn"].paper.difference == 0.014
    assert found["lrn"].status is ClaimStatus.reproduced
    assert found["lrn"].place(0.9) == pytest.approx(0.914)


@pytest.mark.parametrize(
    "figure", [{"difference": -0.02, "about": True}, {"at_least": 0.01}, {"at_most": 0}, {"ratio": 6}]
)
def test_reversing_twice_gives_the_same_claim(figure):
    said = claim(arm="a=1", against="b=2", **figure)
    assert said.turned().turned() == said
    assert said.turned().sign == -said.sign
    assert said.turned().values == tuple(-end + 0.0 for end in reversed(said.values))


def test_each_arm_has_its_own_claim():
    said = [
        {"text": "a", "arm": "model=none", "against": "model=lrn", "difference": -0.014},
        {"text": "b", "arm": "model=bn", "against": "model=lrn", "at_least": 0},
        {"text": "c", "metric": "test/top5", "arm": "model=bn", "against": "model=lrn", "at_least": 0},
    ]
    found = claims_against("lrn", said, {"lrn": GOOD, "none": BAD, "bn": BAD})
    assert {model: one.paper.text for model, one in found.items()} == {"none": "a", "bn": "b"}
    assert found["bn"].status is ClaimStatus.contradicted


def epochs(said, values):
    return [
        made(model, seed, 0.9, metrics={EPOCHS: number} if number else {}, paper_claim=said)
        for model, numbers in values.items()
        for seed, number in enumerate(numbers, start=1)
    ]


SOONER = {"text": "6 times sooner", "metric": EPOCHS, "arm": "model=none", "against": "model=lrn", "ratio": 6}


def test_a_ratio_is_tested_by_welch_on_logarithms():
    slow, fast = (31.0, 38.0, 35.0, 29.0), (6.0, 5.0, 6.5, 5.5)
    (difference,) = compare(
        epochs({**SOONER, "about": True}, {"none": slow, "lrn": fast}),
        CompareOptions(metric=EPOCHS, baseline="model=lrn"),
    ).differences
    a, b = ([math.log(one) for one in values] for values in (slow, fast))
    parts = [plain_statistics.variance(one) / len(one) for one in (a, b)]
    df = sum(parts) ** 2 / sum(part**2 / 3 for part in parts)
    middle = plain_statistics.mean(a) - plain_statistics.mean(b)
    half = student.ppf(0.975, df) * math.sqrt(sum(parts))
    found = difference.claim
    assert found.measured == pytest.approx(math.exp(middle))
    assert found.interval == pytest.approx((math.exp(middle - half), math.exp(middle + half)))
    assert found.p == pytest.approx(2 * student.sf(middle / math.sqrt(sum(parts)), df))
    assert found.status is ClaimStatus.reproduced
    assert found.place(5.0) == 30.0
    assert difference.verdict.value == "worse"  # more epochs are worse
    assert not higher_is_better(EPOCHS)


def test_finished_runs_without_the_metric_are_reported():
    runs = epochs(SOONER, {"none": (31.0, 38.0, 35.0, None), "lrn": (6.0, 5.0, 6.5, 5.5)})
    (difference,) = compare(runs, CompareOptions(metric=EPOCHS, baseline="model=lrn")).differences
    assert difference.claim.why.endswith(f"1 finished run without {EPOCHS} not counted")


def test_a_ratio_with_values_below_zero_is_inconclusive():
    runs = epochs(SOONER, {"none": (31.0, 38.0, 35.0), "lrn": (6.0, -5.0, 6.5)})
    (difference,) = compare(runs, CompareOptions(metric=EPOCHS, baseline="model=lrn")).differences
    assert (difference.claim.status, difference.claim.measured) == (ClaimStatus.inconclusive, None)


@pytest.mark.parametrize(
    ("stated", "line"),
    [
        ({"text": "x", "diference": 1}, "paper_claim.diference=1: unknown setting; did you mean difference?"),
        ({"text": "x", "colour": 1}, "paper_claim.colour=1: unknown setting; there are text, metric"),
        ({"difference": 1}, "paper_claim.text: is missing; it must say what the paper claims"),
        ({"text": " ", "difference": 1}, "paper_claim.text= : must say what the paper claims"),
        ({"text": "x", "difference": 1, "metric": "top1"}, "paper_claim.metric=top1: must be a metric: test/top1"),
        ({"text": "x", "difference": 1, "metric": "tset/top1"}, "paper_claim.metric=tset/top1: must be a metric"),
        ({"text": "x", "difference": "much"}, "paper_claim.difference=much: must be a finite number"),
        ({"text": "x", "difference": True}, "paper_claim.difference=true: must be a finite number"),
        ({"text": "x", "difference": math.inf}, "paper_claim.difference=inf: must be a finite number"),
        ({"text": "x", "difference": 0}, "paper_claim.difference=0: is no claim: 0 has no direction"),
        ({"text": "x"}, "paper_claim.difference=null: must be a number: the paper's figure"),
        ({"text": "x", "difference": 1, "ratio": 2}, "paper_claim.ratio=2: difference is given too; write one of"),
        ({"text": "x", "ratio": 1}, "paper_claim.ratio=1: must be above 0 and not 1"),
        ({"text": "x", "ratio": -2}, "paper_claim.ratio=-2: must be above 0"),
        ({"text": "x", "at_least": -1}, "paper_claim.at_least=-1: must be 0 or more; below 0 is at_most"),
        ({"text": "x", "at_most": 1}, "paper_claim.at_most=1: must be 0 or less; above 0 is at_least"),
        ({"text": "x", "at_least": 1, "about": True}, "paper_claim.about=true: goes with difference or ratio"),
        ({"text": "x", "difference": 1, "about": "yes"}, "paper_claim.about=yes: must be true or false"),
        ({"text": "x", "difference": 1, "against": "none"}, "paper_claim.against=none: must be KEY=VALUE"),
        ({"text": "x", "difference": 1, "arm": 3}, "paper_claim.arm=3: must be text"),
        (3, "paper_claim=3: must be a group of settings"),
        ([{"text": "x", "difference": 1}, "y"], "paper_claim.1=y: must be a group of settings"),
        ([{"text": "x", "ratio": 0}], "paper_claim.0.ratio=0: must be above 0"),
    ],
)
def test_an_invalid_claim_is_rejected_in_one_line(stated, line):
    with pytest.raises(Refused) as refused:
        paper_claims(stated)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_an_invalid_claim_is_rejected_when_the_configuration_is_composed(capsys):
    words = ["paper_claim={text: x, difference: 1, agianst: 3}", "trainer.max_epochs=1"]
    assert main(words) == 2
    assert capsys.readouterr().err == ("paper_claim.agianst=3: unknown setting; did you mean against?\n")


@pytest.mark.parametrize("empty", [None, {}, []])
def test_no_claim_is_none(empty):
    assert paper_claims(empty) == []


def test_claims_recorded_by_older_versions_are_read():
    had = {"metric": "test/top1", "difference": 0.014, "against": "model.norm=none", "text": "LRN helps"}
    (said,) = paper_claims(had)
    assert (said.values, said.arm, said.about) == ((0.014, 0.014), None, False)
    # and as flat keys of a configuration, where result.json says nothing of it
    runs = [
        made(model, seed, value, config={f"paper_claim.{key}": one for key, one in had.items()})
        for model, values in {"lrn": GOOD, "none": BAD}.items()
        for seed, value in enumerate(values, start=1)
    ]
    for run in runs:
        del run.facts["paper_claim"]
    (difference,) = compare(runs, CompareOptions(baseline="model=none")).differences
    assert difference.claim.status is ClaimStatus.reproduced


def test_all_views_show_figure_status_and_analogue(tmp_path):
    said = {**LRN, "difference": -0.014, "analogue": True, "source": "section 3.3"}
    found = compare(runs_of(said, {"lrn": GOOD, "none": BAD}), CompareOptions(baseline="model=lrn"))
    text = markdown(found)
    assert "◇" in text
    row = next(line for line in text.splitlines() if line.startswith("| none "))
    assert "| -1.40 | reproduced, ANALOGUE |" in row
    assert (
        "the paper: 1.4 points worse without LRN (section 3.3); here, an ANALOGUE of it: reproduced, -1.40 points"
        in text
    )
    content = json.loads(as_json(found))["differences"][0]["claim"]
    assert (content["status"], content["analogue"], content["difference"]) == ("reproduced", True, -0.014)
    write_report(found, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert '<strong class="claim">reproduced</strong>' in page
    assert "ANALOGUE" in page


# --- the table of claims ---------------------------------------------------------------------------------------------


def of_experiment(name, said, values, metric=None, **more):
    return [
        made(
            model,
            seed,
            number if metric is None else 0.9,
            paper_claim=said,
            sweep=f"outputs/{name}",
            config={"name": name, **more},
            metrics={metric: number} if metric else {},
        )
        for model, numbers in values.items()
        for seed, number in enumerate(numbers, start=1)
    ]


def test_one_row_per_claim_over_several_sweeps():
    lrn = [{**LRN, "difference": -0.014, "analogue": True}, {**LRN, "metric": "test/top5", "difference": -0.012}]
    runs = [
        *of_experiment("lrn", lrn, {"lrn": GOOD, "none": BAD}),
        *of_experiment("act", {**SOONER, "about": True}, {"none": (31.0, 38, 35), "lrn": (6.0, 5, 6.5)}, EPOCHS),
    ]
    found = evaluate_claims(runs, shipped=False)
    assert [row.claim.status for row in found.rows] == [
        ClaimStatus.reproduced,
        ClaimStatus.not_run,
        ClaimStatus.reproduced,
    ]
    assert found.rows[1].claim.why == "no finished run of model.norm=none has test/top5"
    assert [row.seeds for row in found.rows] == [(4, 4), (0, 0), (3, 3)]
    rows = table.as_table(found).rows
    assert rows[0][1:4] == ["ANALOGUE", "", "-1.40 points"]
    assert rows[2][3] == "about 6 times"
    assert rows[2][4].endswith(" times")


def test_sweeps_that_share_a_list_of_claims_have_each_claim_once():
    said = [
        {"text": "a", "arm": "model=none", "against": "model=lrn", "difference": -0.014},
        {"text": "b", "arm": "model=bn", "against": "model=lrn", "difference": -0.014},
        {"text": "c", "arm": "model=bn", "against": "model=none", "metric": "test/top5", "at_least": 0},
    ]
    runs = [
        *of_experiment("first", said, {"lrn": GOOD, "none": BAD}),
        *of_experiment("second", said, {"lrn": GOOD, "bn": BAD}),
    ]
    found = evaluate_claims(runs, shipped=False)
    assert [(row.claim.paper.text, row.experiment, row.claim.status) for row in found.rows] == [
        ("a", "first", ClaimStatus.reproduced),
        ("c", "first", ClaimStatus.not_run),
        ("b", "second", ClaimStatus.reproduced),
    ]


def test_the_table_agrees_with_compare():
    """With a third arm the interval is the adjusted one of both."""
    said = {**LRN, "difference": -0.014}
    runs = of_experiment("lrn", said, {"lrn": GOOD, "none": BAD, "bn": (0.97, 0.96, 0.965, 0.9625)})
    (row,) = evaluate_claims(runs, shipped=False).rows
    judged = {one.arm.settings["model"]: one for one in compare(runs, CompareOptions(baseline="model=lrn")).differences}
    assert judged["none"].method == "Welch with Holm"
    assert row.claim.interval == judged["none"].interval
    assert row.claim.p == judged["none"].p


def test_each_arm_may_have_its_own_rate():
    said = {**LRN, "difference": -0.014}
    best = {**said, "best_of": "optim.lr"}

    def runs(claimed):
        return [
            made(model, seed, value - loss, val=value - loss, lr=lr, paper_claim=claimed)
            for model, values, best_lr in (("lrn", GOOD, 0.1), ("none", BAD, 0.01))
            for lr in (0.1, 0.01)
            for loss in [0.0 if lr == best_lr else 0.3]
            for seed, value in enumerate(values, start=1)
        ]

    (row,) = evaluate_claims(runs(best), shipped=False).rows
    assert row.claim.status is ClaimStatus.reproduced
    # the claim itself may leave it to whoever asks
    (asked,) = evaluate_claims(runs(said), shipped=False, best_of=["optim.lr"]).rows
    assert asked.claim.interval == row.claim.interval
    # without it: a row a rate, each named
    found = evaluate_claims(runs(said), shipped=False)
    assert len(found.rows) == 2
    assert [("0.1" in row[0], "0.01" in row[0]) for row in table.as_table(found).rows] == [(True, False), (False, True)]


def test_arms_that_differ_in_their_rate_too_get_advice():
    runs = [
        made(model, seed, number, lr=lr, paper_claim={**LRN, "difference": -0.014})
        for model, lr, numbers in (("lrn", 0.1, GOOD), ("none", 0.01, BAD))
        for seed, number in enumerate(numbers, start=1)
    ]
    (row,) = evaluate_claims(runs, shipped=False).rows
    assert row.claim.status is ClaimStatus.inconclusive
    against = row.claim.paper.against
    assert row.claim.why == (
        f"{against}: every other arm differs in more than that, model=none optim.lr=0.01 in optim.lr (0.01 and 0.1); "
        "add --best-of optim.lr to give each arm its own best value"
    )
    (row,) = evaluate_claims(runs, shipped=False, best_of=["optim.lr"]).rows
    assert row.claim.status is ClaimStatus.reproduced


def test_how_many_were_tested_together():
    runs = [
        run
        for number in range(4)
        for run in of_experiment(f"e{number}", {**LRN, "difference": -0.014}, {"lrn": GOOD, "none": BAD})
    ]
    runs += of_experiment("none", {**LRN, "difference": -0.014}, {"lrn": GOOD[:1], "none": BAD[:1]})
    found = evaluate_claims(runs, shipped=False)
    assert [row.claim.status for row in found.rows][-1] is ClaimStatus.inconclusive
    assert found.notes[0].startswith(
        "4 of 5 claims tested here, each at 95%: if none were true, 0.2 of 4 would be expected to show a direction"
    )


def test_holm_over_the_claims():
    """p of .010, .020, .030 and .2: 4 x .010 = .04 is significant, 3 x .020 = .06 and all after are not."""
    said = claim(difference=1.0)
    rows = [table.ClaimRow(Claim(said, ClaimStatus.reproduced, p=p), str(p)) for p in (0.03, 0.01, 0.02)]
    rows.append(table.ClaimRow(Claim(said, ClaimStatus.inconclusive, p=0.2), "0.2"))
    found = table.ClaimReport([*rows, table.ClaimRow(Claim(said, ClaimStatus.not_run), "-")])
    assert [found.adjusted[id(row)] for row in rows] == pytest.approx([0.06, 0.04, 0.06, 0.2])
    assert "1 of 3 remain significant after Holm correction, without: " in found.notes[0]


def test_reproductions_pin_float32():
    said = {**LRN, "difference": -0.014}
    runs = of_experiment("lrn", said, {"lrn": GOOD, "none": BAD})
    assert not any("32-true" in note for note in evaluate_claims(runs, shipped=False).notes)
    for run in runs:
        run.facts["precision"] = "bf16-mixed"
    assert any("lrn: runs in bf16-mixed" in note for note in evaluate_claims(runs, shipped=False).notes)


def test_a_claim_without_against_is_inconclusive():
    (row,) = evaluate_claims(of_experiment("e", {"text": "x", "difference": 1}, {"lrn": GOOD}), shipped=False).rows
    assert (row.claim.status, row.claim.why) == (ClaimStatus.inconclusive, "it has no `against`")


def test_an_arm_that_was_not_run():
    said = {**LRN, "difference": -0.014}
    (row,) = evaluate_claims(of_experiment("e", said, {"lrn": GOOD}), shipped=False).rows
    assert (row.claim.status, row.claim.why) == (ClaimStatus.not_run, "no finished run of model.norm=none")


@pytest.fixture
def conf(tmp_path, monkeypatch):
    folder = tmp_path / "conf" / "experiment" / "analogue"
    folder.mkdir(parents=True)
    (folder / "lrn.yaml").write_text(
        "# @package _global_\npaper_claim: {text: LRN helps, analogue: true, source: section 3.3, difference: 0.014,"
        " arm: model=lrn, against: model=none}\n"
    )
    (folder / "plain.yaml").write_text("name: plain\n")
    monkeypatch.setattr(table, "conf_dir", lambda: tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_shipped_experiment_without_runs_is_not_run(conf, capsys):
    assert main(["compare", "--claims", "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    (row,) = [line for line in text.splitlines() if "LRN helps" in line]
    assert (
        row == "| LRN helps | ANALOGUE | section 3.3 | +1.40 points | - | - | - | not run | experiment=analogue/lrn |"
    )
    assert "0 of 1 claim tested here" in text
    assert main(["compare", "--claims", "--format", "csv"]) == 0
    (fields,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (fields["status"], fields["difference"], fields["low"]) == ("not run", "0.014", "")
    assert main(["compare", "--claims", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["claims"][0]["analogue"] is True
    assert main(["compare", "--claims"]) == 0
    assert "not run" in capsys.readouterr().out


def test_a_shipped_experiment_with_runs_is_not_listed_as_not_run(conf):
    said = {"text": "LRN helped", "arm": "model=lrn", "against": "model=none", "difference": 0.014}
    runs = of_experiment("lrn", said, {"lrn": GOOD, "none": BAD})
    for run in runs:
        run.choices["experiment"] = "analogue/lrn"
    (row,) = evaluate_claims(runs).rows
    assert (row.experiment, row.claim.status) == ("experiment=analogue/lrn", ClaimStatus.reproduced)


def test_a_damaged_shipped_file_is_named(conf):
    (conf / "bad.yaml").write_text("paper_claim: {text: x}\n")
    with pytest.raises(UserError, match=r"bad\.yaml: paper_claim\.difference=null"):
        evaluate_claims([])


def test_every_shipped_claim_names_both_of_its_arms():
    for option, claims in table.shipped_claims():
        for one in claims:
            assert one.arm, option
            assert one.against, option


@pytest.mark.parametrize("option", [["--baseline", "model=bn"], ["--top", "3"], ["--html", "x.html"]])
def test_options_of_one_comparison_are_rejected_with_claims(conf, capsys, option):
    assert main(["compare", "--claims", *option]) == 2
    assert capsys.readouterr().err == (
        f"compare: {option[0]} cannot be used with --claims, because each claim defines its own comparison\n"
    )


# --- seeds for a margin ----------------------------------------------------------------------------------------------


def test_the_plan_names_both_designs():
    """0.4 points where seeds spread by 0.3: ten an arm, or eight and a baseline of sixteen."""
    step = 0.003 / math.sqrt(2)
    runs = [*arm("lrn", [0.95 - step, 0.95 + step]), *arm("none", [0.94 - step, 0.94 + step])]
    text = compare(runs, CompareOptions(baseline="model=none", margin=0.004)).plan
    assert text.startswith(
        "seeds for a difference of 0.40 points of test top-1, to show in 8 of 10 sweeps, if seeds spread"
    )
    assert "0.30 points (here; 95% interval 0.16 to 1.89)" in text
    assert text.endswith(": 10 in every arm; or 8 in each arm and 16 in the baseline")
    assert compare(runs, CompareOptions(baseline="model=none")).plan == ""
    unlike = [*arm("lrn", [0.95, 0.96, 0.97]), *arm("none", [0.9400, 0.9401, 0.9402])]
    assert compare(unlike, CompareOptions(baseline="model=none", margin=0.004)).plan == ""
    level = [*arm("lrn", [0.95] * 3), *arm("none", [0.94] * 3)]
    assert compare(level, CompareOptions(baseline="model=none", margin=0.004)).plan == ""


def test_every_shipped_claim_is_in_the_table_of_the_page():
    page = (Path(__file__).parents[2] / "docs" / "background" / "reproduction.md").read_text(encoding="utf-8")
    missing = [one.text for _, claims in table.shipped_claims() for one in claims if one.text not in page]
    assert missing == []
