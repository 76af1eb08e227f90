"""Loader workers in real processes: kills, signals, and the death of their parent."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from alexnet_exp.data import decoder as module
from alexnet_exp.data.loader import Batch, EpochPlan, ResidentLoader, StreamedLoader, epoch_order
from alexnet_exp.data.split import ResidentSplit, StreamedSplit
from alexnet_exp.errors import UserError

N, BATCH = 40, 2


@pytest.fixture
def streamed(tmp_path: Path, make_images: Callable[..., Path]) -> StreamedSplit:
    folder = make_images(tmp_path / "images", {"a": N // 2, "b": N // 2}, (8, 8))
    labels = torch.tensor([0] * (N // 2) + [1] * (N // 2))
    return StreamedSplit([str(p) for p in sorted(folder.rglob("*.png"))], labels, 8)


class Epochs:
    """A loader with two workers, and the expected content of its epochs."""

    def __init__(self, split: StreamedSplit, start: int = 0):
        self.epoch = 0
        plan = EpochPlan(N, BATCH)
        memory = ResidentSplit(split.images(torch.arange(N)), split.labels)
        self.others = set(multiprocessing.active_children())
        self.loader = StreamedLoader(split, plan, self.order, lambda: start, workers=2)
        self.expected = ResidentLoader(memory, plan, self.order, lambda: start)

    def order(self) -> torch.Tensor:
        return epoch_order(N, 1, self.epoch, shuffle=True)

    def workers(self) -> list[int]:
        return [process.pid for process in set(multiprocessing.active_children()) - self.others if process.pid]

    def check(self, got: list[Batch]) -> None:
        expected = list(self.expected)
        assert len(got) == len(expected)
        for (images, labels), (wanted, wanted_labels) in zip(got, expected, strict=True):
            assert torch.equal(images, wanted)
            assert torch.equal(labels, wanted_labels)


@pytest.fixture
def epochs(streamed: StreamedSplit) -> Iterator[Epochs]:
    made = Epochs(streamed)
    yield made
    made.loader.close()
    assert made.workers() == []


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def through(epochs: Epochs, at: dict[int, Callable[[], None]]) -> list[Batch]:
    """Returns the batches of an epoch; calls at[k] before batch k is requested."""
    batches, got = iter(epochs.loader), []
    for number in range(len(epochs.loader) + 1):
        at.get(number, lambda: None)()
        if (batch := next(batches, None)) is None:
            return got
        got.append(batch)
    raise AssertionError("more batches than there are")


def kill(pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
    for pid in pids:
        os.kill(pid, number)


def test_epoch_continues_after_a_killed_worker(epochs: Epochs, caplog: pytest.LogCaptureFixture) -> None:
    epochs.check(through(epochs, {7: lambda: kill(epochs.workers()[:1])}))
    assert warnings_of(caplog) == [
        "a loader worker was killed by SIGKILL; it may have been out of memory; restarted without loss of data"
    ]
    # the new workers stay for the next epoch
    epochs.epoch, before = 1, sorted(epochs.workers())
    epochs.check(list(epochs.loader))
    assert sorted(epochs.workers()) == before
    assert len(warnings_of(caplog)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 2, 13, 19])
@pytest.mark.parametrize("how_many", [1, 2])
@pytest.mark.parametrize("epoch", [0, 1])
def test_kills_lose_and_repeat_no_batch(
    epochs: Epochs, at: int, how_many: int, epoch: int, caplog: pytest.LogCaptureFixture
) -> None:
    for epochs.epoch in range(epoch):
        epochs.check(list(epochs.loader))
    epochs.epoch = epoch
    epochs.check(through(epochs, {at: lambda: kill(epochs.workers()[:how_many])}))
    # the death of a worker without pending batches may be detected in the next epoch
    assert len(warnings_of(caplog)) <= 1
    epochs.epoch += 1
    epochs.check(list(epochs.loader))
    assert len(warnings_of(caplog)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_kills_at_random_times_lose_no_batch(epochs: Epochs, seed: int) -> None:
    """Unlike above, not between batches, but while workers decode, send, wait or start."""
    random = torch.Generator().manual_seed(seed)
    killer = "import os,sys,time; time.sleep(float(sys.argv[1])); os.kill(int(sys.argv[2]), 9)"
    for epochs.epoch in range(3):
        started: list[subprocess.Popen[bytes]] = []

        def start(started: list[subprocess.Popen[bytes]] = started) -> None:
            delay = 0.05 * torch.rand((), generator=random).item()
            started.append(subprocess.Popen([sys.executable, "-c", killer, str(delay), str(epochs.workers()[0])]))

        epochs.check(through(epochs, {1: start}))
        for process in started:
            process.wait()


@pytest.mark.slow
def test_worker_killed_between_epochs_is_restarted(epochs: Epochs, caplog: pytest.LogCaptureFixture) -> None:
    epochs.check(list(epochs.loader))
    kill(epochs.workers())
    epochs.epoch = 1
    epochs.check(list(epochs.loader))
    assert len(warnings_of(caplog)) == 1


@pytest.mark.slow
@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="there is none here")
def test_killed_fork_server_is_restarted(epochs: Epochs, caplog: pytest.LogCaptureFixture) -> None:
    epochs.check(through(epochs, {4: lambda: kill([forkserver._forkserver._forkserver_pid])}))  # type: ignore[attr-defined]
    epochs.epoch = 1
    epochs.check(list(epochs.loader))
    # workers may still be ending when it is detected, and one of them is reported as well
    assert 1 <= len(warnings_of(caplog)) <= 2
    assert all(line.endswith("restarted without loss of data") for line in warnings_of(caplog))


@pytest.mark.slow
def test_repeated_kills_are_an_error(
    epochs: Epochs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_RESTARTS", 1)
    with pytest.raises(UserError) as error:
        through(epochs, {3: lambda: kill(epochs.workers()), 9: lambda: kill(epochs.workers(), signal.SIGBUS)})
    assert str(error.value) == (
        "data.workers=2: a loader worker was killed by SIGBUS; the shared memory, /dev/shm, may be full, "
        "2 times in this epoch; write fewer workers or a smaller data.batch_size"
    )
    assert len(warnings_of(caplog)) == 1
    # counted per epoch
    epochs.epoch = 1
    epochs.check(list(epochs.loader))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("change", ["gone", "shorter", "another of the same size"])
def test_error_names_a_file_changed_within_an_epoch(streamed: StreamedSplit, workers: int, change: str) -> None:
    loader = StreamedLoader(streamed, EpochPlan(N, BATCH), lambda: torch.arange(N), workers=workers)
    batches = iter(loader)
    got = [next(batches) for _ in range(3)]
    path = Path(streamed.paths[31])
    content = path.read_bytes()
    if change == "gone":
        path.unlink()
    elif change == "shorter":
        path.write_bytes(content[:-9])
    else:
        time.sleep(0.02)  # modification times have a resolution of up to 10 ms
        path.write_bytes(content[:-9] + bytes(9))
    with pytest.raises(UserError) as error:
        got += batches
    loader.close()
    assert len(got) == 15, "all batches before that with the file"
    assert str(error.value).startswith(f"{path}: ")
    assert ("cannot be read" if change == "gone" else "has changed") in str(error.value)
    assert "resume" in str(error.value)


@pytest.mark.parametrize("start", [0, 5, 19])
def test_epoch_starts_at_the_resume_point(streamed: StreamedSplit, start: int) -> None:
    epochs = Epochs(streamed, start)
    epochs.check(list(epochs.loader))
    epochs.loader.close()
    assert len(list(epochs.expected)) == N // BATCH - start


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the system does not tell who sent a signal")
def test_workers_ignore_signals_to_the_process_group(epochs: Epochs, caplog: pytest.LogCaptureFixture) -> None:
    def tell() -> None:
        for pid in epochs.workers():
            for name in ("INT", "TERM", "USR1"):
                subprocess.run(["kill", f"-{name}", str(pid)], check=True)

    batches = iter(epochs.loader)
    got = [next(batches) for _ in range(2)]  # one batch per worker: both have started
    before = sorted(epochs.workers())
    tell()
    got += list(batches)
    epochs.check(got)
    assert sorted(epochs.workers()) == before
    assert warnings_of(caplog) == []


class FullError(RuntimeError):
    """Raises the error of torch for a full /dev/shm."""

    def __init__(self) -> None:
        super().__init__("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)")


def test_batch_without_shared_memory_is_sent_through_a_pipe(
    streamed: StreamedSplit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(images: torch.Tensor) -> torch.Tensor:
        raise FullError

    module._warn_of_shared_memory.cache_clear()
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    monkeypatch.setattr(module, "get_worker_info", object)
    files = [streamed.files(torch.arange(3)), streamed.files(torch.arange(3, 5))]
    answers = [module._BatchDataset(8)[request] for request in files]
    assert all(isinstance(answer, module.PipedBatch) for answer in answers)
    decoder = module.Decoder(streamed, 0)
    monkeypatch.setattr(decoder, "_iterator", lambda: iter(answers))
    got = torch.cat(list(decoder.decode([torch.arange(3), torch.arange(3, 5)])))
    assert torch.equal(got, streamed.images(torch.arange(5)))
    assert warnings_of(caplog) == [
        "not enough shared memory for the batches of the loader workers (No space left on device (28)); they are sent "
        "through pipes, which is slower; increase it (docker run --shm-size=8g), or write a smaller data.workers or "
        "data.batch_size"
    ]


UNSENT = """
import logging, sys, time, torch
from pathlib import Path
from alexnet_exp.data import decoder
from alexnet_exp.data.loader import EpochPlan, StreamedLoader
from alexnet_exp.data.split import StreamedSplit
from alexnet_exp.errors import UserError

