"""Provides the decoding of batches by worker processes, which are restarted if one of them is killed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import queues
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from alexnet_exp.data.decode import read_image
from alexnet_exp.data.image_files import FileStamp
from alexnet_exp.data.split import StreamedSplit
from alexnet_exp.errors import UserError
from alexnet_exp.processes.children import init_loader_worker, shorten_socket_paths

log = logging.getLogger(__name__)

# In one epoch. More kills have a permanent cause.
MOST_RESTARTS = 3
# Time until the exit code of a worker is available, after its batch has failed to arrive.
EXIT_WAIT_SECONDS = 1.0
LOST_SERVER_EXIT_CODE = 255  # of multiprocessing if the exit code is unknown, because the fork server has ended
UNSENT_EXIT_CODE = 74  # EX_IOERR: of a worker that could not send a batch
SIGNAL_REASONS = {
    "SIGKILL": "it may have been out of memory",
    "SIGBUS": "the shared memory, /dev/shm, may be full",
}

BatchRequest = Sequence[tuple[str, FileStamp]]  # the files of one batch


@dataclass(frozen=True)
class PipedBatch:
    """A batch that is sent through a pipe, because there is no shared memory for it, and the reason."""

    images: NDArray[np.uint8]
    reason: str


DecodedBatch = Tensor | PipedBatch | UserError


class Decoder:
    """Decodes batches of a split, uint8 [B, 3, size, size], in `workers` persistent processes (0 = in this process).

    A batch depends on its files only. Workers can therefore be restarted at any point: missing batches are requested
    again.
    """

    def __init__(self, split: StreamedSplit, workers: int, pin_memory: bool = False):
        self.workers = workers
        self._requests = _RequestSampler(split)
        self._loader: DataLoader[DecodedBatch] = DataLoader(
            _BatchDataset(split.size),
            batch_size=None,
            sampler=self._requests,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            multiprocessing_context=_context() if workers else None,
            worker_init_fn=_init_worker if workers else None,
            # the loader draws a seed for its workers, which is not used and must not come from the run's random stream
            generator=torch.Generator(),
        )

    def decode(self, shares: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yields the images at the indices of each share, in order. Raises UserError (path first) for a bad file."""
        delivered = restarts = 0
        while delivered < len(shares):
            self._requests.left = shares[delivered:]
            try:
                for images in self._iterator():
                    if isinstance(images, UserError):
                        raise images
                    if isinstance(images, PipedBatch):
                        _warn_of_shared_memory(images.reason)
                        images = torch.from_numpy(images.images)
                    yield images
                    delivered += 1
                return
            # torch raises the first for a dead worker; an incomplete message raises the others
            except (RuntimeError, OSError, EOFError) as error:
                reason = self._failure_reason(error)
                self.close()
                if reason is None:
                    raise
                if restarts == MOST_RESTARTS:
                    raise UserError(
                        f"data.workers={self.workers}: {reason}, {restarts + 1} times in this epoch; "
                        "write fewer workers or a smaller data.batch_size"
                    ) from error
                restarts += 1
                log.warning(f"{reason}; restarted without loss of data")

    def _iterator(self) -> Iterator[DecodedBatch]:
        iterator = iter(self._loader)
        if self.workers:
            event = getattr(iterator, "_workers_done_event", None)
            if not isinstance(event, _LocklessEvent):
                iterator._workers_done_event = _LocklessEvent(event)  # type: ignore[attr-defined]
        return iterator

    def close(self) -> None:
        """Ends the workers, also within an epoch; an iterator that is still referenced would keep them alive."""
        iterator = self._loader._iterator
        if iterator is None:
            return
        self._loader._iterator = None
        for process in _processes(iterator):  # they have no state to save
            process.kill()
        iterator._shutdown_workers()  # type: ignore[attr-defined] # torch has no public name for it

    def _failure_reason(self, error: Exception) -> str | None:
        """Returns the reason why a worker ended, or None if the error has another cause."""
        processes = _processes(self._loader._iterator)
        if processes:
            wait([process.sentinel for process in processes], EXIT_WAIT_SECONDS)
        ended = [process.exitcode for process in processes if process.exitcode is not None]
        if ended:
            return _exit_reason(ended)
        # no iterator yet: the error occurred during the start of the processes
        if self.workers and self._loader._iterator is None and isinstance(error, OSError | EOFError):
            return f"a loader worker could not be started ({error})"
        return None


