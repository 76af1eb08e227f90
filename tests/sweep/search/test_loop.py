"""Tests of a search over jobs that take no time: requested, run and pruned trials, and their reports to the study."""

import math
from collections import Counter

import optuna
import pytest

from alexnet_exp.errors import UserError
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.reader import state
from alexnet_exp.runs.status import Ending
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sweep.execute.job_lock import JobLocks
from alexnet_exp.sweep.execute.pool import EndedJob
from alexnet_exp.sweep.plan.naming import job_name
from alexnet_exp.sweep.search.loop import Search
from alexnet_exp.sweep.search.settings import SearchSettings
from alexnet_exp.sweep.search.space import parse
from alexnet_exp.sweep.search.study import Study

EPOCHS = 4
LR = "optim.lr=tag(log,interval(1e-4,1))"


class Killed(BaseException):
    """Simulates SIGKILL: a search that raises it reports nothing more."""


class FakePool:
    """Runs one epoch of each job at each `wait`; accuracy rises with the epoch and is best at a rate of 0.01."""

    def __init__(self, at_once=1, outcome=None, kill_after=None):
        self.at_once = at_once
        self.outcome = outcome or (lambda job: "done")
        self.kill_after = kill_after
        self.started, self.stopped, self.most = [], {}, 0
        self._epochs = {}

    def has_room(self, job):
        return len(self._epochs) < self.at_once

    def start(self, job):
        if self.kill_after is not None and len(self.started) >= self.kill_after:
            raise Killed
        assert job.folder not in self._epochs
        self.started.append(job)
        self._epochs[job.folder] = (job, 0)
        self.most = max(self.most, len(self._epochs))
        RunFolder(job.folder).begin({}, {})

    def wait(self, timeout):
        ended = []
        for folder, (job, epoch) in list(self._epochs.items()):
            if folder in self.stopped:
                ended.append(self._end(job, "pruned", epoch, reason=self.stopped[folder]))
                continue
            epoch += 1
            self._epochs[folder] = (job, epoch)
            RunFolder(folder).append_metrics({"epoch": epoch, "val/top1": value_of(job, epoch)})
            if epoch == EPOCHS:
                ended.append(self._end(job, self.outcome(job), epoch))
        return ended

    def running(self):
        return [job for job, _ in self._epochs.values()]

    def stop(self, job, reason):
        self.stopped[job.folder] = reason

    def close(self):
        return [self._end(job, "interrupted", epoch) for job, epoch in list(self._epochs.values())]

    def _end(self, job, status, epoch, reason=""):
        del self._epochs[job.folder]
        if status == "refused":
            return EndedJob(job, Ending("refused", 2, "no such thing"), 0.1)
        error = {"error": "boom"} if status == "failed" else {}
        metrics = {"val/top1": value_of(job, epoch)} if epoch else {}
        RunFolder(job.folder).finish(status, metrics=metrics, **error)
        return EndedJob(job, Ending(status, 0, reason), 0.1)


def setting(job, key, default):
    return dict(override.split("=", 1) for override in job.overrides).get(key, default)


def value_of(job, epoch=EPOCHS):
    distance = abs(math.log10(float(setting(job, "optim.lr", 0.01))) + 2)
    return (1 - distance / 3) * epoch / EPOCHS


