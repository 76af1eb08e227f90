"""The calibration measures every candidate, keeps torch's where nothing is clearly faster, and measures once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from alexnet_exp.kernels import calibration, choice
from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.calibration import ANCHORS, calibrated, calls, fastest, measure
from alexnet_exp.kernels.choice import Candidate, Choice, Operator, Shape

TINY = {
    operator: (anchors[0]._replace(shape=Shape(16, 16, 6, *anchors[0].shape[3:])),)
    for operator, anchors in ANCHORS.items()
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "ANCHORS", TINY)


def sleeper(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def test_the_times_are_those_of_the_calls() -> None:
    found = measure({Candidate.TORCH: sleeper(0.02), Candidate.NATIVE: sleeper(0.002)})
    assert 0.015 <= found[Candidate.TORCH] < 0.04
    assert 0.0015 <= found[Candidate.NATIVE] < 0.01


class Clock:
    """Calls that take given seconds in their turns, the last ones again and again; how often each was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: list[float]):
        self.now, self.calls = 0.0, dict.fromkeys(map(Candidate, seconds), 0)
        self.seconds = {Candidate(name): each for name, each in seconds.items()}
        monkeypatch.setattr(calibration.time, "perf_counter", lambda: self.now)

    def measured(self) -> dict[Candidate, float]:
        def call(candidate: Candidate) -> None:
            turn = max(0, self.calls[candidate] - 2)  # two calls prepare
            self.calls[candidate] += 1
            self.now += self.seconds[candidate][min(turn, len(self.seconds[candidate]) - 1)]

        return measure({each: partial(call, each) for each in self.seconds})


def test_a_call_that_is_clearly_slower_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, torch=[0.01], native=[0.03], packed=[0.011])
    assert clock.measured() == pytest.approx({"torch": 0.01, "native": 0.03, "packed": 0.011})
    assert clock.calls == {"torch": 9, "native": 4, "packed": 9}


def test_what_is_clear_is_not_measured_further(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, torch=[0.01], native=[0.015])
    assert clock.measured() == pytest.approx({"torch": 0.01, "native": 0.015})
    assert clock.calls == {"torch": 5, "native": 5}


def test_long_calls_have_fewer_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, torch=[0.1], native=[0.11])
    assert clock.measured() == pytest.approx({"torch": 0.1, "native": 0.11})
    assert clock.calls == {"torch": 5, "native": 5}


def test_a_slow_while_of_the_machine_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = 0.005, 0.015
    clock = Clock(  # all calls are slow in some turns; in two of them only one is
        monkeypatch,
        torch=[2 * fast, 2 * slow, 2 * slow, 2 * fast, 2 * fast, 2 * fast, 2 * fast],
        native=[slow, slow, slow, fast, slow, fast, fast],
    )
    assert clock.measured() == pytest.approx({"torch": 0.01, "native": 0.005})


def test_a_convolution_has_as_many_images_as_its_time_allows() -> None:
    assert [calibration._images(fitting) for fitting in (0.1, 4.0, 5.0, 16.0, 17.0, 1e6)] == [4, 4, 16, 16, 32, 32]


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ({Candidate.TORCH: 1.0, Candidate.NATIVE: 0.5, Candidate.PACKED: 0.6}, Candidate.NATIVE),
        ({Candidate.TORCH: 1.0, Candidate.PACKED: 0.98}, Candidate.TORCH),
        ({Candidate.TORCH: 1.0, Candidate.PACKED: 0.96}, Candidate.PACKED),
        ({Candidate.TORCH: 1.0}, Candidate.TORCH),
    ],
)
def test_torchs_operator_is_kept_unless_another_is_faster(seconds: dict[Candidate, float], wanted: Candidate) -> None:
    assert fastest(seconds) == wanted


@pytest.mark.parametrize("operator", TINY)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_candidate_that_applies_is_called(operator: Operator, dtype: str) -> None:
    anchor = TINY[operator][0]
    made = calls(operator, dtype, anchor.shape, anchor.pad, batch=2)
    others = {Candidate.PACKED} if operator in choice.CONVOLUTION else {Candidate.NATIVE}
    assert {Candidate.TORCH} | (others if library() else set()) <= set(made)
    for call in made.values():
        call()


def test_the_caller_s_random_numbers_are_not_used() -> None:
    before = torch.get_rng_state()
    calibrated("float32")
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        first = calibrated("float32")
    assert "measuring which kernels are fastest" in caplog.text
    assert set(first.rows) == set(Operator)
    content = json.loads(choice.file("float32").read_text())
    assert content["milliseconds"]["convolution_forward"]["16-16-6-5-1"]["torch"] > 0
    monkeypatch.setattr(calibration, "_measured", None)
    assert calibrated("float32") == first


def test_processes_that_start_together_measure_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def slowly(dtype: str) -> dict[str, object]:
        asked.append(dtype)
        time.sleep(0.3)
        return {"choice": choice.forced("packed", dtype).to_json()}

    monkeypatch.setattr(calibration, "_measured", slowly)
    found: list[Choice] = []
    threads = [threading.Thread(target=lambda: found.append(calibrated("float32"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == ["float32"]
    assert len(found) == 4
    assert len({str(each) for each in found}) == 1


def test_without_a_writable_cache_it_is_measured_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(calibration, "_measured", lambda dtype: {"choice": choice.forced("torch", dtype).to_json()})
    assert str(calibrated("float32")) == "torch only"
