"""Tests of the command of a grid without training: rejected sweeps, folders, output."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig

from alexnet_exp.__main__ import main
from alexnet_exp.config.compose import compose
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.reader import read_config, read_result
from alexnet_exp.runs.sweep_plan import SweepPlan
from alexnet_exp.sweep.plan import compose as sweep_compose
from alexnet_exp.sweep.plan.naming import job_hash
from tests.conftest import TINY
from tests.sweep.fake_pool import FakePool

Pools = list[FakePool]
Swept = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pools:
    """The pools that were used, in an empty working folder; the next one's endings may be set on the list's class."""
    made: Pools = []

    def make(jobs: int, key: str) -> FakePool:
        made.append(FakePool(jobs))
        return made[-1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alexnet_exp.sweep.execute.worker.local_pool", make)
    return made


@pytest.fixture
def swept(pools: Pools, capsys: pytest.CaptureFixture[str]) -> Swept:
    """`swept("seed=1,2")`: the exit code and the JSON of a tiny sweep."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main([*arguments, *TINY])
        return code, json.loads(capsys.readouterr().out)

    return run


def job_folders(sweep: str) -> list[Path]:
    return sorted(path for path in Path(sweep).iterdir() if (path / ".hydra").is_dir())


def test_a_sweep_has_a_folder_a_job_named_from_what_varies_and_its_configuration(swept: Swept) -> None:
    code, told = swept("-m", "model=lrn,bn", "seed=1,2")
    assert code == 0
    sweep = Path(told["sweep"])
    assert sweep.parent == Path("outputs/train")
    assert sweep.name.startswith("model-lrn-bn_seed-1-2-")
    combinations = [(model, seed) for model in ("lrn", "bn") for seed in (1, 2)]
    for run, (model, seed) in zip(told["runs"], combinations, strict=True):
        container = compose([f"model={model}", f"seed={seed}", *TINY])
        assert Path(run["run"]) == sweep / f"model-{model}_seed-{seed}-{job_hash(container)}"
        assert read_config(Path(run["run"])) == container
        assert read_result(Path(run["run"]))["status"] == run["status"] == "done"
    assert sorted(path.name for path in sweep.iterdir() if not (path / ".hydra").is_dir()) == [
        *("claims", "multirun.yaml", "results.csv", "sweep.json"),
    ]
    assert (told["status"], told["counts"], told["objective"]) == ("done", {"done": 4}, "val/top1")
    assert told["best"] == told["runs"][3]
    assert SweepPlan.read(sweep).command[:3] == ["-m", "model=lrn,bn", "seed=1,2"]


def test_hydras_files_are_those_of_each_job(swept: Swept) -> None:
    _, told = swept("-m", "seed=1,2", "+hydra.job.env_set.A=${name}", "note=${hydra:job.num}")
    for number, run in enumerate(told["runs"]):
        folder = Path(run["run"]) / ".hydra"
        hydra = yaml.safe_load((folder / "hydra.yaml").read_text())["hydra"]
        assert hydra["job"]["num"] == number
        assert hydra["job"]["env_set"] == {"A": "train"}
        assert hydra["runtime"]["output_dir"] == str(folder.parent.absolute())
        assert hydra["overrides"]["task"][0] == f"seed={number + 1}"
        assert hydra["runtime"]["choices"]["model"] == "bn"
        assert yaml.safe_load((folder / "overrides.yaml").read_text())[0] == f"seed={number + 1}"
        assert str(read_config(folder.parent)["note"]) == str(number), "what asks for Hydra is answered before"


def test_the_same_command_comes_back_and_another_does_not(swept: Swept, pools: Pools) -> None:
    first = swept("-m", "seed=1,2")[1]["sweep"]
    assert swept("-m", "seed=1,2", "hydra.launcher.jobs=2")[1]["sweep"] == first
    assert sum(len(pool.started) for pool in pools) == 2, "nothing is run twice"
    assert swept("-m", "seed=1,2", "note=x")[1]["sweep"] != first
    assert swept("-m", "seed=1,3")[1]["sweep"] != first


