"""A small development kit in the form of ILSVRC-2012's, written by SciPy."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

NAME = "ILSVRC2012_devkit_t12"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
FIELDS = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images")


def meta(classes: Sequence[tuple[str, str]], images: int = 0, **altered: Any) -> bytes:
    """meta.mat: `classes` (WNID, words) get the IDs 1, 2, ... in their order, and an inner node of WordNet follows.

    images: training images of each. altered: fields of the last class.
    """
    rows = [
        dict(zip(FIELDS, (i + 1.0, wnid, words, f"a {words}", 0.0, [], 0.0, float(images)), strict=True))
        for i, (wnid, words) in enumerate(classes)
    ]
    rows[-1].update(altered)
    inner = (len(classes) + 1.0, "n00001740", "entity", "all", 2.0, [1.0, 2.0], 1.0, 0.0)
    rows.append(dict(zip(FIELDS, inner, strict=True)))
    synsets = np.empty((len(rows), 1), dtype=[(field, object) for field in FIELDS])
    for i, row in enumerate(rows):
        synsets[i, 0] = tuple(row[field] for field in FIELDS)
    file = io.BytesIO()
    scipy.io.savemat(file, {"synsets": synsets}, do_compression=True)
    return file.getvalue()


def truth(numbers: Sequence[int]) -> bytes:
    """The labels of the validation images, a line each."""
    return "".join(f"{number}\n" for number in numbers).encode()


def as_folder(root: Path, meta: bytes, truth: bytes) -> Path:
    """The kit as it lies once unpacked."""
    path = root / NAME
    (path / "data").mkdir(parents=True)
    (path / META).write_bytes(meta)
    (path / TRUTH).write_bytes(truth)
    return path


def as_archive(path: Path, members: dict[str, bytes]) -> Path:
    """A .tar.gz of these members, with whatever names."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
