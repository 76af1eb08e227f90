"""Logging of a run: stderr and train.log, one file per rank, handlers of applications, full disks."""

from __future__ import annotations

import logging
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_exp import logs

log = logging.getLogger("alexnet_exp.somewhere")


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    with warnings.catch_warnings():
        yield
    root.handlers[:], level = before[0], before[1]
    root.setLevel(level)


def test_progress_is_logged_to_stderr_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(tmp_path)
    log.info("epoch 1")
    log.debug("details")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "epoch 1\n")
    written = (tmp_path / "train.log").read_text()
    assert "INFO epoch 1" in written
    assert "DEBUG details" in written


def test_debug_messages_are_printed_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALEXNET_EXP_TRACEBACK", "1")
    logs.configure(None)
    log.debug("details")
    assert capsys.readouterr().err == "details\n"


def test_second_run_replaces_the_file_handler_and_keeps_application_handlers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = logging.NullHandler()
    logging.getLogger().addHandler(theirs)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        logs.configure(tmp_path / name)
    log.info("said once")
    assert capsys.readouterr().err == "said once\n"
    assert not (tmp_path / "a" / "train.log").exists()
    assert theirs in logging.getLogger().handlers


def test_other_ranks_log_to_their_own_file_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(tmp_path, rank=1)
    log.error("boom")
    assert capsys.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["train.rank1.log"]


def test_advertisements_of_lightning_are_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(None)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").info("Tip: try our product")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").warning("this matters")
    assert capsys.readouterr().err == "this matters\n"


def test_only_inapplicable_warnings_are_hidden() -> None:
    logs.configure(None)
    with warnings.catch_warnings(record=True) as shown:
        warnings.warn("It is recommended to use `self.log('val/loss', ..., sync_dist=True)` when", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(each.message) for each in shown] == ["something else"]


def test_lines_are_written_once_if_stderr_is_the_log_file(tmp_path: Path) -> None:
    script = (
        "import logging, pathlib; from alexnet_exp import logs; here = pathlib.Path('.'); logs.redirect_output(here);"
        "logs.configure(here); logging.getLogger('alexnet_exp.x').info('once'); print('plain');"
        "logs.append_line(here, 'ERROR', 'note')"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("", "")
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split(" ", 2)[-1] for line in lines] == ["INFO once", "plain", "ERROR note"]


def test_log_on_a_full_disk_counts_missing_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(tmp_path)
    log.info("one")
    file = tmp_path / "train.log"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, before[1]))  # ten characters of a line fit
    try:
        for word in ("two", "three"):
            log.warning(word)
        logs.append_line(tmp_path, "ERROR", "from outside")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.info("four")
    assert capsys.readouterr().err == "one\ntwo\nthree\nfour\n"
    lines = file.read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("INFO one")
    assert len(lines[1]) == 10
    assert lines[2] == "(2 lines are missing: they could not be written to the disk)"
    assert lines[3].endswith("INFO four")


def test_log_does_not_recreate_a_removed_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    logs.configure(folder)
    shutil.rmtree(folder)
    log.error("failed: it is gone")
    logs.append_line(folder, "ERROR", "from outside")
    logs.configure(None)
    assert capsys.readouterr().err == "failed: it is gone\n"
    assert list(tmp_path.iterdir()) == []


def test_full_log_does_not_change_the_exit_code(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys; from alexnet_exp import logs; logs.redirect_output(pathlib.Path('.'));"
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        "print('x' * 100_000); print('y', file=sys.stderr); sys.stdout.flush(); sys.exit(7)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "", "")
    assert (tmp_path / "train.log").read_text() == ""


def test_log_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.log").mkdir()
    with pytest.raises(logs.UserError, match=r"train\.log: cannot be written \(Is a directory\)"):
        logs.redirect_output(tmp_path)
