"""Tests of the command that runs more seeds, as parsed by Hydra."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from alexnet_exp.compare.next_seeds import options_note, seeds_command
from tests.compare.made import arm, made

VALUES = (0.95, 0.96, 0.97)


def swept(line):
    """Each override of a command: its key, and the values it sweeps over."""
    words = shlex.split(line)
    assert words[:4] == ["python", "-m", "alexnet_exp", "-m"]
    parsed = OverridesParser.create().parse_overrides(words[4:])
    return {
        each.key_or_group: list(each.sweep_string_iterator()) if each.is_sweep_override() else [each.value()]
        for each in parsed
    }


def test_one_command_for_both_arms():
    found = seeds_command(arm("lrn", VALUES), arm("none", VALUES), 2)
    assert found == "python -m alexnet_exp -m model=lrn,none optim.lr=0.1 seed=4,5"


def test_many_seeds_are_a_range():
    found = swept(seeds_command(arm("lrn", VALUES), arm("none", VALUES), 40))
    assert found["seed"] == [str(seed) for seed in range(4, 44)]
    assert found["model"] == ["lrn", "none"]


def test_seeds_of_failed_runs_are_not_used_again():
    found = seeds_command([*arm("lrn", VALUES), made("lrn", 7, status="failed")], arm("none", VALUES), 1)
    assert swept(found)["seed"] == [8]


def test_a_missing_override_gets_the_value_of_the_run():
    plain = made("bn", 1, 0.9)
    plain.facts["overrides"] = ["optim.lr=0.1", "seed=1"]
    assert swept(seeds_command(arm("lrn", VALUES), [plain], 2))["model"] == ["lrn", "bn"]


def test_arms_that_differ_in_two_settings_are_two_commands():
    first, second = seeds_command(arm("lrn", VALUES, lr=0.1), arm("none", VALUES, lr=0.01), 2).split(" && ")
    assert swept(first) == {"model": ["lrn"], "optim.lr": [0.1], "seed": ["4", "5"]}
    assert swept(second) == {"model": ["none"], "optim.lr": [0.01], "seed": ["4", "5"]}


def test_a_value_with_commas_is_not_put_into_a_list():
    listed = arm("lrn", VALUES, overrides=["model.bn.pad=[1,2]"])
    assert len(seeds_command(listed, arm("lrn", VALUES), 2).split(" && ")) == 2


def test_overrides_are_quoted_for_a_shell():
    noted = {"overrides": ["note='two words'"]}
    found = seeds_command(arm("lrn", VALUES, **noted), arm("none", VALUES, **noted), 1)
    assert swept(found)["note"] == ["two words"] or str(swept(found)["note"][0]) == "two words"


def test_a_name_that_not_all_runs_have_is_omitted():
    named, plain = arm("none", VALUES[:1], overrides=["name=demo"]), arm("lrn", VALUES, overrides=["note=x"])
    assert seeds_command(plain, [*named, *arm("none", VALUES)], 2) == (
        "python -m alexnet_exp -m model=lrn,none optim.lr=0.1 seed=4,5"
    )
    both = [arm(model, VALUES, overrides=["name=demo"]) for model in ("lrn", "none")]
    assert swept(seeds_command(*both, 2))["name"] == ["demo"]


@pytest.mark.parametrize("more", [0, -1])
def test_no_seeds_no_command(more):
    assert seeds_command(arm("lrn", VALUES), arm("none", VALUES), more) is None


def test_no_command_without_recorded_overrides():
    assert seeds_command(arm("lrn", VALUES, overrides=None), arm("none", VALUES, overrides=None), 2) is None


@pytest.mark.parametrize(
    ("overrides", "own"),
    [
        ("model=lrn,none optim.lr=0.1 seed=4", None),
        ("callbacks=[ema,precise_bn] debug=null 'note=model=x'", None),
        ("experiment=first model.width=4,8", "experiment=first"),
        ("model=lrn,mine callbacks=[ema,hello]", "model=lrn,mine, callbacks=[ema,hello]"),
    ],
)
def test_options_that_are_not_shipped_need_more_than_the_command(overrides, own):
    needed = "not shipped; add the --config-dir and --allow that these runs were given"
    assert options_note(f"python -m alexnet_exp -m {overrides}") == (own and f"{own}: {needed}")
