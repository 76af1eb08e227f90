"""GPUs given to jobs: none twice, whatever they are called and however they are asked for."""

from __future__ import annotations

import pytest

from alexnet_exp.sweep.execute.gpus import Gpus, visible


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
def test_what_is_visible(environment: dict[str, str], count: int, names: list[str]) -> None:
    assert visible(environment, count) == names


def test_each_job_gets_gpus_of_its_own() -> None:
    gpus = Gpus(["4", "5", "7"])
    one, two = gpus.take(1), gpus.take(2)
    assert (one.names, two.names) == ("4", "5,7")
    assert not gpus.fits(1)
    with pytest.raises(ValueError, match="not free"):
        gpus.take(1)
    gpus.give_back(one)
    assert gpus.take(1).names == "4"


def test_named_gpus_keep_their_numbers() -> None:
    gpus = Gpus(["4", "5", "7"])
    named = gpus.take([0, 2])
    assert named.names == "4,5,7"
    assert not gpus.fits([2])
    assert gpus.take(1).names == "5"
    gpus.give_back(named)
    assert gpus.fits([2, 0])


def test_a_job_of_the_cpu_gets_none_and_always_fits() -> None:
    gpus = Gpus(["0"])
    gpus.take(1)
    assert gpus.fits(0)
    assert gpus.take(0).names == ""


def test_without_gpus_nothing_is_said_of_them() -> None:
    assert Gpus([]).take(0).names is None
    assert not Gpus([]).fits(1)
