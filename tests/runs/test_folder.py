"""The run folder as a contract: what is written, and what a reader sees at any moment."""

import csv
import errno
import json
import logging
import math
import os
import resource
import shutil
import threading
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_exp.runs.disk_errors import UnwritableError, is_lost
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.reader import read_metrics, read_result, read_steps
from alexnet_exp.runs.result import record
from alexnet_exp.runs.status import Ending

# the contract, as other tools know it
HEADER = "epoch,step,lr,train/loss,train/top1,val/loss,val/top1,val/top5,seconds,images_per_s"


def row(epoch, **more):
    return {"epoch": epoch, "step": 10 * epoch, "lr": 0.1, "train/loss": 1 / 3, "seconds": 1.5, **more}


def test_result_json_from_start_to_end(tmp_path):
    folder = RunFolder(tmp_path / "bn" / "2026-11-24_10-00-00-000000")
    folder.begin({"seed": 1, "optim": {"lr": 0.1, "betas": [0.9, 0.99]}, "tags": {}}, {"device": "cpu"})
    running = json.loads(folder.result.read_text())
    assert (running["format"], running["status"], running["device"]) == (1, "running", "cpu")
    assert running["config"] == {"seed": 1, "optim.lr": 0.1, "optim.betas": [0.9, 0.99], "tags": {}}
    assert running["pid"] == os.getpid()
    assert datetime.fromisoformat(running["start"]).tzinfo is not None

    folder.update(parameters=7)
    folder.finish("done", metrics={"test/top1": 0.1 + 0.2})
    done = read_result(folder.path)
    assert (done["status"], done["parameters"], done["metrics"]) == ("done", 7, {"test/top1": 0.1 + 0.2})
    assert done["start"] == running["start"] <= done["end"]


