"""The development kit of ILSVRC-2012 (ILSVRC2012_devkit_t12): classes, their words, labels of the validation images.

Its classes have numbers, the ILSVRC IDs: 1 to 1000 for those of the challenge, above that for WordNet's inner nodes.
The IDs are not in the order of the WNIDs, which is the order of labels here. No torch here.
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

NAME = "ILSVRC2012_devkit_t12"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
WNID = re.compile(r"n\d{8}")
# The official archive is 2.5 MB, and unpacks to some tens.
MOST = 256 << 20
DAMAGE = (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Devkit:
    """`wnids[i]` is the class with ILSVRC ID i + 1, `truth[i]` the ID of validation image i + 1.

    `words` and `counts` (training images) are by WNID; `counts` lacks classes for which the kit says none.
    """

    path: Path
    wnids: list[str]
    words: dict[str, str]
    counts: dict[str, int]
    truth: list[int]


def find_devkit(setting: str | None, root: Path) -> Path | None:
    """The kit that `data.devkit` names; with null, the one in `root`, as a folder or as the archive, or None.

    Raises UserError for a path that is not there.
    """
    if setting is None:
        return next((place for place in (root / NAME, root / f"{NAME}.tar.gz") if place.exists()), None)
    path = Path(setting).expanduser()
    if not path.exists():
        raise UserError(f"data.devkit={setting}: there is no such file or folder; write {NAME}.tar.gz or its folder")
    return path


def read_devkit(path: Path) -> Devkit:
    """The kit in a folder, or in its .tar.gz, of which two files are read by name and nothing is extracted.

    Raises UserError, one line, for a kit that lacks a file, is damaged, or contradicts itself.
    """
    try:
        meta, truth = _from_folder(path) if path.is_dir() else _from_archive(path)
        return _devkit(path, meta, truth)
    except DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot serve as {NAME}: {reason}; get it anew from image-net.org") from error


def _from_folder(path: Path) -> tuple[bytes, bytes]:
    contents = []
    for name in (META, TRUTH):
        file = path / name
        if not file.is_file():
            raise ValueError(f"it has no {name}")
        if file.stat().st_size > MOST:
            raise ValueError(f"{name} is larger than {MOST >> 20} MB")
        contents.append(file.read_bytes())
    return contents[0], contents[1]


def _from_archive(path: Path) -> tuple[bytes, bytes]:
    with gzip.open(path) as packed:
        content = packed.read(MOST + 1)
    if len(content) > MOST:
        raise ValueError(f"it holds more than {MOST >> 20} MB")
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for member in tar:
            name = member.name.removeprefix("./").removeprefix(f"{NAME}/")
            if name in (META, TRUTH) and member.isreg() and (file := tar.extractfile(member)) is not None:
                found[name] = file.read()
    for name in (META, TRUTH):
        if name not in found:
            raise ValueError(f"it has no {NAME}/{name}")
    return found[META], found[TRUTH]


def _devkit(path: Path, meta: bytes, truth: bytes) -> Devkit:
    synsets = _structs(meta, "synsets")
    leaves: dict[int, str] = {}
    words, counts = {}, {}
    for synset in synsets:
        number, wnid, children = (synset.get(key) for key in ("ILSVRC2012_ID", "WNID", "num_children"))
        if not isinstance(number, float) or not isinstance(wnid, str) or not isinstance(children, float):
            raise ValueError(f"{META}: a class without ILSVRC2012_ID, WNID or num_children")
        if children:
            continue
        if not WNID.fullmatch(wnid) or not number.is_integer() or int(number) in leaves:
            raise ValueError(f"{META}: class {number:g} ({wnid[:20]!r}) is not one class with a WNID and an ID")
        leaves[int(number)] = wnid
        text = str(synset.get("words") or "")
        words[wnid] = " ".join("".join(c if c.isprintable() else " " for c in text).split())  # it goes to a terminal
        images = synset.get("num_train_images")
        if isinstance(images, float) and images > 0:
            counts[wnid] = int(images)
    if sorted(leaves) != list(range(1, len(leaves) + 1)) or len(set(leaves.values())) != len(leaves):
        raise ValueError(f"{META}: the {len(leaves)} classes do not have the IDs 1 to {len(leaves)} and a WNID each")
    return Devkit(path, [leaves[i + 1] for i in range(len(leaves))], words, counts, _truth(truth, len(leaves)))


def _structs(content: bytes, variable: str) -> list[dict[str, Any]]:
    """The struct array `variable` of a MATLAB file, a dict an element: text is str, a single number float."""
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(content), variable_names=[variable], squeeze_me=True).get(variable)
    except Exception as error:  # a damaged file makes it raise almost anything
        raise ValueError(f"{META}: it is damaged or no MATLAB file ({type(error).__name__})") from error
    if found is None or not found.dtype.names:
        raise ValueError(f"{META}: it has no struct array {variable}")
    return [{name: _plain(element[name]) for name in found.dtype.names} for element in found.reshape(-1)]


def _plain(value: Any) -> Any:
    """A number as a float, however MATLAB stored it; a field holds it as itself or as an array of no dimension."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    return float(value) if isinstance(value, int | float) else value


def _truth(content: bytes, classes: int) -> list[int]:
    lines = content.split()
    if not all(line.isdigit() and len(line) <= 4 and 1 <= int(line) <= classes for line in lines):
        raise ValueError(f"{TRUTH}: a line is no number from 1 to {classes}")
    truth = [int(line) for line in lines]
    # a file that was cut off is told by this: the official one has 50 images of each class
    if len(set(Counter(truth).values())) != 1 or len(set(truth)) != classes:
        raise ValueError(f"{TRUTH}: {len(truth):,} labels, but not equally many of each of the {classes:,} classes")
    return truth
