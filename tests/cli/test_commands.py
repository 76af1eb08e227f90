"""The command line from outside: what bad input gets, what is shown without running, what the shell completes."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from alexnet_exp.__main__ import main
from alexnet_exp.runs import checksum
from tests.conftest import train_into

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
SCRIPT = Path(sys.executable).with_name("alexnet_exp")

# Typed where the fixture `things` is, and the line that comes back (its beginning, where it ends in a space).
BAD = [
    (
        "model=lnr",
        "model=lnr: did you mean lrn? one of bn, code, cuda_convnet_11pct, cuda_convnet_13pct, cuda_convnet_18pct, "
        "cuda_convnet_26pct, fast, fast_90, lenet5, lrn, none, paper, paper_cifar10, paper_cifar10_one_column, "
        "paper_one_column, torchvision, tutorial",
    ),
    ("modle=lrn", "modle=lrn: unknown setting; did you mean model?"),
    ("trainer.max_epoch=3", "trainer.max_epoch=3: unknown setting; did you mean trainer.max_epochs?"),
    ("+trainer.lrr=1", "trainer.lrr=1: unknown setting; did you mean optim.lr?"),
    ("trainer.max_epochs=3.5", "trainer.max_epochs=3.5: must be a whole number, or null"),
    ("optim.lr=abc", "optim.lr=abc: must be a number"),
    ("optim.lr=-1", "optim.lr=-1.0: must be greater than 0"),
    ("model.width=0", "model.width=0.0: must be greater than 0"),
    (
        "data=folder",
        "data.root=null: must be a folder of images arranged as train/CLASS/* or CLASS/*; write data.root=FOLDER",
    ),
    ("data=folder data.root=nowhere", "data.root=nowhere: no such folder; write the path of an existing folder"),
    (
        "data=folder data.root=empty",
        "data.root=empty: no images in class folders; arrange them as train/CLASS/* or CLASS/*",
    ),
    ("data=folder data.root=one", "data.root=one: only one class, a, in one; at least two are needed"),
    ("data=folder data.root=text", "text/a/0.png: unreadable image; replace or remove it"),
    (
        "model=paper model.num_classes=10 model.input_size=32",
        "model.input_size=32: no pixels are left after conv5; the smallest usable size is 64",
    ),
    ("model.input_size=3", "model.input_size=3: no pixels are left after conv2; the smallest usable size is 15"),
    ("model.num_classes=1000", "model.num_classes=1000: the data has 10 classes; write model.num_classes=10, or null"),
    (
        "trainer.gpus=1 trainer.devices=1",
        "trainer.gpus=1: set either trainer.gpus, or trainer.accelerator and trainer.devices, not both",
    ),
    ("-m optim.lr=0.1,abc", "optim.lr=abc: must be a number"),
    ("-m model=bn,lnr seed=1,2", "model=lnr: did you mean lrn? one of bn, "),
    (
        "model.weights=nowhere.pth",
        "model.weights=nowhere.pth: no such file; and nowhere.pth: no such run or folder; outputs contains no runs",
    ),
    ("tarin seed=1", "tarin: no such command; did you mean train? one of train, check, "),
    ("optim.lr", "optim.lr: needs a value; write optim.lr=VALUE"),
    ("--verbose", "unrecognized arguments: --verbose; python -m alexnet_exp --help lists its arguments"),
    ("--config-dir nowhere", "--config-dir nowhere: no such folder"),
    (
        "--experimental-rerun config.pickle",
        "--experimental-rerun: would unpickle a file of the run folder, which could run code; type the overrides",
    ),
    (
        "--config-name mine",
        "--config-name: write an experiment file and use --config-dir FOLDER experiment=NAME",
    ),
    ("model.stages.conv9=null", "model.stages.conv9=null: no such stage; did "),
    ("model.stages.conv9.out=3", "model.stages.conv9.out=3: no such stage; did "),
    (
        "plot schedule trainer.max_epochs=null trainer.max_steps=100",
        "plot schedule: needs the length in epochs; add trainer.max_epochs=10",
    ),
    ("--allow 3x", "--allow: needs the name of a package, such as --allow my_package"),
    ("--cfg job modle=lrn", "modle=lrn: unknown setting; did you mean model?"),
    ("-m seed=1,2 --cfg job", "Only one of "),
    ("check optim.lr=abc", "optim.lr=abc: must be a number"),
    (
        "summary --jsn",
        "summary: unrecognized arguments: --jsn; python -m alexnet_exp summary --help lists its arguments",
    ),
    (
        "plot schedule schedule=plateau",
        "plot schedule: plateau depends on the validation metric, so it cannot be drawn before the run",
    ),
    (
        "predict empty text/a/0.png",
        "empty: the folder contains no runs; outputs contains no runs",
    ),
    ("predict last text/a/0.png", "last: outputs/latest points to no run; train one first, or name a run folder"),
    ("eval nothing", "nothing: no such run or folder; outputs contains no runs"),
    ("export nothing", "nothing: no such run or folder; outputs contains no runs"),
    ("plot nothing", "nothing: no such run or folder; outputs contains no runs"),
]


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with folders of images that will not do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALEXNET_EXP_ALLOW", "")
    monkeypatch.delenv("ALEXNET_EXP_TRACEBACK", raising=False)
    Path("empty").mkdir()
    for name in ("one/a", "text/a", "text/b"):
        Path(name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(f"{name}/1.png")
    Path("text/a/0.png").write_text("no image")
    return tmp_path


Typed = Callable[[str], tuple[int, list[str]]]


@pytest.fixture
def typed(things: Path, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs a command line in this process; gives the exit code and the lines on stderr."""

    def run(line: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = main(shlex.split(line))
        printed, complaints = capsys.readouterr()
        assert not printed
        return code, complaints.splitlines()

    return run


@pytest.mark.parametrize(("line", "answer"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_gets_one_line_and_leaves_nothing(line: str, answer: str, typed: Typed) -> None:
    code, lines = typed(line)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith(answer) if answer.endswith(" ") else lines[0] == answer
    assert not Path("outputs").exists()
    assert not Path("multirun").exists()


@NO_GPU
@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("trainer.gpus=2", "trainer.gpus=2: this machine has no CUDA GPU; write trainer.gpus=0 for the CPU"),
        (
            "-m trainer.gpus=2 seed=1,2",
            "trainer.gpus=2: this machine has no CUDA GPU; write trainer.gpus=0 for the CPU",
        ),
        (
            "trainer.accelerator=cuda",
            "trainer.accelerator=cuda: this machine has none; write trainer.gpus=0 for the CPU",
        ),
    ],
)
def test_missing_devices_are_rejected_before_a_folder_is_created(line: str, answer: str, typed: Typed) -> None:
    assert typed(line) == (2, [answer])
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    "line", ["logger=wandb", "'logger=[csv,wandb]'", "-m logger=wandb seed=1,2", "check logger=wandb"]
)
def test_a_missing_package_of_a_logger_is_found_before_anything_is_created(
    line: str, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else original(name, *rest)
    )
    assert typed(line) == (2, ["logger=wandb: the package wandb is not installed; pip install -e '.[wandb]'"])
    assert not Path("outputs").exists()