def test_the_order_in_which_overrides_are_typed_makes_no_other_sweep(swept: Swept, pools: Pools) -> None:
    first = swept("-m", "seed=1,2", "model=bn,lrn")[1]["sweep"]
    assert swept("model=bn,lrn", "-m", "seed=1,2")[1]["sweep"] == first
    assert sum(len(pool.started) for pool in pools) == 4, "nothing is run twice"
    assert Path(first).name.startswith("seed-1-2_model-bn-lrn-")
    assert swept("-m", "seed=1,2", "model=lrn")[1]["sweep"] != first


@pytest.mark.parametrize("mode", ["torch", "keras"])
def test_a_sweep_that_an_earlier_version_planned_keeps_its_jobs(swept: Swept, mode: str) -> None:
    """A setting that is new since then changes the hash of a configuration, and not what it trains."""
    words = ["-m", "seed=1,2", "optim=adam", f"optim.eps_mode={mode}", "optim.lr=1,2", "hydra.launcher.jobs=0"]
    sweep = Path(swept(*words)[1]["sweep"])
    plan = (sweep / "sweep.json").read_text()
    for job in job_folders(str(sweep)):
        file = job / ".hydra" / "config.yaml"
        config = yaml.safe_load(file.read_text())
        del config["optim"]["eps_mode"]  # as before there was this setting, with the behaviour of its default
        file.write_text(yaml.safe_dump(config))
        name = f"{job.name.rpartition('-')[0]}-{job_hash(config)}"
        job.rename(job.with_name(name))
        plan = plan.replace(job.name, name)
    (sweep / "sweep.json").write_text(plan)
    before = job_folders(str(sweep))
    assert len(swept(*reversed(words))[1]["runs"]) == (4 if mode == "torch" else 8)
    assert (job_folders(str(sweep)) == before) == (mode == "torch")


