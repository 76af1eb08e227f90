"""Names of folders: what they say, what they leave out, and what their hashes tell apart."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from alexnet_exp.sweep.plan.naming import (
    differing,
    in_any_order,
    job_hash,
    job_name,
    says_how,
    settings_of,
    slug,
    sweep_name,
)


def test_a_jobs_name_says_what_varies_and_ends_in_the_hash_of_its_configuration() -> None:
    container = {"seed": 1, "model": {"name": "alexnet"}}
    canonical = '{"model":{"name":"alexnet"},"seed":1}'
    expected = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    assert (
        job_name({"model": "lrn", "optim.lr": "0.1", "seed": "1"}, container) == f"model-lrn_lr-0.1_seed-1-{expected}"
    )
    assert job_hash(json.loads(canonical)) == expected, "the order of keys does not matter"
    assert job_hash({**container, "seed": 2}) != expected


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"model": "lrn,bn", "seed": "1,2,3"}, "model-lrn-bn_seed-1-2-3"),
        ({"schedule.milestones": "[1,2]"}, "milestones-1-2"),
        ({"note": "'a b/c=d'"}, "note-a-b-c-d"),
        ({"+callbacks.ema.decay": "0.9"}, "decay-0.9"),
        ({"optim.lr": "1e-3"}, "lr-1e-3"),
    ],
)
def test_a_slug_has_nothing_that_a_shell_or_hydra_minds(settings: dict[str, str], name: str) -> None:
    assert slug(settings) == name
    assert re.fullmatch(r"[\w.+-]+", name)


def test_long_names_are_cut_and_still_told_apart() -> None:
    names = {job_name({"note": "x" * 300}, {"seed": seed}) for seed in (1, 2)}
    assert len(names) == 2
    assert all(len(name) == 80 + 1 + 8 for name in names)


def test_a_sweeps_name_is_that_of_what_is_run_and_not_of_how() -> None:
    swept = {"seed": "1,2"}
    name = sweep_name(swept, ["seed=1,2", "model=bn"], None)
    for how in ("hydra.launcher.jobs=2", "hydra/launcher=slurm", "hydra.sweeper.n_trials=9", "hydra.verbose=true"):
        assert says_how(how)
        assert sweep_name(swept, ["seed=1,2", how, "model=bn"], None) == name
    for what in ("model=lrn", "+model.width=0.5", "hydra.sweeper.params.seed=1"):
        assert not says_how(what)
        assert sweep_name(swept, ["seed=1,2", "model=bn", what], None) != name
    assert sweep_name(swept, ["seed=1,2", "model=bn"], "mine") != name


def test_the_order_of_overrides_has_a_meaning_only_where_they_set_the_same() -> None:
    same = in_any_order(["seed=1,2", "hydra.launcher.jobs=2", "model=lrn,bn", "model.width=0.5"])
    assert same == in_any_order(["model.width=0.5", "model=lrn,bn", "seed=1,2"])
    assert same != in_any_order(["model.width=0.5", "model=lrn,bn", "seed=1,3"])
    for overrides in (["seed=1", "seed=2"], ["+seed=1", "seed=2"], ["data={pad: 1}", "data.pad=2"], ["~a", "a.b=1"]):
        assert in_any_order(overrides) is None


def test_what_differs_between_jobs() -> None:
    jobs = [settings_of(["model=lrn", "seed=1", "trainer=cpu"]), settings_of(["model=lrn", "seed=2", "trainer=cpu"])]
    assert differing(jobs) == ["seed"]
    assert differing(jobs[:1]) == ["model", "seed", "trainer"], "one job is called by all"
    assert settings_of(["~model.stages.conv4", "++a.b=c=d"]) == {"model.stages.conv4": "null", "a.b": "c=d"}
