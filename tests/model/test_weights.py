"""Every supported kind of weights file loads; others are rejected in one line, and code in a file is not run."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from alexnet_exp.errors import UserError
from alexnet_exp.model.network import AlexNet
from alexnet_exp.model.spec import Network
from alexnet_exp.model.weights import load_weights, read_file

NetworkOf = Callable[..., Network]
TINY = ["width=0.02", "input_size=64", "in_channels=3", "num_classes=5"]


@pytest.fixture
def tiny(network_of: NetworkOf) -> Callable[..., AlexNet]:
    return lambda *overrides, name="bn": AlexNet(network_of(name, *TINY, *overrides))


Tiny = Callable[..., AlexNet]


def torchvision_keys(network: AlexNet) -> dict[str, Tensor]:
    """The same weights under the names torchvision's layers have."""
    layers = ["features.0", "features.3", "features.6", "features.8", "features.10"]
    layers += ["classifier.1", "classifier.4", "classifier.6"]
    names = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    return dict(zip(names, network.state_dict().values(), strict=True))


def same(one: AlexNet, other: AlexNet) -> bool:
    others = other.state_dict()
    return all(torch.equal(value, others[key]) for key, value in one.state_dict().items())


def refusal(network: AlexNet, path: Path) -> str:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_weights(network, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def test_a_checkpoint_of_this_package_loads(tiny: Tiny, tmp_path: Path) -> None:
    trained, fresh = tiny(), tiny()
    state = {f"network.{key}": value for key, value in trained.state_dict().items()} | {
        "preprocess.mean": torch.zeros(3)
    }
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, tmp_path / "best.ckpt")
    load_weights(fresh, tmp_path / "best.ckpt")
    assert same(trained, fresh)


def test_a_state_dict_loads(tiny: Tiny, tmp_path: Path) -> None:
    trained, fresh = tiny(), tiny()
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    load_weights(fresh, tmp_path / "weights.pt")
    assert same(trained, fresh)


@pytest.mark.parametrize("prefix", ["", "network."])
def test_safetensors(tiny: Tiny, tmp_path: Path, prefix: str) -> None:
    trained, fresh = tiny(), tiny()
    state = {prefix + key: value for key, value in trained.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    load_weights(fresh, tmp_path / "weights.safetensors")
    assert same(trained, fresh)


def test_a_file_of_torchvision_loads(tiny: Tiny, tmp_path: Path) -> None:
    trained, fresh = tiny(name="torchvision"), tiny(name="torchvision")
    torch.save(torchvision_keys(trained), tmp_path / "alexnet.pth")
    load_weights(fresh, tmp_path / "alexnet.pth")
    assert same(trained, fresh)


def test_torchvisions_keys_in_alphabetical_order(tiny: Tiny, tmp_path: Path) -> None:
    """As safetensors stores them: classifier before features, features.10 before features.3."""
    trained, fresh = tiny(name="torchvision"), tiny(name="torchvision")
    safetensors.torch.save_file(torchvision_keys(trained), tmp_path / "alexnet.safetensors")
    load_weights(fresh, tmp_path / "alexnet.safetensors")
    assert same(trained, fresh)


def test_torchvisions_keys_load_inside_another_module(tiny: Tiny) -> None:
    trained, outer = tiny(name="torchvision"), torch.nn.ModuleDict({"network": tiny(name="torchvision")})
    outer.load_state_dict({f"network.{key}": value for key, value in torchvision_keys(trained).items()}, strict=True)
    assert same(trained, outer["network"])


def test_weights_of_another_variant_are_rejected(tiny: Tiny, tmp_path: Path) -> None:
    torch.save(tiny("norm=none").state_dict(), tmp_path / "none.ckpt")
    line = refusal(tiny(), tmp_path / "none.ckpt")
    assert line == "weights of another network: conv1.norm.weight is missing (and 24 more)"
    torch.save(tiny().state_dict(), tmp_path / "bn.ckpt")
    line = refusal(tiny("norm=none"), tmp_path / "bn.ckpt")
    assert line.startswith("weights of another network: conv1.norm.weight is not in the network (and ")


def test_weights_for_other_classes_are_rejected(tiny: Tiny, tmp_path: Path) -> None:
    torch.save(tiny("num_classes=7").state_dict(), tmp_path / "seven.ckpt")
    line = refusal(tiny(), tmp_path / "seven.ckpt")
    assert line == "weights of another network: fc8.fc.weight is [7, 82], in the network [5, 82] (and 1 more)"


def test_torchvisions_weights_are_rejected_by_a_network_with_fewer_layers(tiny: Tiny, tmp_path: Path) -> None:
    torch.save(torchvision_keys(tiny(name="torchvision")), tmp_path / "alexnet.pth")
    line = refusal(tiny("stages.conv4=null", name="torchvision"), tmp_path / "alexnet.pth")
    assert line.startswith("weights of another network: conv1.conv.weight is missing")


class Payload:
    """Runs a command when a careless reader unpickles it."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_reported_and_not_run(tiny: Tiny, tmp_path: Path, new_format: bool) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.ckpt"
    torch.save({"state_dict": Payload(f"touch {canary}")}, path, _use_new_zipfile_serialization=new_format)
    line = refusal(tiny(), path)
    assert (
        line == "contains more than tensors and plain containers (posix.system); not loaded, since that could run code"
    )
    assert not canary.exists()


def test_compressed_archives_are_rejected(tiny: Tiny, tmp_path: Path) -> None:
    """torch.save stores its members as they are, so that what is compressed is no file of torch's."""
    torch.save(tiny().state_dict(), tmp_path / "plain.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "plain.ckpt") as plain,
        zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert refusal(tiny(), tmp_path / "packed.ckpt").startswith("compressed, but torch.save does not compress")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["weights.ckpt", "weights.safetensors"])
def test_truncated_files_are_rejected(tiny: Tiny, tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    save = safetensors.torch.save_file if name.endswith("safetensors") else torch.save
    save(tiny().state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert refusal(tiny(), path).startswith("truncated, or not a weights file")


@pytest.mark.parametrize(
    "content", [b"hello, this is text\n", b"\x89PNG\r\n\x1a\n" + bytes(200), b"PK\x03\x04" + bytes(50)]
)
def test_other_files_are_rejected(tiny: Tiny, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.ckpt"
    path.write_bytes(content)
    assert refusal(tiny(), path).startswith("truncated, or not a weights file")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ([1, 2], "contains a list, not a state_dict or a checkpoint"),
        ({"state_dict": 3}, "contains no state_dict"),
        ({"epoch": 3}, "contains no state_dict: not all values are tensors"),
        ({}, "weights of another network: conv1.conv.weight is missing (and 40 more)"),
    ],
)
def test_containers_without_weights_are_rejected(tiny: Tiny, tmp_path: Path, content: object, line: str) -> None:
    torch.save(content, tmp_path / "odd.ckpt")
    assert refusal(tiny(), tmp_path / "odd.ckpt") == line


def test_missing_files_and_folders_are_rejected(tiny: Tiny, tmp_path: Path) -> None:
    assert refusal(tiny(), tmp_path / "none.ckpt") == "no such file"
    assert refusal(tiny(), tmp_path) == "a folder, not a weights file"


def test_read_file_returns_the_whole_checkpoint(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "last.ckpt")
    assert read_file(tmp_path / "last.ckpt")["epoch"] == 3
