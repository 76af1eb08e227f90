"""Launches the processes of one experiment: one, or several equal ranks. Rank 0 is a child process, too.

Lightning's own launcher starts the other ranks by running the command again, which inside a sweep would run the sweep
again. Here every rank receives the composed configuration and joins by a file in the run folder, without a port.
Lightning sees LOCAL_RANK and launches nothing.

All processes come from the fork server of this process, which has imported torch and Lightning, so a start takes some
hundredths of a second. A `RankGroup` never blocks once it is started, so that one thread can serve several; several
threads are not possible, because multiprocessing's list of children is not thread-safe.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import secrets
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from alexnet_exp.errors import ExitCode
from alexnet_exp.processes import signals
from alexnet_exp.processes.child import begin
from alexnet_exp.processes.children import shorten_socket_paths
from alexnet_exp.processes.cpus import cores
from alexnet_exp.processes.signals import defer_signals, stop_on_signals
from alexnet_exp.runs.status import Ending, Status, ending_of
from alexnet_exp.training.child_task import RENDEZVOUS_PREFIX, ChildTask, Work, rank_environment, succeeded

# Seconds: for the other ranks to report their outcome after one has failed; for a process to exit after its report; for
# all to end after a signal, which includes a slow step and a large checkpoint.
REPORT_SECONDS = 1.0
EXIT_SECONDS = 10.0
STOP_SECONDS = signals.DEADLINE_SECONDS
# The modules that the fork server imports. The last one imports the rest of the package and prepares more than modules.
PRELOAD = [
    "alexnet_exp.processes.forkserver",
    "torch",
    "torchvision",
    "alexnet_exp.training.train",
    "alexnet_exp.training.preload",
]
LOST_SERVER_EXIT_CODE = 255  # multiprocessing's exit code if the fork server has exited


def warm() -> None:
    """Starts the fork server if necessary, and returns at once while it imports."""
    if _method() == "forkserver":
        from multiprocessing import forkserver

        _context()
        forkserver.ensure_running()


def run_ranks(work: Work, ranks: int, backend: str, given: Any, folder: Path) -> Ending:
    """Runs `work(given, folder)` in `ranks` processes. Returns the first ending that is not done, or that of rank 0.

    If one fails the others are ended, because they would wait for it in their next collective. A signal is passed on to
    all, and a second one ends them at once. No process is left, in whatever way this one ends.
    """
    group = None
    with stop_on_signals():
        try:
            with defer_signals():
                group = RankGroup(work, given, folder, ranks, backend, threads=threads(os.environ, ranks))
            try:
                return _wait_for_ending(group)
            except KeyboardInterrupt:
                group.interrupt(signals.stop_signal() or signal.SIGINT)
                return _wait_for_ending(group)
        except KeyboardInterrupt as stop:
            return ending_of(stop)
        finally:
            if group is not None:
                group.kill()


def threads(environment: Mapping[str, str], processes: int) -> int:
    """Returns the threads of each of `processes` that run at once: OMP_NUM_THREADS, or an equal share of the cores."""
    wanted = environment.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(wanted) if wanted.isdigit() and int(wanted) else max(1, cores() // processes)


def _wait_for_ending(group: RankGroup) -> Ending:
    while (ending := group.poll()) is None:
        wait(group.waitables(), group.timeout())
    return ending


class RankGroup:
    """The running processes of one experiment.

    given: what each passes to `work`, pickled; of an experiment its `Composition`, so that no process validates again.
    environment: of the children, without the variables of ranks; None: that of this process. threads: of torch in each
    process; None: torch's default. own_log: stdout and stderr go to train.log in the folder, and for each further rank
    to a log of its own. The processes receive a terminal's Ctrl-C only from `interrupt`.

    Raises OSError or EOFError if no process can be started.
    """

    def __init__(
        self,
        work: Work,
        given: Any,
        folder: Path,
        ranks: int = 1,
        backend: str = "gloo",
        environment: Mapping[str, str] | None = None,
        threads: int | None = None,
        own_log: bool = False,
    ):
        self._rendezvous = folder / f"{RENDEZVOUS_PREFIX}{secrets.token_hex(4)}"
        self._ranks: list[_Rank] = []
        self._ending: Ending | None = None
        self._deadline: float | None = None
        self._asked: signal.Signals | None = None  # the signal that asked them to stop
        self.unreported = False  # whether no process reported the ending
        context = _context()
        preload = tuple(PRELOAD) if _method() == "forkserver" else ()
        pickled = pickle.dumps(given)
        surroundings = dict(os.environ if environment is None else environment)
        try:
            for number in range(ranks):
                around = rank_environment(surroundings, number, ranks)
                task = ChildTask(
                    *(work, pickled, folder, number, ranks, backend),
                    *(self._rendezvous, around, threads, own_log),
                )
                pipe, theirs = context.Pipe()
                process = context.Process(target=begin, args=(preload, pickle.dumps(task), theirs))
                process.start()
                theirs.close()
                self._ranks.append(_Rank(number, ranks, process, pipe))
        except BaseException:
            self.kill()
            raise
        self.pid: int = self._ranks[0].process.pid

    def waitables(self) -> list[Any]:
        """Returns objects for `multiprocessing.connection.wait`: call `poll` when one of them is ready."""
        return [each for rank in self._ranks for each in rank.waitables()]

    def timeout(self) -> float | None:
        """Returns the seconds after which `poll` must be called even if nothing is ready; None: no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def poll(self) -> Ending | None:
        """Returns the ending once no process is left; None until then."""
        if self._ending is None:
            self._ending = self._poll_ranks()
            if self._ending is None:
                return None
            self.unreported = not any(rank.outcome is self._ending and not rank.unreported for rank in self._ranks)
            together = len(self._ranks) == 1 or all(rank.outcome and succeeded(rank.outcome) for rank in self._ranks)
            self._deadline = time.monotonic() + (EXIT_SECONDS if together else 0.0)
        if self.timeout() and not all(rank.has_exited() for rank in self._ranks):
            return None
        self.kill()
        return self._ending

    def interrupt(self, number: signal.Signals) -> None:
        """Passes a signal on. `poll` kills processes that have not ended `STOP_SECONDS` later."""
        self._asked = number
        self._deadline = time.monotonic() + STOP_SECONDS
        for rank in self._ranks:
            if not rank.has_exited():
                with suppress(ProcessLookupError):
                    os.kill(rank.process.pid, number)

    def give_up(self) -> None:
        """Stops waiting for interrupted processes: the next `poll` kills them."""
        self._deadline = time.monotonic()

    def kill(self) -> None:
        """Kills all processes. This damages no file, because files are replaced atomically."""
        for rank in self._ranks:
            rank.kill()
        for rank in self._ranks:
            rank.close()
        self._ranks = []
        self._rendezvous.unlink(missing_ok=True)

    def _poll_ranks(self) -> Ending | None:
        """Returns the ending of the group by the reported outcomes; None while it can still change."""
        for rank in self._ranks:
            rank.listen()
        if self._asked is None:
            self._pass_signal_on()
        late = self.timeout() == 0.0
        if self._asked is not None:
            return self._after_interrupt(signals.stop_error(self._asked), late)
        if all(rank.outcome for rank in self._ranks):
            return self._cause()
        if self._deadline is None and any(rank.outcome and not succeeded(rank.outcome) for rank in self._ranks):
            self._deadline = time.monotonic() + REPORT_SECONDS
        return self._cause() if late else None

    def _pass_signal_on(self) -> None:
        """Passes a signal that one rank received on to all ranks, so that all of them save."""
        for rank in self._ranks:
            if rank.outcome and rank.outcome.status == Status.INTERRUPTED:
                self.interrupt(signal.SIGINT if rank.outcome.code == ExitCode.INTERRUPTED else signal.SIGTERM)
                return

    def _cause(self) -> Ending:
        """Returns the ending that caused the others."""
        outcomes = {rank.number: rank.outcome for rank in self._ranks if rank.outcome}
        bad = {number: ending for number, ending in outcomes.items() if not succeeded(ending)}
        if not bad:
            return outcomes[0]
        for number, ending in bad.items():
            if self._ranks[number].was_killed():  # from outside; the others failed because its connection was closed
                return ending
        # an error of every rank, such as a NaN loss, was recorded by rank 0
        return bad.get(0) or next(iter(bad.values()))

    def _after_interrupt(self, stop: KeyboardInterrupt, late: bool) -> Ending | None:
        """Returns rank 0's ending.

        Kills ranks that have ended, so that a rank that waits for them receives the signal.
        """
        first, *others = self._ranks
        for rank in others:
            if rank.outcome:
                rank.kill()
        if late or (first.outcome and first.unreported):  # it ended before it could handle signals
            return ending_of(stop)
        return first.outcome