class Bench:
    """A sweep's folder in which several searches follow one another, as the same command would start them."""

    def __init__(self, folder, *overrides):
        self.folder = folder
        self.space = parse(overrides or [LR])
        self.outcomes = []

    def make_job(self, number, values):
        varied = self.space.varied(values)
        settings = dict(override.split("=", 1) for override in varied)
        if settings.get("model") == "impossible":
            raise UserError("model=impossible: cannot be\nand that is that")
        folder = self.folder / job_name(settings, settings)
        folder.mkdir(exist_ok=True)
        return Job(number, folder, tuple(self.space.overrides(values)), settings)

    def search(self, pool=None, on_poll=lambda running, waiting: None, max_running=None, **settings):
        settings = {"warmup_epochs": 1, **settings}
        self.folder.mkdir(exist_ok=True)
        study = Study(SearchSettings(**settings), self.space, self.folder, "val/top1", EPOCHS)
        plan = (
            SweepPlan.read(self.folder)
            if SweepPlan.is_in(self.folder)
            else SweepPlan(self.folder, [], "", "val/top1", "search")
        )
        pool = pool or FakePool()

        def make_job(number, values):
            job = self.make_job(number, values)
            if job.folder not in {known.folder for known in plan.jobs}:
                plan.jobs.append(job)
                plan.write()
            return job

        Search(study, plan, pool, make_job, self.outcomes.append, on_poll=on_poll, max_running=max_running).run()
        return pool

    @property
    def trials(self):
        """The trials in the study's file."""
        study = optuna.load_study(study_name=self.folder.name, storage=f"sqlite:///{self.folder / 'study.db'}")
        return study.trials

    @property
    def states(self):
        return Counter(trial.state.name for trial in self.trials)

    @property
    def params(self):
        return [trial.params for trial in self.trials]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Sets the polling intervals to 0."""
    monkeypatch.setattr("alexnet_exp.sweep.search.loop.FOREIGN_POLL_SECONDS", 0.0)
    monkeypatch.setattr("alexnet_exp.sweep.search.loop.EPOCH_POLL_SECONDS", 0.0)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "a sweep")


def test_search_runs_the_requested_trials_and_reports_their_values(bench):
    pool = bench.search(n_trials=7, pruner="none")
    assert len(pool.started) == len(bench.trials) == 7
    assert bench.states == {"COMPLETE": 7}
    for trial, job in zip(bench.trials, pool.started, strict=True):
        assert trial.value == value_of(job)
        assert trial.user_attrs["run"] == job.folder.name
        assert trial.params["optim.lr"] == float(setting(job, "optim.lr", None))
        assert trial.intermediate_values == {epoch: value_of(job, epoch) for epoch in range(1, EPOCHS + 1)}
    assert [outcome.status for outcome in bench.outcomes] == ["done"] * 7
    assert SweepPlan.read(bench.folder).jobs == pool.started


def test_same_command_with_more_trials_runs_only_the_new_ones(bench):
    first = bench.search(n_trials=4, pruner="none")
    assert bench.search(n_trials=4, pruner="none").started == []
    second = bench.search(n_trials=6, pruner="none")
    assert (len(first.started), len(second.started)) == (4, 2)
    assert len({job.folder for job in first.started + second.started}) == 6
    assert bench.states == {"COMPLETE": 6}


@pytest.mark.parametrize("sampler", [pytest.param("tpe", marks=pytest.mark.slow), "random"])
def test_a_seed_proposes_the_same_trials_after_a_resume(tmp_path, sampler):
    at_once, in_two, other = (Bench(tmp_path / name) for name in ("once", "two", "other"))
    at_once.search(n_trials=16, sampler=sampler, seed=3)
    in_two.search(n_trials=12, sampler=sampler, seed=3)
    in_two.search(n_trials=16, sampler=sampler, seed=3)
    other.search(n_trials=16, sampler=sampler, seed=4)
    assert at_once.params == in_two.params
    assert len({params["optim.lr"] for params in at_once.params}) == 16
    assert other.params[0] != at_once.params[0]


def test_tpe_approaches_the_optimum(bench):
    bench.search(n_trials=30, pruner="none")
    late = [abs(math.log10(params["optim.lr"]) + 2) for params in bench.params[20:]]
    assert sum(late) / len(late) < 0.6  # a uniform draw would be 1 away on average


def test_trials_run_in_parallel_and_a_new_one_starts_when_one_ends(bench):
    pool = bench.search(FakePool(at_once=3), n_trials=8, pruner="none")
    assert pool.most == 3
    assert bench.states == {"COMPLETE": 8}


def test_max_running_limits_the_trials_of_a_pool_without_limit(bench):
    pool = bench.search(FakePool(at_once=100), max_running=3, n_trials=8, pruner="none")
    assert pool.most == 3
    assert bench.states == {"COMPLETE": 8}


def test_a_trial_is_requested_only_when_there_is_room(bench):
    asked = []
    make_job = bench.make_job

    def noting(number, values):
        asked.append((number, len(bench.outcomes)))
        return make_job(number, values)

    bench.make_job = noting
    bench.search(n_trials=4, pruner="none")
    assert asked == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_median_pruner_stops_trials_and_reports_them_as_pruned(bench):
    pool = bench.search(n_trials=20, sampler="random", startup_trials=3)
    pruned = [trial for trial in bench.trials if trial.state.name == "PRUNED"]
    assert len(pruned) == len(pool.stopped) >= 5
    assert bench.states["COMPLETE"] == 20 - len(pruned)
    assert all(max(trial.intermediate_values) < EPOCHS for trial in pruned)
    complete = [trial.value for trial in bench.trials if trial.state.name == "COMPLETE"]
    assert max(trial.value for trial in pruned) < max(complete)
    assert bench.trials[0].state.name == "COMPLETE"
    [reason, *_] = pool.stopped.values()
    assert reason.startswith("by the median pruner: val top-1 ")
    assert reason.endswith("after epoch 1")


def test_no_trial_is_pruned_during_warmup_or_startup(bench):
    bench.search(n_trials=15, sampler="random", startup_trials=4, warmup_epochs=3)
    pruned = [trial for trial in bench.trials if trial.state.name == "PRUNED"]
    assert pruned
    assert min(max(trial.intermediate_values) for trial in pruned) >= 3
    assert [trial.state.name for trial in bench.trials[:4]] == ["COMPLETE"] * 4


def test_a_resumed_trial_is_not_pruned_in_epochs_already_reported(bench):
    bench.search(n_trials=4, pruner="none", sampler="random")
    settings = SearchSettings(startup_trials=1, warmup_epochs=2)
    number, _ = (study := Study(settings, bench.space, bench.folder, "val/top1", EPOCHS)).ask()
    assert [study.report_epoch(number, epoch, 0.0) for epoch in (1, 2, 3)] == [False, True, True]
    again = Study(settings, bench.space, bench.folder, "val/top1", EPOCHS)
    assert [trial.number for trial in again.unfinished_trials()] == [number]
    assert [again.report_epoch(number, epoch, 0.0) for epoch in (1, 2, 3, 4)] == [False, False, True, True]


def test_hyperband_prunes(bench):
    bench.search(n_trials=30, sampler="random", pruner="hyperband")
    assert bench.states["PRUNED"] > 0
    assert bench.states["COMPLETE"] > 0


def test_losses_are_minimized_unless_direction_is_set(tmp_path):
    space = parse([LR])
    assert not Study(SearchSettings(), space, tmp_path, "val/loss").maximize
    assert Study(SearchSettings(study_name="b"), space, tmp_path, "val/top1").maximize
    assert Study(SearchSettings(study_name="c", direction="maximize"), space, tmp_path, "val/loss").maximize


def test_failed_jobs_are_reported_with_their_error_and_not_retried(bench):
    def outcome(job):
        return "failed" if float(setting(job, "optim.lr", 0)) > 0.1 else "done"

    pool = bench.search(FakePool(outcome=outcome), n_trials=12, sampler="random", pruner="none")
    failed = [trial for trial in bench.trials if trial.state.name == "FAIL"]
    assert len(pool.started) == 12
    assert failed
    assert {trial.number for trial in failed} == {
        trial.number for trial in bench.trials if trial.params["optim.lr"] > 0.1
    }
    assert {trial.user_attrs["error"] for trial in failed} == {"boom"}
    assert bench.search(n_trials=12, sampler="random", pruner="none").started == []


def test_a_rejected_job_or_one_without_objective_is_a_failed_trial(tmp_path):
    refused = Bench(tmp_path / "refused")
    refused.search(FakePool(outcome=lambda job: "refused"), n_trials=1)
    [trial] = refused.trials
    assert (trial.state.name, trial.user_attrs["error"]) == ("FAIL", "no such thing")

    class Silent(FakePool):
        def _end(self, job, status, epoch, reason=""):
            return super()._end(job, status, 0, reason)

    silent = Bench(tmp_path / "silent")
    silent.search(Silent(), n_trials=1)
    [trial] = silent.trials
    assert (trial.state.name, trial.user_attrs["error"]) == ("FAIL", "no val/top1 was recorded")
    assert [outcome.status for outcome in silent.outcomes] == ["failed"]


def test_incompatible_values_are_a_failed_trial_and_the_others_run(tmp_path):
    bench = Bench(tmp_path / "s", "model=lrn,impossible", "seed=1,2")
    pool = bench.search(sampler="grid")
    assert bench.states == {"COMPLETE": 2, "FAIL": 2}
    assert len(pool.started) == 2
    assert bench.trials[2].user_attrs["error"] == "model=impossible: cannot be; and that is that"


def test_grid_runs_every_combination_once_in_order(tmp_path):
    bench = Bench(tmp_path / "s", "optim.lr=0.1,0.01,0.001", "model.dropout=range(0,0.3,0.1)")
    assert len(bench.search(sampler="grid", n_trials=4).started) == 4
    assert len(bench.search(FakePool(at_once=2), sampler="grid").started) == 5
    assert bench.search(sampler="grid", n_trials=100).started == []
    ran = [(trial.params["optim.lr"], round(trial.params["model.dropout"], 9)) for trial in bench.trials]
    assert ran == [(lr, dropout) for lr in ("0.1", "0.01", "0.001") for dropout in (0.0, 0.1, 0.2)]


def test_equal_trials_run_once_and_are_reported_each(tmp_path):
    bench = Bench(tmp_path / "s", "optim.lr=0.1,0.01")
    pool = bench.search(FakePool(at_once=2), n_trials=8, pruner="none")
    assert len(pool.started) == 2
    assert bench.states == {"COMPLETE": 8}
    values = {trial.params["optim.lr"]: set() for trial in bench.trials}
    for trial in bench.trials:
        values[trial.params["optim.lr"]].add(trial.value)
    assert values == {setting(job, "optim.lr", ""): {value_of(job)} for job in pool.started}
    assert sum("same as trial" in trial.user_attrs for trial in bench.trials) == 6


@pytest.mark.slow
def test_a_killed_search_resumes_and_repeats_only_the_interrupted_trial(tmp_path):
    whole = Bench(tmp_path / "whole")
    whole.search(n_trials=6, pruner="none")
    for kill in range(6):
        bench = Bench(tmp_path / f"killed{kill}")
        with pytest.raises(Killed):
            bench.search(FakePool(kill_after=kill), n_trials=6, pruner="none")
        assert bench.states["RUNNING"] == 1
        pool = bench.search(n_trials=6, pruner="none")
        assert len(pool.started) == 6 - kill
        assert bench.states == {"COMPLETE": 6}
        assert bench.params == whole.params


def test_a_job_that_ended_after_its_search_was_killed_is_reported_and_not_repeated(bench):
    for ending, expected in (("done", "COMPLETE"), ("pruned", "PRUNED"), ("failed", "FAIL")):
        before = len(bench.trials) if bench.folder.exists() else 0
        with pytest.raises(Killed):
            bench.search(FakePool(kill_after=0), n_trials=before + 1)
        job = SweepPlan.read(bench.folder).jobs[-1]
        run = RunFolder(job.folder)
        run.begin({}, {})
        for epoch in (1, 2):
            run.append_metrics({"epoch": epoch, "val/top1": value_of(job, epoch)})
        run.finish(ending, metrics={"val/top1": value_of(job)})
        assert bench.search(n_trials=before + 1).started == []
        trial = bench.trials[-1]
        assert trial.state.name == expected
        assert trial.intermediate_values == {epoch: value_of(job, epoch) for epoch in (1, 2)}
        assert trial.value == {"done": value_of(job), "pruned": value_of(job, 2), "failed": None}[ending]


def test_a_trial_without_all_values_is_closed_and_not_counted(bench):
    bench.search(n_trials=2, pruner="none")
    study = optuna.load_study(study_name=bench.folder.name, storage=f"sqlite:///{bench.folder / 'study.db'}")
    study.ask()
    assert len(bench.search(n_trials=4, pruner="none").started) == 2
    assert bench.states == {"COMPLETE": 4, "FAIL": 1}


def test_a_trial_without_a_job_is_run_under_its_number(bench):
    bench.folder.mkdir()
    number, values = Study(SearchSettings(), bench.space, bench.folder, "val/top1").ask()
    pool = bench.search(n_trials=1)
    assert [job.folder.name for job in pool.started] == [bench.make_job(number, values).folder.name]
    assert bench.states == {"COMPLETE": 1}


def test_ctrl_c_interrupts_running_trials_and_leaves_them_unfinished(bench):
    class Interrupted(FakePool):
        def wait(self, timeout):
            if len(self.started) > 3:
                raise KeyboardInterrupt
            return super().wait(timeout)

    with pytest.raises(KeyboardInterrupt):
        bench.search(Interrupted(at_once=2), n_trials=6, pruner="none")
    cut = [outcome.job for outcome in bench.outcomes if outcome.status == "interrupted"]
    assert len(cut) == bench.states["RUNNING"] == 2
    assert {state(job.folder) for job in cut} == {"interrupted"}
    assert list((bench.folder / "claims").glob("*.json")) == []

    again = bench.search(n_trials=6, pruner="none")
    assert {job.folder for job in cut} <= {job.folder for job in again.started}
    assert bench.states == {"COMPLETE": 6}
    assert all((job.folder / "earlier" / "1" / "result.json").exists() for job in cut)


def test_a_job_run_by_another_process_is_awaited_and_reported(bench):
    """Such as a job in a cluster's queue, which continues after its search was killed."""
    with pytest.raises(Killed):
        bench.search(FakePool(kill_after=0), n_trials=1)
    [job] = SweepPlan.read(bench.folder).jobs
    run = RunFolder(job.folder)
    run.begin({}, {})
    lock = JobLocks(bench.folder).acquire(job)
    assert lock is not None
    polls = iter(range(1, 4))

    def on_poll(running, waiting):
        epoch = next(polls)
        run.append_metrics({"epoch": epoch, "val/top1": value_of(job, epoch)})
        if epoch == 3:
            run.finish("done", metrics={"val/top1": value_of(job)})
            lock.release()

    assert bench.search(on_poll=on_poll, n_trials=1).started == []
    [trial] = bench.trials
    assert (trial.state.name, trial.value) == ("COMPLETE", value_of(job))
    assert sorted(trial.intermediate_values) == [1, 2, 3]


