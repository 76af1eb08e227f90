"""Stopping on signals, in this process and in child processes: at a boundary, at once, after the deadline."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alexnet_exp.processes import signals
from alexnet_exp.processes.signals import (
    ECHO_SECONDS,
    STOP_SIGNALS,
    Terminated,
    defer_signals,
    install_handlers,
    is_stop_repeated,
    stop_at_boundaries,
    stop_error,
    stop_on_signals,
    stop_signal,
)
from alexnet_exp.runs.status import ending_of

EACH = pytest.mark.parametrize(
    ("number", "kind", "code", "reason"),
    [
        (signal.SIGINT, KeyboardInterrupt, 130, "by Ctrl-C (SIGINT)"),
        (signal.SIGTERM, Terminated, 75, "by SIGTERM"),
        (signal.SIGUSR1, Terminated, 75, "by SIGUSR1"),
        (signal.SIGUSR2, Terminated, 75, "by SIGUSR2"),
        (signal.SIGHUP, Terminated, 75, "by SIGHUP"),
        (signal.SIGXCPU, Terminated, 75, "by SIGXCPU"),
    ],
)


@contextmanager
def stops(kind: type[KeyboardInterrupt] = KeyboardInterrupt, **options: bool) -> Iterator[list[KeyboardInterrupt]]:
    """Handles stop signals inside; the block must raise an exception of that kind."""
    stopped: list[KeyboardInterrupt] = []
    try:
        with stop_on_signals(**options):
            yield stopped
    except KeyboardInterrupt as stop:
        stopped.append(stop)
    assert [type(stop) for stop in stopped] == [kind]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Any:
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    yield
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before
    assert stop_signal() is None


@EACH
def test_first_signal_raises_at_once(number: int, kind: type[KeyboardInterrupt], code: int, reason: str) -> None:
    with stops(kind) as stopped:
        send(number)
        raise AssertionError("not interrupted")
    ending = ending_of(stopped[0])
    assert (ending.status, ending.code, ending.reason) == ("interrupted", code, reason)


@EACH
def test_first_signal_is_deferred_to_the_boundary(
    number: int, kind: type[KeyboardInterrupt], code: int, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = 0
    with stops(kind) as stopped, stop_at_boundaries():
        assert stop_signal() is None
        for step in range(4):
            if step == 2:
                send(number)
            steps += 1
            if stop_signal():
                raise stop_error()
    assert (steps, ending_of(stopped[0]).reason) == (3, reason)
    name = signal.Signals(number).name
    assert capfd.readouterr().err == f"{name}: stopping after this step is saved; repeat the signal to stop at once\n"


def test_unchecked_signal_is_raised_at_the_end_of_the_block() -> None:
    went_on = False
    with stops(Terminated):
        with stop_at_boundaries():
            send(signal.SIGTERM)
            went_on = True
        raise AssertionError("not raised")
    assert went_on


def test_other_error_at_a_boundary_is_not_replaced() -> None:
    def save() -> None:
        with stop_on_signals(), stop_at_boundaries():
            send(signal.SIGTERM)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save()


def test_error_of_interrupted_code_becomes_the_stop_error() -> None:
    with stops(Terminated):
        try:
            send(signal.SIGTERM)
        finally:
            raise AttributeError("left half-way")
    with pytest.raises(AttributeError), stop_on_signals():
        raise AttributeError("of its own")


def test_second_signal_raises_at_once_and_reports_the_first() -> None:
    with stops(Terminated) as stopped, stop_at_boundaries():
        send(signal.SIGTERM)
        assert not is_stop_repeated()
        try:
            send(signal.SIGINT)
        finally:
            assert is_stop_repeated()
            assert {signal.getsignal(each) for each in STOP_SIGNALS} == {signal.SIG_DFL}
        raise AssertionError("not raised")
    assert ending_of(stopped[0]).reason == "by SIGTERM"


def test_repeated_signal_within_echo_time_counts_once() -> None:
    """`timeout` signals both the process and its group."""
    with stops(Terminated), stop_at_boundaries():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert not is_stop_repeated()
        time.sleep(ECHO_SECONDS)
        send(signal.SIGTERM)
        raise AssertionError("not raised")


def test_repeated_sigxcpu_counts_once() -> None:
    went_on = False
    with stops(Terminated), stop_at_boundaries():
        for _ in range(3):
            send(signal.SIGXCPU)
            time.sleep(ECHO_SECONDS)
        assert not is_stop_repeated()
        went_on = True
    assert went_on


def test_sighup_ignored_by_nohup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals(), stop_at_boundaries():
            send(signal.SIGHUP)
            assert stop_signal() is None
            install_handlers()
            send(signal.SIGHUP)
            assert stop_signal() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_process_ends_itself_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert signals.DEADLINE_SECONDS == 600, "docs/guides/resume.md"
    monkeypatch.setattr(signals, "DEADLINE_SECONDS", 0.3)
    begun = time.monotonic()
    with stops(Terminated) as stopped, stop_at_boundaries():
        send(signal.SIGUSR1)
        time.sleep(60)
    assert time.monotonic() - begun < 30
    assert ending_of(stopped[0]).reason == "by SIGUSR1"
    assert "SIGUSR1: not stopped within 0.005 minutes; ending" in capfd.readouterr().err


def test_deadline_has_no_effect_after_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "DEADLINE_SECONDS", 0.3)
    before = threading.active_count()
    with stops(Terminated), stop_at_boundaries():
        send(signal.SIGTERM)
    time.sleep(0.5)
    assert threading.active_count() == before
    # the parent kills the process
    with stop_on_signals(insist=False):
        assert threading.active_count() == before


def test_further_signals_are_ignored_without_insist() -> None:
    with stops(Terminated, insist=False), stop_at_boundaries():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
            send(number)
        assert (stop_signal(), is_stop_repeated()) == (signal.SIGTERM, False)
        went_on = True
    assert went_on


def test_defer_signals_raises_at_the_end() -> None:
    done = []
    with stops(Terminated):
        with defer_signals():
            with defer_signals():
                send(signal.SIGTERM)
                done.append("inner")
            done.append("outer")
        done.append("never")
    assert done == ["inner", "outer"]
    with stop_on_signals():
        with defer_signals(later=False):
            send(signal.SIGTERM)
        assert stop_signal() == signal.SIGTERM
        with pytest.raises(Terminated):
            send(signal.SIGINT)


def test_defer_signals_within_boundaries_leaves_the_signal_to_the_boundary() -> None:
    with stops(Terminated), stop_at_boundaries():
        with defer_signals():
            send(signal.SIGTERM)
        went_on = True
    assert went_on


def test_nested_blocks_count_as_one() -> None:
    with stops():
        with stops():
            send(signal.SIGINT)
        assert stop_signal() == signal.SIGINT
        time.sleep(ECHO_SECONDS)
        send(signal.SIGINT)


def test_install_handlers_replaces_those_of_other_code() -> None:
    with stops():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        send(signal.SIGINT)
        install_handlers()
        send(signal.SIGINT)
        raise AssertionError("not raised")


def test_other_threads_do_not_handle_signals() -> None:
    before, entered = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with stop_on_signals(), defer_signals():
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [before]


def test_forked_child_does_not_handle_signals() -> None:
    reader, writer = os.pipe()
    with stop_on_signals(), stop_at_boundaries():
        child = os.fork()
        if child == 0:
            os.write(writer, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(reader, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM


# Real processes


PROGRAM = """
import sys, time
from pathlib import Path
from alexnet_exp.runs.status import ending_of
from alexnet_exp.processes.signals import stop_at_boundaries, stop_error, stop_on_signals, stop_signal

