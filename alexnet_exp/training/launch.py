"""Processes for one experiment: a single one, or several equal ranks; rank 0 too is a child, and none re-reads argv.

Lightning's own launcher starts the other ranks by running the command again, which inside a sweep runs the sweep again.
Here every rank gets the composed configuration, joins by a file in the run folder (no port that could be taken), and
Lightning, seeing LOCAL_RANK, launches nothing.

All come from the one fork server of this process, which has imported torch and Lightning: a start takes hundredths of
a second. A `Group` never blocks once it is started, so that one thread can look after several; threads are no way,
since multiprocessing's book of its children is not safe in them.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from alexnet_exp import logs
from alexnet_exp.errors import ExitCode, UserError
from alexnet_exp.processes import signals
from alexnet_exp.processes.child import begin
from alexnet_exp.processes.children import end_with_parent, shorten_socket_paths
from alexnet_exp.processes.cpus import cores
from alexnet_exp.processes.ranks import remove_rank_variables
from alexnet_exp.processes.signals import STOP_SIGNALS, defer_signals, stop_on_signals
from alexnet_exp.runs.status import Ending, Status, ending_of

# For the ranks to meet, and for any of them to wait for another later: one may write a large checkpoint to a slow disk.
TIMEOUT = timedelta(minutes=15)
# Seconds for the other ranks to tell endings of their own, when one has ended badly; for a process that has told its
# ending to be gone; for all to end after a signal: a slow step is to be ended, and a large checkpoint written.
OWN_WORDS = 1.0
LEAVING = 10.0
GRACE = signals.DEADLINE_SECONDS
# What the fork server imports once for all. The last brings the rest of ours, and makes more than modules ready.
PRELOAD = [
    "alexnet_exp.processes.forkserver",
    "torch",
    "torchvision",
    "pytorch_lightning",
    "alexnet_exp.training.train",
    "alexnet_exp.training.preload",
]
RENDEZVOUS = ".rendezvous-"  # how the files begin by which ranks meet
MEETING = "ALEXNET_EXP_MEETING"  # the variable that tells a rank the name of its own
LOST_SERVER = 255  # the exit code that multiprocessing gives where it cannot know: the fork server is gone

Work = Callable[[Any, Path], Ending]


def warm() -> None:
    """Starts the fork server, if there is none yet, and returns at once: it imports while this process goes on."""
    if _method() == "forkserver":
        from multiprocessing import forkserver

        _context()
        forkserver.ensure_running()


def run_ranks(work: Work, ranks: int, backend: str, given: Any, folder: Path) -> Ending:
    """Does `work(given, folder)` in `ranks` processes; returns the first ending that is not done, or rank 0's.

    When one ends badly the others are ended too: they would wait for it in their next collective. A signal is passed on
    to all, and a second one ends them at once. No process is left, however this one ends.
    """
    group = None
    with stop_on_signals():
        try:
            with defer_signals():
                group = Group(work, given, folder, ranks, backend, threads=threads(os.environ, ranks))
            try:
                return _until_ended(group)
            except KeyboardInterrupt:
                group.interrupt(signals.stop_signal() or signal.SIGINT)
                return _until_ended(group)
        except KeyboardInterrupt as stop:
            return ending_of(stop)
        finally:
            if group is not None:
                group.kill()


def threads(environment: Mapping[str, str], processes: int) -> int:
    """Threads for each of `processes` that compute at once: OMP_NUM_THREADS where it is set, else an even share."""
    wanted = environment.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(wanted) if wanted.isdigit() and int(wanted) else max(1, cores() // processes)


def _until_ended(group: Group) -> Ending:
    while (ending := group.poll()) is None:
        wait(group.waitables(), group.timeout())
    return ending


class Group:
    """The running processes of one experiment.

    given: what each passes to `work`, pickled; of an experiment its `Composition`, so that no process validates again.
    environment: the children's whole environment, but for the variables of ranks (None: this process's, as it is now).
    threads: torch's, in each process (None: as torch chooses). own_log: stdout and stderr go to the folder's train.log,
    each further rank's to its own. They hear of a terminal's Ctrl-C from `interrupt` alone.

    Raises OSError or EOFError when no process can be started.
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
        self._rendezvous = folder / f"{RENDEZVOUS}{secrets.token_hex(4)}"
        self._ranks: list[_Rank] = []
        self._ending: Ending | None = None
        self._deadline: float | None = None
        self._asked: signal.Signals | None = None  # by which signal they were asked to stop
        self.wordless = False  # whether the ending is nobody's own words
        context = _context()
        preload = tuple(PRELOAD) if _method() == "forkserver" else ()
        pickled = pickle.dumps(given)
        surroundings = dict(os.environ if environment is None else environment)
        try:
            for number in range(ranks):
                around = rank_environment(surroundings, number, ranks)
                life = Life(
                    *(work, pickled, folder, number, ranks, backend),
                    *(self._rendezvous, around, threads, own_log),
                )
                pipe, theirs = context.Pipe()
                process = context.Process(target=begin, args=(preload, pickle.dumps(life), theirs))
                process.start()
                theirs.close()
                self._ranks.append(_Rank(number, ranks, process, pipe))
        except BaseException:
            self.kill()
            raise
        self.pid: int = self._ranks[0].process.pid

    def waitables(self) -> list[Any]:
        """What `multiprocessing.connection.wait` may wait for: `poll` may know more when one of them is ready."""
        return [each for rank in self._ranks for each in rank.waitables()]

    def timeout(self) -> float | None:
        """Seconds after which `poll` is to be called even if nothing is ready; None: no such time."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def poll(self) -> Ending | None:
        """How it ended, once none of its processes is left; None until then."""
        if self._ending is None:
            self._ending = self._heard()
            if self._ending is None:
                return None
            self.wordless = not any(rank.told is self._ending and not rank.wordless for rank in self._ranks)
            together = len(self._ranks) == 1 or all(rank.told and _is_well(rank.told) for rank in self._ranks)
            self._deadline = time.monotonic() + (LEAVING if together else 0.0)
        if self.timeout() and not all(rank.has_exited() for rank in self._ranks):
            return None
        self.kill()
        return self._ending

    def interrupt(self, number: signal.Signals) -> None:
        """Passes a signal on. What has not ended `GRACE` seconds later is killed by `poll`."""
        self._asked = number
        self._deadline = time.monotonic() + GRACE
        for rank in self._ranks:
            if not rank.has_exited():
                with suppress(ProcessLookupError):
                    os.kill(rank.process.pid, number)

    def give_up(self) -> None:
        """Waits no longer for those that were interrupted: the next `poll` kills them."""
        self._deadline = time.monotonic()

    def kill(self) -> None:
        """Leaves no process. What they had to save is saved: files are replaced, never rewritten."""
        for rank in self._ranks:
            rank.kill()
        for rank in self._ranks:
            rank.close()
        self._ranks = []
        self._rendezvous.unlink(missing_ok=True)

    def _heard(self) -> Ending | None:
        """The group's ending, as far as its ranks have told; None while it can still become another."""
        for rank in self._ranks:
            rank.listen()
        if self._asked is None:
            self._hear_of_signal()
        late = self.timeout() == 0.0
        if self._asked is not None:
            return self._after_interrupt(signals.stop_error(self._asked), late)
        if all(rank.told for rank in self._ranks):
            return self._cause()
        if self._deadline is None and any(rank.told and not _is_well(rank.told) for rank in self._ranks):
            self._deadline = time.monotonic() + OWN_WORDS
        return self._cause() if late else None

    def _hear_of_signal(self) -> None:
        """A signal that did not come from here, and perhaps to one rank alone, is one for all: they have to save."""
        for rank in self._ranks:
            if rank.told and rank.told.status == Status.INTERRUPTED:
                self.interrupt(signal.SIGINT if rank.told.code == ExitCode.INTERRUPTED else signal.SIGTERM)
                return

    def _cause(self) -> Ending:
        """The ending that the others come from."""
        told = {rank.number: rank.told for rank in self._ranks if rank.told}
        bad = {number: ending for number, ending in told.items() if not _is_well(ending)}
        if not bad:
            return told[0]
        for number, ending in bad.items():
            if self._ranks[number].was_killed():  # from outside: the others saw its connection closed
                return ending
        # what met every rank alike, such as a loss that is no number, rank 0 has recorded itself
        return bad.get(0) or next(iter(bad.values()))

    def _after_interrupt(self, stop: KeyboardInterrupt, late: bool) -> Ending | None:
        """Rank 0's ending. A rank that has ended is removed at once: one that waits for it hears of the signal then."""
        first, *others = self._ranks
        for rank in others:
            if rank.told:
                rank.kill()
        if late or (first.told and first.wordless):  # ended before it could listen to signals, or never did
            return ending_of(stop)
        return first.told


