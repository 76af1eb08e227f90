"""Runs in a child process: prepares the process, joins the other ranks, does the work, and reports the ending."""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from alexnet_exp import logs
from alexnet_exp.errors import ExitCode, UserError
from alexnet_exp.processes.children import end_with_parent
from alexnet_exp.processes.ranks import remove_rank_variables
from alexnet_exp.processes.signals import STOP_SIGNALS, stop_on_signals
from alexnet_exp.runs.status import Ending, Status, ending_of

# For the ranks to connect, and for any of them to wait for another: one may write a large checkpoint to a slow disk.
RANK_TIMEOUT = timedelta(minutes=15)
RENDEZVOUS_PREFIX = ".rendezvous-"  # of the files by which ranks connect
RENDEZVOUS_VARIABLE = "ALEXNET_EXP_MEETING"  # the environment variable with the name of that file

Work = Callable[[Any, Path], Ending]


def succeeded(ending: Ending) -> bool:
    """Returns whether all ranks reach this ending together."""
    return ending.status in (Status.DONE, Status.PRUNED)


def rank_environment(environment: Mapping[str, str], rank: int, ranks: int) -> dict[str, str]:
    """Returns the environment of one rank; of a single process, without the variables of ranks."""
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
class ChildTask:
    """The task of a child process; its methods run there.

    given: what `work` receives, pickled. rank, ranks, backend, rendezvous: how the process joins the others.
    environment, threads, own_log: as in `launch.RankGroup`.
    """

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

    def run(self, pipe: Connection, missing: list[str]) -> None:
        """Runs the whole process. missing: modules that the fork server could not import."""
        end_with_parent(group=True)
        with stop_on_signals(insist=False):
            try:
                self._settle_in(missing)
                self._join()
                ending = self._work()
            except BaseException as error:
                ending = ending_of(error)
            with suppress(KeyboardInterrupt):  # from here on the process ends by itself
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
        if succeeded(ending):
            import torch.distributed as dist

            dist.destroy_process_group()
        else:
            # wait to be killed: peers that see a closed connection would report that instead
            pipe.poll(None)
        os._exit(ending.code)  # torch would wait for peers that may have exited

    def _settle_in(self, missing: list[str]) -> None:
        """Sets environment, output and threads; a child of a fork server has those of the server's start."""
        os.environ.clear()
        os.environ.update(self.environment)
        if self.threads:
            os.environ["OMP_NUM_THREADS"] = str(self.threads)  # for libraries that are loaded later
        if self.own_log:
            logs.redirect_output(self.folder, self.rank)
            faulthandler.enable()
        if missing and self.rank == 0:
            text = f"the fork server could not import {', '.join(missing)}; every start is slow"
            if self.own_log:
                logs.append_line(self.folder, "WARNING", text)
            else:
                print(text, file=sys.stderr)

        import torch

        if self.threads:
            torch.set_num_threads(self.threads)  # OMP_NUM_THREADS has no effect after the import of torch

    def _join(self) -> None:
        if self.ranks == 1:
            return
        import torch.distributed as dist

        os.environ[RENDEZVOUS_VARIABLE] = self.rendezvous.name
        # by default they listen on the address of the host name, which other machines may reach
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)
        dist.init_process_group(
            self.backend,
            init_method=self.rendezvous.resolve().as_uri(),
            rank=self.rank,
            world_size=self.ranks,
            timeout=RANK_TIMEOUT,
        )
