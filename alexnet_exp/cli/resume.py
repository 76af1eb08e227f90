"""`resume PATH`: goes on with a run or a sweep, from its folder alone.

A run goes on from its newest whole checkpoint, and ends as it would have, had nothing come between. Of a sweep what is
done stays, what was cut off goes on, and what failed has another chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_exp.cli.parser import Parser
from alexnet_exp.config.user_class import TARGET
from alexnet_exp.errors import NO_VALUE, Problem, Refused, UserError, shown
from alexnet_exp.paths import outputs
from alexnet_exp.runs.links import refuse_links_out
from alexnet_exp.runs.lock import locked
from alexnet_exp.runs.lookup import find
from alexnet_exp.runs.reader import is_run, read_config, read_result, state
from alexnet_exp.runs.run import DONE, PRUNED
from alexnet_exp.runs.start import Start, config_of, digest, is_free
from alexnet_exp.runs.sweep_plan import Plan
from alexnet_exp.sanitize import printable
from alexnet_exp.sweep.execute.worker import sweep_folder, work

if TYPE_CHECKING:
    from alexnet_exp.config.schema import Config
    from alexnet_exp.training.checkpoints.resume import Standing

JOBS = "hydra.launcher.jobs="


def run(arguments: list[str]) -> int:
    """Returns the exit code of the run, or 0 where every job of the sweep has ended well."""
    parser = Parser("resume", "Goes on with a run or a sweep where it was stopped.")
    parser.add_argument("folder", metavar="PATH", help="a run, the beginning of its name, or last; a sweep's folder")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="of a run: trainer.max_epochs=20 trains on"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="of a sweep: how many at once; default: as it was started"
    )
    given = parser.parse_intermixed_args(arguments)
    folder = _folder(given.folder)
    if not (Plan.is_in(folder) or Plan.is_in(folder.parent)):
        return _single(folder, given)
    if given.overrides:
        raise UserError(f"{given.overrides[0]}: {folder} is a sweep's, whose jobs go on as they were planned")
    plan = Plan.read(sweep_folder(str(folder), outputs()))
    if plan.kind == "search":
        return _search(plan, given.jobs)
    return work(plan, _jobs(plan) if given.jobs is None else given.jobs, again=True, wait=True, whole=True)


def _folder(text: str) -> Path:
    """The folder that is meant, of a run or a sweep; also that of a run which was killed before it could say a word."""
    path = Path(text)
    if text != "last" and (Plan.is_in(path) or is_run(path) or (path / ".hydra" / "config.yaml").is_file()):
        return path
    if text != "last" and path.is_dir():
        raise UserError(f"{text}: no run or sweep lies there: it has neither result.json nor sweep.json")
    return find(text, outputs())


def _single(folder: Path, given: argparse.Namespace) -> int:
    refuse_links_out(folder)
    if given.jobs is not None:
        raise UserError(f"--jobs {given.jobs}: {folder} is a single run's; --jobs is for a sweep")
    seen = digest(folder)
    before = config_of(folder)
    if not is_run(folder) and "${" in str(before):  # as an earlier version left it that was killed before it began
        raise UserError(f"{folder}: was killed before it began, and has nothing to go on with; type its command again")
    container = changed(before, given.overrides)
    status = state(folder) if is_run(folder) else None
    if status in (DONE, PRUNED):
        if container == before:
            print(printable(f"{folder}: is {status} already; {_how_to_train_on(folder, before)}"))
            return 0
        if not any((folder / "checkpoints").glob("*.ckpt")):
            raise UserError(f"{folder}: kept no checkpoint (checkpoint.keep) to go on from; start a new run")
    return go_on(container, before, folder, seen)


def _how_to_train_on(folder: Path, before: dict[str, Any]) -> str:
    stopped = read_result(folder).get("stopped_early")
    if stopped is None:
        return "trainer.max_epochs=N trains on"
    if before["trainer"].get("max_time") is not None and "max_time" in stopped:
        return f"{stopped}; a longer trainer.max_time=DD:HH:MM:SS, that of all attempts, trains on"
    return f"stopped early ({stopped}); for a larger patience start a new run"


def go_on(container: dict[str, Any], before: dict[str, Any], folder: Path, seen: str) -> int:
    """Validates the configuration, and trains. seen: the folder's `digest` when `before` was read from it."""
    from omegaconf import OmegaConf

    from alexnet_exp.cli.train import tell
    from alexnet_exp.config.compose import fits
    from alexnet_exp.sweep.plan.compose import check_devices
    from alexnet_exp.training.checkpoints.resume import standing
    from alexnet_exp.training.train import run_experiment

    refuse_links_out(folder)
    with locked(folder):  # refused before anything is looked at, where it is running now
        pass
    config = fits(container)
    check_devices([config])
    stands = standing(folder)
    if stands is not None:
        _check_length(container, stands)
        _check_time(container, before, stands)
        if container["schedule"] != before["schedule"]:
            _check_rates(config, before, stands)
    files = {} if container == read_config(folder) else {"config.yaml": OmegaConf.to_yaml(container)}
    ending = run_experiment(container, folder, Start(files, seen=seen, resumed=True))
    if ending.status != "refused":
        tell(folder, ending.code)
    return ending.code