def _is_well(ending: Ending) -> bool:
    """Whether all ranks come to this ending together."""
    return ending.status in (Status.DONE, Status.PRUNED)


@dataclass
class _Rank:
    """One process as its parent sees it. told: its ending; wordless: it died without telling, and it is ours."""

    number: int
    of: int
    process: Any
    pipe: Connection
    told: Ending | None = None
    wordless: bool = False
    _silent: bool = field(default=False, repr=False)

    def listen(self) -> None:
        """Takes in how it ended, in its own words if it could."""
        if self.told:
            return
        exited = self.has_exited()  # first: what it said before it ended can be read after
        try:
            if not self._silent and self.pipe.poll():
                told: Ending = self.pipe.recv()
                self.told = replace(told, reason=f"rank {self.number}: {told.reason}") if self.number else told
                return
        except (EOFError, OSError):
            self._silent = True
        if exited:
            self.wordless = True
            who = f"rank {self.number}" if self.of > 1 else "the process"
            self.told = Ending(
                Status.FAILED, ExitCode.FAILED, f"{who} ended without a word, {_how(self.process.exitcode)}"
            )

    def has_exited(self) -> bool:
        return self.process.exitcode is not None

    def was_killed(self) -> bool:
        return self.wordless and (self.process.exitcode < 0 or self.process.exitcode == LOST_SERVER)

    def waitables(self) -> list[Any]:
        if self.has_exited():
            return [] if self.told else [self.pipe]
        return [self.process.sentinel, *([] if self.told or self._silent else [self.pipe])]

    def kill(self) -> None:
        """With the processes that it has started, unless it has ended in peace: what it left running is to run on."""
        if hasattr(os, "killpg") and (self.wordless or self.process.exitcode in (None, LOST_SERVER)):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()

    def close(self) -> None:
        """Waits for it, and closes its pipes: one that no signal reached, its fork server being gone, ends by that."""
        self.process.join()
        self.process.close()
        self.pipe.close()


