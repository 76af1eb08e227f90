"""Tests of the whole command `python -m alexnet_exp -m hydra/sweeper=optuna ...` on the digits."""

import csv
import json
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter

import optuna
import pytest

from alexnet_exp.runs.reader import read_metrics, read_result, state
from alexnet_exp.runs.sweep_plan import SweepPlan

SEARCH = ("hydra/sweeper=optuna", "hydra.sweep.dir=outputs/train/s")
MANY_EPOCHS = 60  # more than a trial runs between two polls


@pytest.fixture
def search(command):
    """`search(*overrides)`: the command line of a search, as a process."""
    return lambda *overrides: command(*SEARCH, *overrides, "-m")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "outputs" / "train" / "s"


def trials_of(folder):
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder / 'study.db'}").trials


def attempts(folder):
    """How often each job of the sweep was started."""
    return {
        job.folder.name: 1 + len(list((job.folder / "earlier").glob("*")))
        for job in SweepPlan.read(folder).jobs
        if (job.folder / "result.json").exists()
    }


@pytest.mark.slow
def test_trials_are_pruned_in_their_own_processes(search, folder):
    process = search(
        "hydra.sweeper.sampler=grid",
        "hydra.sweeper.startup_trials=1",
        "hydra.sweeper.warmup_epochs=1",
        "objective=train/loss",  # of few images: it falls, or it does not
        "schedule=constant",
        f"trainer.max_epochs={MANY_EPOCHS}",
        "optim.lr=0.003,1e-9,1e-8",
    )
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err

    good, *bad = SweepPlan.read(folder).jobs
    assert [state(job.folder) for job in (good, *bad)] == ["done", "pruned", "pruned"]
    for job in bad:
        epochs = len(read_metrics(job.folder))
        assert 1 <= epochs < MANY_EPOCHS
        assert read_result(job.folder)["error"].startswith("by the median pruner: ")
    trials = trials_of(folder)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert trials[0].value == read_result(good.folder)["metrics"]["train/loss"]
    for trial, job in zip(trials, (good, *bad), strict=True):
        rows = read_metrics(job.folder)
        assert trial.user_attrs["run"] == job.folder.name
        assert trial.intermediate_values == {row["epoch"]: row["train/loss"] for row in rows}

    summary = json.loads(out)
    assert summary["counts"] == {"done": 1, "pruned": 2}
    assert summary["best"]["run"].endswith(good.folder.name)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["optim.lr"], row["status"]) for row in rows] == [
        *(("0.003", "done"), ("1e-09", "pruned"), ("1e-08", "pruned")),
    ]
    assert "trials: 1 complete, 2 pruned" in err
    alone = next(line for line in err.splitlines() if line.startswith("  python -m alexnet_exp "))
    assert shlex.split(alone)[-1] == "optim.lr=0.003"
    assert not any(word.startswith("hydra") for word in shlex.split(alone))


@pytest.mark.slow
def test_a_killed_search_resumes_and_repeats_no_finished_trial(search, folder):
    typed = ("optim.lr=tag(log,interval(1e-4,1e-2))", "hydra.sweeper.pruner=none", "test.run=false")
    process = search(*typed, "hydra.sweeper.n_trials=3", "trainer.max_epochs=20")
    until = time.monotonic() + 300
    while not (folder / "results.csv").exists() or "done" not in (folder / "results.csv").read_text():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {name for name in attempts(folder) if state(folder / name) == "done"}
    assert before

    process = search(*typed, "hydra.sweeper.n_trials=4", "trainer.max_epochs=20")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    # the kill may have come while a trial's values were being chosen
    trials = [trial for trial in trials_of(folder) if "void" not in trial.user_attrs]
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": 4}
    assert len({trial.user_attrs["run"] for trial in trials}) == 4
    tried = attempts(folder)
    assert all(tried[name] == 1 for name in before)
    assert sum(tried.values()) <= 5  # the one that was cut

    process = search(*typed, "hydra.sweeper.n_trials=4", "trainer.max_epochs=20")
    out, err = process.communicate(timeout=600)
    assert "4 of 4 trials already finished" in err
    assert attempts(folder) == tried
    assert json.loads(out)["counts"] == {"done": 4}


def test_all_problems_are_reported_at_once_and_nothing_is_written(search, tmp_path):
    process = search("optim.lrr=interval(0.1,0.2)", "model=lnr,bn", "optim.weight_decay=interval(-1,0.1)", "seed=1,2")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    lines = err.strip().splitlines()
    assert len(lines) == 3, err
    assert any(line.startswith("model=lnr: did you mean lrn?") for line in lines)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["optim.lr=interval(1,0.1)"], "optim.lr=interval(1,0.1): the first end is greater"),
        (["optim.lr=0.1"], "hydra/sweeper=optuna: no setting has several values"),
        (["model=lrn,bn", "hydra.sweeper.sampler=gird"], "hydra.sweeper.sampler=gird: did you mean grid?"),
        (
            ["optim.lr=interval(0.1,1)", "hydra.sweeper.sampler=grid"],
            "optim.lr=interval(0.1,1): a grid needs countable values",
        ),
        (["model=lrn,bn", "objective=test/top1"], "objective=test/top1: a search must not use the test set"),
        (["model=lrn,bn", "data.val=none"], "objective=val/top1: the data has no validation set"),
        (["model=lrn,bn", "hydra/launcher=basic"], "hydra/launcher=basic: a search waits for its trials"),
        (["model=lrn,bn", "hydra.launcher.jobs=0"], "hydra.launcher.jobs=0: must be at least 1"),
        (
            ["model=lrn,bn", "hydra.sweeper.storage=sqlite:////nowhere/x.db"],
            "hydra.sweeper.storage: cannot be opened",
        ),
    ],
)
def test_an_invalid_search_is_one_line(search, tmp_path, overrides, line):
    process = search(*overrides)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    [line_printed] = err.strip().splitlines()
    assert line_printed.startswith(line)
    assert not (tmp_path / "outputs").exists()


def test_without_optuna_the_error_names_the_extra(monkeypatch):
    from alexnet_exp.errors import UserError
    from alexnet_exp.sweep.search import sweeper

    monkeypatch.setattr(sweeper, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"package optuna is not installed; pip install -e '\.\[optuna\]'$"):
        sweeper.search([], {}, None, None, None, None)


def test_only_a_search_imports_optuna():
    code = (
        "import sys, hydra_plugins.alexnet_exp.optuna_sweeper, alexnet_exp.sweep.search.sweeper; "
        "print([name for name in ('optuna', 'torch', 'pytorch_lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