@dataclass
class _Rank:
    """One process, seen by its parent. outcome: its ending. unreported: it exited without reporting one."""

    number: int
    of: int
    process: Any
    pipe: Connection
    outcome: Ending | None = None
    unreported: bool = False
    _silent: bool = field(default=False, repr=False)

    def listen(self) -> None:
        """Receives the outcome, or derives it from the exit code."""
        if self.outcome:
            return
        exited = self.has_exited()  # read first: a report before the exit can still be received
        try:
            if not self._silent and self.pipe.poll():
                outcome: Ending = self.pipe.recv()
                self.outcome = (
                    replace(outcome, reason=f"rank {self.number}: {outcome.reason}") if self.number else outcome
                )
                return
        except (EOFError, OSError):
            self._silent = True
        if exited:
            self.unreported = True
            who = f"rank {self.number}" if self.of > 1 else "the process"
            self.outcome = Ending(
                Status.FAILED,
                ExitCode.FAILED,
                f"{who} exited without reporting a result ({_exit_text(self.process.exitcode)})",
            )

    def has_exited(self) -> bool:
        return self.process.exitcode is not None

    def was_killed(self) -> bool:
        return self.unreported and (self.process.exitcode < 0 or self.process.exitcode == LOST_SERVER_EXIT_CODE)

    def waitables(self) -> list[Any]:
        if self.has_exited():
            return [] if self.outcome else [self.pipe]
        return [self.process.sentinel, *([] if self.outcome or self._silent else [self.pipe])]

    def kill(self) -> None:
        """Kills it, with the processes that it has started unless it exited by itself."""
        if hasattr(os, "killpg") and (self.unreported or self.process.exitcode in (None, LOST_SERVER_EXIT_CODE)):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()

    def close(self) -> None:
        """Waits for it and closes its pipe, which ends a process whose fork server has exited."""
        self.process.join()
        self.process.close()
        self.pipe.close()


def _exit_text(exit_code: int) -> str:
    if exit_code == LOST_SERVER_EXIT_CODE:
        return "or the fork server did; the system may have been out of memory"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = str(-exit_code)
    return f"signal {name}" + ("; the system may have been out of memory" if name == "SIGKILL" else "")


def _method() -> str:
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def _context() -> Any:
    shorten_socket_paths()
    context: Any = multiprocessing.get_context(_method())
    if _method() == "forkserver":
        context.set_forkserver_preload(PRELOAD)
    return context