def _how(exit_code: int) -> str:
    if exit_code == LOST_SERVER:
        return "or the fork server did; the system may have been out of memory"
    if exit_code >= 0:
        return f"with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = str(-exit_code)
    return f"by signal {name}" + ("; the system may have been out of memory" if name == "SIGKILL" else "")


def _method() -> str:
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def _context() -> Any:
    shorten_socket_paths()
    context: Any = multiprocessing.get_context(_method())
    if _method() == "forkserver":
        context.set_forkserver_preload(PRELOAD)
    return context


def rank_environment(environment: Mapping[str, str], rank: int, ranks: int) -> dict[str, str]:
    """The environment of one rank; of the only one there is, nothing in it says that it is a rank."""
    plain = remove_rank_variables(environment)
    if ranks == 1:
        return plain
    number, world = str(rank), str(ranks)
    return plain | {
        "LOCAL_RANK": number,
        "RANK": number,
        "WORLD_SIZE": world,
        "NODE_RANK": "0",
        "LOCAL_WORLD_SIZE": world,
    }


@dataclass(frozen=True)
class Life:
    """All that a child is told; its methods run there."""

    work: Work
    given: bytes
    folder: Path
    rank: int
    ranks: int
    backend: str
    rendezvous: Path
    environment: dict[str, str]
    threads: int | None
    own_log: bool

    def live(self, pipe: Connection, missing: list[str]) -> None:
        """From the first moment to the process's end; `missing` is what the fork server was to have imported."""
        end_with_parent(group=True)
        with stop_on_signals(insist=False):
            try:
                self._settle_in(missing)
                self._join()
                ending = self._work()
            except BaseException as error:
                ending = ending_of(error)
            with suppress(KeyboardInterrupt):  # from here on it ends by itself
                for each in STOP_SIGNALS:
                    signal.signal(each, signal.SIG_IGN)
            self._end(ending, pipe)

    def _work(self) -> Ending:
        try:
            given = pickle.loads(self.given)  # not before: a class of the user's is imported here
        except UserError as error:
            return Ending(Status.REFUSED, ExitCode.BAD_INPUT, str(error))
        return self.work(given, self.folder)

    def _end(self, ending: Ending, pipe: Connection) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pipe.send(ending)
        if self.ranks == 1:
            sys.exit(ending.code)
        if _is_well(ending):
            import torch.distributed as dist

            dist.destroy_process_group()
        else:
            # to be ended: peers that see a connection closed would tell of that instead
            pipe.poll(None)
        os._exit(ending.code)  # torch would wait for peers that may be gone

    def _settle_in(self, missing: list[str]) -> None:
        """Environment, output and threads, of which a fork server's child has those of the server's start."""
        os.environ.clear()
        os.environ.update(self.environment)
        if self.threads:
            os.environ["OMP_NUM_THREADS"] = str(self.threads)  # for what is loaded later
        if self.own_log:
            logs.redirect_output(self.folder, self.rank)
            faulthandler.enable()
        if missing and self.rank == 0:
            text = f"the fork server could not import {', '.join(missing)}, so that every start is slow"
            if self.own_log:
                logs.append_line(self.folder, "WARNING", text)
            else:
                print(text, file=sys.stderr)

        import torch

        if self.threads:
            torch.set_num_threads(self.threads)  # OMP_NUM_THREADS does nothing where torch has been imported before

    def _join(self) -> None:
        if self.ranks == 1:
            return
        import torch.distributed as dist

        os.environ[MEETING] = self.rendezvous.name
        # by themselves they listen where the host's name leads, which may be the whole network's to speak to
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)
        dist.init_process_group(
            self.backend,
            init_method=self.rendezvous.resolve().as_uri(),
            rank=self.rank,
            world_size=self.ranks,
            timeout=TIMEOUT,
        )