def test_a_job_whose_other_process_dies_is_run_again(bench):
    with pytest.raises(Killed):
        bench.search(FakePool(kill_after=0), n_trials=1)
    [job] = SweepPlan.read(bench.folder).jobs
    lock = JobLocks(bench.folder).acquire(job)

    def on_poll(running, waiting):
        lock.release()

    assert bench.search(on_poll=on_poll, n_trials=1).started == [job]
    assert bench.states == {"COMPLETE": 1}


def test_a_deleted_study_is_rebuilt_from_the_folders(bench):
    first = bench.search(n_trials=3, pruner="none")
    before = [(trial.params, trial.value) for trial in bench.trials]
    (bench.folder / "study.db").unlink()
    assert bench.search(n_trials=3, pruner="none").started == []
    assert [(trial.params, trial.value) for trial in bench.trials] == before
    assert len(SweepPlan.read(bench.folder).jobs) == len(first.started) == 3


def test_best_returns_the_best_trial_with_its_values(bench):
    bench.search(n_trials=6, pruner="none")
    study = Study(SearchSettings(), bench.space, bench.folder, "val/top1")
    best = study.best()
    assert best.value == max(trial.value for trial in bench.trials)
    assert best.values == bench.params[best.number]
    assert study.count_states() == {"complete": 6}


