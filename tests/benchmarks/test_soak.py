"""What the soak looks at, and when it calls a figure flat; made-up figures, and this process's own."""

from __future__ import annotations

import os
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

import pytest

from benchmarks.soak import Growth, entries, growth, held, told


def test_growth_is_of_the_late_jobs_against_early_ones_and_a_slope() -> None:
    samples = [{"jobs": job, "handles": 7.0, "rss": 1000.0 + 3 * job} for job in range(1, 201)]
    samples[0]["rss"] = 0.0  # before the first tenth everything is still being imported
    assert growth(samples, "handles", 200) == Growth(7, 7, 0)
    found = growth(samples, "rss", 200)
    assert (found.early, found.late) == (1000 + 3 * 40, 1000 + 3 * 180)
    assert found.per_job == pytest.approx(3)


@pytest.mark.parametrize(
    ("growth", "count", "memory"),
    [(Growth(50, 50, 0), True, True), (Growth(50, 51, 0), False, True), (Growth(50, 52, 0), False, False)],
)
def test_a_count_is_flat_where_it_does_not_grow_and_memory_within_its_ups_and_downs(
    growth: Growth, count: bool, memory: bool
) -> None:
    assert growth.is_flat(is_memory=False) is count
    assert growth.is_flat(is_memory=True) is memory


def test_one_spike_is_no_growth() -> None:
    samples = [{"jobs": job, "handles": 30.0 if job == 190 else 7.0} for job in range(1, 201)]
    assert growth(samples, "handles", 200).is_flat(is_memory=False)


@pytest.mark.slow
def test_what_a_process_holds() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:  # here files that other tests forgot would be closed
        alone.submit(_holds_what_is_there).result()


def _holds_what_is_there() -> None:
    before = held(os.getpid())
    leave = threading.Event()
    waiting = threading.Thread(target=leave.wait)
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(tempfile.TemporaryFile())
        ballast = bytearray(os.urandom(1)) * 30_000_000
        waiting.start()
        after = held(os.getpid())
        leave.set()
        waiting.join()
    assert after["handles"] == before["handles"] + 5
    assert after["threads"] == before["threads"] + 1
    for figure in ("rss", "pss"):
        assert after[figure] - before[figure] > 0.9 * len(ballast)
    assert held(2**22 + 1) == {}, "there is no such process"


def test_entries_are_counted_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "c").touch()
    assert entries(tmp_path) == 3


def test_the_table_says_what_grew_by_job() -> None:
    part = {"jobs": 200, "done": 200, "orphans": 0}
    figures = {"launcher rss": (60e6, 61e6, 5000.0), "launcher handles": (9, 10, 0.005)}
    growing = {name: dict(zip(("early", "late", "per_job"), each, strict=True)) for name, each in figures.items()}
    text = told("sweep", {**part, "growth": growing})
    assert "| launcher rss | 60.0 MB | 61.0 MB | +5.00 kB |" in text
    assert "| launcher handles | 9 | 10 | +0.0050 |" in text
