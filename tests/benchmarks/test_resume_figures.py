"""docs/background/resume-tests.md shows the tables that the scripts print of their own results, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import kills, saving, soak

ROOT = Path(__file__).resolve().parents[2]


def results(name: str) -> list[Path]:
    """The files of a script; `saving` has one for each processor."""
    folder = ROOT / "benchmarks" / "results"
    return [*folder.glob(f"{name}.json"), *folder.glob(f"*/{name}.json")]


def printed(name: str, file: Path) -> str:
    """What a script printed at the end of the run whose results are kept."""
    found = json.loads(file.read_text())
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
    files = results(name.split()[0])
    assert files
    for file in files:
        assert " ".join(printed(name, file).split()) in " ".join(page.split())
