"""A search over jobs that take no time: what is asked for, run, pruned, told to the study, and put right afterwards."""

import math
from collections import Counter

import optuna
import pytest

from alexnet_exp.errors import UserError
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.reader import state
from alexnet_exp.runs.status import Ending
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sweep.execute.job_lock import Claims
from alexnet_exp.sweep.execute.pool import Ended
from alexnet_exp.sweep.plan.naming import job_name
from alexnet_exp.sweep.search.loop import Search
from alexnet_exp.sweep.search.settings import Settings
from alexnet_exp.sweep.search.space import parse
from alexnet_exp.sweep.search.study import Study

EPOCHS = 4
LR = "optim.lr=tag(log,interval(1e-4,1))"


class Killed(BaseException):
    """As if the search had been killed: nothing after it is done."""


class FakePool:
    """Runs each job an epoch a `wait`; a job's accuracy rises with its epoch and is best at a rate of 0.01."""

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
            return Ended(job, Ending("refused", 2, "no such thing"), 0.1)
        error = {"error": "boom"} if status == "failed" else {}
        metrics = {"val/top1": value_of(job, epoch)} if epoch else {}
        RunFolder(job.folder).finish(status, metrics=metrics, **error)
        return Ended(job, Ending(status, 0, reason), 0.1)


def setting(job, key, default):
    return dict(override.split("=", 1) for override in job.overrides).get(key, default)


def value_of(job, epoch=EPOCHS):
    distance = abs(math.log10(float(setting(job, "optim.lr", 0.01))) + 2)
    return (1 - distance / 3) * epoch / EPOCHS


class Bench:
    """A sweep's folder, in which searches follow one another as the same command would start them."""

    def __init__(self, folder, *overrides):
        self.folder = folder
        self.space = parse(overrides or [LR])
        self.told = []

    def make(self, number, values):
        varied = self.space.varied(values)
        settings = dict(override.split("=", 1) for override in varied)
        if settings.get("model") == "impossible":
            raise UserError("model=impossible: cannot be\nand that is that")
        folder = self.folder / job_name(settings, settings)
        folder.mkdir(exist_ok=True)
        return Job(number, folder, tuple(self.space.overrides(values)), settings)

    def search(self, pool=None, looked=lambda running, left: None, at_once=None, **settings):
        settings = {"warmup_epochs": 1, **settings}
        self.folder.mkdir(exist_ok=True)
        study = Study(Settings(**settings), self.space, self.folder, "val/top1", EPOCHS)
        plan = (
            SweepPlan.read(self.folder)
            if SweepPlan.is_in(self.folder)
            else SweepPlan(self.folder, [], "", "val/top1", "search")
        )
        pool = pool or FakePool()

        def make(number, values):
            job = self.make(number, values)
            if job.folder not in {known.folder for known in plan.jobs}:
                plan.jobs.append(job)
                plan.write()
            return job

        Search(study, plan, pool, make, self.told.append, looked=looked, at_once=at_once).run()
        return pool

    @property
    def trials(self):
        """The trials as anybody may read them."""
        study = optuna.load_study(study_name=self.folder.name, storage=f"sqlite:///{self.folder / 'study.db'}")
        return study.trials

    @property
    def states(self):
        return Counter(trial.state.name for trial in self.trials)

    @property
    def params(self):
        return [trial.params for trial in self.trials]


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """No waiting for what runs elsewhere."""
    monkeypatch.setattr("alexnet_exp.sweep.search.loop.LOOK_ELSEWHERE", 0.0)
    monkeypatch.setattr("alexnet_exp.sweep.search.loop.LOOK", 0.0)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "a sweep")


def test_as_many_trials_as_were_asked_for_and_their_values_are_told(bench):
    pool = bench.search(n_trials=7, pruner="none")
    assert len(pool.started) == len(bench.trials) == 7
    assert bench.states == {"COMPLETE": 7}
    for trial, job in zip(bench.trials, pool.started, strict=True):
        assert trial.value == value_of(job)
        assert trial.user_attrs["run"] == job.folder.name
        assert trial.params["optim.lr"] == float(setting(job, "optim.lr", None))
        assert trial.intermediate_values == {epoch: value_of(job, epoch) for epoch in range(1, EPOCHS + 1)}
    assert [outcome.status for outcome in bench.told] == ["done"] * 7
    assert SweepPlan.read(bench.folder).jobs == pool.started


