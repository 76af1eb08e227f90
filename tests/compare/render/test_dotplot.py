"""Tests of the dot plot as text and as SVG."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from alexnet_exp.compare.render.dotplot import ASCII_SIGNS, dots_svg, dots_text
from alexnet_exp.compare.result import Arm, Claim, ClaimStatus, Comparison, ComparisonTable, Difference, Metric, Verdict
from alexnet_exp.config.paper_claim import PaperClaim
from alexnet_exp.runs.run import Run

TOP1 = Metric("test/top1", "test top-1", True, True)
SVG = "{http://www.w3.org/2000/svg}"


def an_arm(label, values, interval=None, **settings):
    runs = [Run(Path(str(place)), str(place), "done", {"seed": place}, {}) for place in range(len(values))]
    mean = sum(values) / len(values) if values else None
    return Arm(settings or {"model": label}, label, runs, values, list(range(len(values))), mean, None, interval)


def a_comparison(arms, differences=(), metric=TOP1):
    empty = ComparisonTable([], [], [])
    return Comparison(metric, "", list(arms), list(differences), empty, empty, [], [], [])


def against(arm, baseline, verdict, claim=None):
    return Difference(arm, baseline, 0.01, None, None, "Welch", verdict, None, "", claim=claim)


def test_places_are_in_proportion():
    arms = [an_arm("a", [0.2, 0.4, 0.6]), an_arm("b", [0.1, 0.7])]
    first, second, *_ = (line.text for line in dots_text(a_comparison(arms), width=120))
    at = [[place for place, sign in enumerate(text) if sign == "●"] for text in (first, second)]
    assert [len(places) for places in at] == [3, 2]
    low, high = at[1]
    for place, value in zip(at[0], (0.2, 0.4, 0.6), strict=True):
        assert place == pytest.approx(low + (value - 0.1) / 0.6 * (high - low), abs=1)
    assert first.endswith("40.00%")
    assert first.startswith("model=a ")


def test_the_bar_is_the_interval_behind_the_dots():
    arm = an_arm("a", [0.5, 0.6], (0.4, 0.7))
    line = dots_text(a_comparison([arm]), width=80)[0].text
    assert line.count("├") == line.count("┤") == 1
    assert line.index("├") < line.index("●") < line.rindex("●") < line.index("┤")
    between = line[line.index("├") + 1 : line.index("┤")]
    assert set(between) == {"─", "●"}


def test_every_line_fits_and_plain_signs_are_ascii():
    arms = [an_arm("x" * 90, [0.5, 0.6, 0.7], (0.4, 0.7)), an_arm("b", [0.55])]
    for width in (60, 100, 200):
        assert all(len(line.text) <= width for line in dots_text(a_comparison(arms), width)[:-1])
    assert all(line.text.isascii() for line in dots_text(a_comparison(arms), signs=ASCII_SIGNS))


def test_grey_where_it_cannot_tell_and_a_diamond_where_the_paper_stands():
    base, same, better = an_arm("none", [0.5]), an_arm("same", [0.5]), an_arm("lrn", [0.6])
    differences = [
        against(same, base, Verdict.inconclusive),
        against(
            better,
            base,
            Verdict.better,
            Claim(PaperClaim("1.4 points in section 3.3", difference=0.2), ClaimStatus.inconclusive),
        ),
    ]
    comparison = a_comparison([better, base, same], differences)
    lines = dots_text(comparison, width=100)
    assert [line.grey for line in lines[:3]] == [False, False, True]
    # 0.5 + 0.2 is the greatest thing drawn, so the diamond stands at the right
    assert lines[0].text.index("◇") > max(line.text.rindex("●") for line in lines[:3])
    assert "◇" not in lines[1].text + lines[2].text
    assert "◇ the paper's claim" in lines[-1].text


def test_labels_contain_only_settings_that_differ():
    arms = [an_arm("", [0.5], **{"optim.lr": lr, "model.norm": "bn"}) for lr in (0.1, 0.01)]
    assert [line.text.split("  ")[0] for line in dots_text(a_comparison(arms))[:2]] == ["lr=0.1", "lr=0.01"]
    clash = [an_arm("", [0.5], **{"optim.lr": n, "schedule.lr": n}) for n in (1, 2)]
    assert dots_text(a_comparison(clash))[0].text.startswith("optim.lr=1 schedule.lr=1 ")


def test_long_labels_omit_the_most_common_values():
    usual = {"learning_rate": 0.1, "pooling": "overlapping", "normalization": "lrn"}
    changes = [{}, {"learning_rate": 0.2}, {"pooling": "disjoint"}, {"pooling": "no", "normalization": "none"}]
    rows = [usual | change for change in changes]
    lines = [line.text for line in dots_text(a_comparison([an_arm("", [0.5], **row) for row in rows]), width=120)[:4]]
    assert [line.split("  ")[0] for line in lines] == [
        "most common settings",
        "learning_rate=0.2",
        "pooling=disjoint",
        "pooling=no normalization=none",
    ]


def test_long_labels_are_cut_where_they_are_equal():
    """Labels that differ only at their ends keep their ends."""
    arms = [an_arm("", [0.5], a=f"{'x' * 60}{n}") for n in (1, 2)]
    lines = [line.text for line in dots_text(a_comparison(arms), width=100)[:2]]
    assert len({line[:33] for line in lines}) == 2
    assert all(line[:33].count("..") == 1 for line in lines)


def test_nothing_to_draw():
    empty = a_comparison([an_arm("a", [])])
    assert dots_text(empty) == []
    assert dots_svg(empty) == ""
    assert len(dots_text(a_comparison([an_arm("a", [0.5])]))) == 3  # equal ends of the axis


def test_many_arms_are_cut():
    lines = dots_text(a_comparison([an_arm(f"m{place}", [place / 100]) for place in range(30)]))
    assert len(lines) == 22
    assert "10 more" in lines[-1].text


def test_the_svg_has_the_same_things_and_no_request():
    base = an_arm("<none>", [0.50, 0.52, 0.51], (0.48, 0.54))
    arm = an_arm("lrn & co", [0.55, 0.56, 0.54], (0.53, 0.58))
    difference = against(
        arm, base, Verdict.inconclusive, Claim(PaperClaim('says "so"', difference=0.014), ClaimStatus.inconclusive)
    )
    text = dots_svg(a_comparison([arm, base], [difference]))
    root = ElementTree.fromstring(text)
    circles = root.findall(f"{SVG}circle")
    assert len(circles) == 6
    assert len(root.findall(f"{SVG}polygon")) == 1
    bars = [line for line in root.findall(f"{SVG}line") if line.get("stroke-linecap") == "round"]
    assert len(bars) == 2
    colours = {circle.get("fill") for circle in circles}
    assert len(colours) == 2  # one arm is grey
    xs = [float(circle.get("cx")) for circle in circles]
    assert xs[2] < xs[0] < xs[1]  # 0.54 < 0.55 < 0.56
    assert all(0 <= x <= 520 for x in xs)
    assert "&lt;none&gt;" in text
    assert text.count("http") == 1  # the name space
    assert "href" not in text
