"""The tables of a run on a disk that is full for a while: /dev/full, and the system's own limit of a file's size."""

import errno
import os
import resource
import signal
from contextlib import contextmanager

import pytest

from alexnet_exp.runs.table import CsvTable

COLUMNS = ("step", "loss")


@contextmanager
def files_of_at_most(size):
    """No file grows beyond `size` bytes: the system takes a part of what is written, then nothing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", range(20, 40))
def test_a_partly_written_row_is_removed_and_written_later(tmp_path, size):
    path = tmp_path / "steps.csv"
    table = CsvTable(path)
    table.add(COLUMNS, [(1, 0.5), (2, 0.25)])
    table.write()
    before = path.read_bytes()
    assert before == b"step,loss\n1,0.5\n2,0.25\n"
    table.add(COLUMNS, [(3, 0.125), (4, 0.0625)])
    with files_of_at_most(size), pytest.raises(OSError, match="File too large"):
        table.write()
    assert path.read_bytes() == before
    table.add(COLUMNS, [(4, 9.0), (5, 1.0)])
    table.write()
    assert path.read_bytes() == before + b"3,0.125\n4,0.0625\n5,1.0\n"


def test_a_failed_write_of_the_header_is_repeated(tmp_path):
    table = CsvTable(tmp_path / "steps.csv")
    table.add(COLUMNS, [(1, 0.5)])
    with files_of_at_most(4), pytest.raises(OSError, match="File too large"):
        table.write()
    table.write()
    assert (tmp_path / "steps.csv").read_bytes() == b"step,loss\n1,0.5\n"


def test_a_device_without_room(tmp_path):
    path = tmp_path / "steps.csv"
    table = CsvTable(path)
    path.symlink_to("/dev/full")
    table.add(COLUMNS, [(1, 0.5)])
    with pytest.raises(OSError, match="No space left on device") as full:
        table.write()
    assert full.value.errno == errno.ENOSPC
    path.unlink()
    table.write()
    assert path.read_bytes() == b"step,loss\n1,0.5\n"


def test_half_a_row_that_cannot_be_removed_is_removed_later(tmp_path, monkeypatch):
    path = tmp_path / "steps.csv"
    table = CsvTable(path)
    table.add(COLUMNS, [(1, 0.5)])
    table.write()
    table.add(COLUMNS, [(2, 0.25)])

    def refuse(descriptor, length):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched, files_of_at_most(20):
        patched.setattr(os, "ftruncate", refuse)
        with pytest.raises(OSError, match="File too large"):
            table.write()
    assert path.read_bytes() == b"step,loss\n1,0.5\n2,0."
    table.write()
    assert path.read_bytes() == b"step,loss\n1,0.5\n2,0.25\n"


def test_rows_that_were_not_flushed_are_not_written(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    table = CsvTable(path)
    table.add(COLUMNS, [(1, 0.5)])

    def refuse(descriptor):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="quota"):
            table.write()
    assert path.read_bytes() == b""
    table.write()
    assert path.read_bytes() == b"step,loss\n1,0.5\n"


def test_a_missing_table_is_not_recreated_without_its_header(tmp_path):
    path = tmp_path / "metrics.csv"
    table = CsvTable(path)
    table.add(COLUMNS, [(1, 0.5)])
    table.write()
    path.unlink()
    table.add(COLUMNS, [(2, 0.25)])
    with pytest.raises(FileNotFoundError):
        table.write()
    assert not path.exists()
