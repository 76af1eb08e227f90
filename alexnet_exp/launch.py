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
from collections.abc import Mapping
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

RENDEZVOUS = ".rendezvous"
RENDEZVOUS_TIMEOUT = timedelta(minutes=2)
GRACE = 10.0  # seconds that ranks have to end after one of them has failed


def run_ranks(ranks: int, backend: str, container: Mapping[str, Any], folder: Path) -> int:
    """Trains with `ranks` processes; returns the exit code of the first that failed, or 0.

    When one ends badly the others are ended too: they would wait for it in their next collective.
    """
    start = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(start)
    if start == "forkserver":
        context.set_forkserver_preload(["alexnet_exp.train"])
    (folder / RENDEZVOUS).unlink(missing_ok=True)
    arguments = [(rank, ranks, backend, dict(container), str(folder), dict(os.environ)) for rank in range(ranks)]
    processes = [context.Process(target=_rank, args=each, name=f"rank{each[0]}") for each in arguments]
    for process in processes:
        process.start()
    try:
        return _until_done(processes)
    finally:
        _end(processes)
        (folder / RENDEZVOUS).unlink(missing_ok=True)


def _until_done(processes: list[Any]) -> int:
    while any(process.exitcode is None for process in processes):
        wait([process.sentinel for process in processes if process.exitcode is None])
        failed = [process.exitcode for process in processes if process.exitcode]
        if failed:
            return int(failed[0]) if failed[0] > 0 else 1
    return 0


def _end(processes: list[Any]) -> None:
    deadline = time.monotonic() + GRACE
    for process in processes:
        if process.exitcode is None:
            process.terminate()
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()


def _rank(rank: int, ranks: int, backend: str, container: dict[str, Any], folder: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(ranks), NODE_RANK="0", LOCAL_WORLD_SIZE=str(ranks))
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)

    import torch
    import torch.distributed as dist

    from alexnet_exp.train import train_rank

    if backend == "nccl":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    store = (Path(folder) / RENDEZVOUS).resolve().as_uri()
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=ranks, timeout=RENDEZVOUS_TIMEOUT)
    code = train_rank(container, Path(folder))
    if code == 0:
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # after a failure a peer may be gone, and torch would wait for it at exit


def _die_with_parent() -> None:
    """Ends this process when the one that asked for it is gone; a fork server's child is not told otherwise."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
