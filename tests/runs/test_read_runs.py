"""Every run under some folders, from result.json alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_exp import runs
from alexnet_exp.errors import UserError
from alexnet_exp.runs.folder import RunFolder


def write(path, status="done", config=None, **facts):
    path.mkdir(parents=True, exist_ok=True)
    result = {"format": 1, "status": status, "config": config or {"seed": 1}, "metrics": {"val/top1": 0.5}} | facts
    (path / "result.json").write_text(json.dumps(result))
    return path


def test_runs_at_any_depth_in_the_order_of_their_paths(tmp_path):
    for name in ("b/2", "a/sweep/x-1", "b/1"):
        write(tmp_path / name)
    found = runs.read(tmp_path)
    assert [run.name for run in found] == ["a/sweep/x-1", "b/1", "b/2"]
    assert [run.path for run in found] == [tmp_path / run.name for run in found]
    assert found.skipped == []
    assert len(found) == 3


def test_the_fields_of_a_run(tmp_path):
    config = {"seed": 3, "optim.lr": 0.1, "flag": True}
    metrics = {"val/top1": 0.5, "val/loss": None, "note": "text", "flag": True}
    write(tmp_path / "r", config=config, metrics=metrics, choices={"model": "lrn"}, images_per_s=10.5)
    (run,) = runs.read(tmp_path)
    assert (run.config, run.metrics, run.choices, run.seed) == (config, {"val/top1": 0.5}, {"model": "lrn"}, 3)
    assert run.facts == {"images_per_s": 10.5}


def test_equal_values_are_shared_between_runs_and_true_is_not_one(tmp_path):
    values = [1, True, 1.0, "1", [1, 2], None]
    for number, value in enumerate(values):
        write(tmp_path / str(number), config={"seed": 1, "key": value})
    found = [run.config["key"] for run in runs.read(tmp_path)]
    assert [(type(value), value) for value in found] == [(type(value), value) for value in values]


def test_damaged_folders_are_named_and_skipped(tmp_path):
    write(tmp_path / "good")
    for name, content in {
        "cut": '{"format": 1, "sta',
        "empty": "",
        "list": "[]",
        "future": '{"format": 2, "status": "done"}',
        "odd": '{"format": 1, "status": "done", "config": [1]}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(content)
    found = runs.read(tmp_path)
    assert [run.name for run in found] == ["good"]
    assert sorted(line.split("/result.json")[0].rpartition("/")[2] for line in found.skipped) == [
        *("cut", "empty", "future", "list", "odd")
    ]
    assert not any("\n" in line for line in found.skipped)


def test_a_run_counts_once_however_it_is_reached(tmp_path):
    outputs = tmp_path / "outputs"
    run = write(outputs / "train" / "1")
    RunFolder(run).link_latest(outputs)
    (tmp_path / "linked").symlink_to(outputs)
    assert len(runs.read(outputs)) == 1
    assert len(runs.read(outputs, outputs / "train", run, outputs / "latest", tmp_path / "linked")) == 1


def test_a_loop_of_links_ends(tmp_path):
    write(tmp_path / "a" / "run")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert [run.name for run in runs.read(tmp_path)] == ["a/run"]


def test_several_paths_keep_names_apart(tmp_path):
    write(tmp_path / "one" / "run")
    write(tmp_path / "two" / "run")
    names = [run.name for run in runs.read(tmp_path / "one", tmp_path / "two")]
    assert len(set(names)) == 2
    assert all(name.endswith("/run") for name in names)


def test_running_is_checked_against_the_lock(tmp_path):
    folder = RunFolder(tmp_path / "live")
    folder.begin({"seed": 1}, {})
    RunFolder(tmp_path / "killed").begin({"seed": 1}, {})
    with folder.lock():
        # a process's own lock does not keep it out: another one looks
        code = "import sys; from alexnet_exp import runs; print([run.status for run in runs.read(sys.argv[1])])"
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['died', 'running']"


def test_earlier_attempts_of_a_job_are_no_runs(tmp_path):
    write(tmp_path / "job" / "earlier" / "1", status="failed")
    write(tmp_path / "job")
    (tmp_path / "again" / ".hydra").mkdir(parents=True)
    write(tmp_path / "again" / "earlier" / "1", status="failed")
    found = runs.read(tmp_path)
    assert [run.name for run in found] == ["job"]
    assert found.unstarted == 1


def test_hydra_in_the_folder_of_all_runs_hides_none(tmp_path):
    (tmp_path / ".hydra").mkdir()
    write(tmp_path / "a")
    write(tmp_path / "b" / ".." / "c")
    found = runs.read(tmp_path)
    assert [run.name for run in found] == ["a", "c"]
    assert found.unstarted == 0


def test_a_missing_path_is_rejected(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        runs.read(tmp_path / "nothing")


def test_a_folder_that_may_not_be_read_is_skipped(tmp_path, monkeypatch):
    write(tmp_path / "good")
    (tmp_path / "closed").mkdir()
    scandir, stat = os.scandir, Path.stat

    def refused(path):
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", lambda path: refused(path) or scandir(path))
    # what the system says of a file in such a folder, to all but root
    monkeypatch.setattr(Path, "stat", lambda path, **how: refused(path.parent) or stat(path, **how))
    found = runs.read(tmp_path)
    assert len(found) == 1
    assert "closed" in found.skipped[0]


def test_the_table_needs_nothing_but_result_json(tmp_path):
    write(tmp_path / "r")
    (tmp_path / "r" / "metrics.csv").write_bytes(b"\xff not read")
    (tmp_path / "r" / ".hydra").mkdir()
    (tmp_path / "r" / ".hydra" / "config.yaml").write_text("a: [")
    assert len(runs.read(tmp_path)) == 1


def test_reading_imports_neither_torch_nor_hydra_nor_scipy(tmp_path):
    write(tmp_path / "r")
    code = (
        "import sys; from alexnet_exp import runs; runs.read(sys.argv[1]); "
        "sys.exit(bool({'torch', 'pytorch_lightning', 'hydra', 'omegaconf', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 0
