"""Stopping when a signal asks for it: SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal or the ssh connection is gone),
SIGUSR1 and SIGUSR2, by which schedulers give notice, and SIGXCPU (a limit of CPU time).

Inside `interruptible` the first one raises `error()` wherever the code is; inside `at_boundaries` it only sets a flag,
for which a loop asks `wish()` where it can be left without a loss. The second one raises at once, everywhere. The third
does what the system does by default, so that a native call that hangs can be left too. A process that is still inside
`DEADLINE_SECONDS` after the first one gets the second from itself. No torch here.
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
# Seconds after the first signal: a slow step has to end, and a large checkpoint to be written.
DEADLINE_SECONDS = 600.0
# Seconds that a process then has to leave its blocks before it is ended from outside of its main thread.
EXIT_SECONDS = 60.0
# Seconds within which the same signal again is no second one: `timeout` and others signal a process and its group.
ECHO_SECONDS = 0.25

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


class Terminated(KeyboardInterrupt):
    """Any of the signals but SIGINT. Whoever ends its work in order on Ctrl-C does so here too."""

    def __init__(self, number: signal.Signals = signal.SIGTERM):
        super().__init__(number.name)
        self.signal = number


@dataclass
class _State:
    """Of this process, since it entered `interruptible`; changed by handlers, which run in the main thread alone."""

    insist: bool = True
    pid: int = field(default_factory=os.getpid)
    before: dict[signal.Signals, Handler] = field(default_factory=dict)
    wish: signal.Signals | None = None
    heard: int = 0
    last: tuple[int, float] = (0, 0.0)
    raised: bool = False  # the exception went out from wherever the code was
    owed: bool = False  # it is to go out where a block ends
    boundaries: int = 0
    held: int = 0

    @property
    def signals(self) -> list[signal.Signals]:
        """Those to listen to: not SIGHUP where it is ignored, as `nohup` has it."""
        hangup = getattr(signal, "SIGHUP", None)
        return [each for each in STOP_SIGNALS if each != hangup or self.before[each] != signal.SIG_IGN]


_state: _State | None = None


def stop_signal() -> signal.Signals | None:
    """The signal that asked this process to stop; None while none did."""
    return _state.wish if _state is not None else None


def stop_error(heard_elsewhere: signal.Signals | None = None) -> KeyboardInterrupt:
    """The exception that the wish means: KeyboardInterrupt for SIGINT, `Terminated` for the others.

    heard_elsewhere: the signal, where another process of the run was asked and this one agrees.
    """
    asked = heard_elsewhere or stop_signal()
    return KeyboardInterrupt() if asked in (None, signal.SIGINT) else Terminated(asked)


def is_stop_repeated() -> bool:
    """Whether it was asked a second time: what is not done at once is to be left."""
    return _state is not None and _state.heard > 1


@contextmanager
def stop_on_signals(*, insist: bool = True) -> Iterator[None]:
    """Inside, this process listens to `SIGNALS`, also where they were ignored or blocked by inheritance.

    SIGHUP is the exception: where it was ignored, by `nohup`, it stays ignored.

    The first raises `error()`, and so does a second; a third is the system's affair. An error of code that was left
    half-way comes out as the signal that it was left by. insist: False where whoever started this process kills it if
    it does not end in time: further signals, which then are copies of the first, do nothing. Blocks may be nested: the
    outermost counts. Outside of the main thread nothing changes: whoever owns that handles signals.
    """
    global _state, _deadline
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outermost = _state is None
    if _state is None:
        _state = _State(insist, before={each: signal.getsignal(each) for each in STOP_SIGNALS})
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
            _put_back(state)
            _state = None


@contextmanager
def stop_at_boundaries() -> Iterator[None]:
    """Inside, the first signal raises nothing: the code asks for `wish()` where it can be left, and raises `error()`.

    Raised here at the latest, unless another exception comes out.
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
    if state.wish is not None:
        state.raised, state.owed = True, False
        raise stop_error()


