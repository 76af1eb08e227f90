"""Tests that no GPU is assigned twice, whatever its name and however it is requested."""

from __future__ import annotations

import pytest

from alexnet_exp.sweep.execute.gpus import GpuAllocator, visible_gpus


@pytest.mark.parametrize(
    ("environment", "count", "names"),
    [
        ({}, 3, ["0", "1", "2"]),
        ({}, 0, []),
        ({"CUDA_VISIBLE_DEVICES": "2,5"}, 2, ["2", "5"]),
        ({"CUDA_VISIBLE_DEVICES": " GPU-8f1a , GPU-77"}, 2, ["GPU-8f1a", "GPU-77"]),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,2"}, 1, ["1"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0, []),
    ],
)
def test_visible_gpus(environment: dict[str, str], count: int, names: list[str]) -> None:
    assert visible_gpus(environment, count) == names


def test_each_job_gets_its_own_gpus() -> None:
    gpus = GpuAllocator(["4", "5", "7"])
    one, two = gpus.acquire(1), gpus.acquire(2)
    assert (one.names, two.names) == ("4", "5,7")
    assert not gpus.has_free(1)
    with pytest.raises(ValueError, match="not free"):
        gpus.acquire(1)
    gpus.release(one)
    assert gpus.acquire(1).names == "4"


def test_gpus_requested_by_position_keep_their_numbers() -> None:
    gpus = GpuAllocator(["4", "5", "7"])
    named = gpus.acquire([0, 2])
    assert named.names == "4,5,7"
    assert not gpus.has_free([2])
    assert gpus.acquire(1).names == "5"
    gpus.release(named)
    assert gpus.has_free([2, 0])


def test_a_cpu_job_sees_no_gpu_and_always_has_room() -> None:
    gpus = GpuAllocator(["0"])
    gpus.acquire(1)
    assert gpus.has_free(0)
    assert gpus.acquire(0).names == ""


def test_without_gpus_the_variable_is_not_set() -> None:
    assert GpuAllocator([]).acquire(0).names is None
    assert not GpuAllocator([]).has_free(1)
