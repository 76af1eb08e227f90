"""Random experiments: one option per group, valid and invalid settings of every kind."""

from __future__ import annotations

import copy
import dataclasses
import typing
from enum import Enum
from functools import cache
from typing import Any

from hypothesis import strategies as st

from alexnet_exp.config.compose import compose
from alexnet_exp.config.schema import (
    CALLBACKS,
    COMPILE_MODES,
    LOGGERS,
    METRICS,
    PRECISIONS,
    STRATEGIES,
    Checkpoint,
    Config,
    Loss,
    Test,
    Trainer,
)
from alexnet_exp.data.spec import DATA_SPECS as DATA
from alexnet_exp.model.spec import SLOTS, BatchNorm, Input, Lrn, Network, Stage, Window, WithinMap
from alexnet_exp.optim.optimizer_spec import OPTIMIZERS
from alexnet_exp.optim.schedule_spec import SCHEDULES
from alexnet_exp.paths import groups

# One process, no network: other options are rejected on every machine, or would download.
OPTIONS = {
    "model": [name for name in groups()["model"] if name != "torchvision"],
    "data": ["digits", "random", "folder"],
    "optim": groups()["optim"],
    "schedule": groups()["schedule"],
    "trainer": ["cpu"],
    "callbacks": groups()["callbacks"],
    "logger": groups()["logger"],
}
SMALL = {
    "digits": {"subset": 24, "batch_size": 8},
    "random": {"size": 32, "classes": 5, "n": 24, "batch_size": 8},
    "folder": {"batch_size": 4},
}

WORDS = st.sampled_from(
    ["", " ", "none", "null", "true", "paper", "mean", "30%", "1:2", "a b", "a,b", "a=b", "é", "\u202e"]
)
INTERPOLATIONS = st.sampled_from(
    ["${seed}", "${oc.env:HOME}", "${", "${nothing.here}", "${oc.env:NO_SUCH_NAME}", "???"]
)
NUMBERS = st.one_of(
    st.integers(-3, 9),
    st.sampled_from([10**6, 2**31, 2**32, 2**63, 2**64, 10**30, -(2**63), -(10**30)]),
    st.floats(-2, 2, width=16),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e308, 1e-308, -0.0, 5e-324]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, INTERPOLATIONS, st.text(max_size=8))
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)
"""A value of any type that YAML has."""


@cache
def base(group: str, option: str) -> dict[str, Any]:
    """Returns the complete default configuration with that option of the group."""
    return compose([*(["trainer=cpu"] if group != "trainer" else []), f"{group}={option}"])


@cache
def default() -> dict[str, Any]:
    return compose(["trainer=cpu"])


@dataclasses.dataclass(frozen=True)
class Key:
    """A public setting and the type of its field."""

    path: str
    kind: Any


def _fields(cls: type, prefix: str) -> list[Key]:
    kinds = typing.get_type_hints(cls)
    return [Key(f"{prefix}{field.name}", kinds[field.name]) for field in dataclasses.fields(cls)]


def keys(container: dict[str, Any]) -> list[Key]:
    """Yields every setting of the nodes of a configuration."""
    found = [key for key in _fields(Config, "") if key.path not in OPTIONS and key.path != "module"]
    found += _fields(Loss, "loss.") + _fields(Checkpoint, "checkpoint.") + _fields(Test, "test.")
    found += [*_fields(Network, "model."), *_fields(Lrn, "model.lrn."), *_fields(BatchNorm, "model.bn.")]
    found += [*_fields(WithinMap, "model.within_map."), *_fields(Input, "model.input."), *_fields(Trainer, "trainer.")]
    for name in container["model"]["stages"]:
        found += _fields(Stage, f"model.stages.{name}.") + _fields(Window, f"model.stages.{name}.small.")
    found += _fields(DATA[container["data"]["name"]], "data.")
    found += _fields(OPTIMIZERS[container["optim"]["name"]], "optim.")
    found += _fields(SCHEDULES[container["schedule"]["name"]], "schedule.")
    for group, classes in (("callbacks", CALLBACKS), ("logger", LOGGERS)):
        for name in container[group]:
            found += _fields(classes[name], f"{group}.{name}.")
    return found


