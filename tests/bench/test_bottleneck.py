"""The line that says what holds a step up."""

from __future__ import annotations

from typing import Any

import pytest

from alexnet_exp.bench.bottleneck import bound


def found(**shares: float) -> dict[str, Any]:
    """A measurement with these parts, two convolutions of 30 ms and 40 % in all, and a ReLU."""
    names = {"wait": "data wait", "framework": "framework", "optimizer": "optimizer"}
    return {
        "parts": [{"name": names[key], "share": share} for key, share in shares.items()],
        "layers": [
            {"kind": "conv", "share": 0.3, "forward_ms": 5.0, "backward_ms": 15.0, "gflop": 1.0},
            {"kind": "conv", "share": 0.1, "forward_ms": 5.0, "backward_ms": 5.0, "gflop": 2.0},
            {"kind": "relu", "share": 0.35, "forward_ms": 9.0, "backward_ms": 9.0, "gflop": None},
        ],
        "ceiling_gflops": 200.0,
        "mfu": 0.25,
    }


@pytest.mark.parametrize(
    ("shares", "workers", "line"),
    [
        ({"wait": 0.4}, "2", "waits for data 40% of the time; try data.decode=once, "),
        ({"wait": 0.4}, "2", "more data.workers than 2, or null"),
        ({"wait": 0.4}, "null", "all cores decode already"),
        (
            {"wait": 0.4},
            None,
            "waits for data 40% of the time although they are in memory; try a larger data.batch_size",
        ),
        ({"framework": 0.3}, None, "the framework takes 30% because the steps are short; try a larger data.batch_size"),
        ({"optimizer": 0.5}, None, "the optimizer takes 50%; try a larger data.batch_size"),
        # 3 GFLOP in 30 ms are 100 GFLOP/s
        ({"wait": 0.05}, None, "convolutions take 40% of the step, at 50% of the peak"),
    ],
)
def test_the_bottleneck_is_named_with_its_setting(shares: dict[str, float], workers: str | None, line: str) -> None:
    assert line in bound(found(**shares), workers)


def test_without_layers_the_total_is_reported() -> None:
    assert bound(found() | {"layers": []}) == "computation: 25% of the peak in total"
    assert bound(found() | {"layers": [], "mfu": None, "ceiling_gflops": None}) == "computation"


def test_a_data_module_of_the_users_has_its_own_workers() -> None:
    line = bound(found(wait=0.4), "null", own=True)
    assert line == "waits for data 40% of the time; try more num_workers in the DataLoader of your data module"
