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


def test_each_job_has_a_folder_named_after_its_settings_and_configuration(swept: Swept) -> None:
    code, summary = swept("-m", "model=lrn,bn", "seed=1,2")
    assert code == 0
    sweep = Path(summary["sweep"])
    assert sweep.parent == Path("outputs/train")
    assert sweep.name.startswith("model-lrn-bn_seed-1-2-")
    combinations = [(model, seed) for model in ("lrn", "bn") for seed in (1, 2)]
    for run, (model, seed) in zip(summary["runs"], combinations, strict=True):
        container = compose([f"model={model}", f"seed={seed}", *TINY])
        assert Path(run["run"]) == sweep / f"model-{model}_seed-{seed}-{job_hash(container)}"
        assert read_config(Path(run["run"])) == container
        assert read_result(Path(run["run"]))["status"] == run["status"] == "done"
    assert sorted(path.name for path in sweep.iterdir() if not (path / ".hydra").is_dir()) == [
        *("claims", "multirun.yaml", "results.csv", "sweep.json"),
    ]
    assert (summary["status"], summary["counts"], summary["objective"]) == ("done", {"done": 4}, "val/top1")
    assert summary["best"] == summary["runs"][3]
    assert SweepPlan.read(sweep).command[:3] == ["-m", "model=lrn,bn", "seed=1,2"]


def test_each_job_has_its_own_hydra_files(swept: Swept) -> None:
    _, summary = swept("-m", "seed=1,2", "+hydra.job.env_set.A=${name}", "note=${hydra:job.num}")
    for number, run in enumerate(summary["runs"]):
        folder = Path(run["run"]) / ".hydra"
        hydra = yaml.safe_load((folder / "hydra.yaml").read_text())["hydra"]
        assert hydra["job"]["num"] == number
        assert hydra["job"]["env_set"] == {"A": "train"}
        assert hydra["runtime"]["output_dir"] == str(folder.parent.absolute())
        assert hydra["overrides"]["task"][0] == f"seed={number + 1}"
        assert hydra["runtime"]["choices"]["model"] == "bn"
        assert yaml.safe_load((folder / "overrides.yaml").read_text())[0] == f"seed={number + 1}"
        assert str(read_config(folder.parent)["note"]) == str(number), "what asks for Hydra is answered before"


def test_the_same_command_finds_its_folder_and_another_does_not(swept: Swept, pools: Pools) -> None:
    first = swept("-m", "seed=1,2")[1]["sweep"]
    assert swept("-m", "seed=1,2", "hydra.launcher.jobs=2")[1]["sweep"] == first
    assert sum(len(pool.started) for pool in pools) == 2, "nothing is run twice"
    assert swept("-m", "seed=1,2", "note=x")[1]["sweep"] != first
    assert swept("-m", "seed=1,3")[1]["sweep"] != first


def test_the_order_of_overrides_makes_no_new_sweep(swept: Swept, pools: Pools) -> None:
    first = swept("-m", "seed=1,2", "model=bn,lrn")[1]["sweep"]
    assert swept("model=bn,lrn", "-m", "seed=1,2")[1]["sweep"] == first
    assert sum(len(pool.started) for pool in pools) == 4, "nothing is run twice"
    assert Path(first).name.startswith("seed-1-2_model-bn-lrn-")
    assert swept("-m", "seed=1,2", "model=lrn")[1]["sweep"] != first


@pytest.mark.parametrize("mode", ["torch", "keras"])
def test_a_sweep_planned_by_an_earlier_version_keeps_its_jobs(swept: Swept, mode: str) -> None:
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


