"""Damaged runs of other projects: a one-line error, no traceback, no number that is not in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_exp import runs
from alexnet_exp.__main__ import main
from alexnet_exp.errors import TRACEBACK_VARIABLE, ExitCode, UserError
from tests.fuzz.clear import check, complaint
from tests.fuzz.damage import DEEP, damaged
from tests.fuzz.test_run_files import Damaged, numbers_in
from tests.runs.test_import_foreign import template_run

ROWS = "name,lr,seed,status,test_acc,val/loss\na,0.1,1,done,91.5,0.3\nb,0.2,2,failed,,nan\nc,,3,done,92.5,0.25\n"
STRANGE = [
    *(b"[" * DEEP + b"]" * DEEP, b"{a: " * DEEP, b"- " * DEEP + b"x", b"&a [*a]", b"a: *a\n", b"<<: 1\n"),
    *(
        b"2001-01-01: 1\n",
        b"a: 2001-99-99\n",
        b"1: 2\nnull: 3\n? [1]\n: 4\n",
        b"seed: .nan\n",
        b"seed: [1]\n",
        b"seed: {a: 1}\n",
    ),
    *(b"a: !!binary x\n", b"a: !!python/object:os.system 1\n", b"a: !!int x\n", b"seed: " + b"1" * 5000 + b"\n"),
    b'"' + b"x" * 200_000 + b"\n",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    template_run(tmp_path / "logs" / "one")
    second = template_run(tmp_path / "logs" / "two", seed=2, test=None)
    (second / "train.log").write_text("a\nTraceback (most recent call last)\n  File x\nValueError: x\n")
    (tmp_path / "runs.csv").write_text(ROWS)
    return tmp_path


def accidents(folder: Path, names: list[str]) -> st.SearchStrategy[tuple[str, bytes | None]]:
    def of(name: str) -> st.SearchStrategy[tuple[str, bytes | None]]:
        content = (folder / name).read_bytes()
        kinds = st.one_of(damaged(content), damaged(content), st.sampled_from([None, b"", *STRANGE]))
        return st.tuples(st.just(name), kinds)

    return st.sampled_from(names).flatmap(of)


def test_damaged_foreign_runs_are_reported_clearly(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    commands = [["compare", "logs"], ["compare", "logs", "runs.csv", "--html", "report.html"], ["runs", "logs"]]

    @settings(settings.get_profile("fuzz"), max_examples=60)
    @given(accidents(folder, names), st.sampled_from(commands))
    def each(accident: tuple[str, bytes | None], command: list[str]) -> None:
        name, content = accident
        with Damaged(folder / name, content):
            capsys.readouterr()
            code = main(list(command))
            said = capsys.readouterr().err.rstrip("\n").split("\n")
        assert code in (ExitCode.OK, ExitCode.BAD_INPUT)
        if code == ExitCode.BAD_INPUT:
            assert complaint(said[-1], given=name) is None
            assert Path(name).name in said[-1]
        else:
            assert all(complaint(line, given=name) is None for line in said if line)

    each()


def test_values_read_from_a_damaged_foreign_table_exist_in_it(folder: Path) -> None:
    tables = ["runs.csv", "logs/one/csv/version_0/metrics.csv"]

    @settings(settings.get_profile("fuzz"), max_examples=150)
    @given(accidents(folder, tables))
    def each(accident: tuple[str, bytes | None]) -> None:
        name, content = accident
        with Damaged(folder / name, content):
            try:
                found = runs.read(folder / name if name.endswith("runs.csv") else folder / "logs" / "one")
            except UserError as error:
                check(error, Path(name).name)
                return
            there = numbers_in(content or b"")
        there |= {number / 100 for number in there}  # an accuracy in percent
        assert all(value in there for run in found for value in run.metrics.values())
        assert all("metrics.csv" in line for line in found.skipped)

    each()
