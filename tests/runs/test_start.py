"""A command that may not have a run's folder writes nothing there; what is resumed is the run that was begun."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from alexnet_exp.__main__ import main
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.lock import LOCK_FILE
from alexnet_exp.runs.reader import read_config, read_result
from tests.conftest import TINY, Run, tree

FOLDER = (
    "data=folder",
    "data.size=32",
    "data.subset=null",
    "data.batch_size=8",
    "data.val=none",
    "objective=train/loss",
)


def photographs(root: Path, brightness: int) -> Path:
    for split, number in (("train", 8), ("test", 2)):
        for kind in ("cat", "dog"):
            (root / split / kind).mkdir(parents=True)
            for index in range(number):
                pixels = np.full((36, 36, 3), brightness + index + (kind == "cat"), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / kind / f"{index}.png")
    return root


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Path:
    """A run that is done, which a test may change."""
    return shutil.copytree(finished.path, tmp_path / "run")


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refused("resume", RUN)`: the one line of a command that is refused."""

    def line(*arguments: str) -> str:
        capfd.readouterr()
        assert main(list(arguments)) == 2
        out, err = capfd.readouterr()
        assert out == ""
        return err.splitlines()[-1]

    return line


def edit(run: Path, **settings: Any) -> None:
    file = run / ".hydra" / "config.yaml"
    file.write_text(yaml.safe_dump(read_config(run) | settings))


def test_a_second_command_on_a_locked_folder_changes_nothing(tmp_path: Path, refused: Callable[..., str]) -> None:
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text("seed: 1\n")
    with RunFolder(run).lock():  # begun, and not yet in result.json
        before = tree(run)
        assert (
            refused(*TINY, "seed=99", f"hydra.run.dir={run}") == f"{run} is in use by {(run / LOCK_FILE).read_text()}"
        )
        assert tree(run) == before