def test_a_sweep_in_a_runs_folder_is_refused(pools: Pools, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    assert main(["-m", "seed=1,2", "hydra.sweep.dir=run", *TINY]) == 2
    assert "hydra.sweep.dir=run: this folder contains a run; write another folder" in capsys.readouterr().err
    assert [path.name for path in Path("run").iterdir()] == ["checkpoints"]
    assert not pools


def test_text_that_looks_like_a_number_is_swept_as_text(swept: Swept) -> None:
    _, told = swept("seed=1", "-m", "note=8e45012,1e5")
    assert [read_config(Path(run["run"]))["note"] for run in told["runs"]] == ["8e45012", "1e5"]
    assert [job.varies for job in SweepPlan.read(Path(told["sweep"])).jobs] == [{"note": "8e45012"}, {"note": "1e5"}]


def test_experiments_are_chosen_by_glob(pools: Pools, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        Path("mine/experiment").mkdir(parents=True, exist_ok=True)
        Path(f"mine/experiment/my_{name}.yaml").write_text(f"# @package _global_\nnote: {name}\n")
    assert main(["experiment=glob(my_*)", "-m", "--config-dir", "mine", *TINY]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [read_config(Path(run["run"]))["note"] for run in told["runs"]] == ["one", "two"]


def test_a_sweep_of_one_run_says_so(pools: Pools, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "seed=1", *TINY]) == 0
    assert "-m: this sweep has a single run; list several values, such as seed=1,2" in capsys.readouterr().err


def test_jobs_of_several_names_are_one_sweep(swept: Swept) -> None:
    _, told = swept("-m", "name=a,b")
    assert Path(told["sweep"]).parent == Path("outputs/sweep")
    assert len(told["runs"]) == 2
    assert Path(swept("-m", "seed=1,2", "name=mine")[1]["sweep"]).parent == Path("outputs/mine")


def test_a_folder_of_ones_own_grows(swept: Swept, pools: Pools) -> None:
    where = "hydra.sweep.dir='my folder/(1)'"
    assert swept("-m", "seed=1,2", where)[1]["sweep"] == "my folder/(1)"
    _, told = swept("-m", "seed=2,3", "model=bn,lrn", where)
    assert [pool.started for pool in pools] == [[1, 2], [3, 4, 5]], "seed=2 of bn is there already"
    assert len(told["runs"]) == 5
    assert len(job_folders("my folder/(1)")) == 5
    grown = SweepPlan.read(Path("my folder/(1)")).jobs
    assert [job.varies for job in grown[2:4]] == [{"seed": "2", "model": "lrn"}, {"seed": "3", "model": "bn"}]


def test_equal_jobs_are_run_once(swept: Swept, pools: Pools, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "optim.lr=0.1,0.10,1e-1", "seed=1,2", *TINY]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["runs"]) == 2
    assert err.splitlines()[1] == "4 of 6 jobs have the same configuration as another job and run only once"


def test_every_job_has_a_line(pools: Pools, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-m", "seed=1,2", "optim.lr=0.1", *TINY])
    start, first, second = capsys.readouterr().err.splitlines()
    assert start.startswith("2 jobs in outputs/train/seed-1-2-")
    assert first.startswith("1/2  seed=1  val top-1 10.00%  ")
    assert second.startswith("2/2  seed=2  val top-1 20.00%  ")
    assert second.endswith(" s  done")


def test_a_failed_job_fails_the_command_and_is_told(
    pools: Pools, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_exp.sweep.execute.worker.local_pool", lambda jobs, key: FakePool(jobs, {2: "failed"}))
    assert main(["-m", "seed=1,2,3", *TINY]) == 1
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["status"], told["counts"]) == ("failed", {"done": 2, "failed": 1})
    assert told["runs"][1]["error"] == "ValueError: boom"
    assert err.splitlines()[2].endswith("failed: ValueError: boom")


def test_on_a_terminal_the_end_is_a_table(
    pools: Pools, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["-m", "seed=1,2", "model=lrn", *TINY]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if "done" in line and ":" not in line]
    assert [line.split("│")[2].strip() for line in shown] == ["2", "1"], "the best first"
    assert "val top-1" in "".join(lines)
    assert lines[-1].strip().startswith("python -m alexnet_exp compare outputs/train/seed-1-2-")


# --- sweeps as files


@pytest.fixture
def own_experiment(pools: Pools) -> list[str]:
    """--config-dir of an experiment that is a sweep."""
    folder = Path("mine/experiment")
    folder.mkdir(parents=True)
    (folder / "rates.yaml").write_text(
        "# @package _global_\nname: rates\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      optim.lr: 0.1,0.01\n"
    )
    return ["--config-dir", "mine", "experiment=rates"]


@pytest.mark.parametrize("flag", [[], ["-m"]])
def test_an_experiment_that_is_a_sweep_needs_no_flag(own_experiment: list[str], flag: list[str], swept: Swept) -> None:
    code, told = swept(*flag, *own_experiment, "seed=1,2")
    assert code == 0
    assert Path(told["sweep"]).parent == Path("outputs/rates")
    assert Path(told["sweep"]).name.startswith("lr-0.1-0.01_seed-1-2-")
    varied = [
        (read_config(Path(run["run"]))["optim"]["lr"], read_config(Path(run["run"]))["seed"]) for run in told["runs"]
    ]
    assert varied == [(0.1, 1), (0.1, 2), (0.01, 1), (0.01, 2)]


def test_what_is_typed_replaces_what_a_file_sweeps(own_experiment: list[str], swept: Swept) -> None:
    _, told = swept(*own_experiment, "optim.lr=0.5")
    assert [read_config(Path(run["run"]))["optim"]["lr"] for run in told["runs"]] == [0.5]


def test_hydras_own_sweeper_works_too(swept: Swept) -> None:
    code, told = swept("-m", "seed=1,2", "hydra/sweeper=basic")
    assert code == 0
    assert [run["status"] for run in told["runs"]] == ["done", "done"]


# --- what is refused, with nothing left on disk


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("-m seed=1,2 optim.lr=0.1,abc", ["optim.lr=abc: must be a number"]),
        (
            "-m optim.lr=0.1,-1,abc model=lrn,lnr +trainer.lrr=1",
            ["model=lnr: did ", "optim.lr=-1", "optim.lr=abc", "trainer.lrr=1"],
        ),
        (
            "-m model=paper,bn model.input_size=32 model.num_classes=10",
            ["model.input_size=32: nothing is left after conv5"],
        ),
        ("-m seed=1,2 hydra.sweep.subdir=x", ["hydra.sweep.subdir=x: leave it out"]),
        ("-m optim.lr=interval(0.1,1)", ["optim.lr=interval(0.1,1): an interval is for a search"]),
        ("-m seed=1,2 hydra.launcher.jobs=-1", ["hydra.launcher.jobs=-1: must be at least 1"]),
        ("-m seed=1,2 hydra/sweeper=basic optim.lr=abc", ["optim.lr=abc: must be a number"]),
        ("-m seed=1,2 model.weights=nowhere", ["model.weights=nowhere: no such file"]),
        ("-m model.dropout=0.5,7 hydra/launcher=basic", ["model.dropout=7"]),
        ("-m seed=1,2 name=a/..", ["name=a/..: must be a folder's name"]),
        ("-m seed=1,2 hydra.sweep.dir=/dev/null/x", ["hydra.sweep.dir=/dev/null/x: no sweep can be written there"]),
    ],
)
def test_all_that_is_wrong_is_told_before_anything_runs(
    line: str, answers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    told = sorted(capsys.readouterr().err.splitlines())
    assert len(told) == len(answers)
    for each, answer in zip(told, answers, strict=True):
        assert each.startswith(answer)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_sweep_leaves_an_older_one_alone(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    swept("-m", "seed=1,2", "hydra.sweep.dir=mine")
    before = sorted(Path("mine").rglob("*"))
    assert main(["-m", "seed=1,2,x", "hydra.sweep.dir=mine", *TINY]) == 2
    assert sorted(Path("mine").rglob("*")) == before


# --- resume and work


def test_resume_and_work_take_a_sweeps_folder_or_that_of_a_job(
    swept: Swept, pools: Pools, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = swept("-m", "seed=1,2")[1]["sweep"]
    for word in (["resume"], ["sweep", "work"]):
        for folder in (sweep, str(job_folders(sweep)[0])):
            assert main([*word, folder]) == 0
            out, err = capsys.readouterr()
            assert json.loads(out)["sweep"] == sweep
            assert err == f"2 jobs in {sweep}, 2 already done\n"
    assert len(pools) == 1, "where all is done no process is started"


def test_resume_runs_what_failed_and_work_only_when_asked(
    swept: Swept, monkeypatch: pytest.MonkeyPatch, pools: Pools
) -> None:
    monkeypatch.setattr("alexnet_exp.sweep.execute.worker.local_pool", lambda jobs, key: FakePool(jobs, {2: "failed"}))
    assert main(["-m", "seed=1,2", "hydra.sweep.dir=mine", *TINY]) == 1
    statuses = [read_result(folder)["status"] for folder in job_folders("mine")]
    assert statuses == ["done", "failed"]
    assert main(["sweep", "work", "mine"]) == 0, "of what it ran itself, nothing has failed"
    assert main(["resume", "mine"]) == 1
    assert (job_folders("mine")[1] / "earlier" / "1" / "result.json").exists()
    monkeypatch.setattr("alexnet_exp.sweep.execute.worker.local_pool", lambda jobs, key: FakePool(jobs))
    assert main(["sweep", "work", "mine", "--retry-failed"]) == 0
    assert read_result(job_folders("mine")[1])["status"] == "done"


def test_resume_refuses_what_is_neither_a_run_nor_a_sweep(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bare").mkdir()
    Path("single").mkdir()
    Path("single/result.json").write_text("{}")
    answers = {
        "bare": "bare: no run or sweep lies there",
        "single": "single/.hydra/config.yaml: cannot be read",
        "nowhere": "nowhere: no such run or folder; ",
    }
    for folder, answer in answers.items():
        capsys.readouterr()
        assert main(["resume", folder]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(answer)


def test_a_sweep_that_is_only_planned_is_left_to_workers(
    swept: Swept, pools: Pools, capsys: pytest.CaptureFixture[str]
) -> None:
    # devices that this machine may not have are the workers' affair
    with_gpus = ("trainer.gpus=64", "trainer.accelerator=null", "trainer.devices=null")
    code, told = swept("-m", "seed=1,2", "hydra.launcher.jobs=0")
    assert swept("-m", "seed=1,2", *with_gpus, "hydra.launcher.jobs=0")[1]["status"] == "open"
    assert (code, told["status"], told["counts"], pools) == (0, "open", {"open": 2}, [])
    assert main(["sweep", "work", told["sweep"]]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"done": 2}


def test_a_sweep_that_is_only_planned_says_how_to_work_on_it_and_can_be_resumed(
    swept: Swept, pools: Pools, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = swept("-m", "seed=1,2", "hydra.launcher.jobs=0")[1]["sweep"]
    with monkeypatch.context() as terminal:
        terminal.setattr("sys.stdout.isatty", lambda: True)
        main(["-m", "seed=1,2", "hydra.launcher.jobs=0", *TINY])
    assert capsys.readouterr().out.splitlines()[-1] == f"  python -m alexnet_exp sweep work {planned}"
    assert main(["resume", planned]) == 0
    assert [pool.size for pool in pools] == [1]


def test_a_job_whose_folder_cannot_be_written_fails_and_the_others_run(
    swept: Swept, pools: Pools, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_aside(folder: RunFolder) -> None:
        if folder.path.name.startswith("seed-1-"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(RunFolder, "set_aside", set_aside)
    for command in (["-m", "seed=1,2", "hydra.sweep.dir=mine", *TINY], ["resume", "mine"]):
        assert main(command) == 1, "also where its folder says nothing of it"
        told = json.loads(capsys.readouterr().out)
        assert (told["status"], told["counts"]) == ("failed", {"done": 1, "failed": 1})
        assert told["runs"][0]["error"] == "its folder cannot be written (Permission denied)"
        assert "failed" in Path("mine/results.csv").read_text()
    assert [pool.started for pool in pools] == [[2], []]


@pytest.mark.parametrize(
    "damage",
    [
        {"command": 5},
        {"objective": None},
        {"jobs": [{"number": 1, "folder": "../elsewhere", "overrides": [], "varies": {}}]},
        {"jobs": [{"number": 1, "folder": "..", "overrides": [], "varies": {}}]},
        {"jobs": [{"number": "one", "folder": "a", "overrides": [], "varies": {}}]},
        {"jobs": [{"number": 1, "folder": "a", "overrides": None, "varies": {}}]},
        {"jobs": ["a"]},
    ],
)
def test_a_damaged_plan_is_one_line(damage: dict[str, Any], pools: Pools, capsys: pytest.CaptureFixture[str]) -> None:
    SweepPlan(Path("mine"), ["-m", "seed=1"], "", "val/top1").write()
    file = Path("mine/sweep.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    for word in (["resume"], ["sweep", "work"], ["sweep", "confirm"]):
        assert main([*word, "mine"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("mine/sweep.json: not the plan of a sweep (")


@pytest.mark.parametrize("jobs", ["hydra.launcher.jobs=0", "hydra.launcher.jobs=1"])
def test_nothing_copies_a_configuration_once_all_are_composed(
    swept: Swept, monkeypatch: pytest.MonkeyPatch, jobs: str
) -> None:
    """A copy takes a tenth of a second: 500 jobs were planned for two minutes after they had been composed."""
    copies: list[object] = []
    composed: list[int] = []
    original, compose_jobs = DictConfig.__deepcopy__, sweep_compose.compose_jobs

    def deepcopy(config: DictConfig, memo: dict[int, Any]) -> DictConfig:
        if composed:
            copies.append(config)
        return original(config, memo)

    def compose_all(*arguments: Any) -> Any:
        found = compose_jobs(*arguments)
        composed.append(len(found))
        return found

    monkeypatch.setattr(DictConfig, "__deepcopy__", deepcopy)
    monkeypatch.setattr(sweep_compose, "compose_jobs", compose_all)
    code, told = swept("-m", "seed=1,2,3", jobs)
    assert (composed, len(job_folders(told["sweep"]))) == ([3], 3)
    assert len(copies) <= 3, "of the sweep, not of its jobs"
    assert code == 0
