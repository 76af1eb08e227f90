"""The ceiling: a rate of products that were really made, and nothing left changed. That it is high, no test says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from alexnet_exp.bench import peak_flops
from alexnet_exp.bench.peak_flops import measure_peak


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_flops, "MATRIX_SIDES", (16, 48))
    monkeypatch.setattr(peak_flops, "SECONDS", 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_rate_in_every_dtype(dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    assert measure_peak("cpu", dtype, threads=2) > 0
    assert torch.get_num_threads() == before


def test_the_fastest_product_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three products of each side take 4, 1, 2 and 8, 3, 8 seconds."""
    monkeypatch.setattr(peak_flops, "MAX_SECONDS", 100.0)
    monkeypatch.setattr(peak_flops, "MIN_PRODUCTS", 3)
    moments = iter([0.0, 4.0, 0.0, 1.0, 0.0, 2.0, 0.0, 8.0, 0.0, 3.0, 0.0, 8.0])
    monkeypatch.setattr(peak_flops.time, "perf_counter", lambda: next(moments))
    assert measure_peak() == pytest.approx(max(2 * 16**3 / 1, 2 * 48**3 / 3) / 1e9)


@pytest.mark.slow
def test_it_needs_no_lightning() -> None:
    code = "import alexnet_exp.bench.peak_flops, sys; sys.exit(bool({'pytorch_lightning', 'hydra'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
