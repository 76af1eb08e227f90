"""Composing from conf/: every shipped file, a user's own, and what is said of overrides that do not compose."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from alexnet_exp.__main__ import COMMANDS
from alexnet_exp.config.compose import (
    check_config_dir,
    compose,
    compose_run,
    compose_yaml,
    composer_of,
    diagnose_jobs,
    each_job,
)
from alexnet_exp.config.composer import Composer, quote_value, to_plain
from alexnet_exp.config.hydra_files import to_yaml
from alexnet_exp.config.hydra_session import hydra_session, print_with_hydra
from alexnet_exp.config.schema import COLLECTIONS
from alexnet_exp.config.validate import validate
from alexnet_exp.errors import Refused, UserError
from alexnet_exp.paths import conf_dir, group_names, groups
from alexnet_exp.training.build import build

SHIPPED = sorted(file for file in conf_dir().rglob("*.yaml") if file.parent.name != "local")
OPTIONS = [(group, option) for group, options in groups().items() for option in options if group != "local"]


def name_of(file: Path) -> str:
    return str(file.relative_to(conf_dir()))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that serves as `folder` and as `imagenet`: three classes, with train and val."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("ant", "bee", "cat"):
            (root / part / label).mkdir(parents=True)
            for i in range(2):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{i}.png")
    return root


@pytest.fixture(autouse=True)
def nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)


def problems(*overrides: str) -> list[str]:
    with pytest.raises(Refused) as refused:
        compose_run(overrides)
    return str(refused.value).splitlines()


# --- every shipped file


def small(group: str, option: str, images: Path) -> list[str]:
    """Overrides with which an option is built in little time and memory."""
    chosen = [f"{group}={option}"]
    if group == "data":
        size = {"random": ["data.size=32", "data.n=16"], "imagenet": ["data.size=32"]}.get(option, [])
        return [*chosen, f"data_root={images}", "model=none", "model.width=0.02", *size]
    if group == "model":
        # the faithful variants pin their ends; the random data is made to agree with them
        pinned = yaml.safe_load((conf_dir() / "model" / f"{option}.yaml").read_text())
        ends = f"data.size={pinned.get('input_size', 32)}", f"data.classes={pinned.get('num_classes', 10)}"
        return [*chosen, "data=random", "data.n=16", "model.width=0.02", *ends]
    if group == "experiment":
        text = (conf_dir() / "experiment" / f"{option}.yaml").read_text()
        from_imagenet = "override /data: imagenet" in text or "imagenet_paper" in text
        imagenet = [f"data_root={images}", "model.num_classes=3"] if from_imagenet else []
        return [*chosen, "model.width=0.05", *imagenet]
    columns = ["model.groups=2"] if chosen == ["trainer=columns"] else []
    return [*chosen, "model.width=0.02", *columns]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_validates_and_builds(group: str, option: str, images: Path) -> None:
    if group == "logger" and option in ("mlflow", "wandb"):
        pytest.importorskip(option, reason=f"the extra {option} is not installed")
    composition = compose_run(small(group, option, images))
    config, container = composition.config, composition.container
    if group in COLLECTIONS:
        assert option in getattr(config, group)
    experiment = build(config)
    assert sum(parameter.numel() for parameter in experiment.network.parameters()) > 0
    assert experiment.card["classes"]
    assert yaml.safe_load(yaml.safe_dump(container)) == container  # plain: what a run folder keeps is what was composed
    assert yaml.safe_load(to_yaml(container)) == container
    assert to_yaml(container) == OmegaConf.to_yaml(OmegaConf.create(container))


def test_options_that_name_a_dataclass_are_complete() -> None:
    """A data source or an optimizer cannot be added in Python and forgotten in conf/, or the other way."""
    from alexnet_exp.config.schema import NODES

    for group in ("data", "optim"):
        assert groups()[group] == sorted(NODES[group])
    # a schedule's option may be a dataclass by another name: four_stages and by_hand are steps
    assert set(NODES["schedule"]) <= set(groups()["schedule"])
    for group, classes in COLLECTIONS.items():
        assert groups()[group] == sorted(classes)


@pytest.mark.parametrize("file", SHIPPED, ids=name_of)
def test_every_file_opens_with_purpose_command_expectation_and_cost(file: Path) -> None:
    head = [line.removeprefix("#").strip() for line in _head(file)]
    words = [line for line in head if not line.startswith("@package")]
    purpose = words[0].removeprefix("Purpose:").strip()
    assert len(purpose) > 20
    assert not purpose.startswith(("Command:", "Expected", "Cost:"))
    for opening in ("Command:", "Expected", "Cost:"):
        assert any(opening in line for line in words), f"{name_of(file)} says no {opening}"
    assert _commands(file), "no command to copy"


@pytest.mark.parametrize("file", SHIPPED, ids=name_of)
def test_the_command_that_a_file_names_composes(file: Path, images: Path) -> None:
    (images / "weights.pth").touch()
    for command in _commands(file):
        command = re.sub(
            r"model\.weights=\S+", f"model.weights={images / 'weights.pth'}", command.replace("FOLDER", str(images))
        )
        words = shlex.split(command, comments=True)
        words = words[: words.index("&&")] if "&&" in words else words
        assert words[:3] == ["python", "-m", "alexnet_exp"]
        words = words[4:] if words[3:] and words[3] in COMMANDS else words[3:]
        validate(compose(words))
        chosen = file.stem == "default" or file.stem in re.split("[=,/]", ",".join(words))
        assert chosen or file.parent == conf_dir(), f"{name_of(file)} is not what its command runs"


def _head(file: Path) -> Iterator[str]:
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            return
        yield line


def _commands(file: Path) -> list[str]:
    return [found[1] for line in _head(file) if (found := re.search(r"Command:\s+(python -m alexnet_exp.*)$", line))]


# --- paths of a machine


@pytest.mark.parametrize("source", ["cifar10", "cifar100", "folder", "imagenet"])
def test_data_root_is_the_root_of_every_source_that_has_one(source: str) -> None:
    assert compose([f"data={source}"])["data"]["root"] is None
    assert compose([f"data={source}", "data_root=/big/disk"])["data"]["root"] == "/big/disk"
    assert compose([f"data={source}", "data_root=/big/disk", "data.root=here"])["data"]["root"] == "here"


def test_a_machines_own_settings_come_last_but_for_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """conf/local/default.yaml, which git ignores, in a copy of conf/."""
    import shutil

    copy = tmp_path / "conf"
    shutil.copytree(conf_dir(), copy)
    (copy / "local").mkdir(exist_ok=True)
    (copy / "local" / "default.yaml").write_text(
        "# @package _global_\ndata_root: /big/disk\ntrainer:\n  precision: bf16-mixed\n"
    )
    monkeypatch.setattr("alexnet_exp.config.compose.conf_dir", lambda: copy)
    container = compose(["experiment=tutorial"])
    assert container["data"]["root"] == "/big/disk"
    assert container["trainer"]["precision"] == "bf16-mixed"
    assert compose(["trainer.precision=32-true"])["trainer"]["precision"] == "32-true"


# --- a user's own YAML


def test_config_dir_adds_options(tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "experiment").mkdir()
    (tmp_path / "mine" / "model" / "thin.yaml").write_text("defaults: [bn, _self_]\nname: thin\nwidth: 0.125\n")
    (tmp_path / "mine" / "experiment" / "quick.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: thin\nname: quick\ntrainer: {max_epochs: 1}\n"
    )
    config = compose_run(["experiment=quick"], "mine").config
    assert (config.name, config.model.name, config.model.width, config.trainer.max_epochs) == (
        "quick",
        "thin",
        0.125,
        1,
    )
    with pytest.raises(Refused, match="model=thinn: did you mean thin"):
        compose(["model=thinn"], "mine")


def test_config_dir_refuses_a_shipped_name_and_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--config-dir nowhere: no such folder"):
        check_config_dir("nowhere")
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "bn.yaml").write_text("width: 0.5\n")
    with pytest.raises(UserError, match=r"model/bn\.yaml is the name of a shipped file"):
        check_config_dir("mine")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "trainer: {max_epoch: 3}",
            "configuration: experiment/own.yaml: trainer.max_epoch: unknown setting; did you mean trainer.max_epochs?",
        ),
        (
            "model: {_target_: mine.Net}",
            "configuration: experiment/own.yaml sets model._target_; a class of your own is an option: "
            "write model/NAME.yaml, choose model=NAME",
        ),
        (
            "optim: {lr: abc}",
            "configuration: experiment/own.yaml: optim.lr=abc: must be a number",
        ),
        ("defaults: [override /model: lnr]", "configuration: unknown option model=lnr"),
    ],
)
def test_a_fault_in_a_users_file_is_not_blamed_on_the_overrides(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(f"# @package _global_\n{text}\n")
    with pytest.raises(Refused) as refused:
        compose(["experiment=own", "trainer.max_epochs=2", "seed=3"], "mine")
    assert str(refused.value) == line


# --- overrides that cannot be used


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model=null", "model=null: did you mean none? one of bn"),
        ("experiment=null", "experiment=null: must not be null; leave it out"),
        ("callbacks=null", "callbacks=null: must not be null; write callbacks=[]"),
        ("logger=[csv,tensorbord]", "logger=tensorbord: did you mean tensorboard?"),
        ("optim=[sgd,adam]", "optim=[sgd, adam]: takes one option; for a run of each: -m optim=sgd,adam"),
        ("a=b=c", "a=b=c: cannot be read; write key=value"),
        ("=3", "=3: cannot be read; write key=value"),
        (
            "optim.lr=0.1,0.2",
            "optim.lr=0.1,0.2: several values are a sweep; add -m: python -m alexnet_exp -m optim.lr=0.1,0.2",
        ),
        ("lr=0.1", "lr=0.1: unknown setting; did you mean optim.lr?"),
        ("modle.width=1", "modle.width=1: unknown setting; did you mean model.width?"),
        ("zebra=1", "zebra=1: unknown setting; python -m alexnet_exp --help lists the groups"),
        ("~model", "model=null: must be a group of settings; write model=NAME"),
        ("local=elsewhere", "local=elsewhere: conf/local/elsewhere.yaml not found"),
        ("optim.name=sgd", "optim.name=sgd: the name is fixed; choose another with optim=NAME"),
        ("note=${nobody}", "note=${nobody}: Interpolation key 'nobody' not found"),
        ("hydra.zebra=1", "hydra.zebra=1: unknown setting"),
        ("model.stages.conv4=3", "model.stages.conv4=3: must be a group of settings, not one value, or null"),
        (
            "model.weights=nobody",
            "model.weights=nobody: no such file; and nobody: no such run or folder; outputs contains no runs",
        ),
    ],
)
def test_a_bad_override_is_one_line(override: str, line: str) -> None:
    with pytest.raises(UserError) as refused:
        compose_run([override])
    (told,) = str(refused.value).splitlines()
    assert told.startswith(line)


def test_several_bad_overrides_come_back_at_once() -> None:
    lines = problems(
        "optim.lr=abc", "modle=lrn", "trainer.max_epoch=3", "model.width=0", "data=digitz", "+trainer.lrr=1", "seed=2"
    )
    assert sorted(line.partition(":")[0] for line in lines) == sorted(
        ["data=digitz", "optim.lr=abc", "modle=lrn", "trainer.max_epoch=3", "trainer.lrr=1", "model.width=0.0"]
    )


def test_settings_below_a_wrong_option_are_not_judged() -> None:
    (line,) = problems("schedule=platau", "schedule.patience=3")
    assert line.startswith("schedule=platau: did you mean plateau?")
    (line,) = problems("experiment=tutoral", "callbacks.ema.decay=0.9")
    assert line.startswith("experiment=tutoral: did you mean tutorial?")


# --- sweeps


@pytest.mark.parametrize("sweep", [option for group, option in OPTIONS if option.startswith("sweep/")])
def test_every_job_of_a_shipped_sweep_composes_and_validates(sweep: str) -> None:
    chosen = f"experiment={sweep}"
    with hydra_session([chosen], None) as session:
        assert session.is_sweep
        params = session.config.hydra.sweeper.params
    jobs = list(each_job([*(f"{key}={value}" for key, value in params.items()), chosen]))
    composer = composer_of(None)
    configs = [compose_run(job, composer=composer).config for job in jobs]
    assert len(configs) > 1
    assert {config.name for config in configs} == {sweep.rpartition("/")[2]}


@pytest.mark.parametrize("text", ["plain", "it's", "a\\b", "(1), x=y [z] ${name}", "ends in \\'"])
def test_any_text_can_be_the_value_of_an_override(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(f"note={quote_value(text)}").value() == text


OPTIONS_AND_VALUES = [
    ["seed=3"],
    ["model=lrn", "optim=sgd", "optim.lr=0.1", "optim.nesterov=true", "seed=4", "seed=5"],
    ["optim.lr=0.2", "model=lrn", "optim=sgd", "data.val=none", "data.pca=fit", "trainer.max_epochs=null"],
    ["experiment=ladder/7", "model.stages.conv1.out=7", "model.stages.conv2.pad=[1]", "test.views=9"],
    ["experiment=ladder/7", "data.root='a b, c=d'", "name=${oc.env:HOME}", "objective=${name}/x"],
    ["experiment=ladder/7", "callbacks=[ema,early_stopping]", "callbacks.ema.decay=0.5"],
    ["model=lrn", "model=lrn", "model.width=0.5"],
]
OTHERS = [
    ["model=lrn", "+model.stages.conv1.groups=1", "model.width=0.5"],
    ["model=lrn", "model.width=0.5", "~callbacks", "hydra.job.name=mine"],
    ["model=lrn", "data={batch_size: 7}", "seed=1"],
    ["model=lrn", "schedule@optim=cosine", "seed=1"],
    # refused, by Hydra's own words
    ["model=lrn", "optim.lrr=0.1"],
    ["model=lrn", "seed=1,2"],
    ["model=lrn", "seed=one"],
    ["model=lnr", "seed=1"],
    ["seed", "model=lrn"],
]


def test_a_composer_gives_what_hydra_gives() -> None:
    def whole(overrides: Sequence[str]) -> DictConfig:
        asked.append(list(overrides))
        return session.loader.load_sweep_config(session.config, list(overrides))

    asked: list[list[str]] = []
    with hydra_session(["hydra.sweep.dir=there"], None, sweep=True) as session:
        composer = Composer(whole, group_names())
        all_of_them = [*OPTIONS_AND_VALUES, *OTHERS]
        theirs = [seen(whole, overrides) for overrides in all_of_them]
        for _ in range(3):  # whole, with the files once more, with the files that are kept
            asked = []
            ours = [seen(composer, overrides) for overrides in all_of_them]
            for overrides, our, their in zip(all_of_them, ours, theirs, strict=True):
                assert our == their, overrides
    assert [overrides for overrides in asked if overrides in all_of_them] == OTHERS
    assert len(asked) == len(OTHERS) + 1, "an option that does not exist is asked for by itself, each time"


def test_configurations_of_one_choice_share_nothing() -> None:
    composer = composer_of(None)
    for seed in (1, 2):
        composer(["model=lrn", f"seed={seed}"])
    first, second = (composer(["model=lrn", f"seed={seed}"]) for seed in (3, 4))
    first.model.stages.conv1.then.append("act")
    first.optim.layers = {"conv1": {"lr": 0}}
    by_hydra = composer_of(None)(["model=lrn", "seed=4"])  # as the first of its choice
    assert second == by_hydra == composer(["model=lrn", "seed=4"])


def test_a_folder_without_options_is_a_group_as_it_is_to_hydra(tmp_path: Path) -> None:
    (tmp_path / "tags").mkdir()
    composer = composer_of(str(tmp_path))
    for seed in (1, 2, 3):
        with pytest.raises(HydraException, match="Could not override 'tags'"):
            composer([f"seed={seed}", "tags=[a]"])


def seen(compose: Callable[[Sequence[str]], DictConfig], overrides: Sequence[str]) -> object:
    """All that a configuration says, or the error in its place."""
    try:
        config = compose(overrides)
    except HydraException as error:
        return type(error), str(error)
    flags = OmegaConf.is_struct(config), OmegaConf.is_readonly(config), OmegaConf.is_struct(config.hydra)
    types = {key: OmegaConf.get_type(config, key) for key in config}
    return (
        OmegaConf.to_yaml(config),
        to_plain(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])),
        flags,
        types,
    )


def test_each_job_is_the_product_in_hydras_order() -> None:
    assert list(each_job(["model=lrn,bn", "seed=range(1,3)", "optim.lr=0.1"])) == [
        ["model=lrn", "seed=1", "optim.lr=0.1"],
        ["model=lrn", "seed=2", "optim.lr=0.1"],
        ["model=bn", "seed=1", "optim.lr=0.1"],
        ["model=bn", "seed=2", "optim.lr=0.1"],
    ]


def test_a_list_is_one_value_of_a_sweep() -> None:
    assert list(each_job(["schedule.milestones=[1,2],[3]"])) == [
        ["schedule.milestones=[1,2]"],
        ["schedule.milestones=[3]"],
    ]


def test_the_problems_of_all_jobs_are_told_once_each() -> None:
    with pytest.raises(UserError) as refused:
        diagnose_jobs(each_job(["optim.lr=0.1,-1,abc", "seed=1,2"]), None)
    assert str(refused.value).splitlines() == [
        "optim.lr=-1.0: must be greater than 0",
        "optim.lr=abc: must be a number",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=lrn", "optim.lr=0.5", "~model.stages.conv4", "logger=[csv,tensorboard]"],
        ["experiment=sweep/norm", "note=${now:%Y}", "hydra.job.name=x"],
    ],
)
def test_a_configuration_as_yaml_is_what_hydra_would_print(
    overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    print_with_hydra(["--cfg", "job", *overrides])
    assert compose_yaml(overrides) == capsys.readouterr().out