def test_the_same_command_with_more_trials_runs_only_those_that_are_new(bench):
    first = bench.search(n_trials=4, pruner="none")
    assert bench.search(n_trials=4, pruner="none").started == []
    second = bench.search(n_trials=6, pruner="none")
    assert (len(first.started), len(second.started)) == (4, 2)
    assert len({job.folder for job in first.started + second.started}) == 6
    assert bench.states == {"COMPLETE": 6}


@pytest.mark.parametrize("sampler", [pytest.param("tpe", marks=pytest.mark.slow), "random"])
def test_a_seed_proposes_the_same_trials_also_across_a_resume(tmp_path, sampler):
    at_once, in_two, other = (Bench(tmp_path / name) for name in ("once", "two", "other"))
    at_once.search(n_trials=16, sampler=sampler, seed=3)
    in_two.search(n_trials=12, sampler=sampler, seed=3)
    in_two.search(n_trials=16, sampler=sampler, seed=3)
    other.search(n_trials=16, sampler=sampler, seed=4)
    assert at_once.params == in_two.params
    assert len({params["optim.lr"] for params in at_once.params}) == 16
    assert other.params[0] != at_once.params[0]


def test_tpe_learns_where_the_optimum_is(bench):
    bench.search(n_trials=30, pruner="none")
    late = [abs(math.log10(params["optim.lr"]) + 2) for params in bench.params[20:]]
    assert sum(late) / len(late) < 0.6  # a uniform draw would be 1 away on average


def test_jobs_run_at_once_and_a_new_trial_is_asked_for_as_soon_as_one_ends(bench):
    pool = bench.search(FakePool(at_once=3), n_trials=8, pruner="none")
    assert pool.most == 3
    assert bench.states == {"COMPLETE": 8}


def test_a_queue_that_takes_everything_is_given_a_few_at_once(bench):
    pool = bench.search(FakePool(at_once=100), at_once=3, n_trials=8, pruner="none")
    assert pool.most == 3
    assert bench.states == {"COMPLETE": 8}


def test_a_trial_is_not_asked_for_before_there_is_room(bench):
    asked = []
    make = bench.make

    def noting(number, values):
        asked.append((number, len(bench.told)))
        return make(number, values)

    bench.make = noting
    bench.search(n_trials=4, pruner="none")
    assert asked == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_the_hopeless_are_stopped_early_and_told_as_pruned(bench):
    pool = bench.search(n_trials=20, sampler="random", startup_trials=3)
    pruned = [trial for trial in bench.trials if trial.state.name == "PRUNED"]
    assert len(pruned) == len(pool.stopped) >= 5
    assert bench.states["COMPLETE"] == 20 - len(pruned)
    assert all(max(trial.intermediate_values) < EPOCHS for trial in pruned)
    complete = [trial.value for trial in bench.trials if trial.state.name == "COMPLETE"]
    assert max(trial.value for trial in pruned) < max(complete)
    assert bench.trials[0].state.name == "COMPLETE"
    [reason, *_] = pool.stopped.values()
    assert reason.startswith("val top-1 ")
    assert "after epoch 1 is hopeless (median pruner)" in reason


def test_no_trial_is_pruned_before_its_warmup_nor_among_the_first(bench):
    bench.search(n_trials=15, sampler="random", startup_trials=4, warmup_epochs=3)
    pruned = [trial for trial in bench.trials if trial.state.name == "PRUNED"]
    assert pruned
    assert min(max(trial.intermediate_values) for trial in pruned) >= 3
    assert [trial.state.name for trial in bench.trials[:4]] == ["COMPLETE"] * 4


