"""Overrides as they are typed: text keeps its letters, and all of Hydra's grammar works."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from alexnet_exp.config.compose import compose, each_job, prepare_overrides
from alexnet_exp.config.composer import GroupOptions, parse_override, quote_value, shell_text, unquote_value
from alexnet_exp.config.overrides import quote_text, text_settings
from alexnet_exp.errors import Refused, UserError

TEXTS = [
    *("20241130_155038", "8e45012", "1_1_1", "1e5", "true", "2024_05", "1.10", "1E3", "-1_0", ".5"),
    *("~/photos", "~user/x", "猫", "ünï/cödé", "dogs (1)", "photos(1)", "it's", 'say "hi"x', "a=b", "#1", "{y}", "[x]"),
    *("a b", "blank at the end ", " before", "C:\\my photos\\new", "a'b\"c\\", "a;b", "a&b", "100%", "<x>", "!", "a^b"),
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["note", "data.root", "logger.wandb.project", "checkpoint.every"])
def test_text_keeps_its_letters(key: str, text: str) -> None:
    parsed = OverridesParser.create().parse_override(quote_text(f"{key}={text}"))
    assert not parsed.is_sweep_override()
    value = parsed.value()
    assert (value if isinstance(value, str) else str(value)) == text
    assert quote_text(quote_text(f"{key}={text}")) == quote_text(f"{key}={text}")


@pytest.mark.parametrize(
    "word",
    [
        *("name=plain", "name=7", "note=null", "note='a b'", 'note="x"', "note=${name}", "note=", "optim.lr=1e-3"),
        *("trainer.precision=32", "seed=1_0", "name=a,b", "note=range(1,3)", "model.width=.5", "tags=[a,b]", "~note"),
    ],
)
def test_what_hydra_reads_rightly_stays_as_it_is(word: str) -> None:
    """A sweep's folder has a hash of the words that were typed."""
    assert quote_text(word) == word


@pytest.mark.parametrize(
    ("word", "jobs"),
    [
        ("name=2024_05,x", ["2024_05", "x"]),
        ("name=choice(1e5,b)", ["1e5", "b"]),
        ("tags=[1_0,b],[8e4]", [["1_0", "b"], ["8e4"]]),
        ("tags=[ünï,b]", [["ünï", "b"]]),
    ],
)
def test_the_values_of_a_sweep_and_of_a_list_keep_their_letters(word: str, jobs: list[object]) -> None:
    key = word.partition("=")[0]
    assert [compose(job)[key] for job in each_job([quote_text(word)])] == jobs


def test_every_text_of_the_schema_is_known() -> None:
    known = text_settings()
    assert {"name", "note", "data_root", "data.root", "data.cache", "logger.mlflow.uri", "hydra.run.dir"} <= set(known)
    assert known["tags"] is list
    assert not {"seed", "optim.lr", "trainer.gpus", "schedule.warmup", "trainer.max_epochs"} & set(known)


def test_the_run_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert quote_text("hydra.run.dir=~/run") == "hydra.run.dir=/home/somebody/run"


def test_a_value_that_cannot_be_read_is_shown_as_one_types_it() -> None:
    with pytest.raises(Refused, match=r"""quote a value with special characters: 'optim.lr="ü"'"""):
        parse_override("optim.lr=ü")
    import shlex

    for text in TEXTS:
        (word,) = shlex.split(shell_text("note", text))
        assert OverridesParser.create().parse_override(word).value() == text


@pytest.mark.parametrize("text", [*TEXTS, "", "\\", "a\\\\'b"])
def test_quotes_are_taken_away_again(text: str) -> None:
    assert unquote_value(quote_value(text)) == text
    assert unquote_value(f"[{quote_value(text)}]") == f"[{quote_value(text)}]"


def test_glob_chooses_among_the_options_of_every_group(tmp_path: Path) -> None:
    assert [job[0] for job in each_job(["optim=glob(adam*)"])] == ["optim=adam", "optim=adamw"]
    experiments = [job[0] for job in each_job(["experiment=glob(*)"])]
    assert "experiment=tutorial" in experiments
    assert not [each for each in experiments if "/" in each], "Hydra's glob does not go into folders"
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "zebra.yaml").touch()
    assert GroupOptions(str(tmp_path)).get_group_options("experiment")[-1] == "zebra"
    assert GroupOptions(None).get_group_options("experiment/ladder")


# --- text in the user's YAML


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        (
            "experiment/a",
            "# @package _global_\nname: 20241130_155038",
            "name: 20241130_155038 is a number or true to YAML",
        ),
        ("experiment/a", "# @package _global_\nlogger:\n  wandb: {project: 007}", "logger.wandb.project: 007 is a "),
        (
            "experiment/a",
            "# @package _global_\ntags: [a, 8e4]",
            "tags: 8e4 is a number or true to YAML; write tags: '8e4'",
        ),
        ("data/mine", "root: 2024_05", "data.root: 2024_05 is a number or true to YAML; write root: '2024_05'"),
        ("experiment/a", "# @package _global_\nnote: yes", "note: yes is a number or true to YAML; write note: 'yes'"),
    ],
)
def test_text_that_yaml_changes_is_refused(file: str, text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / f"{file}.yaml"
    path.parent.mkdir()
    path.write_text(f"{text}\n")
    with pytest.raises(UserError) as refused:
        prepare_overrides([], str(tmp_path))
    assert str(refused.value).startswith(f"{path}: {line}")


@pytest.mark.parametrize(
    "text", ["name: '007'", "name: 7", "name: a1e5", "seed: 1_0", "note: null", "note: 1.5", "[", ""]
)
def test_other_yaml_is_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "a.yaml").write_text(f"# @package _global_\n{text}\n")
    assert prepare_overrides(["seed=1"], str(tmp_path)) == ["seed=1"]


# --- arguments of a user's class


@pytest.fixture
def mine(tmp_path: Path) -> str:
    for group, name in (("model", "net"), ("callbacks", "mine")):
        (tmp_path / group).mkdir()
        node = "_target_: lab.Thing\nwidth: 3\n"
        text = node if group == "model" else "# @package callbacks.mine\n" + node
        (tmp_path / group / f"{name}.yaml").write_text(text)
    return str(tmp_path)


def test_an_argument_of_a_users_class_needs_no_plus(mine: str) -> None:
    words = ["model=net", "model.in_channels=1", "model.width=4", "callbacks=mine", "callbacks.mine.depth=2"]
    given = prepare_overrides(words, mine)
    assert given == [
        "model=net",
        "++model.in_channels=1",
        "model.width=4",
        "callbacks=mine",
        "++callbacks.mine.depth=2",
    ]
    container = compose(given, mine)
    assert container["model"] == {"_target_": "lab.Thing", "width": 4, "in_channels": 1}
    assert container["callbacks"]["mine"]["depth"] == 2


def test_settings_of_ours_stay_as_they_are(mine: str) -> None:
    words = ["model=bn", "model.width=0.5", "optim.lr=0.1", "model.nonsense=1"]
    assert prepare_overrides(words, mine) == words
    assert prepare_overrides(["model=net", "model.depth=1,2"], mine) == ["model=net", "++model.depth=1,2"]
    assert prepare_overrides(["model=net,bn", "model.depth=1"], mine) == ["model=net,bn", "++model.depth=1"]
