"""Damaged files of a run: a one-line error, no traceback, no number that is not in the file."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_exp.__main__ import main
from alexnet_exp.errors import TRACEBACK_VARIABLE, ExitCode, UserError
from alexnet_exp.runs.read_runs import as_run
from alexnet_exp.runs.reader import read_config, read_metrics, read_result, read_steps
from tests.conftest import Run
from tests.fuzz.clear import check, complaint
from tests.fuzz.damage import RAW, damaged, damaged_json
from tests.fuzz.hunting import hunt

NAME = "outputs/train/run"
OTHER = "outputs/train/other"
TABLES = ("metrics.csv", "metrics-2.csv", "steps.csv")
TEXTS = (*TABLES, "result.json", ".hydra/config.yaml")
CHECKPOINTS = ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "checkpoints/best.ckpt.sha256")
FILES = (*TEXTS, *CHECKPOINTS, "predictions/test.npz", "train.log")
READING = (
    ("compare", "outputs"),
    ("compare", "outputs", "--html", "report.html"),
    ("runs",),
    ("runs", "show", NAME),
    ("runs", "show", NAME, "--format", "json"),
    ("runs", "diff", NAME, OTHER),
)
USING = (
    ("eval", NAME),
    ("predict", NAME, "image.png"),
    ("plot", NAME, "--only", "curves,confusion,filters"),
    ("export", NAME, "--format", "safetensors", "--out", "exported"),
    ("resume", NAME),
)


@pytest.fixture
def folder(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run and a second run beside it, both intact."""
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")  # unexpected exceptions are raised, not printed as one line
    shutil.copytree(finished.path, tmp_path / OTHER)
    shutil.copytree(finished.path, tmp_path / NAME)
    (tmp_path / NAME / "metrics-2.csv").write_text("epoch,val/top1_precise_bn\n0,0.5\n1,0.625\n")
    Image.new("RGB", (40, 30), (9, 99, 200)).save(tmp_path / "image.png")
    return tmp_path / NAME


@st.composite
def accidents(draw: st.DrawFn, folder: Path, names: tuple[str, ...]) -> tuple[str, bytes | None]:
    """Draws a file name and its new content; None = a folder with that name."""
    name = draw(st.sampled_from(names))
    content = (folder / name).read_bytes()
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return name, None
    if kind == 1:
        return name, b""
    if kind < 8 and name.endswith((".json", ".yaml")):
        as_json = content if name.endswith(".json") else json.dumps(yaml.safe_load(content)).encode()  # JSON is YAML
        return name, draw(damaged_json(as_json))
    return name, draw(damaged(content))


class Damaged:
    """Replaces one file of the folder by its damaged version inside the block."""

    def __init__(self, path: Path, content: bytes | None):
        self.path, self.content, self.before = path, content, path.read_bytes()

    def __enter__(self) -> None:
        self.path.unlink()
        if self.content is None:
            self.path.mkdir()
        else:
            self.path.write_bytes(self.content)

    def __exit__(self, *_: object) -> None:
        if self.path.is_dir():
            self.path.rmdir()
        self.path.write_bytes(self.before)


def answered(command: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    code = main(list(command))
    said = capsys.readouterr().err
    assert code in (ExitCode.OK, ExitCode.BAD_INPUT)
    if code == ExitCode.BAD_INPUT:
        last = said.rstrip("\n").split("\n")[-1]  # after the traceback, which is enabled
        assert complaint(last, given=name) is None
        assert Path(name).name in last or NAME in last


def test_readers_name_the_damaged_file_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @settings(settings.get_profile("fuzz"), max_examples=60)
    @given(accidents(folder, TEXTS), st.sampled_from(READING))
    def each(accident: tuple[str, bytes | None], command: tuple[str, ...]) -> None:
        with Damaged(folder / accident[0], accident[1]):
            answered(command, accident[0], capsys)

    each()


@pytest.mark.slow
def test_commands_name_the_damaged_file_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @hunt(40)
    @given(accidents(folder, FILES), st.sampled_from(READING + USING))
    def each(accident: tuple[str, bytes | None], command: tuple[str, ...]) -> None:
        with Damaged(folder / accident[0], accident[1]):
            answered(command, accident[0], capsys)

    each()


def numbers_in(content: bytes) -> set[float]:
    """Returns every number in the text of a table, without parsing the table."""
    found = set()
    for token in re.split(r'[,\r\n"]', content.decode(errors="replace")):
        try:
            found.add(float(token))
        except ValueError:
            continue
    return found


@pytest.mark.parametrize("reader", [read_metrics, read_steps])
def test_values_read_from_a_damaged_table_exist_in_it(folder: Path, reader: Callable[[Path], list[Any]]) -> None:
    names = TABLES[:2] if reader is read_metrics else TABLES[2:]

    @settings(settings.get_profile("fuzz"), max_examples=200)
    @given(accidents(folder, names))
    def each(accident: tuple[str, bytes | None]) -> None:
        with Damaged(folder / accident[0], accident[1]):
            try:
                rows = reader(folder)
            except UserError as error:
                check(error, accident[0])
                return
            there = {number for name in names for number in numbers_in((folder / name).read_bytes())}
        for row in rows:
            values = row.values() if isinstance(row, dict) else row
            assert all(value is None or value in there or math.isnan(value) for value in values)

    each()


def test_values_read_from_a_damaged_result_exist_in_it(folder: Path) -> None:
    @settings(settings.get_profile("fuzz"), max_examples=200)
    @given(accidents(folder, ("result.json",)))
    def each(accident: tuple[str, bytes | None]) -> None:
        with Damaged(folder / accident[0], accident[1]):
            try:
                run = as_run(folder, "run")
            except UserError as error:
                check(error, "result.json")
                return
            said = json.loads((folder / "result.json").read_bytes())
        assert run.status == str(said["status"])
        assert all(said["metrics"][key] == value for key, value in run.metrics.items())
        assert all(math.isfinite(value) for value in run.metrics.values())

    each()


@pytest.mark.parametrize("raw", RAW)
def test_unusual_json_and_yaml_is_read_or_rejected(folder: Path, raw: str) -> None:
    for name, reader in (("result.json", read_result), (".hydra/config.yaml", read_config)):
        with Damaged(folder / name, b'{"status": ' + raw.encode() + b"}"):
            try:
                reader(folder)
            except UserError as error:
                check(error, name)
            else:
                assert name != "result.json"  # it has no schema; a configuration may contain such a value


@pytest.mark.parametrize("checked", [True, False], ids=["with a checksum", "without one"])
def test_checkpoint_with_a_changed_byte_is_rejected_or_equal(folder: Path, checked: bool) -> None:
    """Without a checksum file, changed bytes of weights are detected by the checksums of the archive."""
    import torch

    from alexnet_exp.inference.classifier import load

    whole = load(folder).state_dict()
    file = folder / CHECKPOINTS[0]
    content = file.read_bytes()
    if not checked:
        file.with_name("best.ckpt.sha256").unlink()

    @settings(settings.get_profile("fuzz"), max_examples=25)
    @given(st.integers(0, len(content) - 1), st.integers(0, 7))
    def each(place: int, bit: int) -> None:
        turned = content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]
        with Damaged(file, turned):
            try:
                read = load(folder).state_dict()
            except UserError as error:
                check(error, "best.ckpt")
                return
        assert not checked
        assert all(torch.equal(read[key], value) for key, value in whole.items())

    each()