# Values of settings whose type is not specific enough.
RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "first": st.lists(st.sampled_from(SLOTS), max_size=2, unique=True),
    "then": st.lists(st.sampled_from(SLOTS), max_size=4, unique=True),
    "pad": st.one_of(
        st.lists(st.integers(0, 3), min_size=1, max_size=1), st.lists(st.integers(0, 3), min_size=4, max_size=4)
    ),
    "precision": st.sampled_from(PRECISIONS),
    "strategy": st.sampled_from(STRATEGIES),
    "accelerator": st.sampled_from(["cpu", "auto", "gpu"]),
    "monitor": st.sampled_from(METRICS),
    "objective": st.sampled_from(METRICS),
    "mode": st.sampled_from(["min", "max"]),
    "every": st.sampled_from(["500 steps", "1 epoch", "10 minutes"]),
    "warmup": st.sampled_from([0, 1, 0.5, "5%", "100%"]),
    "milestones": st.lists(st.sampled_from([1, 2.5, "50%", "75%"]), min_size=1, max_size=3),
    "betas": st.lists(st.floats(0, 0.99), min_size=2, max_size=2),
    "layers": st.dictionaries(
        st.sampled_from(["conv1", "fc6", "fc8", "nothing"]),
        st.dictionaries(
            st.sampled_from(["lr", "weight_decay", "x"]), st.one_of(st.floats(0, 2), st.none()), max_size=2
        ),
        max_size=2,
    ),
    "mean": st.one_of(st.sampled_from(["none", "channel", "pixel"]), st.lists(st.floats(0, 1), min_size=1, max_size=3)),
    "std": st.one_of(st.sampled_from(["none", "channel"]), st.lists(st.floats(0.1, 1), min_size=1, max_size=3)),
    "gpus": st.sampled_from([None, 0, 1, -1, [0], []]),
    "devices": st.sampled_from([None, 1, 2, "auto", -1, [0]]),
    "deterministic": st.sampled_from([None, True, False, "warn"]),
    "max_time": st.sampled_from([None, "00:00:00:10"]),
    "val_check_interval": st.sampled_from([None, 1, 2, 0.5, 1.0, "00:00:01:00"]),
    "compile": st.sampled_from([True, False, *COMPILE_MODES]),
    "fast_dev_run": st.sampled_from([True, False, 0, 1, 2]),
    "profiler": st.sampled_from([None, "simple"]),
    "size": st.integers(1, 40),
    "crop": st.one_of(st.none(), st.integers(1, 40)),
    "kernel": st.one_of(st.none(), st.integers(1, 11)),
    "input_size": st.one_of(st.none(), st.integers(1, 80)),
    "groups": st.integers(1, 3),
    "paper_claim": st.just({"text": "better", "difference": 0.01, "arm": "model.norm=none"}),
    **{
        f"limit_{split}_batches": st.sampled_from([None, 0, 1, 2, 0.5, 1.0])
        for split in ("train", "val", "test", "predict")
    },
    "overfit_batches": st.sampled_from([0, 1, 0.5]),
}


def right(kind: Any) -> st.SearchStrategy[Any]:
    """Draws a value of the field's type, inside or outside its range."""
    arguments = typing.get_args(kind)
    if type(None) in arguments:
        return st.one_of(st.none(), *(right(part) for part in arguments if part is not type(None)))
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(0, 12)
    if kind is float:
        return st.one_of(st.floats(0, 1), st.integers(0, 2))
    if kind is str:
        return WORDS
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from([member.name for member in kind])
    return ANYTHING


def put(container: dict[str, Any], path: str, value: Any) -> None:
    """Sets a dotted key like `path=value`; a node that is not a mapping becomes one."""
    *above, last = path.split(".")
    node = container
    for part in above:
        inner = node.get(part)
        if not isinstance(inner, dict):
            inner = node[part] = {}
        node = inner
    node[last] = value


@st.composite
def experiments(draw: st.DrawFn, folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draws a small configuration and its settings by dotted key. folder: a folder of images."""
    container = copy.deepcopy(default())
    for group in ("model", "data", "optim", "schedule"):
        container[group] = copy.deepcopy(base(group, draw(st.sampled_from(OPTIONS[group])))[group])
    for group in ("callbacks", "logger"):
        for option in draw(st.lists(st.sampled_from(OPTIONS[group]), max_size=2, unique=True)):
            container[group] |= copy.deepcopy(base(group, f"[{option}]")[group])
    container["model"]["width"] = 0.03
    container["data"] |= SMALL[container["data"]["name"]] | {"workers": 0}
    if container["data"]["name"] == "folder":
        container["data"]["root"] = folder
    known = keys(container)
    said: dict[str, Any] = {}
    wrong = draw(st.integers(0, 2))  # few invalid settings, because otherwise hardly any experiment would train
    for _ in range(draw(st.integers(0, 4))):
        key = draw(st.sampled_from(known))
        usual = RIGHT.get(key.path.rpartition(".")[2], right(key.kind))
        said[key.path] = draw(ANYTHING if wrong == 0 else usual)
    if draw(st.integers(0, 19)) == 0:
        said[draw(st.sampled_from(known)).path + draw(st.sampled_from(["x", ".x", "_"]))] = draw(SCALARS)
    for path, value in said.items():
        put(container, path, copy.deepcopy(value))
    return container, said