def test_each_problem_has_a_line(typed: Typed) -> None:
    code, lines = typed("optim.lr=abc modle=lrn trainer.max_epoch=3 model.width=0 data=digitz")
    assert code == 2
    assert sorted(line.partition(":")[0] for line in lines) == [
        *("data=digitz", "model.width=0.0", "modle=lrn", "optim.lr=abc", "trainer.max_epoch=3"),
    ]


@pytest.mark.parametrize("line", ["optim.lr=abc modle=lrn", "predict empty text/a/0.png"])
@pytest.mark.parametrize("command", [[sys.executable, "-m", "alexnet_exp"], [str(SCRIPT)]], ids=["module", "script"])
def test_a_real_process_prints_the_same(command: list[str], line: str, things: Path) -> None:
    if not Path(command[0]).exists():
        pytest.skip("the console script is not installed")
    ran = subprocess.run([*command, *line.split()], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == (2 if "modle" in line else 1)
    assert "Traceback" not in ran.stderr
    assert not Path("outputs").exists()


def test_the_traceback_is_printed_on_request(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_EXP_TRACEBACK", "1")
    code, lines = typed("optim.lr=abc")
    assert code == 2
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "optim.lr=abc: must be a number"


# --- checkpoints that are not what they should be


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one batch."""
    from alexnet_exp.config.compose import compose_run
    from alexnet_exp.training.train import train

    one_batch = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "data.val=none")
    container = compose_run(["model.width=0.02", "trainer=cpu", *one_batch]).container
    path = tmp_path_factory.mktemp("runs") / "outputs" / "train" / "run"
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "config.yaml").write_text(yaml.safe_dump(container))
    assert train(container, path) == 0
    return path


@pytest.fixture
def run(trained: Path, things: Path) -> Path:
    """A copy of that run in the working folder, and an image."""
    shutil.copytree(trained, "run")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("image.png")
    return Path("run")


class Shell:
    """Pickles to a call of os.system."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


def save(run: Path, content: Any) -> None:
    file = run / "checkpoints" / "last.ckpt"
    torch.save(content, file)
    checksum.write(file)


def test_predict_on_a_whole_run_works(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the tests below break."""
    assert main(["predict", "run", "image.png", "--json"]) == 0
    top = json.loads(capsys.readouterr().out)["top"]
    assert len(top) == 5
    assert sum(each["probability"] for each in top) <= 1 + 1e-6


def test_predict_prints_the_training_data(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "run", "image.png"]) == 0
    told = "run: trained on digits: images 32x32, grey, of 10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n"
    assert capsys.readouterr().err == told


def test_predict_accepts_folders_of_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("photos/b.png", "photos/more/a.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("image.png", name)
    Path("photos/notes.txt").write_text("no image")
    Path("none").mkdir()
    assert main(["predict", "run", "photos", "image.png", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == ["photos/b.png", "photos/more/a.png", "image.png"]
    assert main(["predict", "run", "none"]) == 2
    told = "predict: none: the folder contains no images; give image files or a folder of images\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("line", ["predict run image.png", "eval run", "export run --format safetensors", "plot run"])
def test_a_truncated_checkpoint(line: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "checkpoints" / "last.ckpt"
    file.write_bytes(file.read_bytes()[:-1000])
    assert main(line.split()) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("run/checkpoints/last.ckpt")
    checksum.write(file)  # one that was cut short before its checksum was taken
    assert main(line.split()) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("run/checkpoints/last.ckpt: truncated, or not a weights file")


def test_predict_rejects_a_checkpoint_of_another_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = train_into(tmp_path / "outputs" / "train" / "other", "model=none", "trainer.max_epochs=1")
    capsys.readouterr()
    file = other.path / "checkpoints" / "last.ckpt"
    for line in (["predict", "run", "image.png"], ["export", "run"], ["eval", "run"]):
        assert main([*line, "--ckpt", str(file)]) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith(f"{file}: a checkpoint of another network than that of run: ")
    assert not (run / "export").exists()


def test_a_checkpoint_of_another_variant(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    content["alexnet_exp"]["model"]["norm"] = "none"
    save(run, content)
    for line in (["predict", "run", "image.png"], ["eval", "run"]):
        assert main(line) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith("run/checkpoints/last.ckpt: a checkpoint of another network than that of run: ")
        assert told.endswith("model.norm=none in the checkpoint, bn in the run")


def test_weights_that_do_not_match_their_network(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    del content["state_dict"]["network.conv1.norm.weight"]
    save(run, content)
    assert main(["predict", "run", "image.png"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("run/checkpoints/last.ckpt: its weights do not match its network")


def test_a_malicious_pickle_does_not_run_code(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "checkpoints" / "last.ckpt"
    for write in (lambda: save(run, {"state_dict": Shell()}), lambda: file.write_bytes(pickle.dumps(Shell()))):
        write()
        checksum.write(file)
        for line in (
            "predict run image.png",
            "eval run",
            "model.weights=run/checkpoints/last.ckpt model.width=0.02 trainer.gpus=0",
        ):
            assert main(line.split()) == 2
            told = capsys.readouterr().err.splitlines()[-1]
            assert "run/checkpoints/last.ckpt: " in told
            assert not Path("owned").exists()


def test_invalid_and_missing_image_files_are_rejected(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "run", "text/a/0.png"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told == "text/a/0.png: unreadable image (unknown format); leave it out"
    assert main(["predict", "run", "image.pgn"]) == 2
    assert capsys.readouterr().err == "predict: image.pgn: no such file\n"


# --- what is shown without running


def test_cfg_job_prints_the_configuration_and_runs_nothing(things: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "job", "model=lrn", "optim.lr=0.5"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["model"]["name"], printed["optim"]["lr"], printed["trainer"]["max_epochs"]) == ("lrn", 0.5, 10)
    assert not Path("outputs").exists()


def test_summary_counts_match_the_paper(things: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {
        "model=paper": (60_965_224, 724_406_816),
        "model=paper model.groups=1": (62_378_344, 1_135_256_096),
        "model=torchvision": (61_100_840, 714_188_480),
    }
    for line, counts in expected.items():
        assert main(["summary", *line.split(), "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert (printed["parameters"], printed["multiply_adds"]) == counts


def summary_of(line: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["summary", *line.split()]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("model=paper", "model=paper, input"),
        ("model=bn model.width=0.5", "model=bn, input"),
        ("model=lrn model.stages.conv4=null", "model=lrn, changed, input"),
        ("experiment=ladder/4", "model=tutorial, changed, input"),
        ("experiment=tutorial", "model=tutorial, input"),
    ],
)
def test_summary_marks_a_changed_option(
    line: str, title: str, things: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = summary_of(line, capsys)
    assert lines[0].startswith(title)
    # the 630 million are of the 2012 network, and of no other
    assert any("630 million" in each for each in lines) == (line == "model=paper")


def test_summary_rejects_incompatible_data_like_a_run(things: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two", "three"):
        Path(f"photos/{name}").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(f"photos/{name}/0.png")
    line = "experiment=tutorial data=folder data.root=photos"
    assert main(["summary", *line.split()]) == 2
    refused = "model.num_classes=10: the data has 3 classes; write model.num_classes=3, or null\n"
    assert capsys.readouterr().err == refused
    assert main(["check", *line.split()]) == 2
    assert capsys.readouterr().err == refused
    # a network alone is counted, whatever the default data are, and where its data are not here
    assert summary_of("model=paper", capsys)[0].endswith("1000 classes, width 1")
    assert summary_of("experiment=imagenet_paper", capsys)[0].endswith("1000 classes, width 1")


def test_plot_schedule_draws_before_a_run(things: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "schedule", "schedule=steps", "--out", "steps.png"]) == 0
    assert Image.open("steps.png").size[0] > 300


# --- completion


def completed(line: str) -> list[str]:
    environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    command = [
        sys.executable,
        "-c",
        "import sys; from alexnet_exp.__main__ import main; sys.exit(main())",
        "-sc",
        "query=bash",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return ran.stdout.split()


def test_the_shell_completes_commands_groups_options_and_settings(things: Path) -> None:
    assert {"model=bn", "model=lrn", "model=paper"} <= set(completed("alexnet_exp model="))
    assert completed("alexnet_exp data=ci") == ["data=cifar10", "data=cifar100"]
    assert completed("alexnet_exp optim.l") == ["optim.layers.", "optim.lr="]
    assert completed("alexnet_exp summary model=tu") == ["model=tutorial"]
    first = completed("alexnet_exp ")
    assert {"predict", "summary", "model=", "data=", "trainer."} <= set(first)
    assert not [word for word in first if word.startswith(("schema", "hydra"))]


def test_the_shell_completes_runs_subcommands_and_flags(
    things: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from alexnet_exp.runs.folder import RunFolder

    RunFolder(Path("outputs") / "demo" / "a").begin({}, {})
    offers = {
        "eval ": {"last", "outputs/demo/a"},
        "eval outputs/d": {"outputs/demo/a"},
        "compare outputs/demo/a --ba": {"--baseline"},
        "predict last --": {"--json", "--help", "--ckpt"},
        "plot ": {"schedule", "last", "outputs/demo/a"},
        "plot schedule schedule=st": {"schedule=steps"},
        "sweep ": {"work", "confirm", "last"},
        "runs s": {"show"},
    }
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/small_net.yaml").write_text("width: 8\n")
    Path("mine/experiment").mkdir()
    Path("mine/experiment/first.yaml").write_text("# @package _global_\nname: first\n")
    offers |= {
        "--allow lab ev": {"eval"},
        "--allow lab eval outputs/d": {"outputs/demo/a"},
        "--al": {"--allow"},
        "--allow lab --config-dir mine model=sm": {"model=small_net"},
        "check --allow=lab --config-dir=mine experiment=fi": {"experiment=first"},
    }
    for line, expected in offers.items():
        monkeypatch.setenv("COMP_LINE", f"alexnet_exp {line}")
        assert main(["-sc", "query=bash"]) == 0
        found = set(capsys.readouterr().out.split())
        assert expected <= found, line
        assert not [word for word in found if "=" in word and "=" not in line], line


def test_the_shells_function_completes_the_script(things: Path) -> None:
    if not SCRIPT.exists():
        pytest.skip("the console script is not installed")
    bash = f'eval "$({SCRIPT} -sc install=bash)"; complete -p alexnet_exp'
    ran = subprocess.run(["bash", "-c", bash], capture_output=True, text=True, check=True)
    assert "hydra_bash_completion alexnet_exp" in ran.stdout
