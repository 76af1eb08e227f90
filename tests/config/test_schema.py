"""The public surface: every key with its default, every option of every group, every command.

After a change that is meant:  python tests/config/test_schema.py > tests/public_keys.txt
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from alexnet_exp.__main__ import COMMANDS
from alexnet_exp.config.schema import COLLECTIONS, NODES, Config, Csv, Ema, Trainer, Wandb
from alexnet_exp.errors import Refused, yaml_text
from alexnet_exp.model.spec import Stage, Window
from alexnet_exp.paths import groups

PINNED = Path(__file__).parents[1] / "public_keys.txt"

# Arguments of Lightning's Trainer that are no key of ours, and why.
OURS = {
    "logger": "the group logger",
    "callbacks": "the group callbacks",
    "plugins": "objects, which YAML cannot hold; ours writes checkpoints to the disk before it renames them",
    "enable_checkpointing": "checkpoints are the run folder's; checkpoint.keep says which stay",
    "default_root_dir": "the run folder's path, hydra.run.dir",
    "enable_model_summary": "the command summary",
    "enable_autolog_hparams": "the loggers get the whole configuration",
    "use_distributed_sampler": "our loaders split a batch over the ranks, each image once",
    "model_registry": "Lightning's own cloud",
    "barebones": "it takes away the recording that a run folder consists of",
}


def keys() -> str:
    """One line a key, `where.key = default`; then the options and the commands."""
    found = [*_defaults(Config, "")]
    for group, classes in {**NODES, **COLLECTIONS}.items():
        for name, cls in classes.items():
            found += _defaults(cls, f"{group}.{name}" if len(classes) > 1 else group)
    found += [*_defaults(Stage, "model.stages.NAME"), *_defaults(Window, "model.stages.NAME.small")]
    lines = [f"{key} = {value}" for key, value in found]
    lines += [f"{group}=[{' '.join(options)}]" for group, options in groups().items() if group != "local"]
    lines += [f"command {name}" for name in COMMANDS]
    return "\n".join(lines) + "\n"


def _defaults(cls: type, prefix: str) -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(cls):
        made = field.default_factory is not dataclasses.MISSING
        value, key = (
            field.default_factory() if made else field.default,
            f"{prefix}.{field.name}" if prefix else field.name,
        )
        if dataclasses.is_dataclass(value):
            yield from _defaults(type(value), key)
        else:
            yield key, value.name if isinstance(value, Enum) else yaml_text(value)


def test_the_public_keys_are_those_pinned() -> None:
    changed = list(
        difflib.unified_diff(PINNED.read_text().splitlines(), keys().splitlines(), "pinned", "now", n=0, lineterm="")
    )
    assert not changed, "\n".join(
        [*changed, "If this is meant: python tests/config/test_schema.py > tests/public_keys.txt"]
    )


def test_every_argument_of_lightnings_trainer_is_a_key_or_ours_for_a_reason() -> None:
    theirs = set(inspect.signature(pl.Trainer).parameters)
    known = {field.name for field in dataclasses.fields(Trainer)}
    assert theirs - known == set(OURS)
    assert known - theirs == {"gpus", "compile", "channels_last", "on_nan"}


def test_lightnings_defaults_that_we_change_are_these() -> None:
    """A key left alone means what it means to Lightning, but where a default of ours is meant."""
    theirs = {name: parameter.default for name, parameter in inspect.signature(pl.Trainer).parameters.items()}
    changed = {key for key, value in vars(Trainer()).items() if key in theirs and value != theirs[key]}
    assert changed == {"accelerator", "devices", "precision", "max_epochs", "num_sanity_val_steps", "log_every_n_steps"}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"max_epochs": 0}, "max_epochs"),
        ({"max_epochs": None}, "max_epochs"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_time": "an hour"}, "max_time"),
        ({"gpus": 2, "devices": 2}, "gpus"),
        ({"gpus": 1, "accelerator": "gpu"}, "gpus"),
        ({"gpus": "two"}, "gpus"),
        ({"gpus": True}, "gpus"),
        ({"gpus": []}, "gpus"),
        ({"devices": "two"}, "devices"),
        ({"accelerator": "abacus"}, "accelerator"),
        ({"strategy": "dp"}, "strategy"),
        ({"precision": "fp16"}, "precision"),
        ({"limit_train_batches": 1.5}, "limit_train_batches"),
        ({"overfit_batches": "all"}, "overfit_batches"),
        ({"fast_dev_run": "yes, please"}, "fast_dev_run"),
        ({"val_check_interval": "often"}, "val_check_interval"),
        ({"deterministic": "maybe"}, "deterministic"),
        ({"gradient_clip_val": 0.0}, "gradient_clip_val"),
        ({"profiler": "mine"}, "profiler"),
        ({"compile": "fast"}, "compile"),
        ({"compile": None}, "compile"),
        ({"compile": "reduce-overhead", "accumulate_grad_batches": 2}, "compile"),
        ({"compile": "default", "strategy": "columns"}, "compile"),
    ],
)
def test_the_trainer_refuses(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(Refused) as refused:
        Trainer(**settings)
    assert [problem.key for problem in refused.value.problems] == [key]


@pytest.mark.parametrize(
    "settings",
    [
        {"gpus": 0},
        {"gpus": -1},
        {"gpus": [0, 2]},
        {"accelerator": "cpu", "devices": 2},
        {"max_epochs": None, "max_steps": 100},
        {"max_epochs": None, "max_time": "00:12:00:00"},
        {"limit_train_batches": 0.5, "limit_val_batches": 3, "overfit_batches": 2},
        {"fast_dev_run": True},
        {"fast_dev_run": 2},
        {"val_check_interval": 0.25},
        {"val_check_interval": "00:01:00:00"},
        {"deterministic": "warn"},
        {"compile": True, "accumulate_grad_batches": 2},
        {"compile": "max-autotune"},
    ],
)
def test_the_trainer_takes(settings: dict[str, Any]) -> None:
    assert {key: value for key, value in vars(Trainer(**settings)).items() if key in settings} == settings


@pytest.mark.parametrize(
    ("value", "mode", "graphs"),
    [
        (False, None, False),
        (True, "default", False),
        ("default", "default", False),
        ("reduce-overhead", "reduce-overhead", True),
        ("max-autotune", "max-autotune", True),
    ],
)
def test_compile_takes_a_switch_or_a_mode(value: bool | str, mode: str | None, graphs: bool) -> None:
    trainer = Trainer(compile=value)
    assert (trainer.compile_mode, trainer.records_cuda_graphs) == (mode, graphs)


def test_another_compile_mode_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(Refused, match="compile=max: must be true, false, default, reduce-overhead or max-autotune"):
        Trainer(compile="max")


def test_options_of_a_collection_are_named_as_their_class_says() -> None:
    for classes in COLLECTIONS.values():
        for name, cls in classes.items():
            assert cls().name == name
    assert (Csv().name, Wandb().offline, Ema().decay) == ("csv", True, 0.999)


if __name__ == "__main__":
    print(keys(), end="")
