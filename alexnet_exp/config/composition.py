"""Provides a composed and validated configuration, which commands hand to jobs and ranks."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from alexnet_exp.config.resolve import resolve_network
from alexnet_exp.config.schema import Config, Mlflow, Wandb
from alexnet_exp.config.validate import validate
from alexnet_exp.errors import Problem, Refused, missing_package
from alexnet_exp.model.spec import Network
from alexnet_exp.paths import OUTPUTS
from alexnet_exp.runs.lookup import weights_file

if TYPE_CHECKING:
    from omegaconf import DictConfig

TRACKER_PACKAGES: dict[type, str] = {Mlflow: "mlflow", Wandb: "wandb"}  # which an installation may lack


@dataclass(frozen=True)
class Composition:
    """A configuration in the two forms that a run needs.

    config: the validated objects. container: the plain containers that they were made from, which are written into the
    run folder. overrides: the command line's, of a job of a sweep.

    Another process receives `config` and `container` alone and validates nothing.
    """

    config: Config
    container: dict[str, Any]
    _hydra_config: DictConfig | None = None
    overrides: tuple[str, ...] = ()

    @property
    def hydra_config(self) -> DictConfig:
        """The configuration as composed by Hydra, with its node `hydra`; only in the process that composed it."""
        assert self._hydra_config is not None
        return self._hydra_config

    @classmethod
    def of(cls, container: Mapping[str, Any]) -> Composition:
        """Validates a container; raises `Refused` with every problem found."""
        return cls(validate(container), dict(container))

    def __reduce__(self) -> tuple[type, tuple[Config, dict[str, Any]]]:
        return Composition, (self.config, self.container)


def validate_new_run(container: Mapping[str, Any]) -> Composition:
    """Returns the composition of a new run: as `validate_stored_run`, and the name must be valid for a folder."""
    composition = Composition.of(container)
    check_new_run(composition.config)
    return composition


def validate_stored_run(container: Mapping[str, Any]) -> Composition:
    """Returns the composition of a run whose folder exists. Raises UserError as `check_run` does."""
    composition = Composition.of(container)
    check_run(composition.config)
    return composition


def check_new_run(config: Config) -> None:
    """Raises UserError as `check_run` does, and for a name that is invalid for a run folder."""
    check_run(config)
    why = _reserved(config.name)
    if why:
        raise Refused([Problem("name", config.name, f"{why}; write another name")])


def check_run(config: Config) -> None:
    """Raises UserError if network and data are incompatible, or if the weights or a tracker's package are missing.

    Without this check a run would fail only after its data and network are built.
    """
    missing = [TRACKER_PACKAGES[type(each)] for each in config.logger.values() if type(each) in TRACKER_PACKAGES]
    missing = [package for package in missing if importlib.util.find_spec(package) is None]
    if missing:
        raise Refused([Problem("logger", package, missing_package(package)) for package in missing])
    spec, _, _ = resolve_network(config)
    if isinstance(spec, Network) and spec.weights:
        weights_file(spec.weights, OUTPUTS)


def _reserved(name: str) -> str | None:
    """Returns why a run cannot have this name, which becomes a folder in outputs/; None if it can."""
    if name in ("latest", "last"):
        return f"RUN={name} means the newest run"
    if name.startswith((".", "-", "~")):
        return f"begins with {name[0]}"
    if name in ("sweep.json", "result.json") or name.startswith("mlflow.db") or name.endswith((".lock", ".tmp")):
        return "is kept for a file"
    if name != name.strip() or not name.isprintable():
        return "has spaces at an end, or characters that cannot be printed"
    return None


def drop_resume(composition: Composition) -> Composition:
    """Returns a copy with `resume` false, because that setting concerns a command and not the experiment."""
    if not composition.config.resume:
        return composition
    config = replace(composition.config, resume=False)
    return replace(composition, config=config, container={**composition.container, "resume": False})
