"""The tables in the docstring of network.py are those of the program; settings and modules name each other."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from torch import nn

import alexnet_exp
from alexnet_exp.cli import summary
from alexnet_exp.model import network, spec
from alexnet_exp.model.locally_connected import LocallyConnected2d
from alexnet_exp.model.lrn import LRN, WithinMapNorm
from alexnet_exp.model.network import AlexNet, MaskDropout
from alexnet_exp.model.preprocess import Preprocess
from alexnet_exp.model.shapes import parts
from alexnet_exp.model.spec import (
    Activation,
    BatchNorm,
    DropoutScale,
    Input,
    Lrn,
    Network,
    Norm,
    Pool,
    Stage,
    Window,
    WithinMap,
)
from alexnet_exp.model.stage import FusedStage

NetworkOf = Callable[..., Network]
PACKAGE = Path(alexnet_exp.__file__).parent
FIRST_SCREEN_LINES = 40
SLOT = re.compile(r"    (\w+) +(none|\w+\.\w+.*?)  +(\S.*)")

# Networks that between them have every module of every slot.
EVERY_MODULE = [
    ("paper", []),
    ("bn", ["width=0.1", "input_size=28", "in_channels=1", "num_classes=10"]),
    ("fast", []),
    ("torchvision", []),
    ("cuda_convnet_18pct", []),
    ("cuda_convnet_13pct", []),
    ("lenet5", ["in_channels=1", "num_classes=10"]),
    ("lenet5", ["in_channels=1", "num_classes=10", "activation=sigmoid"]),
]


def docstring() -> str:
    assert network.__doc__ is not None
    return network.__doc__


def slot_table() -> dict[str, tuple[str, str]]:
    """The docstring's settings and modules of each slot, as text."""
    _, _, table = docstring().partition("    slot      settings")
    return {slot: (settings, modules) for slot, settings, modules in SLOT.findall(table)}


def test_the_layer_table_is_what_summary_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert summary.run(["model=paper"]) == 0
    title, table, *_ = capsys.readouterr().out.split("\n\n")
    assert title.startswith("model=paper")
    indented = "\n".join(f"    {line}" for line in table.splitlines())
    assert f"\n\n{indented}\n\n" in docstring()


def test_the_layer_table_is_on_the_first_screen() -> None:
    lines = (PACKAGE / "model" / "network.py").read_text().splitlines()[:FIRST_SCREEN_LINES]
    assert any(line.startswith("    fc8.fc ") for line in lines)
    for file in ("conf/model/paper.yaml", "model/spec.py", "model/shapes.py", "model/network.py"):
        assert any(file in line for line in lines)
    assert any(line.startswith("    slot  ") for line in lines)


def test_the_slot_table_has_the_modules_that_are_built(network_of: NetworkOf) -> None:
    built: dict[str, set[str]] = {}
    for name, overrides in EVERY_MODULE:
        settings = network_of(name, *overrides)
        net = AlexNet(settings)
        for part in parts(settings):
            built.setdefault(part.slot, set()).add(type(net.get_submodule(part.name)).__name__)
    listed = {slot: set(re.findall(r"[A-Z]\w+", modules)) for slot, (_, modules) in slot_table().items()}
    assert listed == built


def test_the_slot_table_names_settings_and_files_that_exist() -> None:
    kinds = {"Stage": Stage, "Network": Network}
    for settings, modules in slot_table().values():
        if settings != "none":
            kind, _, names = settings.partition(" (")[0].partition(".")
            assert set(names.split(", ")) <= {field.name for field in fields(kinds[kind])}
        for module in modules.split(", "):
            name, _, file = module.partition(" (")
            assert hasattr(nn, name.removeprefix("nn.")) == name.startswith("nn.")
            assert name.startswith("nn.") or f"class {name}(" in (PACKAGE / file.rstrip(")")).read_text()


@pytest.mark.parametrize(
    ("settings", "module"),
    [
        (Network, AlexNet),
        (Stage, FusedStage),
        (Stage, LocallyConnected2d),
        (Lrn, LRN),
        (WithinMap, WithinMapNorm),
        (DropoutScale, MaskDropout),
        (Input, Preprocess),
    ],
)
def test_settings_and_their_module_name_each_other(settings: type, module: type[nn.Module]) -> None:
    assert settings.__doc__ is not None
    assert module.__doc__ is not None
    assert f"`{module.__name__}`" in settings.__doc__
    assert re.search(rf"Settings: `{settings.__name__}\b", module.__doc__)
    assert f"{spec.__name__.removeprefix('alexnet_exp.').replace('.', '/')}.py" in module.__doc__


@pytest.mark.parametrize(
    ("settings", "modules"),
    [
        (BatchNorm, ["BatchNorm2d", "BatchNorm1d"]),
        (Window, ["Conv2d", "ZeroPad2d"]),
        (Stage, ["Conv2d", "Linear"]),
        (Pool, ["MaxPool2d", "AvgPool2d"]),
        (Activation, ["ReLU", "Tanh", "Sigmoid"]),
        (Norm, []),
        (DropoutScale, ["Dropout"]),
    ],
)
def test_settings_name_the_modules_of_torch(settings: type, modules: list[str]) -> None:
    assert settings.__doc__ is not None
    assert re.findall(r"`nn\.(\w+)`", settings.__doc__) == modules