def test_a_trial_that_runs_again_is_judged_from_where_it_had_got_to(bench):
    bench.search(n_trials=4, pruner="none", sampler="random")
    settings = Settings(startup_trials=1, warmup_epochs=2)
    number, _ = (study := Study(settings, bench.space, bench.folder, "val/top1", EPOCHS)).ask()
    assert [study.report(number, epoch, 0.0) for epoch in (1, 2, 3)] == [False, True, True]
    again = Study(settings, bench.space, bench.folder, "val/top1", EPOCHS)
    assert [left.number for left in again.left_open()] == [number]
    assert [again.report(number, epoch, 0.0) for epoch in (1, 2, 3, 4)] == [False, False, True, True]


def test_hyperband_prunes_too(bench):
    bench.search(n_trials=30, sampler="random", pruner="hyperband")
    assert bench.states["PRUNED"] > 0
    assert bench.states["COMPLETE"] > 0


def test_a_smaller_loss_is_better_and_what_the_settings_say_goes_first(tmp_path):
    space = parse([LR])
    assert not Study(Settings(), space, tmp_path, "val/loss").maximize
    assert Study(Settings(study_name="b"), space, tmp_path, "val/top1").maximize
    assert Study(Settings(study_name="c", direction="maximize"), space, tmp_path, "val/loss").maximize


def test_failed_jobs_are_told_as_failed_with_the_error_and_not_run_again(bench):
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


def test_a_job_that_is_refused_or_has_no_objective_is_a_failed_trial(tmp_path):
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
    assert [outcome.status for outcome in silent.told] == ["failed"]


def test_values_that_do_not_go_together_are_a_failed_trial_and_the_others_run(tmp_path):
    bench = Bench(tmp_path / "s", "model=lrn,impossible", "seed=1,2")
    pool = bench.search(sampler="grid")
    assert bench.states == {"COMPLETE": 2, "FAIL": 2}
    assert len(pool.started) == 2
    assert bench.trials[2].user_attrs["error"] == "model=impossible: cannot be; and that is that"


def test_a_grid_runs_every_combination_once_in_order_and_stops(tmp_path):
    bench = Bench(tmp_path / "s", "optim.lr=0.1,0.01,0.001", "model.dropout=range(0,0.3,0.1)")
    assert len(bench.search(sampler="grid", n_trials=4).started) == 4
    assert len(bench.search(FakePool(at_once=2), sampler="grid").started) == 5
    assert bench.search(sampler="grid", n_trials=100).started == []
    ran = [(trial.params["optim.lr"], round(trial.params["model.dropout"], 9)) for trial in bench.trials]
    assert ran == [(lr, dropout) for lr in ("0.1", "0.01", "0.001") for dropout in (0.0, 0.1, 0.2)]


def test_the_same_values_twice_are_run_once_and_told_twice(tmp_path):
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
def test_a_search_killed_at_any_job_goes_on_and_runs_only_the_cut_one_again(tmp_path):
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


def test_a_job_that_ended_after_its_search_was_killed_is_told_and_not_run_again(bench):
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


def test_a_trial_cut_off_before_its_values_were_chosen_is_closed_and_not_counted(bench):
    bench.search(n_trials=2, pruner="none")
    study = optuna.load_study(study_name=bench.folder.name, storage=f"sqlite:///{bench.folder / 'study.db'}")
    study.ask()
    assert len(bench.search(n_trials=4, pruner="none").started) == 2
    assert bench.states == {"COMPLETE": 4, "FAIL": 1}


def test_a_trial_cut_off_before_its_job_was_noted_is_run_under_its_number(bench):
    bench.folder.mkdir()
    number, values = Study(Settings(), bench.space, bench.folder, "val/top1").ask()
    pool = bench.search(n_trials=1)
    assert [job.folder.name for job in pool.started] == [bench.make(number, values).folder.name]
    assert bench.states == {"COMPLETE": 1}


def test_ctrl_c_interrupts_what_runs_and_leaves_its_trials_open(bench):
    class Interrupted(FakePool):
        def wait(self, timeout):
            if len(self.started) > 3:
                raise KeyboardInterrupt
            return super().wait(timeout)

    with pytest.raises(KeyboardInterrupt):
        bench.search(Interrupted(at_once=2), n_trials=6, pruner="none")
    cut = [outcome.job for outcome in bench.told if outcome.status == "interrupted"]
    assert len(cut) == bench.states["RUNNING"] == 2
    assert {state(job.folder) for job in cut} == {"interrupted"}
    assert list((bench.folder / "claims").glob("*.json")) == []

    again = bench.search(n_trials=6, pruner="none")
    assert {job.folder for job in cut} <= {job.folder for job in again.started}
    assert bench.states == {"COMPLETE": 6}
    assert all((job.folder / "earlier" / "1" / "result.json").exists() for job in cut)


