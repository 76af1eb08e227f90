"""`python -m alexnet_exp [train] [overrides]`: one experiment, or with -m a sweep."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import chdir
from pathlib import Path
from typing import NoReturn

from hydra.utils import get_original_cwd
from omegaconf import DictConfig

from alexnet_exp.cli.arguments import refuse_settings_as_flags, refuse_strays
from alexnet_exp.cli.output import print_result, report_loading, run_as_json
from alexnet_exp.config.compose import check_config_dir, compose, compose_yaml, each_job, prepare_overrides
from alexnet_exp.config.composer import to_plain
from alexnet_exp.config.composition import Composition, drop_resume
from alexnet_exp.config.hydra_files import hydra_files
from alexnet_exp.config.hydra_session import HydraSession, hydra_session, print_with_hydra
from alexnet_exp.config.overrides import quote_text
from alexnet_exp.config.validate import is_same_experiment
from alexnet_exp.errors import ExitCode, UserError
from alexnet_exp.processes.ranks import rank
from alexnet_exp.runs.reader import is_run, read_config, read_result, state
from alexnet_exp.runs.start import ALREADY_A_RUN, Start, config_of, digest, has_run
from alexnet_exp.runs.status import Ending, Status


def run(arguments: list[str]) -> int:
    """Runs one experiment, or with -m a sweep; returns the exit code, of a sweep that of the worst job."""
    flags, given = _flags(arguments)
    check_config_dir(flags.config_dir)
    others = (flags.multirun, flags.run, flags.info, flags.hydra_help, flags.shell_completion, flags.package)
    if flags.cfg == "job" and not flags.resolve and not any(others):
        sys.stdout.write(
            compose_yaml(flags.overrides, flags.config_dir)
        )  # as Hydra would, which would compose it again
        return 0
    if flags.cfg:
        first = next(each_job(flags.overrides, flags.config_dir)) if flags.multirun else flags.overrides
        compose(first, flags.config_dir)
    # Hydra itself refuses --run together with --multirun
    if flags.cfg or flags.info or flags.hydra_help or flags.shell_completion or (flags.run and flags.multirun):
        print_with_hydra(given)
        return 0
    with hydra_session(flags.overrides, flags.config_dir, sweep=flags.multirun, log=True) as session:
        if session.is_sweep:
            return _sweep([quote_text(word) for word in arguments], session)
        return _single(session)


def _single(session: HydraSession) -> int:
    """Runs one experiment; the only validation of its configuration is here."""
    composition = session.composition()
    if rank() == 0:
        report_loading()
    from alexnet_exp.training.devices import check_devices

    check_devices([composition.config])
    folder, resume = Path(str(session.config.hydra.run.dir)), composition.config.resume
    composition = drop_resume(composition)
    if has_run(folder):
        if rank() == 0:
            return _resume(folder, composition, resume)
        if resume:
            return 0 if _is_over(folder) else _join(folder)
        if _has_ended(folder):
            return ExitCode.BAD_INPUT  # rank 0 says why; to wait for it would be in vain
    path, ending = session.run(lambda config: _train(composition))
    if rank() == 0 and ending.status != Status.REFUSED:
        print_result(path, ending.code)
    return ending.code


def _is_over(folder: Path) -> bool:
    return is_run(folder) and state(folder) in (Status.DONE, Status.PRUNED)


def _has_ended(folder: Path) -> bool:
    """Whether the run in `folder` is not one that rank 0 has just begun; of one that died, no other rank can know."""
    return is_run(folder) and read_result(folder)["status"] != Status.RUNNING


def _join(folder: Path) -> int:
    """The part in it of a rank that is not the first, which alone looks whether it may go on."""
    from alexnet_exp.training.train import train

    return train({**read_config(folder), "resume": False}, folder)


def _resume(folder: Path, composition: Composition, resume: bool) -> int:
    """Resumes the run in `folder`, if `resume=true` asks for that and the command is still of that run."""
    from alexnet_exp.runs.folder import flatten

    if not resume:
        raise UserError(f"hydra.run.dir={folder}: {ALREADY_A_RUN}")
    seen = digest(folder)
    before = {**config_of(folder), "resume": False}
    now, then = flatten(composition.container), flatten(before)
    differing = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    if differing and not is_same_experiment(before, composition.config):
        key = min(differing, key=lambda key: key not in then)  # one that is in both says most
        reason = f"{key} is {then.get(key)!r} there and {now.get(key)!r} here"
        raise UserError(
            f"hydra.run.dir={folder}: the folder contains a run of another experiment: {reason}; name another folder"
        )
    if _is_over(folder):
        print_result(folder, 0)
        return 0
    from alexnet_exp.training.continue_run import continue_run

    ending = continue_run(before, before, folder, seen)
    if ending.status != Status.REFUSED:
        print_result(folder, ending.code)
    return ending.code


def _sweep(arguments: list[str], session: HydraSession) -> int:
    """Has Hydra's sweeper and launcher run the jobs, then reports on all of them from the sweep's folder."""
    from alexnet_exp.processes.signals import stop_on_signals
    from alexnet_exp.runs.status import ending_of
    from alexnet_exp.runs.sweep_plan import SweepPlan
    from alexnet_exp.sweep.execute.worker import report_sweep
    from alexnet_exp.sweep.launcher import JobFailed, SweepCommand
    from alexnet_exp.sweep.plan.folder import remove_if_unplanned, select_folder

    folder = select_folder(session.overrides, session.config_dir, session.config)
    command = SweepCommand(arguments, _train_job)
    stopped: KeyboardInterrupt | None = None
    with stop_on_signals():
        try:
            with remove_if_unplanned(folder):
                session.sweep(folder, command)
                command.raise_error()
        except JobFailed:  # from Hydra's own sweeper; the table of the sweep reports it
            pass
        except KeyboardInterrupt as stop:
            stopped = stop
        if SweepPlan.is_in(folder):
            return report_sweep(SweepPlan.read(folder), command.outcomes, stopped)
    if stopped:
        return ending_of(stopped).code
    print(json.dumps({"runs": [run_as_json(path) for path, _ in command.returned]}))
    return max((ending.code for _, ending in command.returned), default=0)


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
                f"--{name.replace('_', '-')}: write an experiment file and use --config-dir FOLDER experiment=NAME"
            )
    if flags.resolve and not flags.cfg:
        raise UserError("--resolve: goes with --cfg job")
    flags.overrides = prepare_overrides(flags.overrides, flags.config_dir)
    words = []
    for action in parser._actions:
        value = getattr(flags, action.dest, None) if action.option_strings else None
        if value not in (None, False):
            words.append(action.option_strings[0] + ("" if value is True else f"={value}"))
    return flags, [*words, *flags.overrides]


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; python -m alexnet_exp --help lists its arguments")


def _train_job(config: DictConfig) -> tuple[Path, Ending]:
    """Trains a job that a launcher of Hydra's own runs in this process, and has composed."""
    return _train(Composition.of({**to_plain(config), "resume": False}))


def _train(composition: Composition) -> tuple[Path, Ending]:
    """Trains within Hydra's run of a job; writes `.hydra/`, which Hydra would write before the folder is locked."""
    from hydra.core.hydra_config import HydraConfig

    from alexnet_exp.training.train import run_experiment

    hydra = HydraConfig.get()
    path = Path(hydra.runtime.output_dir)
    files = hydra_files(hydra, list(hydra.overrides.task), composition.container)
    with chdir(get_original_cwd()):  # with hydra.job.chdir too, a path in a setting is one of the command's folder
        return path, run_experiment(composition, path, Start(files, new=True))
