"""`python -m alexnet_exp [train] [overrides]`: one experiment, or with -m a sweep."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any, NoReturn

from hydra.utils import get_original_cwd
from omegaconf import DictConfig

from alexnet_exp.cli.arguments import refuse_settings_as_flags, refuse_strays
from alexnet_exp.config.compose import (
    as_yaml,
    check_config_dir,
    compose,
    composed_jobs,
    each_job,
    hydra_files,
    plain,
    settings_of_hydra,
    typed,
    with_hydra,
)
from alexnet_exp.config.composer import quoted
from alexnet_exp.config.overrides import exact
from alexnet_exp.config.validate import is_same_experiment
from alexnet_exp.errors import BAD_INPUT, UserError, one_line
from alexnet_exp.processes.ranks import rank
from alexnet_exp.runs.reader import is_run, read_config, read_result, state
from alexnet_exp.runs.run import RUNNING
from alexnet_exp.runs.start import RUN_THERE, Start, config_of, digest, holds_run
from alexnet_exp.runs.status import Ending
from alexnet_exp.runs.wilson import margin
from alexnet_exp.sweep.plan.compose import check_devices

# Lines of the table at the end: the metric's key, and how it is called there.
SHOWN = {
    "test/top1": "test top-1",
    "test/top5": "test top-5",
    "test/loss": "test loss",
    "val/top1": "val top-1",
    "val/loss": "val loss",
}


def run(arguments: list[str]) -> int:
    """Validates every job, then hands the command line to Hydra; the worst job's exit code comes back."""
    flags, given = _flags(arguments)
    check_config_dir(flags.config_dir)
    others = (flags.multirun, flags.run, flags.info, flags.hydra_help, flags.shell_completion, flags.package)
    if flags.cfg == "job" and not flags.resolve and not any(others):
        sys.stdout.write(as_yaml(flags.overrides, flags.config_dir))  # as Hydra would, which would compose it again
        return 0
    if flags.cfg:
        first = next(each_job(flags.overrides, flags.config_dir)) if flags.multirun else flags.overrides
        compose(first, flags.config_dir)
    if flags.cfg or flags.info or flags.hydra_help or flags.shell_completion:
        with_hydra(given, lambda config: None)
        return 0
    settings = _settings(flags)
    if settings is not None and (flags.multirun or _is_sweep(settings)):
        return _sweep([exact(word) for word in arguments], given, flags, settings)
    configs = composed_jobs([flags.overrides], flags.config_dir)
    check_devices(configs)
    there = Path() if settings is None else Path(str(settings.hydra.run.dir))
    if settings is not None and holds_run(there):
        if rank() == 0:
            return _again(there, compose(flags.overrides, flags.config_dir), configs[0].resume)
        if configs[0].resume:
            return 0 if _is_over(there) else _join(there)
        if _has_ended(there):
            return BAD_INPUT  # rank 0 says why; to wait for it would be in vain
    if rank() == 0 and sys.stderr.isatty():  # for seconds nothing else is printed
        print("loading PyTorch and Lightning", file=sys.stderr, flush=True)
    ended: list[tuple[Path, Ending]] = []
    with_hydra(given, lambda config: ended.append(_one(config)))
    path, ending = ended[0]
    if rank() == 0 and ending.status != "refused":
        tell(path, ending.code)
    return ending.code


def _is_over(folder: Path) -> bool:
    return is_run(folder) and state(folder) in ("done", "pruned")


def _has_ended(folder: Path) -> bool:
    """Whether the run in `folder` is not one that rank 0 has just begun; of one that died, no other rank can know."""
    return is_run(folder) and read_result(folder)["status"] != RUNNING


def _join(folder: Path) -> int:
    """The part in it of a rank that is not the first, which alone looks whether it may go on."""
    from alexnet_exp.training.train import train

    return train({**read_config(folder), "resume": False}, folder)


def _again(folder: Path, container: dict[str, Any], resume: bool) -> int:
    """Goes on with the run that lies in `folder`, where that was asked for and the command is still of that run."""
    from alexnet_exp.cli.resume import go_on
    from alexnet_exp.runs.folder import flatten

    if not resume:
        raise UserError(f"hydra.run.dir={folder}: {RUN_THERE}")
    seen = digest(folder)
    before = {**config_of(folder), "resume": False}
    now, then = flatten({**container, "resume": False}), flatten(before)
    differing = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    if differing and not is_same_experiment(before, {**container, "resume": False}):
        key = min(differing, key=lambda key: key not in then)  # one that is in both says most
        told = f"{key} is {then.get(key)!r} there and {now.get(key)!r} here"
        raise UserError(f"hydra.run.dir={folder}: another experiment lies there: {told}; name another folder")
    if _is_over(folder):
        tell(folder, 0)
        return 0
    return go_on(before, before, folder, seen)


def _is_sweep(settings: DictConfig) -> bool:
    """Whether a file makes it a sweep (`hydra.mode: MULTIRUN`)."""
    mode = settings.hydra.mode
    return mode is not None and mode.name == "MULTIRUN"


def _settings(flags: argparse.Namespace) -> DictConfig | None:
    """The configuration with Hydra's own settings.

    None where the overrides of a single run do not compose: its validation tells of that.
    """
    try:
        return settings_of_hydra(flags.overrides, flags.config_dir)
    except UserError:
        if flags.multirun:
            composed_jobs(
                each_job(flags.overrides, flags.config_dir), flags.config_dir
            )  # tells of all jobs what is wrong with each
            raise
        return None