def lose(images):
    return lambda: images  # cannot be pickled, which fails in the sending thread

if len(sys.argv) > 2:
    decoder._share = lose  # also in the workers, which import this file
if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    paths = sorted(map(str, Path(sys.argv[1]).rglob("*.png")))
    size = 8 if len(sys.argv) > 2 else 300
    split = StreamedSplit(paths, torch.zeros(len(paths), dtype=torch.long), size)
    loader = StreamedLoader(split, EpochPlan(len(paths), 10), lambda: torch.arange(len(paths)), workers=2)
    try:
        expected = split.images(torch.arange(len(paths)))
        print(torch.equal(torch.cat([images for images, _ in loader]), expected), flush=True)
    except UserError as error:
        print(error, flush=True)
"""


def run_alone(tmp_path: Path, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    (tmp_path / "unsent.py").write_text(UNSENT)
    words = [sys.executable, str(tmp_path / "unsent.py"), str(tmp_path / "images"), *arguments]
    command = ["unshare", "-rm", "sh", "-c", f'{before} && exec "$@"', "sh", *words] if before else words
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_worker_that_cannot_send_exits(streamed: StreamedSplit, tmp_path: Path) -> None:
    done = run_alone(tmp_path, "lose")
    assert done.stdout == (
        "data.workers=2: a loader worker could not send a batch, 4 times in this epoch; "
        "write fewer workers or a smaller data.batch_size\n"
    )
    assert "a loader worker could not send a batch: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_full_shared_memory_loses_no_batch(streamed: StreamedSplit, tmp_path: Path) -> None:
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    done = run_alone(tmp_path, before=mount)
    assert done.stdout == "True\n", done.stderr
    assert (
        done.stderr.count("not enough shared memory for the batches of the loader workers (No space left on device")
        == 1
    )
    assert "Traceback" not in done.stderr


ALONE = """
import sys, time, multiprocessing, torch
from pathlib import Path
from alexnet_exp.data.loader import EpochPlan, StreamedLoader
from alexnet_exp.data.split import StreamedSplit
if __name__ == "__main__":
    paths = sorted(map(str, Path(sys.argv[1]).rglob("*.png")))
    split = StreamedSplit(paths, torch.zeros(len(paths), dtype=torch.long), 8)
    loader = StreamedLoader(split, EpochPlan(len(paths), 2), lambda: torch.arange(len(paths)), workers=2)
    batches = iter(loader)
    next(batches)
    from multiprocessing import forkserver
    pids = [process.pid for process in multiprocessing.active_children()]
    print(*pids, forkserver._forkserver._forkserver_pid, flush=True)
    time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Returns whether the process exists and is not a zombie process."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc of Linux")
def test_workers_end_with_a_killed_parent(streamed: StreamedSplit, tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(ALONE)
    command = [sys.executable, str(tmp_path / "alone.py"), str(tmp_path / "images")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(alive, pids))
        process.kill()
    deadline = time.monotonic() + 60
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [pid for pid in pids if alive(pid)]
    kill(left)
    assert left == []
