"""Random command lines: exit code 0, 1 or 2, no traceback, one clear line per problem."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_exp.__main__ import COMMANDS, main
from alexnet_exp.errors import ExitCode
from tests.fuzz.clear import complaint
from tests.fuzz.hunting import hunt

ROOT = Path(__file__).resolve().parents[2]
KEYS = [line.split(" = ")[0] for line in (ROOT / "tests" / "public_keys.txt").read_text().splitlines() if " = " in line]
GARBAGE = [
    *(
        "",
        " ",
        "=",
        "a=",
        "=b",
        "+x=",
        "~",
        "~model",
        "~model=bn",
        "++",
        "++a=1",
        "+",
        "a==b",
        "a=b=c",
        "@x=y",
        "a@b=c",
        "a.b.c",
    ),
    *(
        "--unknown",
        "--",
        "-",
        "-x",
        "--format",
        "--format=",
        "--format=xml",
        "--baseline",
        "--html",
        "--jobs",
        "--jobs=x",
    ),
    *(
        "x" * 5000,
        "model=" + "x" * 5000,
        "note=" + "[" * 500,
        "note=" + "{a:" * 300,
        "a\x00b",
        "note=a\x00b",
        "note=\x1b[2J",
    ),
    *(
        "note='",
        'note="',
        "note=\\",
        "note=${",
        "note=${seed}",
        "seed=${oc.env:NO}",
        "seed=${seed}",
        "seed=???",
        "seed=1,2",
    ),
    *("é=ü", "note=é", "note=\ud800", "\ud800", "name=../x", "hydra.run.dir=", "hydra.nothing=1", "hydra/launcher=x"),
    *("optim.lr=choice(1,2)", "optim.lr=range(1)", "glob(*)", "model=glob(*)", "seed=shuffle(1)", "optim.lr=int(x)"),
    *(
        "model=[bn]",
        "callbacks=bn",
        "callbacks=[ema,ema]",
        "logger=null",
        "experiment=x",
        "local=x",
        "model.stages.x.out=1",
    ),
    *("nothing", "outputs", "last", "/", ".", "/dev/null", "schedule", "show", "diff", "work", "confirm"),
]
VALUES = st.one_of(
    st.sampled_from(
        ["", "null", "true", "-1", "0", "1e400", "nan", "inf", "[]", "[1,a]", "{}", "{a: 1}", "a b", "'a,b'", "30%"]
    ),
    st.text(max_size=6),
)
WORDS = st.one_of(
    st.sampled_from(GARBAGE),
    st.builds("{}={}".format, st.sampled_from(KEYS), VALUES),
    st.builds(
        "{}={}".format, st.sampled_from(["model", "data", "optim", "schedule", "callbacks", "experiment"]), VALUES
    ),
    st.text(max_size=8),
)
# Commands that only compose and read: they neither train nor wait.
READING = ["summary", "compare", "runs", "eval", "predict", "export", "resume", "plot"]


@settings(settings.get_profile("fuzz"), max_examples=40)
@given(word=st.sampled_from(READING), words=st.lists(WORDS, max_size=3))
def test_command_line_succeeds_or_is_rejected_clearly(
    word: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    answered(word, words, capsys)


@pytest.mark.slow
@hunt(120)
@given(word=st.sampled_from(READING), words=st.lists(WORDS, max_size=3))
def test_many_command_lines_succeed_or_are_rejected_clearly(
    word: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    answered(word, words, capsys)


def answered(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command in COMMANDS
    capsys.readouterr()
    code = main([command, *words])
    said = capsys.readouterr().err
    assert code in (ExitCode.OK, ExitCode.BAD_INPUT), said
    if code == ExitCode.BAD_INPUT:
        assert complaint(said.rstrip("\n"), given=repr(words)) is None, words
