"""Finds, checks and builds classes of the user, which `_target_` in a YAML file names.

`hydra.utils.instantiate` would call anything that can be imported, for example `torch.utils.collect_env.run`, which
runs shell commands. Here a class must be allowed, subclass the base of its role, and accept the given arguments.
Packages are allowed on the command line (`--allow PACKAGE`) or in the environment
(`ALEXNET_EXP_ALLOW=PACKAGE,PACKAGE`), but not in a configuration, so that a foreign run folder cannot allow itself.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from alexnet_exp.data.info import DataInfo, parse_data_info
from alexnet_exp.errors import Problem, Refused, nearest_name

TARGET_KEY = "_target_"
ALLOW_VARIABLE = "ALEXNET_EXP_ALLOW"


@dataclass(frozen=True)
class Role:
    """The base class of a group's classes, and the arguments that are passed to their constructors.

    first: the number of arguments before those of the configuration (an optimizer's parameters, a schedule's
    optimizer). offered: arguments that are passed by name if the class accepts them and the configuration does not set
    them.
    """

    base: str
    first: int = 0
    offered: tuple[str, ...] = ()


ROLES = {
    "model": Role("torch.nn.Module", offered=("num_classes", "in_channels", "input_size")),
    "data": Role("pytorch_lightning.LightningDataModule", offered=("input_size", "in_channels", "seed")),
    "module": Role(
        "pytorch_lightning.LightningModule",
        offered=("network", "preprocess", "optim", "schedule", "loss", "seed"),
    ),
    "optim": Role("torch.optim.Optimizer", first=1),
    "schedule": Role("torch.optim.lr_scheduler.LRScheduler", first=1),
    "logger": Role("pytorch_lightning.loggers.Logger"),
    "callbacks": Role("pytorch_lightning.Callback"),
}


def allowed_packages() -> set[str]:
    """Returns the packages whose classes a configuration may use."""
    return {name.strip() for name in os.environ.get(ALLOW_VARIABLE, "").split(",") if name.strip()}


def allow_packages(packages: list[str]) -> None:
    """Allows `packages` in this process and in its children."""
    os.environ[ALLOW_VARIABLE] = ",".join(sorted(allowed_packages() | set(packages)))


class UserClass:
    """A user's class that was found and checked; `build()` creates its object.

    facts: of a data module, from the key `facts` of its YAML, which is not an argument of the class, or from its class
        attribute `facts`; None if both are missing.

    Raises Refused if the package is not allowed, the class does not exist or does not subclass the base of its role, or
    the arguments do not match its signature.
    """

    def __init__(self, role: str, node: Mapping[str, Any], prefix: str):
        self._made_of = role, dict(node), prefix
        self.role, self.prefix = ROLES[role], prefix
        self.target = node.get(TARGET_KEY)
        self.arguments = {str(key): value for key, value in node.items() if key != TARGET_KEY}
        self.name = str(self.target).rpartition(".")[2]
        self.cls = self._find()
        self.facts = self._read_facts() if role == "data" else None
        self._check_arguments()

    def __reduce__(self) -> tuple[type, tuple[str, dict[str, Any], str]]:
        """Finds and checks the class again in another process, which a pickled class would not."""
        return UserClass, self._made_of

    def _refuse(self, instead: str, key: str = TARGET_KEY, value: Any = None) -> Refused:
        return Refused([Problem(f"{self.prefix}.{key}", self.target if key == TARGET_KEY else value, instead)])

    def _find(self) -> type:
        if not isinstance(self.target, str) or "." not in self.target:
            raise self._refuse("must be a class with its package, such as my_package.MyClass")
        package = self.target.partition(".")[0]
        if not any(self.target.startswith(f"{name}.") for name in allowed_packages()):
            advice = f"add --allow {package} to the command, or set {ALLOW_VARIABLE}={package}"
            raise self._refuse(f"package {package} is not allowed; {advice}")
        module, _, name = self.target.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name is not None and error.name.partition(".")[0] != package:
                ours = "; write import pytorch_lightning" if error.name == "lightning" else ""
                raise self._refuse(f"{module} imports {error.name}, which is not installed{ours}") from error
            raise self._refuse(
                f"{error}; type python -m alexnet_exp in the folder that holds {package}, or install it"
            ) from error
        except AttributeError:
            near = nearest_name(name, vars(importlib.import_module(module)))
            raise self._refuse(f"{module} has no {name}" + (f"; did you mean {near}?" if near else "")) from None
        except Exception as error:  # the import runs the user's code, which may raise anything
            raise self._refuse(f"cannot be imported: {type(error).__name__}: {error}") from error
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise self._refuse(f"must be a subclass of {self.role.base}")
        return found

    @cached_property
    def base(self) -> type:
        """Returns the class that a class of this role must subclass."""
        module, _, name = self.role.base.rpartition(".")
        base: type = getattr(importlib.import_module(module), name)
        return base

    def _read_facts(self) -> DataInfo | None:
        key = f"{self.prefix}.facts"
        if "facts" in self.arguments and not self.takes("facts"):
            return parse_data_info(self.arguments.pop("facts"), key)
        said = getattr(self.cls, "facts", None)
        return parse_data_info(said, key) if isinstance(said, Mapping) else said if isinstance(said, DataInfo) else None

    def _check_arguments(self) -> None:
        """Binds the configured arguments to the signature of the constructor.

        Raises Refused with each that does not match.
        """
        parameters = inspect.signature(self.cls).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        named = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        named = named[self.role.first :]
        problems = []
        for key, value in self.arguments.items():
            if key not in named and not takes_any:
                near = nearest_name(key, named)
                advice = f"did you mean {near}?" if near else f"it takes {', '.join(named) or 'none'}"
                problems.append(Problem(f"{self.prefix}.{key}", value, f"{self.name} has no such argument; {advice}"))
        for key in named:
            missing = parameters[key].default is inspect.Parameter.empty
            if missing and key not in self.arguments and key not in self.role.offered:
                problems.append(Problem(f"{self.prefix}.{key}", None, f"{self.name} needs this argument"))
        if problems:
            raise Refused(problems)

    def overrides(self, method: str) -> bool:
        """Returns whether the class overrides `method`."""
        return getattr(self.cls, method, None) is not getattr(self.base, method, None)

    def takes(self, key: str) -> bool:
        """Returns whether the constructor has an argument `key`."""
        return key in inspect.signature(self.cls).parameters

    def needs(self, key: str) -> bool:
        """Returns whether the constructor has a required argument `key` that the configuration does not set."""
        parameter = inspect.signature(self.cls).parameters.get(key)
        return parameter is not None and parameter.default is parameter.empty and key not in self.arguments

    def setting(self, key: str) -> Any:
        """Returns the value of the constructor's argument `key`: the configured one, its default, or None."""
        parameter = inspect.signature(self.cls).parameters.get(key)
        default = None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default
        return self.arguments.get(key, default)

    def build(self, *first: Any, **offered: Any) -> Any:
        """Returns the object. first: the arguments of the role (an optimizer's parameters). offered: optional ones.

        Offered arguments that are None keep the constructor's default.
        """
        known = {key: value for key, value in offered.items() if value is not None and key not in self.arguments}
        extra = {key: value for key, value in known.items() if self.takes(key)}
        return self.cls(*first, **extra, **self.arguments)
