"""The paper's claims: every figure stands in an experiment, with its sign, or on the page "reproduction"."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from alexnet_exp.config.compose import compose, each_job
from alexnet_exp.config.hydra_session import hydra_session
from alexnet_exp.config.paper_claim import PaperClaim, paper_claims
from alexnet_exp.config.validate import validate
from alexnet_exp.paths import conf_dir

EXPERIMENTS = conf_dir() / "experiment"
CLAIMS = sorted(file.stem for file in (EXPERIMENTS / "claims").glob("*.yaml"))
ANALOGUES = sorted(file.stem for file in (EXPERIMENTS / "analogue").glob("*.yaml"))
DOCS = Path(__file__).parents[2] / "docs" / "background" / "reproduction.md"
# What each room asks, on ImageNet and in the small.
QUESTIONS = ("activation", "augmentation", "columns", "depth", "dropout", "lrn", "pca", "pooling", "width")


@cache
def claims_of(option: str) -> list[PaperClaim]:
    return paper_claims(compose([f"experiment={option}"])["paper_claim"])


def head(option: str) -> str:
    lines = (EXPERIMENTS / f"{option}.yaml").read_text().splitlines()
    return "\n".join(line for line in lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")])


def test_every_question_is_asked_twice() -> None:
    assert set(QUESTIONS) <= set(CLAIMS)
    assert set(QUESTIONS) <= set(ANALOGUES)


# the table of the paper's figures: errors in points, so that an accuracy of the arm without is that much lower
@pytest.mark.parametrize(
    ("option", "metric", "arm", "figure"),
    [
        ("claims/lrn", "test/top1", "model.norm=none", {"difference": -0.014}),
        ("claims/lrn", "test/top5", "model.norm=none", {"difference": -0.012}),
        ("claims/pooling", "test/top1", "model.pool=disjoint", {"difference": -0.004}),
        ("claims/pooling", "test/top5", "model.pool=disjoint", {"difference": -0.003}),
        ("claims/columns", "test/top1", "model=paper_one_column", {"difference": -0.017}),
        ("claims/columns", "test/top5", "model=paper_one_column", {"difference": -0.012}),
        ("claims/pca", "test/top1", "data.pca=none", {"at_most": -0.01}),
        ("claims/depth", "test/top1", "model.stages.conv4=null", {"difference": -0.02, "about": True}),
        ("claims/activation", "train/epochs_to_target", "model.activation=tanh", {"ratio": 6, "about": True}),
        ("claims/lrn_cifar10", "test/top1", "model.norm=none", {"difference": -0.02}),  # 13% without, 11% with
        ("claims/dropout", "test/top1", "model.dropout=0", {"at_most": 0}),
        ("claims/augmentation", "test/top1", "data.random_crop=false", {"at_most": 0}),
        ("claims/width", "test/top1", "model.width=0.5", {"at_most": 0}),
        ("analogue/base", "test/top1", "model.norm=none", {"difference": -0.014}),
        ("analogue/base", "test/top1", "model.pool=disjoint", {"difference": -0.004}),
        ("analogue/base", "test/top1", "model=paper_cifar10_one_column", {"difference": -0.017}),
        ("analogue/base", "test/top1", "data.pca=none", {"at_most": -0.01}),
        ("analogue/base", "test/top1", "model.stages.conv4=null", {"difference": -0.02, "about": True}),
        ("analogue/activation", "train/epochs_to_target", "model.activation=tanh", {"ratio": 6, "about": True}),
    ],
)
def test_the_papers_figure_stands_in_its_experiment(
    option: str, metric: str, arm: str, figure: dict[str, float]
) -> None:
    found = [one for one in claims_of(option) if (one.metric, one.arm) == (metric, arm)]
    assert len(found) == 1
    assert {key: getattr(found[0], key) for key in figure} == figure


@pytest.mark.parametrize(
    "row",
    [
        *("37.5 / 17.0", "39.0 / 18.3"),  # LSVRC-2010: 10 views, centre
        *("40.7 / 18.2", "38.1 / 16.4", "39.0 / 16.6", "36.7 / 15.4", "15.3"),  # 2012
        "43.48 / 20.93",  # torchvision's weights
    ],
)
def test_figures_of_one_network_alone_stand_in_the_page(row: str) -> None:
    assert row in DOCS.read_text()


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_of_the_paper_says_that_it_was_not_run(name: str) -> None:
    assert "not run" in head(f"claims/{name}").lower()
    assert not any(one.analogue for one in claims_of(f"claims/{name}"))


@pytest.mark.parametrize("name", ANALOGUES)
def test_an_analogue_is_called_one(name: str) -> None:
    assert "ANALOGUE" in head(f"analogue/{name}")
    claims = claims_of(f"analogue/{name}")
    assert claims
    assert all(one.analogue for one in claims)


@pytest.mark.parametrize("option", [f"claims/{n}" for n in CLAIMS] + [f"analogue/{n}" for n in ANALOGUES])
def test_both_arms_of_a_claim_are_in_its_sweep(option: str) -> None:
    """What a claim compares is what the experiment varies; and reproductions pin fp32."""
    config = validate(compose([f"experiment={option}"]))
    assert config.trainer.precision == "32-true"
    swept = swept_values(option)
    if option == "analogue/base":
        assert list(swept) == ["seed"]  # its arms are in the files beside it
        return
    about = [one for one in claims_of(option) if one.arm and one.arm.partition("=")[0] in swept]
    assert about, "no claim is about what is varied"
    for one in about:
        assert one.arm is not None
        key, _, value = one.arm.partition("=")
        assert value.lower() in map(str.lower, swept[key])
        assert one.against is not None
        assert one.against.startswith(key)


@pytest.mark.slow
@pytest.mark.parametrize("room", ["claims", "analogue"])
def test_every_arm_composes(room: str) -> None:
    for name in QUESTIONS:
        swept = swept_values(f"{room}/{name}")
        for key, values in swept.items():
            for value in values if key != "seed" else []:
                validate(compose([f"experiment={room}/{name}", f"{key}={value}"]))


@pytest.mark.parametrize("room", ["claims", "analogue"])
def test_crops_and_mirrors_go_together(room: str) -> None:
    without = compose([f"experiment={room}/augmentation", "data.random_crop=false"])["data"]
    assert (without["random_crop"], without["mirror"]) == (False, False)
    assert compose([f"experiment={room}/augmentation"])["data"]["mirror"] is True


@cache
def swept_values(option: str) -> dict[str, list[str]]:
    """The values of each key that the experiment's sweep goes through."""
    with hydra_session([f"experiment={option}"], None) as session:
        params = session.config.hydra.sweeper.params
    jobs = list(each_job([f"{key}={value}" for key, value in params.items()]))
    values: dict[str, list[str]] = {}
    for job in jobs:
        for word in job:
            key, _, value = word.partition("=")
            if value not in values.setdefault(key, []):
                values[key].append(value)
    return values