class _LocklessEvent:
    """Replaces the event by which torch asks its workers to end; `Decoder` kills them instead.

    A worker that is killed while it checks the event keeps the lock of the event. The next check, by which torch finds
    the dead worker, would wait forever.
    """

    def __init__(self, event: object):
        self.event = event  # starting workers open it by its name, so it must stay referenced
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True


class _RequestSampler(Sampler[BatchRequest]):
    """Yields the remaining requests. Workers receive them batch by batch and do not hold the list of all files."""

    def __init__(self, split: StreamedSplit) -> None:
        self.split = split
        self.left: Sequence[Tensor] = []

    def __iter__(self) -> Iterator[BatchRequest]:
        return map(self.split.files, self.left)

    def __len__(self) -> int:
        return len(self.left)


class _BatchDataset(Dataset[DecodedBatch]):
    """Decodes the files of a batch."""

    def __init__(self, size: int):
        self.size = size

    def __getitem__(self, request: BatchRequest) -> DecodedBatch:
        try:
            images = torch.stack([read_image(path, self.size, stamp) for path, stamp in request])
        except UserError as error:
            # not raised: torch would wrap it in the traceback of the worker
            return error
        return images if get_worker_info() is None else _share(images)


def _share(images: Tensor) -> Tensor | PipedBatch:
    """Moves a worker's batch to shared memory, or returns it as a `PipedBatch` if there is not enough.

    torch would allocate the memory in the sending thread. A failure there (Docker gives /dev/shm 64 MB) loses the
    batch while the worker stays alive, and the training process waits for it forever.
    """
    try:
        images.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as error:
        return PipedBatch(images.numpy(), str(error).splitlines()[0].rpartition(": ")[2])
    return images


@cache
def _warn_of_shared_memory(reason: str) -> None:
    """Warns once, because the loaders of all splits share /dev/shm."""
    log.warning(
        f"not enough shared memory for the batches of the loader workers ({reason}); they are sent through pipes, "
        "which is slower; increase it (docker run --shm-size=8g), or write a smaller data.workers or data.batch_size"
    )


def _init_worker(number: int) -> None:
    """Initializes a worker (`worker_init_fn`)."""
    init_loader_worker(number)
    # multiprocessing would print a traceback and drop the batch, and the training process would wait for it forever
    queues.Queue._on_queue_feeder_error = staticmethod(_exit_unsent)  # type: ignore[attr-defined]


def _exit_unsent(error: Exception, batch: object) -> None:
    with suppress(OSError):
        os.write(2, f"a loader worker could not send a batch: {type(error).__name__}: {error}\n".encode())
    os._exit(UNSENT_EXIT_CODE)


def _context() -> BaseContext:
    """Returns a fork server context: a fork of a process with threads or CUDA may hang, and a server has neither."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    shorten_socket_paths()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["alexnet_exp.processes.forkserver", __name__, "torchvision.io"])
    return context


def _processes(iterator: object) -> list[BaseProcess]:
    return list(getattr(iterator, "_workers", []))


def _exit_reason(codes: list[int]) -> str:
    """Returns why workers with these exit codes ended, with preference for a signal."""
    code = UNSENT_EXIT_CODE if UNSENT_EXIT_CODE in codes else min(codes)
    if code == LOST_SERVER_EXIT_CODE:
        return "the fork server of the loader workers was killed"
    if code == UNSENT_EXIT_CODE:
        return "a loader worker could not send a batch"
    if code >= 0:
        return f"a loader worker ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"a loader worker was killed by {name}" + (f"; {SIGNAL_REASONS[name]}" if name in SIGNAL_REASONS else "")
