"""Tests of folder names: their settings, and their hashes."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from alexnet_exp.sweep.plan.naming import (
    differing,
    is_execution_setting,
    job_hash,
    job_name,
    settings_of,
    slug,
    sort_overrides,
    sweep_name,
)


def test_a_job_name_has_the_varied_settings_and_the_hash_of_the_configuration() -> None:
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
def test_a_slug_has_no_special_characters(settings: dict[str, str], name: str) -> None:
    assert slug(settings) == name
    assert re.fullmatch(r"[\w.+-]+", name)


def test_long_names_are_truncated_and_stay_distinct() -> None:
    names = {job_name({"note": "x" * 300}, {"seed": seed}) for seed in (1, 2)}
    assert len(names) == 2
    assert all(len(name) == 80 + 1 + 8 for name in names)


def test_execution_settings_do_not_change_the_name_of_a_sweep() -> None:
    swept = {"seed": "1,2"}
    name = sweep_name(swept, ["seed=1,2", "model=bn"], None)
    for how in ("hydra.launcher.jobs=2", "hydra/launcher=slurm", "hydra.sweeper.n_trials=9", "hydra.verbose=true"):
        assert is_execution_setting(how)
        assert sweep_name(swept, ["seed=1,2", how, "model=bn"], None) == name
    for what in ("model=lrn", "+model.width=0.5", "hydra.sweeper.params.seed=1"):
        assert not is_execution_setting(what)
        assert sweep_name(swept, ["seed=1,2", "model=bn", what], None) != name
    assert sweep_name(swept, ["seed=1,2", "model=bn"], "mine") != name


def test_the_order_of_overrides_matters_only_if_they_set_the_same_key() -> None:
    same = sort_overrides(["seed=1,2", "hydra.launcher.jobs=2", "model=lrn,bn", "model.width=0.5"])
    assert same == sort_overrides(["model.width=0.5", "model=lrn,bn", "seed=1,2"])
    assert same != sort_overrides(["model.width=0.5", "model=lrn,bn", "seed=1,3"])
    for overrides in (["seed=1", "seed=2"], ["+seed=1", "seed=2"], ["data={pad: 1}", "data.pad=2"], ["~a", "a.b=1"]):
        assert sort_overrides(overrides) is None


def test_differing_returns_the_keys_that_vary() -> None:
    jobs = [settings_of(["model=lrn", "seed=1", "trainer=cpu"]), settings_of(["model=lrn", "seed=2", "trainer=cpu"])]
    assert differing(jobs) == ["seed"]
    assert differing(jobs[:1]) == ["model", "seed", "trainer"], "a single job is named by all settings"
    assert settings_of(["~model.stages.conv4", "++a.b=c=d"]) == {"model.stages.conv4": "null", "a.b": "c=d"}
