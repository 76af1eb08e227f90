"""`benchmarks fast_90`: its rows from made-up runs."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import fast_90
from benchmarks.ladder import Rung


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds 1, 2, ... with an accuracy of 0.90, 0.91, ..., 300 s and 0.2 PFLOP."""

    def run(seed: int, cifar: Any, experiment: str) -> dict[str, Any]:
        return {"seed": seed, "training": 300.0, "accuracy": 0.89 + seed / 100, "petaflop": 0.2}

    monkeypatch.setattr(fast_90, "run", run)
    rung = Rung(7, [0.9043], "", images=24 * 50_000, parameters=1, multiply_adds=163_317_760)
    monkeypatch.setattr(fast_90, "rungs", lambda: [rung])
    monkeypatch.setattr(fast_90.images_of, "opened", lambda cifar: None)


def test_seconds_against_the_limit_and_flop_against_the_last_rung(runs: None) -> None:
    found = fast_90.rows(turns=3)
    rows = {row.name: row for row in found.rows}
    assert (rows["training"].ratio, rows["training"].met) == (300 / 480, True)
    assert rows["flop"].ratio == pytest.approx(6 * 163_317_760 * 24 * 50_000 / 0.2e15)
    assert rows["accuracy"].met is True
    assert "91.00% ± 2.48 points, 3 seeds" in rows["accuracy"].note  # 4.303 * 0.01 / sqrt(3)
    assert found.data["accuracy"]["half_interval"] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)


def test_a_single_run_has_no_interval(runs: None) -> None:
    assert "1 seed" in fast_90.rows(turns=1).rows[0].note