def test_a_study_of_another_space_or_direction_is_rejected(tmp_path):
    Bench(tmp_path / "s", "model=lrn,bn").search(n_trials=1)
    with pytest.raises(UserError, match=r"^model: the study s searches other values of it; write another"):
        Bench(tmp_path / "s", "model=lrn,none").search(n_trials=2)
    with pytest.raises(UserError, match="is set to maximize, this search to minimize"):
        Bench(tmp_path / "s", "model=lrn,bn").search(n_trials=2, direction="minimize")


def test_an_unusable_storage_is_one_line_without_its_url(tmp_path):
    (tmp_path / "study.db").write_text("this is no database, whatever its name says " * 50)
    with pytest.raises(UserError, match=r"^study\.db: cannot be opened as a study") as damaged:
        Study(SearchSettings(), parse([LR]), tmp_path, "val/top1")
    assert "\n" not in str(damaged.value)
    with pytest.raises(UserError, match=r"^hydra\.sweeper\.storage: cannot be opened as a study") as unknown:
        Study(SearchSettings(storage="nosuch://me:secret@host/db"), parse([LR]), tmp_path, "val/top1")
    assert "secret" not in str(unknown.value)


def test_settings_out_of_range_are_reported_together():
    with pytest.raises(UserError) as refused:
        SearchSettings(n_trials=0, sampler="tpp", pruner="medain", direction="up", warmup_epochs=0)
    lines = str(refused.value).splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("sampler=tpp: did you mean tpe?")
