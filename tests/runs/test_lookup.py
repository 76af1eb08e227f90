"""What a user may type for RUN."""

import os
from pathlib import Path

import pytest

from alexnet_exp.errors import UserError
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.lookup import find, outputs_of, runs_under

NAMES = [
    "bn/2026-11-24_10-00-00-000000",
    "bn/2026-11-24_10-00-07-000000",
    "lrn/2026-11-24_10-00-00-000000",
    "lrn/2026-11-25_09-00-00-000000",
    "norms/lr-sweep/optim.lr_0.1-3f2a",
]


@pytest.fixture
def outputs(tmp_path):
    """The runs of NAMES, each written to a second after the one before it."""
    outputs = tmp_path / "outputs"
    for second, name in enumerate(NAMES):
        RunFolder(outputs / name).begin({}, {})
        os.utime(outputs / name / "result.json", (second, second))
    (outputs / "notes").mkdir()
    return outputs


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("bn/2026-11-24_10-00-07", NAMES[1]),
        ("2026-11-24_10-00-07", NAMES[1]),
        ("2026-11-25", NAMES[3]),
        ("lrn/2026-11-25", NAMES[3]),
        ("norms", NAMES[4]),
        ("norms/", NAMES[4]),
        ("lr-sweep/optim.lr_0.1", NAMES[4]),
        ("optim.lr", NAMES[4]),
    ],
)
def test_a_unique_prefix_names_a_run(outputs, text, name):
    assert find(text, outputs) == outputs / name
    assert find(str(outputs / text), outputs) == outputs / name


def test_runs_without_a_checkpoint_are_not_candidates_if_one_is_needed(outputs):
    """A run that failed at once has the name of the one that was meant."""
    kept = outputs / NAMES[2] / "checkpoints" / "best.ckpt"
    kept.parent.mkdir()
    kept.write_bytes(b"")
    assert find("lrn", outputs, trained=True) == outputs / NAMES[2]
    for trained, text in ((False, "lrn"), (True, "bn")):
        with pytest.raises(UserError, match=f"^{text}: ambiguous: matches 2 runs"):
            find(text, outputs, trained=trained)


def test_a_path_to_a_run_folder_names_it(outputs, tmp_path, monkeypatch):
    RunFolder(tmp_path / "elsewhere").begin({}, {})
    assert find(str(tmp_path / "elsewhere"), outputs) == tmp_path / "elsewhere"
    monkeypatch.chdir(tmp_path)
    assert find("elsewhere", outputs).samefile(tmp_path / "elsewhere")


@pytest.mark.parametrize("word", ["last", "latest", "outputs/latest"])
def test_last_is_the_target_of_latest(outputs, word, monkeypatch):
    """Its path is relative, as that of a run that is named."""
    RunFolder(outputs / NAMES[2]).link_latest(outputs)
    monkeypatch.chdir(outputs.parent)
    assert find(word, Path("outputs")) == Path("outputs") / NAMES[2]


def test_the_path_of_last_where_outputs_is_a_link(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "large")
    RunFolder(tmp_path / "outputs" / "bn" / "a").begin({}, {})
    RunFolder(tmp_path / "outputs" / "bn" / "a").link_latest(tmp_path / "outputs")
    assert find("last", tmp_path / "outputs") == tmp_path / "outputs" / "bn" / "a"


def test_a_folder_with_one_run_is_that_run(outputs, tmp_path):
    assert find(str(outputs / "norms"), outputs) == outputs / NAMES[4]
    RunFolder(tmp_path / "elsewhere" / "demo" / "a").begin({}, {})
    assert find(str(tmp_path / "elsewhere"), outputs) == tmp_path / "elsewhere" / "demo" / "a"
    RunFolder(tmp_path / "elsewhere" / "demo" / "b").begin({}, {})
    with pytest.raises(
        UserError, match=r"ambiguous: matches 2 runs \(\S+elsewhere/demo/\S+, \S+\); give more of the name"
    ):
        find(str(tmp_path / "elsewhere"), outputs)


def test_without_symlinks_latest_is_a_text_file(outputs, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no privilege to make links")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    for name in NAMES[:2]:
        RunFolder(outputs / name).link_latest(outputs)
    assert (outputs / "latest").read_text() == NAMES[1]
    assert find("last", outputs).samefile(outputs / NAMES[1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2026-11-24_10-00-00", f"ambiguous: matches 2 runs ({NAMES[2]}, {NAMES[0]}); give more of the name"),
        ("2026", f"ambiguous: matches 4 runs ({', '.join(reversed(NAMES[:4]))})"),
        ("11-24", "11-24: no such run or folder; write last, or one of"),
        ("bnn", f"one of {', '.join(reversed(NAMES[1:]))} and 1 more"),
        ("last", "points to no run"),
        ("latest", "points to no run"),
        ("", "write last, or one of"),
    ],
)
def test_unknown_names_are_rejected_with_the_candidates(outputs, text, said):
    with pytest.raises(UserError) as error:
        find(text, outputs)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_runs_is_rejected(outputs):
    with pytest.raises(UserError, match="notes: the folder contains no runs; write last, or one of"):
        find(str(outputs / "notes"), outputs)


def test_latest_of_a_deleted_run_is_rejected(outputs):
    (outputs / "latest").symlink_to("bn/deleted")
    with pytest.raises(UserError, match="points to no run"):
        find("last", outputs)


def test_no_outputs_at_all(tmp_path):
    assert runs_under(tmp_path / "outputs") == []
    with pytest.raises(UserError, match="contains no runs"):
        find("bn", tmp_path / "outputs")


def test_runs_are_listed_once_and_in_order(outputs):
    RunFolder(outputs / NAMES[0]).link_latest(outputs)
    assert [path.relative_to(outputs).as_posix() for path in runs_under(outputs)] == NAMES


def test_the_nearest_outputs_folder_is_found():
    run, job = Path("/a/outputs/train/2026"), Path("/a/outputs/train/sweep_1/0")
    assert outputs_of(run) == outputs_of(job) == Path("/a/outputs")
    assert outputs_of(Path("/elsewhere/train/2026")) is None


def test_the_folder_of_runs_may_be_a_link_to_another_disk(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "large")
    assert outputs_of(tmp_path / "outputs" / "train" / "run") == tmp_path / "outputs"
    assert outputs_of(tmp_path / "elsewhere" / "run") is None