def step(number):
    Path("step").write_text(str(number))
    until = time.monotonic() + 600
    while Path("hold").exists() and time.monotonic() < until:
        try:
            time.sleep(0.02)
        except KeyboardInterrupt:
            Path("raised").touch()
            if "stubborn" not in sys.argv:
                raise
    Path("done").write_text(str(number))

def main():
    for number in range(10**6):
        step(number)
        if stop_signal():
            Path("saved").write_text(str(number))
            raise stop_error()

with stop_on_signals():
    try:
        with stop_at_boundaries():
            main()
    except KeyboardInterrupt as stop:
        ending = ending_of(stop)
print(ending.reason)
sys.exit(ending.code)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Starts the program in a step that does not end while the file `hold` exists."""
    (tmp_path / "hold").touch()
    (tmp_path / "program.py").write_text(PROGRAM)
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen([sys.executable, "program.py", *arguments], env=environment, **pipes, **options)
        processes.append(process)
        appears(tmp_path / "step", process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def appears(file: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not (file.exists() and (file.name != "step" or file.read_text())):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


@EACH
def test_first_signal_finishes_the_step_and_saves(
    start: Start, tmp_path: Path, number: signal.Signals, kind: type[KeyboardInterrupt], code: int, reason: str
) -> None:
    # as in a script in the background, and in a fork server with blocked signals
    def deaf() -> None:
        if number != signal.SIGHUP:  # an ignored SIGHUP stays ignored
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])

    process = start(preexec_fn=deaf)
    process.send_signal(number)
    assert process.stderr is not None
    assert process.stderr.readline().startswith(f"{number.name}: stopping")
    assert not (tmp_path / "done").exists()
    (tmp_path / "hold").unlink()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip(), err) == (code, reason, "")
    assert (tmp_path / "saved").read_text() == (tmp_path / "done").read_text()


def test_second_signal_ends_in_the_middle_of_a_step(start: Start, tmp_path: Path) -> None:
    process = start()
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(ECHO_SECONDS)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (75, "by SIGTERM")
    assert not (tmp_path / "saved").exists()


def test_third_signal_has_the_default_action(start: Start, tmp_path: Path) -> None:
    process = start("stubborn")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(ECHO_SECONDS)
    process.send_signal(signal.SIGINT)
    appears(tmp_path / "raised", process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT


HANGS = """
import ctypes, signal, sys
from alexnet_exp.processes import signals
signals.DEADLINE_SECONDS = signals.EXIT_SECONDS = 0.3
with signals.stop_on_signals(), signals.stop_at_boundaries():
    # a native call does not return for a signal that another thread receives
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOP_SIGNALS)
    print("hangs", flush=True)
    ctypes.CDLL(None).sleep(600)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_hanging_native_call_is_ended(number: signal.Signals, code: int) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HANGS], env=environment, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    # whether Python's handler prints first depends on the thread that receives the signal
    assert (process.returncode, err.splitlines()[-1]) == (
        code,
        f"{number.name}: not stopped within 0.005 minutes; ending",
    )


TERMINAL = """
import sys, time
from pathlib import Path
from alexnet_exp.runs.status import ending_of
from alexnet_exp.processes.signals import stop_at_boundaries, stop_error, stop_on_signals, stop_signal
try:
    with stop_on_signals(), stop_at_boundaries():
        print("begun", file=sys.stderr, flush=True)
        while not stop_signal():
            time.sleep(0.05)
        print("progress", file=sys.stderr, flush=True)
        Path("saved").touch()
        raise stop_error()
except KeyboardInterrupt as stop:
    print("the end", flush=True)
    Path("ended").write_text(ending_of(stop).reason)
"""


def test_closed_terminal_does_not_prevent_saving(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()

    def take() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
        preexec_fn=take,
    )
    os.close(terminal)
    seen = b""
    while b"begun" not in seen:
        seen += os.read(controller, 1000)
    os.close(controller)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "ended").read_text() == "by SIGHUP"
