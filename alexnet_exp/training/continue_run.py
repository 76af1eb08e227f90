"""Continues a run from its folder: checks which settings may change, then trains.

torch is imported only when training starts, so that a rejected command returns at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_exp.config.user_class import TARGET_KEY
from alexnet_exp.errors import NO_VALUE, Problem, Refused, yaml_text
from alexnet_exp.runs.links import refuse_links_out
from alexnet_exp.runs.lock import locked
from alexnet_exp.runs.reader import read_config
from alexnet_exp.runs.start import Start, may_change_on_resume
from alexnet_exp.runs.status import Ending

if TYPE_CHECKING:
    from alexnet_exp.config.schema import Config
    from alexnet_exp.training.checkpoints.format import ResumePoint


def continue_run(container: dict[str, Any], before: dict[str, Any], folder: Path, seen: str) -> Ending:
    """Validates the configuration and trains from the newest intact checkpoint.

    container: the configuration to train with. before: the one in the folder. seen: the folder's `digest` when
    `before` was read. Raises UserError where the run is in use or the changed settings do not allow it to be resumed.
    """
    from omegaconf import OmegaConf

    from alexnet_exp.config.composition import validate_stored_run
    from alexnet_exp.training.checkpoints.resume import find_resume_point
    from alexnet_exp.training.devices import check_devices
    from alexnet_exp.training.train import run_experiment

    refuse_links_out(folder)
    with locked(folder):  # a running run is rejected before anything else is checked
        pass
    composition = validate_stored_run(container)
    check_devices([composition.config])
    point = find_resume_point(folder)
    if point is not None:
        _check_length(container, point)
        _check_time(container, before, point)
        if container["schedule"] != before["schedule"]:
            _check_rates(composition.config, before, point)
    files = {} if container == read_config(folder) else {"config.yaml": OmegaConf.to_yaml(container)}
    return run_experiment(composition, folder, Start(files, seen=seen, resumed=True))


def _check_length(container: dict[str, Any], point: ResumePoint) -> None:
    """Raises Refused where training would end before the resume point."""
    epochs, steps = container["trainer"].get("max_epochs"), container["trainer"].get("max_steps", -1)
    if epochs is not None and epochs < _begun(point):
        part = " and a part of the next" if point.batch else ""
        done = f"the run has trained for {point.epoch} epochs{part}"
        raise Refused([Problem("trainer.max_epochs", epochs, f"{done}; write at least {_begun(point)}")])
    if steps is not None and 0 <= steps < point.step:
        done = f"the run has trained for {point.step} steps"
        raise Refused([Problem("trainer.max_steps", steps, f"{done}; write at least {point.step}")])


def _check_time(container: dict[str, Any], before: dict[str, Any], point: ResumePoint) -> None:
    """Raises Refused for another length of a run whose time is over: nothing would be trained."""
    from alexnet_exp.config.schema import seconds_of

    lengths = ("max_epochs", "max_steps", "max_time")
    changed = any(container["trainer"].get(key) != before["trainer"].get(key) for key in lengths)
    limit = container["trainer"].get("max_time")
    if changed and limit is not None and point.seconds is not None and point.seconds >= seconds_of(limit):
        reason = f"the run has trained for {point.seconds:.0f} seconds; write a longer time (of all attempts) or null"
        raise Refused([Problem("trainer.max_time", limit, reason)])


def _check_rates(config: Config, before: dict[str, Any], point: ResumePoint) -> None:
    """Raises Refused for restarts that would change the learning rates of epochs that have begun."""
    from alexnet_exp.config.nodes import read_node
    from alexnet_exp.optim.schedule_spec import SCHEDULES, Falling
    from alexnet_exp.optim.schedules import curve

    schedule, was = config.schedule, read_node(SCHEDULES[before["schedule"]["name"]], before["schedule"], "schedule")
    assert isinstance(schedule, Falling)  # no other schedule has a setting that may change on resume
    assert isinstance(was, Falling)
    key = "restarts" if schedule.restarts != was.restarts else "restart_from"
    length, old_length = config.trainer.max_epochs, before["trainer"]["max_epochs"]
    begun, steps = _begun(point), 100  # steps of an epoch: any number, since the schedule is a function of the epoch
    in_steps = config.trainer.max_steps != -1 or before["trainer"].get("max_steps", -1) != -1
    if in_steps or length is None or old_length is None:
        how = "restarts cannot be changed on resume where the length is in steps; start a new run"
    elif curve(schedule, length, steps)[: begun * steps] == curve(was, old_length, steps)[: begun * steps]:
        return
    else:
        how = f"would change the learning rates of the {begun} epochs that have begun; "
        how += f"write [{old_length}], the run's former end" if key == "restarts" else "start a new run"
    raise Refused([Problem(f"schedule.{key}", getattr(schedule, key), how)])


def _begun(point: ResumePoint) -> int:
    """Returns the number of epochs that have begun."""
    return point.epoch + (point.batch > 0)


def with_changes(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns a copy of a run's configuration with some of the settings `CHANGEABLE_ON_RESUME` changed.

    Raises Refused for any other setting.
    """
    from alexnet_exp.config.composer import parse_override
    from alexnet_exp.config.overrides import quote_text

    copy: Any = _copied(config)
    problems = []
    for text in overrides:
        try:
            parsed = parse_override(quote_text(text))
        except Refused as refused:
            problems += refused.problems
            continue
        key, value = parsed.key_or_group, parsed.value()
        *path, name = key.split(".")
        node = copy
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if parsed.is_sweep_override() or parsed.is_delete() or parsed.is_add():
            problems.append(Problem(text, NO_VALUE, "only key=value can be changed on resume"))
        elif not isinstance(node, dict) or name not in node:
            problems.append(Problem(key, value, "not a setting of this run"))
        # in a user's schedule, any name may mean anything
        elif not may_change_on_resume(key) or (path == ["schedule"] and TARGET_KEY in node):
            reason = f"cannot be changed on resume (was {yaml_text(node[name])}); start a new run"
            problems.append(Problem(key, value, reason))
        else:
            node[name] = value
    if problems:
        raise Refused(problems)
    return dict(copy)


def _copied(value: Any) -> Any:
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value