def test_a_sweep_in_the_folder_of_a_run_is_rejected(pools: Pools, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    assert main(["-m", "seed=1,2", "hydra.sweep.dir=run", *TINY]) == 2
    assert "hydra.sweep.dir=run: this folder contains a run; write another folder" in capsys.readouterr().err
    assert [path.name for path in Path("run").iterdir()] == ["checkpoints"]
    assert not pools


def test_text_that_looks_like_a_number_stays_text(swept: Swept) -> None:
    _, summary = swept("seed=1", "-m", "note=8e45012,1e5")
    assert [read_config(Path(run["run"]))["note"] for run in summary["runs"]] == ["8e45012", "1e5"]
    assert [job.varies for job in SweepPlan.read(Path(summary["sweep"])).jobs] == [{"note": "8e45012"}, {"note": "1e5"}]


def test_glob_selects_experiments(pools: Pools, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        Path("mine/experiment").mkdir(parents=True, exist_ok=True)
        Path(f"mine/experiment/my_{name}.yaml").write_text(f"# @package _global_\nnote: {name}\n")
    assert main(["experiment=glob(my_*)", "-m", "--config-dir", "mine", *TINY]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [read_config(Path(run["run"]))["note"] for run in summary["runs"]] == ["one", "two"]


def test_a_sweep_of_one_run_prints_a_hint(pools: Pools, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "seed=1", *TINY]) == 0
    assert "-m: this sweep has a single run; list several values, such as seed=1,2" in capsys.readouterr().err


def test_jobs_of_several_names_are_one_sweep(swept: Swept) -> None:
    _, summary = swept("-m", "name=a,b")
    assert Path(summary["sweep"]).parent == Path("outputs/sweep")
    assert len(summary["runs"]) == 2
    assert Path(swept("-m", "seed=1,2", "name=mine")[1]["sweep"]).parent == Path("outputs/mine")


def test_a_second_grid_adds_jobs_to_the_folder(swept: Swept, pools: Pools) -> None:
    where = "hydra.sweep.dir='my folder/(1)'"
    assert swept("-m", "seed=1,2", where)[1]["sweep"] == "my folder/(1)"
    _, summary = swept("-m", "seed=2,3", "model=bn,lrn", where)
    assert [pool.started for pool in pools] == [[1, 2], [3, 4, 5]], "seed=2 of bn is there already"
    assert len(summary["runs"]) == 5
    assert len(job_folders("my folder/(1)")) == 5
    grown = SweepPlan.read(Path("my folder/(1)")).jobs
    assert [job.varies for job in grown[2:4]] == [{"seed": "2", "model": "lrn"}, {"seed": "3", "model": "bn"}]


def test_equal_jobs_run_once(swept: Swept, pools: Pools, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_failed_job_fails_the_command_and_is_reported(
    pools: Pools, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_exp.sweep.execute.worker.local_pool", lambda jobs, key: FakePool(jobs, {2: "failed"}))
    assert main(["-m", "seed=1,2,3", *TINY]) == 1
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert (summary["status"], summary["counts"]) == ("failed", {"done": 2, "failed": 1})
    assert summary["runs"][1]["error"] == "ValueError: boom"
    assert err.splitlines()[2].endswith("failed: ValueError: boom")


def test_a_terminal_gets_a_table(
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
def test_an_experiment_with_multirun_needs_no_flag(own_experiment: list[str], flag: list[str], swept: Swept) -> None:
    code, summary = swept(*flag, *own_experiment, "seed=1,2")
    assert code == 0
    assert Path(summary["sweep"]).parent == Path("outputs/rates")
    assert Path(summary["sweep"]).name.startswith("lr-0.1-0.01_seed-1-2-")
    varied = [
        (read_config(Path(run["run"]))["optim"]["lr"], read_config(Path(run["run"]))["seed"]) for run in summary["runs"]
    ]
    assert varied == [(0.1, 1), (0.1, 2), (0.01, 1), (0.01, 2)]


def test_the_command_line_replaces_the_values_of_a_file(own_experiment: list[str], swept: Swept) -> None:
    _, summary = swept(*own_experiment, "optim.lr=0.5")
    assert [read_config(Path(run["run"]))["optim"]["lr"] for run in summary["runs"]] == [0.5]


def test_hydras_basic_sweeper_works(swept: Swept) -> None:
    code, summary = swept("-m", "seed=1,2", "hydra/sweeper=basic")
    assert code == 0
    assert [run["status"] for run in summary["runs"]] == ["done", "done"]


# --- rejected sweeps, with nothing left on the disk


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
            ["model.input_size=32: no pixels are left after conv5"],
        ),
        ("-m seed=1,2 hydra.sweep.subdir=x", ["hydra.sweep.subdir=x: it cannot be set"]),
        ("-m optim.lr=interval(0.1,1)", ["optim.lr=interval(0.1,1): an interval is for a search"]),
        ("-m seed=1,2 hydra.launcher.jobs=-1", ["hydra.launcher.jobs=-1: must be at least 1"]),
        ("-m seed=1,2 hydra/sweeper=basic optim.lr=abc", ["optim.lr=abc: must be a number"]),
        ("-m seed=1,2 model.weights=nowhere", ["model.weights=nowhere: no such file"]),
        ("-m model.dropout=0.5,7 hydra/launcher=basic", ["model.dropout=7"]),
        ("-m seed=1,2 name=a/..", ["name=a/..: must be a folder's name"]),
        ("-m seed=1,2 hydra.sweep.dir=/dev/null/x", ["hydra.sweep.dir=/dev/null/x: cannot be written ("]),
    ],
)
def test_all_problems_are_reported_before_a_job_runs(
    line: str, answers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    lines = sorted(capsys.readouterr().err.splitlines())
    assert len(lines) == len(answers)
    for each, answer in zip(lines, answers, strict=True):
        assert each.startswith(answer)
    assert list(tmp_path.iterdir()) == []


def test_a_rejected_sweep_does_not_change_an_older_one(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    swept("-m", "seed=1,2", "hydra.sweep.dir=mine")
    before = sorted(Path("mine").rglob("*"))
    assert main(["-m", "seed=1,2,x", "hydra.sweep.dir=mine", *TINY]) == 2
    assert sorted(Path("mine").rglob("*")) == before


# --- resume and work


def test_resume_and_work_accept_the_folder_of_a_sweep_or_a_job(
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


def test_resume_retries_failed_jobs_and_work_only_with_retry_failed(
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


def test_resume_rejects_other_folders(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bare").mkdir()
    Path("single").mkdir()
    Path("single/result.json").write_text("{}")
    answers = {
        "bare": "bare: contains neither a run (result.json) nor a sweep",
        "single": "single/.hydra/config.yaml: cannot be read",
        "nowhere": "nowhere: no such run or folder; ",
    }
    for folder, answer in answers.items():
        capsys.readouterr()
        assert main(["resume", folder]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(answer)


def test_a_planned_sweep_is_run_by_workers(swept: Swept, pools: Pools, capsys: pytest.CaptureFixture[str]) -> None:
    # devices that this machine may not have are the workers' affair
    with_gpus = ("trainer.gpus=64", "trainer.accelerator=null", "trainer.devices=null")
    code, summary = swept("-m", "seed=1,2", "hydra.launcher.jobs=0")
    assert swept("-m", "seed=1,2", *with_gpus, "hydra.launcher.jobs=0")[1]["status"] == "open"
    assert (code, summary["status"], summary["counts"], pools) == (0, "open", {"open": 2}, [])
    assert main(["sweep", "work", summary["sweep"]]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"done": 2}


def test_a_planned_sweep_prints_the_work_command_and_can_be_resumed(
    swept: Swept, pools: Pools, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = swept("-m", "seed=1,2", "hydra.launcher.jobs=0")[1]["sweep"]
    with monkeypatch.context() as terminal:
        terminal.setattr("sys.stdout.isatty", lambda: True)
        main(["-m", "seed=1,2", "hydra.launcher.jobs=0", *TINY])
    assert capsys.readouterr().out.splitlines()[-1] == f"  python -m alexnet_exp sweep work {planned}"
    assert main(["resume", planned]) == 0
    assert [pool.size for pool in pools] == [1]


def test_a_job_whose_folder_is_not_writable_fails_and_the_others_run(
    swept: Swept, pools: Pools, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_aside(folder: RunFolder) -> None:
        if folder.path.name.startswith("seed-1-"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(RunFolder, "set_aside", set_aside)
    for command in (["-m", "seed=1,2", "hydra.sweep.dir=mine", *TINY], ["resume", "mine"]):
        assert main(command) == 1, "also where its folder says nothing of it"
        summary = json.loads(capsys.readouterr().out)
        assert (summary["status"], summary["counts"]) == ("failed", {"done": 1, "failed": 1})
        assert summary["runs"][0]["error"] == "its folder cannot be written (Permission denied)"
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
def test_no_configuration_is_copied_after_composition(swept: Swept, monkeypatch: pytest.MonkeyPatch, jobs: str) -> None:
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
    code, summary = swept("-m", "seed=1,2,3", jobs)
    assert (composed, len(job_folders(summary["sweep"]))) == ([3], 3)
    assert len(copies) <= 3, "of the sweep, not of its jobs"
    assert code == 0