@contextmanager
def defer_signals(*, later: bool = True) -> Iterator[None]:
    """Inside, no signal raises. What it would have raised comes out at the end, unless another exception does.

    later: whether it does; else the code has asked `insisted()`, and done what there was to do.
    """
    state = _state
    if state is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    state.held += 1
    try:
        yield
    finally:
        state.held -= 1
    if state.held or not state.owed or (state.boundaries and state.heard == 1):
        return
    state.owed = False
    if later:
        state.raised = True
        raise stop_error()


def install_handlers() -> None:
    """Inside `interruptible`: puts the handlers where they are to be, also where other code has set its own."""
    state = _state
    if state is None or threading.current_thread() is not threading.main_thread():
        return
    for each in state.signals:
        signal.signal(each, signal.SIG_DFL if state.heard > 1 else _hear)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _hear(number: int, frame: FrameType | None) -> None:
    state = _state
    if state is None or state.pid != os.getpid():  # heard a moment before it was put back, or by a child just forked
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    if number == getattr(signal, "SIGHUP", None):
        _leave_dead_terminal()
    now = time.monotonic()
    if state.heard and (not state.insist or (number == state.last[0] and now - state.last[1] < ECHO_SECONDS)):
        return
    if state.heard and number == getattr(signal, "SIGXCPU", None):  # repeated by the system with every second
        return
    state.last = number, now
    state.heard += 1
    if state.wish is None:
        state.wish = signal.Signals(number)
    if state.heard > 1:
        install_handlers()
    if state.held or (state.boundaries and state.heard == 1):
        state.owed = True
        if not state.held:
            _say(state.wish)
        return
    state.raised = True
    raise stop_error()


def _say(number: signal.Signals) -> None:
    """Not by the log, whose lock the interrupted code may hold; and once, where several ranks hear it."""
    if rank() == 0:
        with suppress(OSError):
            os.write(2, f"{number.name}: stopping once this step is saved; again to leave at once\n".encode())


def _leave_dead_terminal() -> None:
    """What is written to a terminal that is gone would fail, and end the run before it has saved."""
    for number in (0, 1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, number)
                os.close(nowhere)


class _Deadline:
    """Ends this process where it is still inside `interruptible` `DEADLINE_SECONDS` after the first signal.

    A thread, which a signal wakes by a pipe that Python's own handler writes to: so it also ends a process whose main
    thread is in a native call that does not return, and never gets to `_hear`.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="signal-deadline", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._put_back()
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)

    def forget(self) -> None:
        """In a forked child, which has the pipe of its parent and not the thread."""
        self._put_back()
        os.close(self._writer)
        os.close(self._reader)

    def _put_back(self) -> None:
        current = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(self._before if current == self._writer else current)

    def _watch(self) -> None:
        number = self._next(None)
        while number is not None and number not in STOP_SIGNALS:
            number = self._next(None)
        if number is None or self._closes_within(DEADLINE_SECONDS):
            return
        minutes = DEADLINE_SECONDS / 60
        with suppress(OSError):
            os.write(2, f"{signal.Signals(number).name}: not stopped within {minutes:g} minutes; leaving\n".encode())
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)  # as a second one, which raises at once
        if not self._closes_within(EXIT_SECONDS):
            os._exit(ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED)

    def _closes_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._next(left) is None:
                return True
        return False

    def _next(self, seconds: float | None) -> int | None:
        """The number of the signal that comes within `seconds`, 0 where none does; None once the pipe is closed."""
        if not select.select([self._reader], [], [], seconds)[0]:
            return 0
        found = os.read(self._reader, 1)
        return found[0] if found else None


_deadline: _Deadline | None = None


def _put_back(state: _State) -> None:
    for each, handler in state.before.items():
        signal.signal(each, signal.SIG_DFL if handler is None else handler)


def _forget() -> None:
    """In a child that was forked: what its parent listens to is no affair of its own."""
    global _state, _deadline
    if _deadline is not None:
        _deadline.forget()
        _deadline = None
    if _state is not None:
        state, _state = _state, None
        _put_back(state)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