def _check_length(container: dict[str, Any], stands: Standing) -> None:
    """Refuses a training that would end before the point at which the run stands."""
    epochs, steps = container["trainer"].get("max_epochs"), container["trainer"].get("max_steps", -1)
    if epochs is not None and epochs < _begun(stands):
        done = f"{stands.epoch} epochs are done" + (", and a part of the next" if stands.batch else "")
        raise Refused([Problem("trainer.max_epochs", epochs, f"{done}; write as many or more")])
    if steps is not None and 0 <= steps < stands.step:
        raise Refused([Problem("trainer.max_steps", steps, f"{stands.step} steps are done; write as many or more")])


def _check_time(container: dict[str, Any], before: dict[str, Any], stands: Standing) -> None:
    """Refuses another length of a training whose time is over: it would train nothing."""
    from alexnet_exp.config.schema import seconds_of

    lengths = ("max_epochs", "max_steps", "max_time")
    changed = any(container["trainer"].get(key) != before["trainer"].get(key) for key in lengths)
    limit = container["trainer"].get("max_time")
    if changed and limit is not None and stands.seconds is not None and stands.seconds >= seconds_of(limit):
        told = (
            f"the run has trained for {stands.seconds:.0f} seconds; write a longer time, that of all attempts, or null"
        )
        raise Refused([Problem("trainer.max_time", limit, told)])


def _check_rates(config: Config, before: dict[str, Any], stands: Standing) -> None:
    """Refuses restarts with which the epochs that are begun would have been trained at other rates."""
    from alexnet_exp.config.validate import typed
    from alexnet_exp.optim.schedules import curve
    from alexnet_exp.optim.spec import SCHEDULES, Falling

    schedule, was = config.schedule, typed(SCHEDULES[before["schedule"]["name"]], before["schedule"], "schedule")
    assert isinstance(schedule, Falling)  # no other has anything that may change
    assert isinstance(was, Falling)
    key = "restarts" if schedule.restarts != was.restarts else "restart_from"
    length, old_length = config.trainer.max_epochs, before["trainer"]["max_epochs"]
    begun, steps = _begun(stands), 100  # an epoch: of epochs a schedule is the same function for any number
    in_steps = config.trainer.max_steps != -1 or before["trainer"].get("max_steps", -1) != -1
    if in_steps or length is None or old_length is None:
        how = "a length in steps has no restarts that could be added; start a new run"
    elif curve(schedule, length, steps)[: begun * steps] == curve(was, old_length, steps)[: begun * steps]:
        return
    else:
        how = f"the {begun} epochs that are begun would have been trained at other rates; "
        how += f"write [{old_length}], where the run was to end" if key == "restarts" else "start a new run"
    raise Refused([Problem(f"schedule.{key}", getattr(schedule, key), how)])


def _begun(stands: Standing) -> int:
    """The epochs that are done, and that which the run stands in."""
    return stands.epoch + (stands.batch > 0)


def changed(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a run's configuration with some of its `FREE` settings changed; raises Refused for any other."""
    from alexnet_exp.config.composer import parsed_override
    from alexnet_exp.config.overrides import exact

    copy: Any = _copied(config)
    problems = []
    for text in overrides:
        try:
            parsed = parsed_override(exact(text))
        except Refused as refused:
            problems += refused.problems
            continue
        key, value = parsed.key_or_group, parsed.value()
        *path, name = key.split(".")
        node = copy
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if parsed.is_sweep_override() or parsed.is_delete() or parsed.is_add():
            problems.append(Problem(text, NO_VALUE, "a run that goes on takes single values: key=value"))
        elif not isinstance(node, dict) or name not in node:
            problems.append(Problem(key, value, "the run has no such setting"))
        elif not is_free(key) or (path == ["schedule"] and TARGET in node):  # a user's may mean anything by a name
            other = f"would make it another experiment than the one with {shown(node[name])}; start a new run"
            problems.append(Problem(key, value, other))
        else:
            node[name] = value
    if problems:
        raise Refused(problems)
    return dict(copy)


def _copied(value: Any) -> Any:
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def _jobs(plan: Plan) -> int:
    """How many jobs at once the command asked for; one, where it only planned the sweep (0)."""
    asked = [word.removeprefix(JOBS) for word in plan.command if word.startswith(JOBS)]
    return max(1, int(asked[-1])) if asked and asked[-1].isdigit() else 1


def _search(plan: Plan, jobs: int | None) -> int:
    """A search asks for its next jobs as it goes, which only its command can do: so that is run again, as typed."""
    from alexnet_exp.cli import train
    from alexnet_exp.config.composer import quoted
    from alexnet_exp.sweep.plan.untrusted import to_run_again

    folder = plan.folder.absolute()
    here = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    how = [f"hydra.sweep.dir={quoted(str(here))}", *([] if jobs is None else [f"{JOBS}{jobs}"])]
    words = to_run_again(plan)
    how = [word for word in how if word not in words]
    return train.run([*words, *how])
