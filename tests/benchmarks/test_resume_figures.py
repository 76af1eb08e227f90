"""docs/background/resume-tests.md shows the tables that the scripts print of their own results, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import kills, saving, soak

ROOT = Path(__file__).resolve().parents[2]


def printed(name: str) -> str:
    """What a script printed at the end of the run whose results are kept."""
    found = json.loads((ROOT / "benchmarks" / "results" / f"{name.split()[0]}.json").read_text())
    if name == "kills":
        return kills.table(
            [
                kills.Outcome(**each | {"kills": [kills.Kill(**kill) for kill in each["kills"]]})
                for each in found["runs"]
            ]
        )
    if name == "saving":
        return saving.table(found["cases"])
    part = name.split()[1]
    return soak.told(part, found[part])


@pytest.mark.parametrize("name", ["kills", "saving", "soak sweep", "soak kills"])
def test_the_page_has_the_results_that_are_kept(name: str) -> None:
    page = (ROOT / "docs" / "background" / "resume-tests.md").read_text()
    assert " ".join(printed(name).split()) in " ".join(page.split())
