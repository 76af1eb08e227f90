"""The most common slips on the command line, each with the line that it must get: habits of other programs."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from alexnet_exp.__main__ import main
from alexnet_exp.cli import arguments
from alexnet_exp.config.compose import compose_run
from alexnet_exp.errors import Refused

# What is typed behind `python -m alexnet_exp`, and the words that the answer must have.
SLIPS = {
    # names of settings
    "epochs=3": "did you mean trainer.max_epochs?",
    "trainer.epochs=3": "did you mean trainer.max_epochs?",
    "n_epochs=3": "did you mean trainer.max_epochs?",
    "num_train_epochs=3": "did you mean trainer.max_epochs?",
    "lr=0.1": "did you mean optim.lr?",
    "learning_rate=0.1": "did you mean optim.lr?",
    "optim.learning_rate=0.1": "did you mean optim.lr?",
    "optimizer.lr=0.1": "did you mean optim.lr?",
    "lr0=0.01": "did you mean optim.lr?",
    "bs=64": "did you mean data.batch_size?",
    "batch_size=64": "did you mean data.batch_size?",
    "trainer.batch_size=64": "did you mean data.batch_size?",
    "workers=4": "did you mean data.workers?",
    "data.num_workers=4": "did you mean data.workers?",
    "data_dir=photos": "did you mean data.root?",
    "data.root=photos": "data=digits has no root; add data=folder",
    "wd=1e-4": "did you mean optim.weight_decay?",
    "momentum=0.9": "did you mean optim.momentum?",
    "optim.momentum=0.9": "optim=adamw has no momentum; add optim=sgd",
    "random_seed=1": "did you mean seed?",
    "dropout=0.5": "did you mean model.dropout?",
    "num_classes=3": "did you mean model.num_classes?",
    "imgsz=64": "did you mean data.size?",
    "label_smoothing=0.1": "did you mean loss.label_smoothing?",
    "clip_grad=1.0": "did you mean trainer.gradient_clip_val?",
    "accumulate_grad_batches=2": "did you mean trainer.accumulate_grad_batches?",
    "warmup_epochs=5": "did you mean schedule.warmup?",
    "output_dir=here": "did you mean hydra.run.dir?",
    "exp_name=first": "did you mean name?",
    "device=cpu": "write trainer.gpus=0, or trainer=cpu",
    "trainer.device=cuda": "write trainer.gpus=1",
    "amp=true": "write trainer.precision=16-mixed",
    "patience=5": "write callbacks=early_stopping callbacks.early_stopping.patience=5",
    "wandb=true": "write logger=wandb",
    "pretrained=true": "write model=torchvision model.weights=FILE, or model.weights=RUN",
    "model.pretrained=true": "write model=torchvision model.weights=FILE, or model.weights=RUN",
    "ckpt_path=a.ckpt": "write python -m alexnet_exp resume RUN",
    "resume=last": "write python -m alexnet_exp resume RUN",
    # names of groups
    "optimizer=SGD": "did you mean optim=sgd?",
    "dataset=cifar10": "did you mean data=cifar10?",
    "arch=lrn": "did you mean model=lrn?",
    "lr_scheduler=cosine": "did you mean schedule=cosine?",
    # options
    "data=CIFAR10": "did you mean cifar10?",
    "data=mnist": "data=folder takes a folder of images; data of your own: docs/guides/extend.md",
    "optim=SGD": "did you mean sgd?",
    "model=AlexNet": "write model=bn (the default), model=lrn or model=paper",
    "model=resnet18": "a network of your own: docs/guides/extend.md",
    "schedule=CosineAnnealingLR": "did you mean cosine?",
    "trainer=gpu": "write trainer.gpus=1",
    "experiment=conf/experiment/tutorial.yaml": "write experiment=tutorial",
    # flags and words
    "--epochs 5": "settings are written without dashes; write trainer.max_epochs=5",
    "--model=lrn": "settings are written without dashes; write model=lrn",
    "--data.batch_size=64": "settings are written without dashes; write data.batch_size=64",
    "-b 64": "settings are written without dashes; write data.batch_size=64",
    "--config mine.yaml": "write an experiment file and use --config-dir FOLDER experiment=NAME",
    "fit": "did you mean train?",
    "test last": "did you mean eval?",
    "tutorial": "write experiment=tutorial",
    "model = lrn": "no spaces around the equals sign; write model=lrn",
    "model=lrn,bn": "add -m: python -m alexnet_exp -m model=lrn,bn",
}
OF_OPTIONS = [line for line in SLIPS if line.split("=")[0] in ("data", "optim", "model", "schedule", "trainer")]
OF_SETTINGS = [line for line in SLIPS if "=" in line and " " not in line and line not in OF_OPTIONS]
OF_SETTINGS = [line for line in OF_SETTINGS if not line.startswith(("-", "experiment="))]
OTHERS = [line for line in SLIPS if line not in OF_OPTIONS + OF_SETTINGS]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def answers(lines: list[str]) -> dict[str, str]:
    """The answer to each of several overrides that are typed in one command."""
    with pytest.raises(Refused) as refused:
        compose_run(lines)
    return {str(problem).partition(": ")[0]: str(problem) for problem in refused.value.problems}


def key_of(line: str) -> str:
    return line.replace("1e-4", "0.0001")


def test_there_are_sixty() -> None:
    assert len(SLIPS) == 60


def test_names_of_settings_get_the_right_line() -> None:
    told = answers(OF_SETTINGS)
    wrong = {line: told.get(key_of(line)) for line in OF_SETTINGS if SLIPS[line] not in told.get(key_of(line), "")}
    assert not wrong


def test_names_of_options_get_the_right_line() -> None:
    wrong = {}
    for group in dict.fromkeys(line.split("=")[0] for line in OF_OPTIONS):
        for line in [line for line in OF_OPTIONS if line.startswith(f"{group}=")]:
            (told,) = answers([line]).values()
            wrong |= {} if SLIPS[line] in told else {line: told}
    assert not wrong


@pytest.mark.parametrize("line", OTHERS)
def test_flags_and_words_get_the_right_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(line)) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert SLIPS[line] in told
    assert not Path("outputs").exists()


@pytest.mark.parametrize("line", ["+foo=1", "zebra=1", "trainer.xyzzy=1"])
def test_nothing_is_suggested_where_nothing_is_similar(line: str) -> None:
    (told,) = answers([line]).values()
    assert "did you mean" not in told
    assert "struct" not in told


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("model= lrn", "model= lrn: no space after the equals sign; write model=lrn"),
        ("model =lrn", "model =lrn: no space before the equals sign; write model=lrn"),
        ("model=lrn, bn", "model=lrn, bn: no space after a comma; write model=lrn,bn"),
        ("ladder/7", "ladder/7: write experiment=ladder/7"),
        ("conf/experiment/tutorial.yaml", "conf/experiment/tutorial.yaml: write experiment=tutorial"),
        ("summary paper", "paper: write model=paper"),
        (
            "summary last",
            "last: is a run, which this command does not take; write python -m alexnet_exp runs show last ",
        ),
        ("train last", "last: is a run, which this command does not take; write python -m alexnet_exp runs show last "),
        (
            "-m experiment=glob(x*) --cfg job",
            "experiment=glob(x*): matches no option; write one of cuda_convnet_11pct, ",
        ),
        ("-m model=glob(x*) seed=1", "model=glob(x*): matches no option; write one of bn, code, "),
        ("-m seed=range(3,3)", "seed=range(3,3): the range is empty; write range(low,end,step)"),
        ("seed=1 model=bn eval last", "eval: the command must come first: python -m alexnet_exp eval last"),
        ("--resume last", "--resume last: write python -m alexnet_exp resume RUN"),
        ("check --lr 0.1", "--lr 0.1: settings are written without dashes; write optim.lr=0.1"),
        ("resume", "resume: the following arguments are required: PATH; python -m alexnet_exp resume --help lists "),
        ("--config-dir . eval last", "last: outputs/latest points to no run; train one first, or name a run folder"),
        ("eval last --config-dir .", "last: outputs/latest points to no run; train one first, or name a run folder"),
        ("~logger", "logger=null: must not be null; write logger=[]"),
        ("note=a,b", "note=a,b: several values are a sweep; add -m: python -m alexnet_exp -m note=a,b; for one "),
        ("seed=1 -m optim.lr=0.1,abc", "optim.lr=abc: must be a number"),
    ],
)
def test_other_slips_get_a_line(line: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(line)) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(answer) if answer.endswith(" ") else told == answer


def test_a_sweep_without_values_leaves_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "seed=range(3,3)", "name=empty"]) == 2
    assert not Path("outputs/empty").exists()


def test_no_arguments_are_valid() -> None:
    """`python -m alexnet_exp` and `python -m alexnet_exp check`, the first commands of README and CI."""
    arguments.refuse_settings_as_flags([], ["--help"])
    arguments.refuse_spaces([])
    assert arguments.config_dir_of([]) is None
    assert arguments.command_of([], ["check"]) == ("train", [])


@pytest.mark.parametrize("line", ["train --help", "seed=1 --help", "--allow mine --config-dir mine --help", "help"])
def test_help_is_accepted_anywhere(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/thin.yaml").write_text("width: 0.1\n")
    assert main(line.split()) == 0
    printed = capsys.readouterr().out
    assert "Commands (python -m alexnet_exp COMMAND ...)" in printed
    assert ("thin" in printed) == ("mine" in line)
