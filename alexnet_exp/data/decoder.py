"""Decoding the files of batches in processes of their own, which are replaced where one of them is killed."""

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

# In one epoch. A worker that was killed once too often is killed for a reason that stays.
MOST_RESTARTS = 3
# Seconds in which a worker's end shows, after what it was sending has failed.
EXIT_WAIT_SECONDS = 1.0
LOST_SERVER_EXIT_CODE = 255  # the exit code that multiprocessing gives where it cannot know: the fork server is gone
UNSENT_EXIT_CODE = 74  # EX_IOERR, the exit code of a worker that could not send a batch
SIGNAL_REASONS = {
    "SIGKILL": "it may have been out of memory",
    "SIGBUS": "the shared memory, /dev/shm, may be full",
}

BatchRequest = Sequence[tuple[str, FileStamp]]  # the files of one batch


@dataclass(frozen=True)
class PipedBatch:
    """A batch that is sent through a pipe, because there is no shared memory for it (`reason`)."""

    images: NDArray[np.uint8]
    reason: str


DecodedBatch = Tensor | PipedBatch | UserError


class Decoder:
    """Batches of a split's images, uint8 [B, 3, size, size], by `workers` processes that outlive an epoch.

    With 0 workers this process decodes. A batch depends on its files alone, so that the workers can be started anew
    wherever they are: what they had not delivered is asked for again.
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
            # the loader draws a seed for its workers, which use none: not from the run's random numbers
            generator=torch.Generator(),
        )

    def decode(self, shares: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images at each share's indices, in order. Raises UserError, naming the file, for one that is damaged."""
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
            # what torch raises of a dead worker, and what a message raises that it could not finish
            except (RuntimeError, OSError, EOFError) as error:
                reason = self._death(error)
                self.close()
                if reason is None:
                    raise
                if restarts == MOST_RESTARTS:
                    raise UserError(
                        f"data.workers={self.workers}: {reason}, {restarts + 1} times in this epoch; "
                        "write fewer, or a smaller data.batch_size"
                    ) from error
                restarts += 1
                log.warning(f"{reason}; restarted, nothing is lost")

    def _iterator(self) -> Iterator[DecodedBatch]:
        iterator = iter(self._loader)
        if self.workers:
            event = getattr(iterator, "_workers_done_event", None)
            if not isinstance(event, _LocklessEvent):
                iterator._workers_done_event = _LocklessEvent(event)  # type: ignore[attr-defined]
        return iterator

    def close(self) -> None:
        """Ends the workers, also in the middle of an epoch: whoever holds an iterator of it would keep them alive."""
        iterator = self._loader._iterator
        if iterator is None:
            return
        self._loader._iterator = None
        for process in _processes(iterator):  # they have nothing to put in order
            process.kill()
        iterator._shutdown_workers()  # type: ignore[attr-defined] # torch has no public name for it

    def _death(self, error: Exception) -> str | None:
        """What ended a worker, if one has ended; None where the error is of another kind."""
        processes = _processes(self._loader._iterator)
        if processes:
            wait([process.sentinel for process in processes], EXIT_WAIT_SECONDS)
        ended = [process.exitcode for process in processes if process.exitcode is not None]
        if ended:
            return _exit_reason(ended)
        # before it had an iterator: while the processes were started
        if self.workers and self._loader._iterator is None and isinstance(error, OSError | EOFError):
            return f"a loader worker could not be started ({error})"
        return None


class _LocklessEvent:
    """In place of the event by which torch tells its workers to end: ours are killed.

    A worker that is killed in the moment in which it looks at that event takes the event's lock along, and whoever
    looks next, to find out which worker is dead, would wait for ever.
    """

    def __init__(self, event: object):
        self.event = event  # kept: workers that are still starting look for it by its name
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True


class _RequestSampler(Sampler[BatchRequest]):
    """What is still to be decoded. It goes to the workers batch by batch: these hold no list of all files."""

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
            # raised here, it would reach the user wrapped in the worker's traceback
            return error
        return images if get_worker_info() is None else _share(images)


def _share(images: Tensor) -> Tensor | PipedBatch:
    """A worker's batch in shared memory, or where there is none to be had, for a pipe.

    torch would ask for the memory in the thread that sends, where a failure (Docker gives /dev/shm 64 MB) loses the
    batch: the worker lives on, and the training process waits for it for ever.
    """
    try:
        images.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as error:
        return PipedBatch(images.numpy(), str(error).splitlines()[0].rpartition(": ")[2])
    return images


@cache
def _warn_of_shared_memory(reason: str) -> None:
    """Warns once: the loaders of all splits have the same /dev/shm."""
    log.warning(
        f"no shared memory for the batches of the loader workers ({reason}): they are sent through pipes, which is "
        "slower; give the container more (docker run --shm-size=8g), or write a smaller data.workers or data.batch_size"
    )


def _init_worker(number: int) -> None:
    """What a worker does first (`worker_init_fn`)."""
    init_loader_worker(number)
    # multiprocessing would print a traceback and drop the batch, for which the training process would wait for ever
    queues.Queue._on_queue_feeder_error = staticmethod(_exit_unsent)  # type: ignore[attr-defined]


def _exit_unsent(error: Exception, batch: object) -> None:
    with suppress(OSError):
        os.write(2, f"a loader worker cannot send a batch: {type(error).__name__}: {error}\n".encode())
    os._exit(UNSENT_EXIT_CODE)


def _context() -> BaseContext:
    """A fork of a process with threads or a CUDA context may hang; a fork server has neither and imports torch once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    shorten_socket_paths()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["alexnet_exp.processes.forkserver", __name__])
    return context


def _processes(iterator: object) -> list[BaseProcess]:
    return list(getattr(iterator, "_workers", []))


def _exit_reason(codes: list[int]) -> str:
    """In words, how workers with these exit codes ended: by a signal, if one did."""
    code = UNSENT_EXIT_CODE if UNSENT_EXIT_CODE in codes else min(codes)
    if code == LOST_SERVER_EXIT_CODE:
        return "the fork server of the loader workers was killed"
    if code == UNSENT_EXIT_CODE:
        return "a loader worker could not send a batch"
    if code >= 0:
        return f"a loader worker ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"a loader worker was killed by {name}" + (f"; {SIGNAL_REASONS[name]}" if name in SIGNAL_REASONS else "")