def _sweep(arguments: list[str], given: list[str], flags: argparse.Namespace, settings: DictConfig) -> int:
    """Lets Hydra's sweeper and launcher run the jobs, then tells of all of them from the sweep's folder."""
    from alexnet_exp.processes.signals import interruptible
    from alexnet_exp.runs.status import ending_of
    from alexnet_exp.runs.sweep_plan import Plan
    from alexnet_exp.sweep.execute.scheduler import Outcome
    from alexnet_exp.sweep.execute.worker import end
    from alexnet_exp.sweep.launcher import JobFailed, typed_as
    from alexnet_exp.sweep.plan.folder import choose, left_as_it_was

    folder = choose(flags.overrides, flags.config_dir, settings)
    ended: list[tuple[Path, Ending]] = []  # of jobs that a launcher of Hydra's own runs in this process
    ran: dict[Path, Outcome] = {}
    stopped: KeyboardInterrupt | None = None
    with interruptible():
        try:
            with left_as_it_was(folder), typed_as(arguments) as ran:
                into = f"hydra.sweep.dir={quoted(str(folder))}"
                with_hydra([*given, into], lambda config: ended.append(_one(config)))
        except JobFailed:  # from Hydra's own sweeper; the table tells it
            pass
        except KeyboardInterrupt as stop:
            stopped = stop
        if Plan.is_in(folder):
            return end(Plan.read(folder), ran, stopped)
    if stopped:
        return ending_of(stopped).code
    print(json.dumps({"runs": [_machine_line(path) for path, _ in ended]}))
    return max((ending.code for _, ending in ended), default=0)


def _flags(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Hydra's own flags, and its command line: Hydra wants its flags before the overrides, which may be anywhere here.

    Raises UserError where flags are wrong or would go round the validation.
    """
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    parser.allow_abbrev = False
    for action in parser._actions:
        if action.dest == "overrides":
            action.required, action.default = False, []
    refuse_settings_as_flags(arguments, parser._option_string_actions)
    flags = parser.parse_intermixed_args(arguments)
    refuse_strays(flags.overrides, flags.config_dir)
    if flags.experimental_rerun:
        raise UserError(
            "--experimental-rerun: would unpickle a file of the run folder, which could run code; type the overrides"
        )
    for name in ("config_path", "config_name"):
        if getattr(flags, name):
            raise UserError(
                f"--{name.replace('_', '-')}: write an experiment of your own: --config-dir FOLDER experiment=NAME"
            )
    if flags.resolve and not flags.cfg:
        raise UserError("--resolve: goes with --cfg job")
    flags.overrides = typed(flags.overrides, flags.config_dir)
    words = []
    for action in parser._actions:
        value = getattr(flags, action.dest, None) if action.option_strings else None
        if value not in (None, False):
            words.append(action.option_strings[0] + ("" if value is True else f"={value}"))
    return flags, [*words, *flags.overrides]


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; python -m alexnet_exp --help tells what it takes")


def _one(config: DictConfig) -> tuple[Path, Ending]:
    """Trains what Hydra composed; writes `.hydra/`, which Hydra itself would write whoever has the folder."""
    from hydra.core.hydra_config import HydraConfig

    from alexnet_exp.training.train import run_experiment

    hydra = HydraConfig.get()
    path = Path(hydra.runtime.output_dir)
    container = {**plain(config), "resume": False}  # asks for something of this command, not of the experiment
    files = hydra_files(hydra, list(hydra.overrides.task), container)
    with chdir(get_original_cwd()):  # with hydra.job.chdir too, a path in a setting is one of the command's folder
        return path, run_experiment(container, path, Start(files, new=True))


def _machine_line(path: Path) -> dict[str, Any]:
    result = read_result(path) if (path / "result.json").exists() else {"status": "failed"}
    line: dict[str, Any] = {"run": str(_short(path)), "status": result["status"], "metrics": result.get("metrics", {})}
    return line | ({"error": result["error"]} if "error" in result else {})


def _short(path: Path) -> Path:
    """The path as a person at this prompt would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def tell(path: Path, code: int) -> None:
    """The end of a run on stdout: a table and what to type next on a terminal, else one line of JSON."""
    if not (path / "result.json").exists():
        return
    if not sys.stdout.isatty():
        print(json.dumps(_machine_line(path)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    result = read_result(path)
    metrics = result.get("metrics") or {}
    table = Table(
        title=Text(one_line(f"{result['name']}: {result['status']}")), title_justify="left", show_header=False
    )
    for key, title in SHOWN.items():
        if key in metrics:
            table.add_row(title, f"{metrics[key]:.4f}{_margin(result, key)}")
    if result.get("images_per_s"):
        table.add_row("training", f"{result['seconds']:.1f} s, {result['images_per_s']:,.0f} images/s")
    if result.get("parameters"):
        table.add_row("network", f"{result['parameters']:,} parameters")
    table.add_row("run", Text(one_line(_short(path))))
    Console().print(table)
    if code == 0:  # not by rich, which would fold the lines that are to be copied
        print("Type next:", *(f"  {line}" for line in _next(result)), sep="\n")


def _margin(result: dict[str, Any], key: str) -> str:
    images = result.get("test_images")
    return f"  ({margin(result['metrics'][key], images)})" if key == "test/top1" and images else ""


def _next(result: dict[str, Any]) -> list[str]:
    other = "lrn" if result["config"].get("model.norm") == "bn" else "bn"
    return [
        "python -m alexnet_exp plot last    # its pictures: curves, filters, predictions, nearest images",
        "python -m alexnet_exp eval last    # the same test again: the same number",
        f"python -m alexnet_exp model={other:<6} # another network on the same data",
    ]
