"""Weights from a file: ours, torchvision's, or safetensors. Nothing in a file is ever run."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from alexnet_exp.errors import UserError

NETWORK = "network."
"""What precedes the network's keys in a checkpoint of ours."""

_TORCHVISION = re.compile(r"(features|classifier)\.(\d+)\.(weight|bias)")


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Fills `network` from a file, strictly: all of its parameters and buffers, and nothing else.

    The file is a checkpoint of ours, a state_dict that torch.save wrote (torchvision's too), or a .safetensors file.
    Raises `UserError`, and leaves the network as it was, when the file is missing, truncated, not plain tensors, or of
    another network.
    """
    state = _state_dict(read_file(path), path)
    rename_torchvision(network, state)
    difference = _difference(network.state_dict(), state)
    if difference:
        raise UserError(f"{path}: these are weights of another network: {difference}")
    network.load_state_dict(state)


def read_file(path: str | Path) -> dict[str, Any]:
    """What a checkpoint or .safetensors file holds, on the CPU. Raises `UserError` when it cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: " + ("a folder, not a file of weights" if path.is_dir() else "no such file"))
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_why_not_unpickled(str(error))}") from error
    except Exception as error:  # a damaged pickle makes torch raise almost anything
        raise UserError(f"{path}: truncated, or not a file of weights ({_first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state_dict or a checkpoint")
    return content


def rename_torchvision(network: nn.Module, state: dict[str, Any], prefix: str = "", *_: Any) -> None:
    """Renames torchvision's keys (features.0.weight, ...) in `state` to ours, layer by layer; others are left.

    Has the signature of a load_state_dict pre-hook.
    """
    matches = [_TORCHVISION.fullmatch(key.removeprefix(prefix)) for key in state if key.startswith(prefix)]
    # By layer and not as they stand in the file: safetensors sorts its keys.
    theirs = sorted((m for m in matches if m), key=lambda m: (m[1] == "classifier", int(m[2]), m[3] == "bias"))
    ours = [name for name, _ in network.named_parameters() if name.split(".")[-2] in ("conv", "fc")]
    if len(theirs) == len(ours):
        state.update({prefix + new: state.pop(prefix + old[0]) for old, new in zip(theirs, ours, strict=True)})


def _state_dict(content: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The network's part of a file's content, with the keys the network has."""
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise UserError(f"{path}: holds no state_dict")
    if any(key.startswith(NETWORK) for key in state):
        state = {key.removeprefix(NETWORK): value for key, value in state.items() if key.startswith(NETWORK)}
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state_dict: not all of its values are tensors")
    return dict(state)


def _difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """The first thing in which a file's weights differ from the network's, and how many more there are; or nothing."""
    found = [f"{key} is missing" for key in ours if key not in theirs]
    found += [
        f"{key} is {list(value.shape)}, here {list(ours[key].shape)}"
        for key, value in theirs.items()
        if key in ours and value.shape != ours[key].shape
    ]
    found += [f"{key} is unknown here" for key in theirs if key not in ours]
    return "" if not found else found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


def _check_archive(path: Path) -> None:
    """Raises UserError for a zip file that unpacks to more than it is, or whose content is not what was written.

    torch.save stores, and compresses nothing; it notes a CRC of each tensor, and torch.load does not look at it.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > path.stat().st_size:
            why = "compressed, which torch.save never does; not read, since it could unpack to anything"
            raise UserError(f"{path}: {why}")
        damaged = file.testzip()
    if damaged is not None:
        raise UserError(f"{path}: damaged: {damaged} is not what was written (its CRC differs)")


def _why_not_unpickled(message: str) -> str:
    found = re.search(r"GLOBAL (\S+)", message)
    if found:
        return f"holds more than tensors and plain containers ({found[1]}); not read, since that could run code"
    return "truncated, or not a file of weights"


def _first_line(error: Exception) -> str:
    """The first sentence of it: torch's own go on about what may be wrong with torch."""
    if isinstance(error, KeyError):  # an opcode that there is not
        return "no pickle"
    return (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