def test_a_job_that_lives_elsewhere_is_waited_for_and_its_value_told(bench):
    """As a job of a cluster's queue that goes on after the search that started it was killed."""
    with pytest.raises(Killed):
        bench.search(FakePool(kill_after=0), n_trials=1)
    [job] = SweepPlan.read(bench.folder).jobs
    run = RunFolder(job.folder)
    run.begin({}, {})
    claim = Claims(bench.folder).take(job)
    assert claim is not None
    looks = iter(range(1, 4))

    def looked(running, left):
        look = next(looks)
        run.append_metrics({"epoch": look, "val/top1": value_of(job, look)})
        if look == 3:
            run.finish("done", metrics={"val/top1": value_of(job)})
            claim.release()

    assert bench.search(looked=looked, n_trials=1).started == []
    [trial] = bench.trials
    assert (trial.state.name, trial.value) == ("COMPLETE", value_of(job))
    assert sorted(trial.intermediate_values) == [1, 2, 3]


def test_a_job_elsewhere_that_dies_is_run_again_here(bench):
    with pytest.raises(Killed):
        bench.search(FakePool(kill_after=0), n_trials=1)
    [job] = SweepPlan.read(bench.folder).jobs
    claim = Claims(bench.folder).take(job)

    def looked(running, left):
        claim.release()

    assert bench.search(looked=looked, n_trials=1).started == [job]
    assert bench.states == {"COMPLETE": 1}


def test_a_study_deleted_is_made_anew_from_the_folders(bench):
    first = bench.search(n_trials=3, pruner="none")
    before = [(trial.params, trial.value) for trial in bench.trials]
    (bench.folder / "study.db").unlink()
    assert bench.search(n_trials=3, pruner="none").started == []
    assert [(trial.params, trial.value) for trial in bench.trials] == before
    assert len(SweepPlan.read(bench.folder).jobs) == len(first.started) == 3


def test_the_best_trial_is_known_with_its_values(bench):
    bench.search(n_trials=6, pruner="none")
    study = Study(Settings(), bench.space, bench.folder, "val/top1")
    best = study.best()
    assert best.value == max(trial.value for trial in bench.trials)
    assert best.values == bench.params[best.number]
    assert study.states() == {"complete": 6}


def test_a_study_of_another_space_or_direction_is_refused(tmp_path):
    Bench(tmp_path / "s", "model=lrn,bn").search(n_trials=1)
    with pytest.raises(UserError, match="has other values of model"):
        Bench(tmp_path / "s", "model=lrn,none").search(n_trials=2)
    with pytest.raises(UserError, match="is to maximize, and this search to minimize"):
        Bench(tmp_path / "s", "model=lrn,bn").search(n_trials=2, direction="minimize")


def test_a_storage_that_cannot_be_used_is_one_line_without_its_address(tmp_path):
    (tmp_path / "study.db").write_text("this is no database, whatever its name says " * 50)
    with pytest.raises(UserError, match=r"^study\.db: cannot be used") as damaged:
        Study(Settings(), parse([LR]), tmp_path, "val/top1")
    assert "\n" not in str(damaged.value)
    with pytest.raises(UserError, match=r"^hydra\.sweeper\.storage: cannot be used") as unknown:
        Study(Settings(storage="nosuch://me:secret@host/db"), parse([LR]), tmp_path, "val/top1")
    assert "secret" not in str(unknown.value)


def test_settings_out_of_range_are_told_together():
    with pytest.raises(UserError) as refused:
        Settings(n_trials=0, sampler="tpp", pruner="medain", direction="up", warmup_epochs=0)
    lines = str(refused.value).splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("sampler=tpp: did you mean tpe?")
