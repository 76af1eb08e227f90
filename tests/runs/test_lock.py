"""The lock of a run folder, with real processes."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from alexnet_exp.errors import UserError
from alexnet_exp.runs.disk_errors import UnwritableError
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.lock import in_use
from alexnet_exp.runs.reader import state

HOLD = """
import sys, time
from pathlib import Path
from alexnet_exp.runs.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
with folder.lock():
    folder.begin({}, {})
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A live process that holds the lock of tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_lock_is_released_when_its_process_is_killed(tmp_path, holder):
    folder = RunFolder(tmp_path)
    with pytest.raises(UserError) as refused, folder.lock():
        pass
    assert str(refused.value) == f"{tmp_path} is in use by process {holder.pid} on {socket.gethostname()}"
    assert state(tmp_path) == "running"

    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert state(tmp_path) == "died"
    with folder.lock():
        assert in_use(tmp_path)
        assert state(tmp_path) == "running"
    assert not in_use(tmp_path)


def test_a_second_lock_in_the_same_process_is_rejected(tmp_path):
    with RunFolder(tmp_path).lock(), pytest.raises(UserError, match=f"process {os.getpid()} "):
        RunFolder(tmp_path).lock().__enter__()


def test_an_exception_releases_the_lock(tmp_path):
    with pytest.raises(KeyError), RunFolder(tmp_path).lock():
        raise KeyError
    assert not in_use(tmp_path)


FORK = HOLD.replace(
    'print("held", flush=True)',
    """
    import os
    ready, tell = os.pipe()
    child = os.fork()
    if child:
        os.read(ready, 1)
        print(child, flush=True)
    else:
        os.write(tell, b"x")
""",
)


def test_a_forked_worker_does_not_keep_the_lock_of_its_killed_parent(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", FORK, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    try:
        assert in_use(tmp_path)
        process.kill()
        process.wait()
        os.kill(worker, 0)  # it lives on
        assert not in_use(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)
        process.communicate()


def test_a_forked_worker_that_leaves_the_block_closes_nothing_of_its_own(tmp_path):
    with RunFolder(tmp_path).lock():
        child = os.fork()
        if child == 0:
            own = os.open(os.devnull, os.O_RDONLY)  # gets the number that the lock had
    if child == 0:
        try:
            os.fstat(own)
        except OSError:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_checking_the_lock_does_not_reject_a_starting_run(tmp_path):
    look = "import sys, time; from pathlib import Path; from alexnet_exp.runs.lock import in_use\n"
    look += "print('looking', flush=True)\nwhile True: in_use(Path(sys.argv[1])); time.sleep(0.0002)"
    with RunFolder(tmp_path).lock():
        pass
    process = subprocess.Popen([sys.executable, "-c", look, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "looking\n"
        for _ in range(1000):
            with RunFolder(tmp_path).lock():
                pass
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("status", ["done", "failed", "interrupted"])
def test_the_status_of_a_finished_run_is_the_recorded_one(tmp_path, status):
    folder = RunFolder(tmp_path)
    with folder.lock():
        folder.begin({}, {})
        folder.finish(status)
    assert state(tmp_path) == status


def test_a_run_without_a_lock_file_died(tmp_path):
    RunFolder(tmp_path).begin({}, {})
    assert state(tmp_path) == "died"


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without locks, for this process."""

    def refuse(descriptor, kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_without_file_locks_the_name_of_a_live_process_locks(tmp_path, holder, no_locks):
    folder = RunFolder(tmp_path)
    with pytest.raises(UserError) as refused, folder.lock():
        pass
    name = f"process {holder.pid} on {socket.gethostname()}"
    assert (
        str(refused.value)
        == f"{tmp_path} is in use by {name}; if that process no longer exists, delete {tmp_path / '.lock'}"
    )
    assert state(tmp_path) == "running"
    holder.kill()
    holder.wait()
    assert state(tmp_path) == "died"
    with folder.lock():
        assert in_use(tmp_path)
        with pytest.raises(UserError, match="is in use by"), RunFolder(tmp_path).lock():
            pass
        assert in_use(tmp_path), "who was refused has not let go of it for the one who holds it"
    assert not in_use(tmp_path)


def test_without_file_locks_a_process_of_another_machine_counts_as_alive(tmp_path, no_locks):
    (tmp_path / ".lock").write_text("process 1 on another-machine")
    with pytest.raises(
        UserError, match=r"in use by process 1 on another-machine; if that process no longer exists, delete .*\.lock"
    ):
        RunFolder(tmp_path).lock().__enter__()
    (tmp_path / ".lock").unlink()
    with RunFolder(tmp_path).lock():
        pass


def test_a_folder_without_a_possible_lock_file_is_rejected(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (folder.path / ".lock").mkdir()
    with pytest.raises(UnwritableError, match=r"the run folder cannot be written \(.lock: Is a directory\)"):
        folder.lock().__enter__()