def test_resuming_keeps_the_start_and_removes_the_end(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin({}, {})
    start = read_result(tmp_path)["start"]
    folder.finish("failed", error="out of memory")
    RunFolder(tmp_path).begin({}, {})
    again = read_result(tmp_path)
    assert again["start"] == start
    assert again["status"] == "running"
    assert not {"error", "end"} & set(again)


def test_finish_accepts_only_final_statuses(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin({}, {})
    with pytest.raises(AssertionError):
        folder.finish("finished")


def test_values_that_json_lacks_become_null(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin({}, {"metrics": {"a": math.nan, "b": [math.inf, 1.0]}, "file": Path("x/y"), "pair": (1, 2)})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    result = json.loads(folder.result.read_text(), parse_constant=refuse)
    assert result["metrics"] == {"a": None, "b": [None, 1.0]}
    assert (result["file"], result["pair"]) == ("x/y", [1, 2])


def test_a_failed_write_leaves_the_result_unchanged(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin({}, {})
    before = folder.result.read_bytes()
    with pytest.raises(TypeError):
        folder.update(broken=object())
    assert folder.result.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_second_reader_never_sees_broken_json(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin({}, {"filler": "x" * 50_000})
    stop, seen, broken = threading.Event(), set(), []

    def read():
        while not stop.is_set():
            try:
                seen.add(json.loads(folder.result.read_text())["count"])
            except KeyError:
                pass
            except (OSError, ValueError) as error:
                broken.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for count in range(150):
        folder.update(count=count)
    stop.set()
    reader.join()
    assert not broken
    assert len(seen) > 1


def test_metrics_have_the_standard_columns_then_the_users(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics(row(1, **{"val/f1": 0.5}))
    folder.append_metrics(row(2))
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == f"{HEADER},val/f1"
    assert lines[1] == "1,10,0.1,0.3333333333333333,,,,,1.5,,0.5"
    assert [r["val/f1"] for r in read_metrics(tmp_path)] == [0.5, None]


def test_a_late_metric_is_saved_without_rewriting_the_table(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics(row(1))
    first = (tmp_path / "metrics.csv").read_bytes()
    folder.append_metrics(row(2, **{"val/f1": 0.5}))
    folder = RunFolder(tmp_path)
    folder.append_metrics(row(2, **{"val/f1": 0.5}))
    folder.append_metrics(row(3, **{"val/f1": 0.6, "val/auc": 0.7}))
    assert (tmp_path / "metrics.csv").read_bytes().startswith(first)
    rows = read_metrics(tmp_path)
    assert [r["epoch"] for r in rows] == [1, 2, 3]
    assert [r.get("val/f1") for r in rows] == [None, 0.5, 0.6]
    assert [r.get("val/auc") for r in rows] == [None, None, 0.7]
    # every file stays a plain table
    for file in tmp_path.glob("metrics*.csv"):
        assert len({len(line) for line in csv.reader(file.open())}) == 1


def test_an_epoch_is_written_once(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch in (1, 2, 2):
        folder.append_metrics(row(epoch))
    again = RunFolder(tmp_path)
    for epoch in (1, 2, 3):
        again.append_metrics(row(epoch, lr=9.0))
    assert [(r["epoch"], r["lr"]) for r in read_metrics(tmp_path)] == [(1, 0.1), (2, 0.1), (3, 9.0)]


@given(st.floats())
def test_floats_are_read_back_to_the_same_bits(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("run")
    folder = RunFolder(path)
    folder.append_metrics(row(1, lr=value))
    folder.append_steps([(1, value, value)])
    for back in (read_metrics(path)[0]["lr"], read_steps(path)[0][1]):
        assert back == value or (math.isnan(back) and math.isnan(value))


def test_tables_truncated_at_any_byte_are_repaired(tmp_path):
    whole = RunFolder(tmp_path / "whole")
    for epoch in (1, 2, 3):
        whole.append_metrics(row(epoch))
    content = (whole.path / "metrics.csv").read_bytes()
    for cut in range(len(content)):
        path = tmp_path / str(cut)
        folder = RunFolder(path)
        (path / "metrics.csv").write_bytes(content[:cut])
        complete = max(0, content[:cut].count(b"\n") - 1)
        assert len(read_metrics(path)) == complete, "a reader beside the writer leaves the half line out"
        for epoch in (1, 2, 3):
            folder.append_metrics(row(epoch))
        assert (path / "metrics.csv").read_bytes() == content


def test_steps_are_added_in_bulk_and_once(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_steps([(1, 2.5, 0.1), (2, 2.25, 0.1)])
    folder.append_steps([])
    RunFolder(tmp_path).append_steps([(2, 0.0, 0.0), (3, 2.0, 0.05)])
    assert (tmp_path / "steps.csv").read_text() == "step,loss,lr\n1,2.5,0.1\n2,2.25,0.1\n3,2.0,0.05\n"
    assert read_steps(tmp_path) == [(1, 2.5, 0.1), (2, 2.25, 0.1), (3, 2.0, 0.05)]


def test_the_files_of_a_run_folder(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.predictions("test") == tmp_path / "predictions" / "test.npz"
    assert folder.checkpoints == tmp_path / "checkpoints"
    assert folder.log == tmp_path / "train.log"
    assert folder.predictions("test").parent.is_dir()
    assert folder.checkpoints.is_dir()
    folder.write_patch("")
    assert not (tmp_path / "code.patch").exists()
    folder.write_patch("latin-1: \udce9\n")
    assert (tmp_path / "code.patch").read_bytes() == b"latin-1: \xe9\n"


def test_latest_points_to_the_newest_run_and_survives_a_move_of_outputs(tmp_path):
    outputs = tmp_path / "outputs"
    for name in ("a", "b"):
        RunFolder(outputs / "bn" / name).link_latest(outputs)
    assert (outputs / "latest").readlink() == Path("bn/b")
    outputs.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "latest").resolve() == (tmp_path / "moved" / "bn" / "b").resolve()
    assert [path.name for path in (tmp_path / "moved").iterdir() if path.name.startswith(".")] == []


@contextmanager
def full_disk():
    """Inside, the disk takes nothing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)  # beyond it Python gets EFBIG, as it ignores the signal
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def begun(path):
    folder = RunFolder(path)
    folder.begin({"seed": 1}, {"device": "cpu"})
    folder.append_metrics(row(1))
    folder.append_steps([(1, 2.5, 0.1)])
    return folder


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_pending_writes_succeed_once_the_disk_has_space(tmp_path, caplog):
    folder = begun(tmp_path / "run")
    with full_disk():
        folder.append_steps([(2, 2.25, 0.1)])
        folder.append_metrics(row(2))
        folder.append_metrics(row(3, **{"val/f1": 0.5}))  # opens a further table
        folder.update(epochs=3)
        folder.update(metrics={"val/top1": 0.5})
        folder.save("predictions/test.npz", lambda: folder.predictions("test").write_bytes(b"labels"))
        assert [r["epoch"] for r in read_metrics(folder.path)] == [1]
        assert read_result(folder.path)["status"] == "running"
    folder.append_steps([(3, 2.0, 0.1)])
    assert [(r["epoch"], r.get("val/f1")) for r in read_metrics(folder.path)] == [(1, None), (2, None), (3, 0.5)]
    assert [step for step, *_ in read_steps(folder.path)] == [1, 2, 3]
    assert (read_result(folder.path)["epochs"], read_result(folder.path)["metrics"]) == (3, {"val/top1": 0.5})
    assert (folder.path / "predictions" / "test.npz").read_bytes() == b"labels"
    assert warnings(caplog) == [
        "steps.csv cannot be written (File too large); kept in memory until writes succeed; training continues",
        "writes succeed again; backlog flushed",
    ]
    with full_disk():
        folder.append_metrics(row(4))
        assert len(warnings(caplog)) == 3, "it is said anew"


def test_files_that_cannot_be_written_at_the_end_are_named(tmp_path):
    folder = begun(tmp_path / "run")
    assert folder.write_waiting() is None
    (tmp_path / "run" / "metrics.csv").rename(tmp_path / "kept")
    (tmp_path / "run" / "metrics.csv").symlink_to("/dev/full")
    folder.append_metrics(row(2))
    folder.append_steps([(2, 2.25, 0.1)])
    assert folder.write_waiting() == "metrics.csv cannot be written (No space left on device)"
    folder.finish("failed")  # the rest has room
    assert read_result(folder.path)["status"] == "failed"
    message = r"run: .*cannot be written \(result.json: File too large\)"
    with full_disk(), pytest.raises(UnwritableError, match=message):
        folder.finish("failed")


def test_a_run_does_not_start_on_a_full_disk(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with full_disk():
        with pytest.raises(UnwritableError, match=r"run: .*cannot be written \(result.json: File too large\)"):
            folder.begin({}, {})
        with pytest.raises(UnwritableError, match=r"run: .*cannot be written \(code.patch: File too large\)"):
            folder.write_patch("+1\n")
    assert list(folder.path.iterdir()) == []


def test_a_run_that_is_done_but_not_written_has_failed(tmp_path, caplog):
    folder = begun(tmp_path / "run")
    (folder.path / "metrics.csv").unlink()
    (folder.path / "metrics.csv").symlink_to("/dev/full")
    folder.append_metrics(row(2))
    ending = record(folder, {}, Ending("done", 0), {"epochs": 2})
    reason = f"{folder.path}: metrics.csv cannot be written (No space left on device)"
    assert ending == Ending("failed", 1, reason, recorded=True)
    result = read_result(folder.path)
    assert (result["status"], result["error"], result["epochs"]) == ("failed", reason, 2)
    assert warnings(caplog)[-1] == f"failed: {reason}"

    with full_disk():
        ending = record(folder, {}, Ending("done", 0), {"epochs": 2})
        assert (ending.status, ending.code) == ("failed", 1)


def test_the_end_of_a_run_without_a_folder_is_not_recorded(tmp_path, caplog):
    folder = begun(tmp_path / "run")
    shutil.rmtree(folder.path)
    ending = record(folder, {"seed": 1}, Ending("done", 0))
    said = f"{folder.path}: the run folder no longer exists (result.json: No such file or directory)"
    assert ending == Ending("failed", 1, said, recorded=True)
    assert warnings(caplog) == [f"failed: {said}"]
    assert list(tmp_path.iterdir()) == []


WRITES = {
    "steps.csv": lambda folder: folder.append_steps([(2, 2.25, 0.1)]),
    "metrics.csv": lambda folder: folder.append_metrics(row(2)),
    "result.json": lambda folder: folder.update(epochs=2),
    "checkpoints": lambda folder: folder.checkpoints,
}


@pytest.mark.parametrize("name", WRITES)
def test_a_missing_folder_ends_the_run_and_is_not_recreated(tmp_path, name):
    folder = begun(tmp_path / "run")
    shutil.rmtree(folder.path)
    with pytest.raises(UnwritableError) as lost:
        WRITES[name](folder)
    assert str(lost.value) == f"{folder.path}: the run folder no longer exists ({name}: No such file or directory)"
    with pytest.raises(UnwritableError, match="no longer exists"):
        folder.begin({}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WRITES)
def test_another_folder_of_the_same_name_is_not_written(tmp_path, name):
    folder = begun(tmp_path / "run")
    folder.path.rename(tmp_path / "moved")
    folder.path.mkdir()
    with pytest.raises(UnwritableError, match=r"no longer exists .*: another folder has its name"):
        WRITES[name](folder)
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_that_has_become_read_only_ends_the_run(tmp_path, monkeypatch, number):
    folder = begun(tmp_path / "run")

    def refuse(path, *arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnwritableError) as lost:
        folder.append_metrics(row(2))
    said = f"{folder.path}: the run folder cannot be written (metrics.csv: {os.strerror(number)})"
    assert str(lost.value) == said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ETIMEDOUT])
def test_temporary_disk_errors_are_retried(number):
    assert not is_lost(OSError(number, os.strerror(number)))


def test_temporary_files_of_killed_processes_are_removed_on_resume(tmp_path):
    folder = begun(tmp_path / "run")
    left = [folder.path / ".result.json.7.tmp", folder.checkpoints / ".last.ckpt.7.tmp"]
    for file in left:
        file.write_bytes(b"half")
    RunFolder(folder.path).begin({}, {})
    assert not [file for file in left if file.exists()]


def test_a_failed_update_of_latest_is_logged(tmp_path, caplog):
    (tmp_path / "latest").mkdir()
    begun(tmp_path / "run").link_latest(tmp_path)
    assert warnings(caplog) == [f"{tmp_path / 'latest'} was not updated: Is a directory"]
