"""Run folders, a sweep and checkpoints of the first version are read, resumed, evaluated and compared.

tests/first_version/README.md describes the files. The expected values are those of the first version itself. Weights
are equal to the last bit on the kind of processor that computed them, with the same PyTorch and a C compiler; elsewhere
losses agree within a tolerance.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_exp.__main__ import main
from tests.conftest import tree
from tests.first_version.make import ARCHIVE, FOLDERS, OUTPUTS, STOPPED, SWEEP, digest, image, summary

EXPECTED = json.loads(ARCHIVE.with_name("expected.json").read_text())
# Relative, of the losses of the first steps that are computed again on another kind of processor, since differences of
# rounding grow. PyTorch's kernels for SSE differed by at most 1.2e-3 in five steps.
LOSS_TOLERANCES = (*[1e-2] * 5, *[1e-1] * 5)
TEXTS = ("sentence", "caveats")  # sentences for people, which may change
RENAMED = {"look_out": "caveats", "cannot tell below": "inconclusive"}  # CHANGELOG: keys and values of compare's JSON
TIMES = ("images_per_s", "minutes")
PLANNED = ("bound", "more_seeds", "command")  # CHANGELOG: how many more seeds are needed is computed otherwise by now
ADDED = ("more_seeds_range",)  # keys that compare's JSON has by now
RUNS = {"stopped": (), "ended": ("trainer.max_epochs=6",), "killed": ()}


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first_version")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def old(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """`old("stopped")`: the path of a copy of that folder, relative to the current folder."""

    def copied(name: str) -> Path:
        shutil.copytree(unpacked / OUTPUTS / name, tmp_path / OUTPUTS / name)
        return next((OUTPUTS / name).iterdir())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return copied


@pytest.fixture(scope="session")
def same_bits(unpacked: Path) -> bool:
    """Whether this machine computes what the machine that made the files does, to the last bit."""
    from alexnet_exp.kernels.native import native
    from alexnet_exp.runs.provenance import cpu_model

    result = json.loads(next((unpacked / OUTPUTS / "ended").glob("*/result.json")).read_text())
    return (
        (result["cpu"], result["versions"]["torch"]) == (cpu_model(), torch.__version__.partition("+")[0])
        and torch.backends.cpu.get_cpu_capability() == EXPECTED["cpu_capability"]
        and native().library is not None
    )


def process(*arguments: str) -> str:
    """Runs a command in a process of its own; returns its standard output."""
    done = subprocess.run([sys.executable, "-m", "alexnet_exp", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_same_run(found: dict[str, Any], expected: dict[str, Any], same_bits: bool) -> None:
    """Equal summaries; where the bits depend on another processor, the same steps and epochs and close losses."""
    if same_bits:
        assert found == expected
        return
    assert found["attempts"] == expected["attempts"]
    assert found["weights"].keys() == expected["weights"].keys()
    for key in ("status", "epochs", "tested", "fingerprint"):
        assert found["result"][key] == expected["result"][key]
    assert found["result"]["metrics"].keys() == expected["result"]["metrics"].keys()
    assert [len(found[table]) for table in ("steps", "epochs")] == [
        len(expected[table]) for table in ("steps", "epochs")
    ]
    assert [_without_loss(row) for row in found["steps"]] == [_without_loss(row) for row in expected["steps"]]
    computed = [rows for rows in zip(found["steps"], expected["steps"], strict=True) if rows[0] != rows[1]]
    for (ours, theirs), tolerance in zip(computed, LOSS_TOLERANCES, strict=False):
        assert float(ours.split(",")[1]) == pytest.approx(float(theirs.split(",")[1]), rel=tolerance)


def _without_loss(row: str) -> list[str]:
    step, _, lr = row.split(",")
    return [step, lr]


def _resumed(name: str, old: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    run = old(name)
    before = json.loads((run / "result.json").read_text())
    monkeypatch.delenv("ALEXNET_EXP_NATIVE", raising=False)  # it would override the kernels that the run began with
    assert main(["resume", str(run), *RUNS[name]]) == 0
    after = json.loads((run / "result.json").read_text())
    assert before.keys() - {"error"} <= after.keys()
    assert after["start"] == before["start"]
    assert before["config"].keys() <= after["config"].keys()
    return summary(run)


@pytest.mark.parametrize("name", ["stopped", pytest.param("killed", marks=pytest.mark.slow)])
def test_resume_continues_an_interrupted_run_to_the_same_weights(
    name: str, old: Callable[[str], Path], same_bits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mid-epoch: averaged weights, Adam and crops; SGD, a plateau, early stopping and the training error."""
    assert_same_run(_resumed(name, old, monkeypatch), EXPECTED[name], same_bits)