def test_a_run_that_ended_meanwhile_is_rejected(
    run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second command looked before there was a run, and got the lock when that was done."""
    monkeypatch.setattr("alexnet_exp.cli.train.has_run", lambda folder: False)
    before = tree(run)
    assert "the folder already contains a run" in refused(*TINY, "seed=99", "optim.lr=0.5", f"hydra.run.dir={run}")
    assert tree(run) == before


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seed": 99}, "seed is 99 in config.yaml and 1 in result.json"),
        ({"objective": "val/loss"}, "objective is val/loss"),
    ],
)
@pytest.mark.parametrize("command", [("resume", "trainer.max_epochs=5"), ("eval",)])
def test_a_configuration_of_another_run_is_rejected(
    settings: dict[str, Any], told: str, command: tuple[str, ...], run: Path, refused: Callable[..., str]
) -> None:
    edit(run, **settings)
    before = tree(run)
    line = refused(command[0], str(run), *command[1:])
    assert line.startswith(f"{run}: .hydra/config.yaml does not match result.json: {told}")
    assert tree(run) == before


def test_a_checkpoint_of_another_network_is_rejected(run: Path, refused: Callable[..., str]) -> None:
    """Also where result.json is gone, or says the same."""
    edit(run, model=read_config(run)["model"] | {"width": 0.1})
    (run / "result.json").unlink()
    before = tree(run)
    line = refused("resume", str(run), "trainer.max_epochs=5")
    assert "a checkpoint of another network" in line
    assert tree(run) == before


def test_settings_that_may_change_on_resume_are_accepted(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As where a run was killed after its new settings were written, and before its result was."""
    edit(run, note="another", trainer=read_config(run)["trainer"] | {"max_epochs": 3})
    assert main(["resume", str(run), "trainer.max_epochs=4"]) == 0
    assert (read_result(run)["epochs"], read_result(run)["note"]) == (4, "another")


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_rejected_resume_leaves_the_folder_unchanged(
    devices: int, tmp_path: Path, train_run: Callable[..., Run], refused: Callable[..., str]
) -> None:
    own, other = photographs(tmp_path / "own", 10), photographs(tmp_path / "other", 90)
    run = train_run("photographs", *FOLDER, f"data.root={own}")
    assert run.code == 0
    before = tree(run.path)
    ranks = [] if devices == 1 else ["trainer.accelerator=cpu", "trainer.gpus=null", f"trainer.devices={devices}"]
    told = refused("resume", str(run.path), "trainer.max_epochs=4", f"data.root={other}", "note=later", *ranks)
    assert "the data has changed since the run started" in told
    assert tree(run.path) == before
    told = refused("resume", str(run.path), "trainer.max_epochs=4", f"data.root={tmp_path / 'nowhere'}", *ranks)
    assert "nowhere" in told
    assert tree(run.path) == before
    assert main(["resume", str(run.path), "trainer.max_epochs=3", "note=later", *ranks]) == 0
    assert (read_config(run.path)["note"], read_result(run.path)["note"]) == ("later", "later")
    assert read_config(run.path)["data"]["root"] == str(own)


def test_of_two_simultaneous_resumes_the_loser_writes_no_settings(
    run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "alexnet_exp.training.continue_run.locked", lambda folder: nullcontext()
    )  # it looked a moment before
    with RunFolder(run).lock():
        before = tree(run)
        assert f"in use by process {os.getpid()}" in refused("resume", str(run), "trainer.max_epochs=31", "note=second")
        assert tree(run) == before


def test_changes_of_another_command_are_not_overwritten(
    run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet_exp.config import composition

    def ended_meanwhile(container: Any) -> Any:
        result = read_result(run) | {"note": "first"}
        (run / "result.json").write_text(json.dumps(result))
        return original(container)

    original = composition.validate_stored_run
    monkeypatch.setattr(composition, "validate_stored_run", ended_meanwhile)
    told = refused("resume", str(run), "trainer.max_epochs=31", "note=second")
    assert told == f"{run}: another command changed the run while this one started; run the command again"
    assert read_config(run)["note"] == ""


def test_a_run_started_by_hydra_has_hydras_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = photographs(tmp_path / "photos", 10)
    words = [*TINY, *FOLDER, f"data.root={images.name}", "trainer.max_epochs=1", "hydra.job.chdir=true"]
    assert main([*words, "hydra.run.dir=new"]) == 0, "a path is one of the command's folder with chdir too"
    run = tmp_path / "new"
    assert read_config(run)["data"]["root"] == "photos"
    assert yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text()) == words[:-1]
    assert read_result(run)["choices"]["data"] == "folder"
    assert (read_result(run)["overrides"], read_result(run)["cwd"]) == (words[:-1], str(tmp_path))


def test_a_run_finds_its_data_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images = photographs(tmp_path / "photos", 10)
    assert main([*TINY, *FOLDER, "data.root=photos", "trainer.max_epochs=1", "hydra.run.dir=new"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    photographs(tmp_path / "elsewhere" / "photos", 90)  # the same name, and not the run's
    capfd.readouterr()
    assert main(["eval", "../new"]) == 0
    same = json.loads(capfd.readouterr().out)["metrics"]["test/loss"]
    assert same == read_result(tmp_path / "new")["metrics"]["test/loss"]
    assert main(["resume", "../new", "trainer.max_epochs=2"]) == 0
    shutil.rmtree(images)
    shutil.rmtree(tmp_path / "elsewhere" / "photos")
    assert f"data.root={images}" in refused("eval", "../new"), "it says where it looked"


@pytest.mark.parametrize("place", ["/dev/null/run", "/proc/run"])
def test_a_folder_that_cannot_be_created_is_rejected_in_one_line(place: str, refused: Callable[..., str]) -> None:
    told = refused(*TINY, f"hydra.run.dir={place}")
    assert told.startswith("hydra.run.dir: ")
    assert told.endswith("; name a folder that can be written")


@pytest.mark.parametrize(
    "name",
    [
        "latest",
        "last",
        ".hydra",
        ".x",
        "-x",
        "~",
        "mlflow.db",
        "mlflow.db-wal",
        "sweep.json",
        "a.lock",
        "'a '",
        "a\x1bb",
    ],
)
def test_reserved_names_are_rejected(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refused(*TINY, f"name='{name}'" if "'" not in name else f"name={name}")
    assert told.startswith("name=")
    assert told.endswith("; write another name")
    assert list(tmp_path.iterdir()) == []


def test_reserved_names_of_sweeps_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused("-m", "seed=1,2", *TINY, "name=latest").endswith("; write another name")
    assert list(tmp_path.iterdir()) == []


def test_an_old_run_with_a_reserved_name_is_read(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    edit(run, name="-x")
    result = read_result(run)
    (run / "result.json").write_text(json.dumps(result | {"config": result["config"] | {"name": "-x"}}))
    assert main(["eval", str(run)]) == 0
    assert main(["resume", str(run), "trainer.max_epochs=3"]) == 0


def test_a_failed_run_in_a_folder_does_not_prevent_its_evaluation(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "b", "failed"):
        shutil.copytree(run, runs / name)
    shutil.rmtree(runs / "failed" / "checkpoints")
    (runs / "failed" / "result.json").write_text(json.dumps(read_result(run) | {"status": "failed"}))
    assert main(["eval", str(runs)]) == 0
    out, err = capfd.readouterr()
    assert len(json.loads(out)["runs"]) == 2
    assert f"skipped: {runs / 'failed'}: has no checkpoint best or last" in err
    assert "has no checkpoint" in refused("eval", str(runs / "failed")), "it was named"


@pytest.mark.parametrize("place", ["outputs", "outputs/train", "outputs/train/run", "outputs/train/run/checkpoints"])
def test_commands_inside_of_outputs_find_its_runs(
    place: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "outputs" / "train" / "run")
    (tmp_path / "outputs" / "latest").symlink_to("train/run")
    monkeypatch.chdir(tmp_path / place)
    for command in (
        ["runs"],
        ["runs", "show", "last"],
        ["eval", "last"],
        ["plot", "last", "--only", "curves"],
    ):
        capfd.readouterr()
        assert main(command) == 0, command
        assert capfd.readouterr().out


@pytest.mark.parametrize("name", ["steps.csv", "metrics.csv"])
def test_a_number_of_thousands_of_digits_in_a_table(name: str, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (run / name).open("a") as file:
        file.write("9" * 6000 + "," * (run / name).read_text().split("\n")[0].count(",") + "\n")
    assert main(["resume", str(run), "trainer.max_epochs=3"]) == 0, "the row is behind the checkpoint"
    assert "9" * 6000 not in (run / name).read_text()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b", b"x" * 5000])
def test_latest_with_invalid_bytes_is_rejected(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "latest").write_bytes(content)
    assert "outputs/latest points to no run" in refused("eval", "last")


def test_latest_that_points_to_itself_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "latest").symlink_to("latest")
    assert "outputs/latest points to no run" in refused("eval", "last")


def test_a_working_directory_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    told = refused(*TINY)
    assert told == "the working directory cannot be used (No such file or directory); cd to one that exists"
