"""Provides the classes, their words and the validation labels from the development kit ILSVRC2012_devkit_t12.

The kit numbers its classes by ILSVRC ID: 1 to 1000 for the challenge's classes, larger numbers for inner nodes of
WordNet. Labels in this package follow the order of the WNIDs, not of the IDs. Does not import torch.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_exp.errors import UserError

DEVKIT_NAME = "ILSVRC2012_devkit_t12"
META_FILE, TRUTH_FILE = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
WNID_PATTERN = re.compile(r"n\d{8}")
# The official archive has 2.5 MB and unpacks to tens of MB; a much larger one is damaged or malicious.
MOST_DEVKIT_BYTES = 256 << 20
DEVKIT_ERRORS = (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Devkit:
    """The content of a development kit.

    wnids: `wnids[i]` is the class with ILSVRC ID i + 1. truth: `truth[i]` is the ILSVRC ID of validation image i + 1.
    words, counts: words and number of training images by WNID; `counts` lacks classes without a number in the kit.
    """

    path: Path
    wnids: list[str]
    words: dict[str, str]
    counts: dict[str, int]
    truth: list[int]


def find_devkit(setting: str | None, root: Path) -> Path | None:
    """Returns the path of `data.devkit`; if that is null, the folder or archive in `root`, or None if it has neither.

    Raises UserError if `data.devkit` does not exist.
    """
    if setting is None:
        return next((place for place in (root / DEVKIT_NAME, root / f"{DEVKIT_NAME}.tar.gz") if place.exists()), None)
    path = Path(setting).expanduser()
    if not path.exists():
        raise UserError(f"data.devkit={setting}: no such file or folder; write {DEVKIT_NAME}.tar.gz or its folder")
    return path


def read_devkit(path: Path) -> Devkit:
    """Returns the kit from its folder or its .tar.gz. Two members are read by name; nothing is extracted.

    Raises UserError, one line, for a kit that lacks a file, is damaged, or is inconsistent.
    """
    try:
        meta, truth = _from_folder(path) if path.is_dir() else _from_archive(path)
        return _devkit(path, meta, truth)
    except DEVKIT_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: not a usable {DEVKIT_NAME}: {reason}; download it again from image-net.org"
        ) from error


def _from_folder(path: Path) -> tuple[bytes, bytes]:
    contents = []
    for name in (META_FILE, TRUTH_FILE):
        file = path / name
        if not file.is_file():
            raise ValueError(f"it has no {name}")
        if file.stat().st_size > MOST_DEVKIT_BYTES:
            raise ValueError(f"{name} is larger than {MOST_DEVKIT_BYTES >> 20} MB")
        contents.append(file.read_bytes())
    return contents[0], contents[1]


def _from_archive(path: Path) -> tuple[bytes, bytes]:
    with gzip.open(path) as packed:
        content = packed.read(MOST_DEVKIT_BYTES + 1)
    if len(content) > MOST_DEVKIT_BYTES:
        raise ValueError(f"it contains more than {MOST_DEVKIT_BYTES >> 20} MB")
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for member in tar:
            name = member.name.removeprefix("./").removeprefix(f"{DEVKIT_NAME}/")
            if name in (META_FILE, TRUTH_FILE) and member.isreg() and (file := tar.extractfile(member)) is not None:
                found[name] = file.read()
    for name in (META_FILE, TRUTH_FILE):
        if name not in found:
            raise ValueError(f"it has no {DEVKIT_NAME}/{name}")
    return found[META_FILE], found[TRUTH_FILE]


def _devkit(path: Path, meta: bytes, truth: bytes) -> Devkit:
    synsets = _structs(meta, "synsets")
    leaves: dict[int, str] = {}
    words, counts = {}, {}
    for synset in synsets:
        number, wnid, children = (synset.get(key) for key in ("ILSVRC2012_ID", "WNID", "num_children"))
        if not isinstance(number, float) or not isinstance(wnid, str) or not isinstance(children, float):
            raise ValueError(f"{META_FILE}: a class without ILSVRC2012_ID, WNID or num_children")
        if children:
            continue
        if not WNID_PATTERN.fullmatch(wnid) or not number.is_integer() or int(number) in leaves:
            raise ValueError(f"{META_FILE}: class {number:g} ({wnid[:20]!r}) does not have a unique ID and a WNID")
        leaves[int(number)] = wnid
        text = str(synset.get("words") or "")
        words[wnid] = " ".join("".join(c if c.isprintable() else " " for c in text).split())  # printed in terminals
        images = synset.get("num_train_images")
        if isinstance(images, float) and images > 0:
            counts[wnid] = int(images)
    if sorted(leaves) != list(range(1, len(leaves) + 1)) or len(set(leaves.values())) != len(leaves):
        raise ValueError(
            f"{META_FILE}: the {len(leaves)} classes do not have the IDs 1 to {len(leaves)} and a WNID each"
        )
    return Devkit(path, [leaves[i + 1] for i in range(len(leaves))], words, counts, _truth(truth, len(leaves)))


def _structs(content: bytes, variable: str) -> list[dict[str, Any]]:
    """Returns the struct array `variable` of a MATLAB file, one dict per element; text is str, a number is float."""
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(content), variable_names=[variable], squeeze_me=True).get(variable)
    except Exception as error:  # loadmat raises many types for a damaged file
        raise ValueError(f"{META_FILE}: it is damaged or not a MATLAB file ({type(error).__name__})") from error
    if found is None or not found.dtype.names:
        raise ValueError(f"{META_FILE}: it has no struct array {variable}")
    return [{name: _plain(element[name]) for name in found.dtype.names} for element in found.reshape(-1)]


def _plain(value: Any) -> Any:
    """Returns a number as a float, whether the field stores a scalar or a zero-dimensional array."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    return float(value) if isinstance(value, int | float) else value


def _truth(content: bytes, classes: int) -> list[int]:
    lines = content.split()
    if not all(line.isdigit() and len(line) <= 4 and 1 <= int(line) <= classes for line in lines):
        raise ValueError(f"{TRUTH_FILE}: a line is not a number from 1 to {classes}")
    truth = [int(line) for line in lines]
    # detects a truncated file: the official one has 50 images of each class
    if len(set(Counter(truth).values())) != 1 or len(set(truth)) != classes:
        raise ValueError(
            f"{TRUTH_FILE}: {len(truth):,} labels, but not the same number of each of the {classes:,} classes"
        )
    return truth
