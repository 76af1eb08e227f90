"""Several ranks on one machine, as equal processes: rank 0 too is a child, and none of them re-reads the command line.

Lightning's own launcher starts the other ranks by running the command again, which inside a sweep runs the sweep again.
Here every rank gets the composed configuration, joins by a file in the run folder (no port that could be taken), and
Lightning, seeing LOCAL_RANK, launches nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from alexnet_exp.data.images import cores
from alexnet_exp.endings import Ending, ending_of, interruptible
from alexnet_exp.settings import FAILED

RENDEZVOUS_TIMEOUT = timedelta(minutes=2)
# Seconds for the other ranks to tell endings of their own, when one has ended badly; and for all to end after Ctrl-C.
OWN_WORDS = 1.0
GRACE = 10.0

Work = Callable[[Mapping[str, Any], Path], Ending]


@dataclass(frozen=True)
class _Rank:
    number: int
    process: Any
    pipe: Connection

    def ending(self) -> Ending | None:
        """How the rank ended, in its own words if it could; None while it runs."""
        try:
            if self.pipe.poll():
                told: Ending = self.pipe.recv()
                return told if self.number == 0 else replace(told, reason=f"rank {self.number}: {told.reason}")
        except EOFError:
            self.process.join()
        if self.process.exitcode is None:
            return None
        return Ending("failed", FAILED, f"rank {self.number} ended without a word, by {_how(self.process.exitcode)}")


def run_ranks(work: Work, ranks: int, backend: str, container: Mapping[str, Any], folder: Path) -> Ending:
    """Does `work(container, folder)` in `ranks` processes; returns the first ending that is not done, or rank 0's.

    When one ends badly the others are ended too: they would wait for it in their next collective. No process is left,
    however this one ends.
    """
    rendezvous = folder / f".rendezvous-{os.getpid()}"
    started = _start(work, ranks, backend, container, folder, rendezvous)
    try:
        with interruptible():
            return _until_ended(started)
    except KeyboardInterrupt as interrupt:
        return _interrupt(started) or ending_of(interrupt)
    finally:
        for rank in started:
            rank.process.kill()  # whatever it had to save is saved: files are replaced, never rewritten
            rank.process.join()
        rendezvous.unlink(missing_ok=True)


def _start(
    work: Work, ranks: int, backend: str, container: Mapping[str, Any], folder: Path, rendezvous: Path
) -> list[_Rank]:
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([work.__module__])
    started = []
    for number in range(ranks):
        pipe, theirs = context.Pipe()
        settings = _Settings(number, ranks, backend, rendezvous, dict(os.environ))
        process = context.Process(target=_be_rank, args=(work, settings, theirs, dict(container), folder))
        process.start()
        theirs.close()
        started.append(_Rank(number, process, pipe))
    return started


def _until_ended(ranks: list[_Rank]) -> Ending:
    endings: dict[int, Ending] = {}
    deadline: float | None = None
    while len(endings) < len(ranks) and (deadline is None or time.monotonic() < deadline):
        running = [rank for rank in ranks if rank.number not in endings]
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        wait([rank.pipe for rank in running] + [rank.process.sentinel for rank in running], timeout)
        told = {rank.number: ending for rank in running if (ending := rank.ending()) is not None}
        endings |= told
        if deadline is None and any(ending.status != "done" for ending in told.values()):
            deadline = time.monotonic() + OWN_WORDS
    if deadline is not None:
        return _cause(ranks, endings)
    for rank in ranks:
        rank.process.join(GRACE)
    return endings[0]


def _cause(ranks: list[_Rank], endings: Mapping[int, Ending]) -> Ending:
    """The bad ending that the others come from."""
    bad = {number: ending for number, ending in endings.items() if ending.status != "done"}
    for number, ending in bad.items():
        if (ranks[number].process.exitcode or 0) < 0:  # killed from outside: the others saw its connection closed
            return ending
    # what met every rank alike, such as a loss that is no number, rank 0 has recorded itself
    return bad.get(0) or next(iter(bad.values()))


def _interrupt(ranks: list[_Rank]) -> Ending | None:
    """Passes Ctrl-C on, which the terminal has not done where this process alone was sent the signal; rank 0's ending.

    A rank that has ended is removed at once: one that waits for it in a collective hears of the signal only then.
    """
    for rank in ranks:
        if rank.process.is_alive():
            os.kill(rank.process.pid, signal.SIGINT)
    deadline = time.monotonic() + GRACE
    running = list(ranks)
    while running and time.monotonic() < deadline:
        for rank in list(running):
            ending = rank.ending()
            if ending is not None and rank.number == 0:
                return ending
            if ending is not None:
                rank.process.kill()
                running.remove(rank)
        wait([rank.pipe for rank in running] + [rank.process.sentinel for rank in running], 0.5)
    return None


def _how(exit_code: int) -> str:
    return f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"


@dataclass(frozen=True)
class _Settings:
    rank: int
    ranks: int
    backend: str
    rendezvous: Path
    environment: dict[str, str]


def _be_rank(work: Work, settings: _Settings, pipe: Connection, container: Mapping[str, Any], folder: Path) -> None:
    """The whole life of one rank: joins the others, works, tells how it ended."""
    _die_with_parent()
    os.environ.clear()  # a fork server's child has the environment of the server's start
    os.environ.update(settings.environment)
    rank, ranks = str(settings.rank), str(settings.ranks)
    os.environ.update(LOCAL_RANK=rank, RANK=rank, WORLD_SIZE=ranks, NODE_RANK="0", LOCAL_WORLD_SIZE=ranks)

    import torch
    import torch.distributed as dist

    # OMP_NUM_THREADS does nothing any more: the fork server has imported torch before
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or max(1, cores() // settings.ranks)))
    dist.init_process_group(
        settings.backend,
        init_method=settings.rendezvous.resolve().as_uri(),
        rank=settings.rank,
        world_size=settings.ranks,
        timeout=RENDEZVOUS_TIMEOUT,
    )
    ending = work(container, folder)
    sys.stdout.flush()
    sys.stderr.flush()
    pipe.send(ending)
    if ending.status == "done":
        dist.destroy_process_group()
    else:
        # to be ended: peers that see a connection closed would tell of that instead
        pipe.poll(None)
    os._exit(ending.code)  # torch would wait for peers that may be gone


def _die_with_parent() -> None:
    """Ends this process when the one that asked for it is gone; a fork server's child is not told otherwise."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(FAILED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