def test_resume_trains_a_finished_run_further_to_the_same_weights(
    old: Callable[[str], Path], same_bits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_same_run(_resumed("ended", old, monkeypatch), EXPECTED["ended"], same_bits)


def test_a_finished_run_has_nothing_to_resume(old: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = old("ended")
    before = tree(run)
    assert main(["resume", str(run)]) == 0
    assert f"{run}: is already done" in capsys.readouterr().out
    assert tree(run) == before


def test_eval_computes_the_same_numbers(
    old: Callable[[str], Path], same_bits: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = old("ended")
    before = tree(run)
    assert main(["eval", str(run)]) == 0
    found = json.loads(capsys.readouterr().out)
    wanted = EXPECTED["eval"]
    assert found["run"] == wanted["run"]
    assert found["checkpoint"] == wanted["checkpoint"]
    assert found["metrics"] == (wanted["metrics"] if same_bits else pytest.approx(wanted["metrics"], rel=1e-2))
    recorded = json.loads((run / "result.json").read_text())["metrics"]
    assert wanted["metrics"].items() <= recorded.items()
    assert tree(run) == before


def test_predict_computes_the_same_probabilities(
    old: Callable[[str], Path], same_bits: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = old("ended")
    image(OUTPUTS / "slope.png")
    assert main(["predict", str(run), str(OUTPUTS / "slope.png"), "--json"]) == 0
    found, wanted = json.loads(capsys.readouterr().out), EXPECTED["predict"]
    if same_bits:
        assert found == wanted
    probabilities = {each["class"]: each["probability"] for each in found["top"]}
    assert probabilities == pytest.approx({each["class"]: each["probability"] for each in wanted["top"]}, rel=1e-3)


def test_export_writes_the_same_tensors(old: Callable[[str], Path]) -> None:
    from safetensors.torch import load_file

    run = old("ended")
    assert main(["export", str(run), "--format", "safetensors", "--out", "exported"]) == 0
    found = {file.name: digest(load_file(file)) for file in Path("exported").glob("*.safetensors")}
    assert found == EXPECTED["export"]


def test_compare_prints_the_same_numbers(old: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is computed by PyTorch here, so they are the same on every machine."""
    sweep = old("swept")
    assert _compared(sweep, capsys) == _comparable(EXPECTED["compare"])


def _compared(sweep: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(["compare", str(sweep), "--baseline", "optim.lr=0.02", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for difference in found["differences"]:
        for key in ADDED:
            del difference[key]
    return _comparable(found)


def _comparable(value: Any, without: tuple[str, ...] = TEXTS, keep: bool = True) -> Any:
    """Keeps of some keys only whether they have a value, or nothing; rounds, as the last digits depend on SciPy."""
    if isinstance(value, dict):
        value = {RENAMED.get(key, key): item for key, item in value.items()}
        kept = {key: _comparable(item, without, keep) for key, item in value.items() if key not in without}
        return kept | ({key: bool(value[key]) for key in without if key in value} if keep else {})
    if isinstance(value, list):
        return [_comparable(item, without, keep) for item in value]
    if isinstance(value, str):
        return RENAMED.get(value, value)
    return float(f"{value:.9g}") if isinstance(value, float) and math.isfinite(value) else value


def test_runs_lists_them_with_their_statuses(old: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    from alexnet_exp.runs.reader import state

    paths = {name: old(name) for name in FOLDERS}
    assert {name: state(paths[name]) for name in RUNS} == {"stopped": "interrupted", "ended": "done", "killed": "died"}
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for path in paths.values():
        assert sum(str(path.relative_to(OUTPUTS)) in line for line in lines) == 1
    assert main(["runs", "show", str(paths["stopped"])]) == 0
    shown = capsys.readouterr().out
    assert "by SIGTERM" in shown
    assert EXPECTED["commit"] in shown


def test_load_and_read_from_python(old: Callable[[str], Path]) -> None:
    import alexnet_exp

    run, sweep = old("ended"), old("swept")
    classifier = alexnet_exp.load(run)
    assert list(classifier.classes) == list("0123456789")
    statuses = sorted(run.status for run in alexnet_exp.read_runs(sweep))
    assert statuses == ["done", "done", "done", "done", "interrupted"]


def _jobs(sweep: Path) -> dict[str, Any]:
    return {file.parent.name: summary(file.parent) for file in sorted(sweep.glob("*/result.json"))}


def _resume(sweep: Path) -> list[str]:
    return ["resume", str(sweep)]


def _type_again(sweep: Path) -> list[str]:
    return list(SWEEP)


@pytest.mark.slow
@pytest.mark.parametrize("command", [_resume, _type_again])
def test_a_sweep_is_resumed(
    command: Callable[[Path], list[str]],
    old: Callable[[str], Path],
    same_bits: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Four jobs are done and stay as they are; the interrupted and the pending one are run.

    The interrupted one starts over, as the jobs of a sweep do where the code has changed.
    """
    sweep = old("swept")
    folders = {path.name for path in sweep.iterdir() if path.is_dir()}
    statuses = {name: job["result"]["status"] for name, job in _jobs(sweep).items()}
    done = {name: tree(sweep / name) for name, status in statuses.items() if status == "done"}
    (interrupted,) = statuses.keys() - done.keys()
    assert statuses[interrupted] == "interrupted"
    assert len(done) == 4
    process(*command(sweep))
    assert [path.name for path in sweep.parent.iterdir()] == [sweep.name]
    assert {path.name for path in sweep.iterdir() if path.is_dir()} == folders
    assert {name: tree(sweep / name) for name in done} == done
    found = _jobs(sweep)
    assert found.keys() == EXPECTED["swept"].keys()
    for name, job in found.items():
        assert_same_run(job, EXPECTED["swept"][name] | {"attempts": []}, same_bits or name in done)
    aside = json.loads((sweep / interrupted / "earlier" / "1" / "result.json").read_text())
    assert aside["status"] == "interrupted"
    if same_bits:
        without = (*TIMES, *PLANNED, "caveats")  # the runs are of two commits and hosts, which is a caveat
        compared, wanted = _compared(sweep, capsys), _comparable(EXPECTED["compare_resumed"])
        assert _comparable(compared, without, keep=False) == _comparable(wanted, without, keep=False)


@pytest.mark.slow
def test_the_same_command_with_resume_continues_a_run(old: Callable[[str], Path], same_bits: bool) -> None:
    run = old("stopped")
    process(*STOPPED, f"hydra.run.dir={run}", "resume=true")
    assert_same_run(summary(run), EXPECTED["stopped"], same_bits)


def test_the_files_name_no_machine(unpacked: Path) -> None:
    """Folders, users and hosts: of the machine that made them, and of this one."""
    names = (b"/home/", b"/root", b"/tmp/", b"site-packages", str(Path.home()).encode())
    texts = {name: content for name, content in tree(unpacked).items() if not name.endswith((".ckpt", ".npz"))}
    found = [(file, name) for file, content in texts.items() for name in names if name in content]
    assert found == []


def test_the_fixture_stays_small() -> None:
    assert sum(file.stat().st_size for file in ARCHIVE.parent.iterdir() if file.is_file()) < 1_000_000
