"""Provides an orderly stop on signals: at once, at the next step boundary, or after a deadline.

The signals are SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal or the ssh connection is closed), SIGUSR1 and SIGUSR2
(warnings of schedulers) and SIGXCPU (CPU time limit).

Inside `stop_on_signals` the first signal raises `stop_error()` wherever the code is. Inside `stop_at_boundaries` it
only sets a flag, which a loop checks with `stop_signal()` where it can end without losing work. The second signal
raises at once, everywhere. The third has the default action of the system, which also ends a native call that hangs. A
process that is still inside `DEADLINE_SECONDS` after the first signal sends itself the second. Does not import torch.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from alexnet_exp.errors import ExitCode
from alexnet_exp.processes.ranks import rank

STOP_SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOP_SIGNALS = tuple(getattr(signal, name) for name in STOP_SIGNAL_NAMES if hasattr(signal, name))
# From the first signal: enough for a slow step to end and for a large checkpoint to be written.
DEADLINE_SECONDS = 600.0
# After the deadline: time to leave the blocks, before a thread ends the process.
EXIT_SECONDS = 60.0
# The same signal again within this time is ignored: `timeout` and others signal both a process and its group.
ECHO_SECONDS = 0.25

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


class Terminated(KeyboardInterrupt):
    """Raised for every stop signal but SIGINT. Code that handles Ctrl-C (KeyboardInterrupt) handles it too."""

    def __init__(self, number: signal.Signals = signal.SIGTERM):
        super().__init__(number.name)
        self.signal = number


@dataclass
class _State:
    """The signals of this process since it entered `stop_on_signals`; only handlers, in the main thread, change it."""

    insist: bool = True
    pid: int = field(default_factory=os.getpid)
    previous_handlers: dict[signal.Signals, Handler] = field(default_factory=dict)
    stop_signal: signal.Signals | None = None
    count: int = 0  # signals received
    last: tuple[int, float] = (0, 0.0)  # the last signal and its time in seconds
    raised: bool = False  # the exception has been raised
    pending: bool = False  # the exception is to be raised at the end of a block
    boundaries: int = 0  # nesting depth of `stop_at_boundaries`
    deferrals: int = 0  # nesting depth of `defer_signals`

    @property
    def signals(self) -> list[signal.Signals]:
        """The signals to handle: all but SIGHUP if it is ignored, as under `nohup`."""
        hangup = getattr(signal, "SIGHUP", None)
        return [each for each in STOP_SIGNALS if each != hangup or self.previous_handlers[each] != signal.SIG_IGN]


_state: _State | None = None


def stop_signal() -> signal.Signals | None:
    """Returns the first signal that asked this process to stop, or None."""
    return _state.stop_signal if _state is not None else None


def stop_error(remote_signal: signal.Signals | None = None) -> KeyboardInterrupt:
    """Returns the exception for the stop signal: KeyboardInterrupt for SIGINT, `Terminated` for the others.

    remote_signal: the signal that another rank of the run received, if this process has agreed to stop on it.
    """
    number = remote_signal or stop_signal()
    return KeyboardInterrupt() if number in (None, signal.SIGINT) else Terminated(number)


def is_stop_repeated() -> bool:
    """Returns whether a second signal has arrived: unfinished work is then abandoned."""
    return _state is not None and _state.count > 1


@contextmanager
def stop_on_signals(*, insist: bool = True) -> Iterator[None]:
    """Handles `STOP_SIGNALS` inside the block, also if they were ignored or blocked when this process started.

    Only SIGHUP stays ignored if it was, as under `nohup`.

    The first and the second signal raise `stop_error()`; the third has the default action of the system. Another
    exception of the interrupted code is replaced by `stop_error()`. Blocks may be nested: the outermost one counts.
    Outside the main thread this block does nothing.

    insist: False if the parent kills this process when it does not end in time. Further signals, which are copies of
    the first, are then ignored.
    """
    global _state, _deadline
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outermost = _state is None
    if _state is None:
        _state = _State(insist, previous_handlers={each: signal.getsignal(each) for each in STOP_SIGNALS})
    state = _state
    install_handlers()
    if outermost and insist:
        _deadline = _Deadline()
    try:
        yield
    except Exception as broken:
        if state.raised:
            raise stop_error() from broken
        raise
    finally:
        if outermost:
            if _deadline is not None:
                _deadline.close()
                _deadline = None
            _restore_handlers(state)
            _state = None


@contextmanager
def stop_at_boundaries() -> Iterator[None]:
    """Inside, the first signal raises nothing: the code checks `stop_signal()`, then raises `stop_error()`.

    The end of the block raises it at the latest, unless another exception leaves the block.
    """
    state = _state
    if state is None:
        yield
        return
    state.boundaries += 1
    try:
        yield
    finally:
        state.boundaries -= 1
    if state.stop_signal is not None:
        state.raised, state.pending = True, False
        raise stop_error()


@contextmanager
def defer_signals(*, later: bool = True) -> Iterator[None]:
    """Inside, no signal raises. The end of the block raises the exception, unless another one leaves the block.

    later: False if the end of the block raises nothing, because the code has checked `is_stop_repeated()` itself.
    """
    state = _state
    if state is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    state.deferrals += 1
    try:
        yield
    finally:
        state.deferrals -= 1
    if state.deferrals or not state.pending or (state.boundaries and state.count == 1):
        return
    state.pending = False
    if later:
        state.raised = True
        raise stop_error()


def install_handlers() -> None:
    """Installs the handlers inside `stop_on_signals`, also over those that other code has installed."""
    state = _state
    if state is None or threading.current_thread() is not threading.main_thread():
        return
    for each in state.signals:
        signal.signal(each, signal.SIG_DFL if state.count > 1 else _handle)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _handle(number: int, frame: FrameType | None) -> None:
    state = _state
    if state is None or state.pid != os.getpid():  # arrived during the restoring of handlers, or in a child just forked
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    if number == getattr(signal, "SIGHUP", None):
        _close_dead_terminal()
    now = time.monotonic()
    if state.count and (not state.insist or (number == state.last[0] and now - state.last[1] < ECHO_SECONDS)):
        return
    if state.count and number == getattr(signal, "SIGXCPU", None):  # the system repeats it every second
        return
    state.last = number, now
    state.count += 1
    if state.stop_signal is None:
        state.stop_signal = signal.Signals(number)
    if state.count > 1:
        install_handlers()
    if state.deferrals or (state.boundaries and state.count == 1):
        state.pending = True
        if not state.deferrals:
            _print_notice(state.stop_signal)
        return
    state.raised = True
    raise stop_error()


def _print_notice(number: signal.Signals) -> None:
    """Writes to stderr, not to the log, whose lock the interrupted code may hold; of several ranks only the first."""
    if rank() == 0:
        with suppress(OSError):
            os.write(
                2, f"{number.name}: stopping after this step is saved; repeat the signal to stop at once\n".encode()
            )


def _close_dead_terminal() -> None:
    """Redirects a closed terminal to /dev/null: a failing write to it would end the run before it has saved."""
    for number in (0, 1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
                devnull = os.open(os.devnull, os.O_RDWR)
                os.dup2(devnull, number)
                os.close(devnull)


class _Deadline:
    """Ends this process if it is still inside `stop_on_signals` `DEADLINE_SECONDS` after the first signal.

    A thread waits on the pipe that Python's C handler writes to (`signal.set_wakeup_fd`). It therefore also ends a
    process whose main thread is in a native call that does not return, and never runs `_handle`.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="signal-deadline", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._restore_fd()
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)

    def discard(self) -> None:
        """Closes the pipe in a forked child, which inherits the pipe of its parent but not the thread."""
        self._restore_fd()
        os.close(self._writer)
        os.close(self._reader)

    def _restore_fd(self) -> None:
        current = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(self._previous_fd if current == self._writer else current)

    def _watch(self) -> None:
        number = self._next(None)
        while number is not None and number not in STOP_SIGNALS:
            number = self._next(None)
        if number is None or self._closes_within(DEADLINE_SECONDS):
            return
        minutes = DEADLINE_SECONDS / 60
        with suppress(OSError):
            os.write(2, f"{signal.Signals(number).name}: not stopped within {minutes:g} minutes; ending\n".encode())
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)  # counts as the second signal, which raises at once
        if not self._closes_within(EXIT_SECONDS):
            os._exit(ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED)

    def _closes_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._next(left) is None:
                return True
        return False

    def _next(self, seconds: float | None) -> int | None:
        """Returns the number of the signal that arrives within `seconds`, 0 if none does, None if the pipe closes."""
        if not select.select([self._reader], [], [], seconds)[0]:
            return 0
        found = os.read(self._reader, 1)
        return found[0] if found else None


_deadline: _Deadline | None = None


def _restore_handlers(state: _State) -> None:
    for each, handler in state.previous_handlers.items():
        signal.signal(each, signal.SIG_DFL if handler is None else handler)


def _discard_state() -> None:
    """Restores the handlers in a forked child, which does not handle the signals of its parent."""
    global _state, _deadline
    if _deadline is not None:
        _deadline.discard()
        _deadline = None
    if _state is not None:
        state, _state = _state, None
        _restore_handlers(state)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_discard_state)
