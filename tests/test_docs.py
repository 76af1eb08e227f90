"""The pages: every link to a file leads to one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("conf/**/*.md")]
)
SITE = [page for page in ROOT.glob("docs/**/*.md") if page.name != "diary.md"]
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link, _ in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", SITE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_are_short_and_their_lines_wrap(page: Path) -> None:
    """At most 250 lines, of 100 characters, but for tables, printed output, code and links; the diary is a log."""
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    prose = re.sub(r"^```.*?^```$|^<!-- .*?^<!-- .*?-->$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [
        line for line in prose.splitlines() if not line.startswith(("|", "    ", "#", "![")) and " " in line.strip()
    ]
    assert [line for line in lines if len(re.sub(r"\]\([^)]*\)", "]", line)) > 100] == []


@pytest.mark.parametrize("page", ["tutorial.md", "tutorial.zh.md"])
def test_the_tutorials_pages_use_its_own_names(page: str) -> None:
    """So that a student finds its lines: the tutorial gives its batch size, and these names."""
    text = (ROOT / "docs" / "get-started" / page).read_text(encoding="utf-8")
    for words in (
        "model.fit(training_x, training_y, batch_size=32, epochs=5, validation_data=(testing_x, testing_y))",
        "layers.Conv2D(filters=96, kernel_size=(3, 3))",
        "metrics=['sparse_categorical_accuracy']",
        "val_sparse_categorical_accuracy",
    ):
        assert words in text
    assert not re.search(r"\b(x|y)_(train|test)\b", text)


def test_the_readme_begins_with_clone_run_and_test_and_is_short() -> None:
    """The Chinese tutorial is in its first lines, the two commands on the first screen, one's own photos below."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 90
    assert any("docs/get-started/tutorial.zh.md" in line for line in lines[:5])
    text = "\n".join(lines)
    commands = [
        line.strip() for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines() if line[:4] == "    "
    ]
    begins = (
        "git clone ",
        "python3 -m venv .venv && . .venv/bin/activate && pip install -e . && python -m alexnet_exp",
        "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[dev]' && pytest",
        "python -m alexnet_exp data=folder data.root=photos",
        "python -m alexnet_exp predict last photo.jpg",
    )
    assert len(commands) == len(begins)
    assert all(command.startswith(begin) for command, begin in zip(commands, begins, strict=True)), commands
    assert all(f"    {command}" in lines[:20] for command in commands[:3])
