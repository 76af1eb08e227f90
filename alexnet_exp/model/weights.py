"""Provides weights from files of this package, torchvision or safetensors, without running code of a file."""

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

NETWORK_PREFIX = "network."
"""The prefix of the network's keys in a checkpoint of this package."""

_TORCHVISION = re.compile(r"(features|classifier)\.(\d+)\.(weight|bias)")


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Loads a file into `network`, strictly: exactly its parameters and buffers.

    The file is a checkpoint of this package, a state_dict written by torch.save (torchvision's too), or a .safetensors
    file. Raises `UserError`, and leaves the network unchanged, where the file is missing, truncated, contains more than
    tensors, or does not match the network.
    """
    state = _state_dict(read_file(path), path)
    rename_torchvision(network, state)
    difference = _difference(network.state_dict(), state)
    if difference:
        raise UserError(f"{path}: weights of another network: {difference}")
    network.load_state_dict(state)


def read_file(path: str | Path) -> dict[str, Any]:
    """Returns the content of a checkpoint or .safetensors file, on the CPU. Raises `UserError` if it is unreadable."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: " + ("a folder, not a weights file" if path.is_dir() else "no such file"))
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
        raise UserError(f"{path}: truncated, or not a weights file ({_first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: contains a {type(content).__name__}, not a state_dict or a checkpoint")
    return content


def rename_torchvision(network: nn.Module, state: dict[str, Any], prefix: str = "", *_: Any) -> None:
    """Renames torchvision's keys (features.0.weight, ...) in `state` to those of `network`; other keys do not change.

    Has the signature of a load_state_dict pre-hook.
    """
    matches = [_TORCHVISION.fullmatch(key.removeprefix(prefix)) for key in state if key.startswith(prefix)]
    # Sorted by layer, since safetensors sorts its keys alphabetically.
    theirs = sorted((m for m in matches if m), key=lambda m: (m[1] == "classifier", int(m[2]), m[3] == "bias"))
    ours = [name for name, _ in network.named_parameters() if name.split(".")[-2] in ("conv", "fc")]
    if len(theirs) == len(ours):
        state.update({prefix + new: state.pop(prefix + old[0]) for old, new in zip(theirs, ours, strict=True)})


def _state_dict(content: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Returns the network's part of a file's content, with the keys of the network."""
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise UserError(f"{path}: contains no state_dict")
    if any(key.startswith(NETWORK_PREFIX) for key in state):
        state = {
            key.removeprefix(NETWORK_PREFIX): value for key, value in state.items() if key.startswith(NETWORK_PREFIX)
        }
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: contains no state_dict: not all values are tensors")
    return dict(state)


def _difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """Returns the first difference of a file's weights to the network's and the number of others; empty: none."""
    found = [f"{key} is missing" for key in ours if key not in theirs]
    found += [
        f"{key} is {list(value.shape)}, in the network {list(ours[key].shape)}"
        for key, value in theirs.items()
        if key in ours and value.shape != ours[key].shape
    ]
    found += [f"{key} is not in the network" for key in theirs if key not in ours]
    return "" if not found else found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


def _check_archive(path: Path) -> None:
    """Raises UserError for a zip file that unpacks to more than its size, or whose checksums differ.

    torch.save stores without compression and writes a CRC of each tensor; torch.load does not check it.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > path.stat().st_size:
            why = "compressed, but torch.save does not compress; not loaded, since its unpacked size is unknown"
            raise UserError(f"{path}: {why}")
        damaged = file.testzip()
    if damaged is not None:
        raise UserError(f"{path}: damaged: the CRC of {damaged} differs")


def _why_not_unpickled(message: str) -> str:
    found = re.search(r"GLOBAL (\S+)", message)
    if found:
        return f"contains more than tensors and plain containers ({found[1]}); not loaded, since that could run code"
    return "truncated, or not a weights file"


def _first_line(error: Exception) -> str:
    """Returns the first sentence of a message; those of torch continue with advice on torch."""
    if isinstance(error, KeyError):  # an unknown opcode
        return "no pickle"
    return (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
