"""Provides CIFAR-10 and CIFAR-100 from Krizhevsky's archives, which are downloaded but never extracted."""

from __future__ import annotations

import gzip
import os
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet_exp.atomic import best_effort_lock
from alexnet_exp.data.arrays import Arrays, map_arrays
from alexnet_exp.data.cache import short_hash
from alexnet_exp.data.cifar_batch import PickledArray, read_batch
from alexnet_exp.data.info import data_info
from alexnet_exp.data.spec import Cifar, Cifar10
from alexnet_exp.data.split import ResidentSplit, Source, fingerprint
from alexnet_exp.errors import UserError
from alexnet_exp.paths import cache_folder

# Cached arrays of an archive, one file each; the fingerprint is stored as the bytes of its text.
CACHED_ARRAYS = ("train-labels", "test-labels", "fingerprint", "test", "train")
# Exceptions of reading a damaged archive or batch.
ARCHIVE_ERRORS = (
    *(OSError, EOFError, tarfile.TarError, zlib.error, pickle.UnpicklingError, MemoryError),
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, ImportError),
)
MOST_ARCHIVE_BYTES = 1 << 30  # of an unpacked archive or a batch; the official archives have 178 MB
MOST_BATCH_IMAGES = 50_000  # the training images of CIFAR-100 are one batch
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class CifarArchive:
    """Names in one of the archives, and the names that Keras gives to the archive and its folder."""

    file: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: str
    keras: str

    def places(self, root: Path) -> Iterator[Path]:
        """Yields possible paths of the archive or its extracted folder: in `root`, `root` itself, in Keras's folder."""
        yield from (root / self.folder, root / self.file)
        if root.name in (self.folder, self.file):
            yield root
        keras = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets"
        # Keras 3 adds "-target" to the folder and "_archive" to the file
        yield from (keras / self.keras, keras / f"{self.keras}-target" / self.folder)
        yield from (keras / f"{self.keras}.tar.gz", keras / f"{self.keras}-target_archive", keras / self.file)


CIFAR10 = CifarArchive(
    "cifar-10-python.tar.gz",
    "cifar-10-batches-py",
    tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test_batch",
    "labels",
    keras="cifar-10-batches-py",
)
CIFAR100 = CifarArchive(
    "cifar-100-python.tar.gz", "cifar-100-python", ("train",), "test", "fine_labels", keras="cifar-100-python"
)


def open_cifar(spec: Cifar) -> Source:
    """Returns the source of 50,000 training and 10,000 test images, uint8 [3, 32, 32], from the first path with them.

    The archive is read once, into arrays in the user's cache folder whose names depend on its path, size and time.
    """
    archive = _archive(spec)
    place = _find(spec) or download(spec, archive, cache_folder(spec.root))
    classes = data_info(spec).classes

    def read() -> Arrays:
        batches = read_batches(place, archive, len(classes))
        train, test = _concatenate([batches[name] for name in archive.train]), _concatenate([batches[archive.test]])
        hashed = np.frombuffer(fingerprint(train, test).encode(), dtype=np.uint8)
        splits = {"train": train, "test": test}
        images = {name: split.array.numpy() for name, split in splits.items()}
        labels = {f"{name}-labels": split.labels.numpy() for name, split in splits.items()}
        return {**images, **labels, "fingerprint": hashed}

    stem = f"{archive.folder}-{short_hash(*_file_keys(place, archive))}"
    arrays, note = map_arrays(cache_folder(), stem, CACHED_ARRAYS, read)
    train, test = (
        ResidentSplit(torch.from_numpy(arrays[name]), torch.from_numpy(np.array(arrays[f"{name}-labels"])))
        for name in ("train", "test")
    )
    return Source(train, None, test, classes, arrays["fingerprint"].tobytes().decode(), reading=note)


def is_available(spec: Cifar) -> bool:
    """Returns whether the data exists locally, so that opening it downloads nothing."""
    return _find(spec) is not None


def download(spec: Cifar, archive: CifarArchive, root: Path) -> Path:
    """Downloads the archive into `root` and returns its path; progress is printed to stderr.

    It has a temporary name until `spec.md5` is checked. Of several processes one downloads it. Raises UserError, with
    the file to place by hand, if the download is disabled or fails.
    """
    target = root / archive.file
    by_hand = f"put {archive.file} from {spec.url} into {root}, or write data.root=FOLDER of an existing copy"
    if not spec.download:
        raise UserError(f"data.download=false: {spec.name} is neither in {root} nor in Keras's folder; {by_hand}")
    from torchvision.datasets.utils import download_url

    part = target.with_name(f"{archive.file}.{os.getpid()}.part")
    try:
        with best_effort_lock(target.with_name(f"{archive.file}.lock")):
            if not target.exists():  # another process may have downloaded it
                download_url(spec.url, root, part.name, spec.md5)
                part.replace(target)
    # torchvision raises RuntimeError for a wrong checksum; a broken connection raises HTTPException
    except (OSError, RuntimeError, HTTPException) as error:
        raise UserError(f"{spec.name} could not be downloaded ({error}); {by_hand}") from error
    finally:
        part.unlink(missing_ok=True)
    return target


def read_batches(path: Path, archive: CifarArchive, classes: int) -> dict[str, ResidentSplit]:
    """Returns the batches of a folder or an archive by name. Members of an archive are read without extraction.

    Raises UserError with `path` if it is damaged, lacks a batch, or contains a pickle of anything but arrays.
    """
    names = {*archive.train, archive.test}
    try:
        batches = {name: _batch(file, archive.labels, classes) for name, file in _files(path, names)}
        if missing := sorted(names - batches.keys()):
            raise ValueError(f"{', '.join(missing)} missing")
    except ARCHIVE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: damaged, or not {archive.file} ({reason}); remove it or write data.root") from error
    return batches


def _file_keys(place: Path, archive: CifarArchive) -> list[str]:
    """Returns keys that change with the archive, or with a batch of the folder."""
    files = [place / name for name in (*archive.train, archive.test)] if place.is_dir() else [place]
    return [f"{file.resolve()}\0{file.stat().st_size}\0{file.stat().st_mtime_ns}" for file in files]


def _files(path: Path, names: set[str]) -> Iterator[tuple[str, Any]]:
    if path.is_dir():
        for name in sorted(names):
            with (path / name).open("rb") as file:
                yield name, _LimitedFile(file)
        return
    with path.open("rb") as packed:
        begins = packed.read(len(GZIP_MAGIC))
        packed.seek(0)
        content: Any = _LimitedFile(gzip.GzipFile(fileobj=packed) if begins == GZIP_MAGIC else packed)
        with tarfile.open(fileobj=content, mode="r:") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                # no links, which could refer to themselves
                if name in names and member.isreg() and (inner := tar.extractfile(member)) is not None:
                    yield name, inner


class _LimitedFile:
    """A binary file with a limit of `MOST_ARCHIVE_BYTES`, because a small archive can unpack to any size."""

    def __init__(self, file: Any):
        self._file = file

    def read(self, size: int = -1) -> bytes:
        self._check(self.tell() + max(0, size))
        return bytes(self._file.read(size if size >= 0 else MOST_ARCHIVE_BYTES))

    def readline(self) -> bytes:
        return bytes(self._file.readline(MOST_ARCHIVE_BYTES))

    def seek(self, position: int) -> int:
        self._check(position)
        return int(self._file.seek(position))

    def tell(self) -> int:
        return int(self._file.tell())

    def _check(self, position: int) -> None:
        if position > MOST_ARCHIVE_BYTES:
            raise ValueError(f"it unpacks to more than {MOST_ARCHIVE_BYTES >> 20} MB")


def _batch(file: Any, labels_key: str, classes: int) -> ResidentSplit:
    batch = read_batch(file)
    pixels, labels = batch["data"], batch[labels_key]
    # nested references to one list could become an array of a billion numbers
    if isinstance(labels, PickledArray):
        labels = labels.array
    elif not isinstance(labels, list) or not all(type(label) is int for label in labels[: MOST_BATCH_IMAGES + 1]):
        raise ValueError("labels are not a list of numbers")
    if not isinstance(pixels, PickledArray) or len(labels) > MOST_BATCH_IMAGES:
        raise ValueError(f"pixels are not an array, or there are more than {MOST_BATCH_IMAGES:,} labels")
    pixels, labels = pixels.array, np.asarray(labels)
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * 32 * 32):
        raise ValueError(f"pixels of {pixels.dtype} {pixels.shape} instead of uint8 ({len(labels)}, 3072)")
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels are not numbers below {classes}")
    return ResidentSplit(torch.from_numpy(pixels).view(-1, 3, 32, 32), torch.from_numpy(labels).long())


def _concatenate(batches: list[ResidentSplit]) -> ResidentSplit:
    return ResidentSplit(torch.cat([b.array for b in batches]), torch.cat([b.labels for b in batches]))


def _archive(spec: Cifar) -> CifarArchive:
    return CIFAR10 if isinstance(spec, Cifar10) else CIFAR100


def _find(spec: Cifar) -> Path | None:
    archive, root = _archive(spec), cache_folder(spec.root)
    return next((place for place in archive.places(root) if _is_complete(place, archive)), None)


def _is_complete(place: Path, archive: CifarArchive) -> bool:
    return place.is_file() or (
        place.is_dir() and all((place / name).is_file() for name in (*archive.train, archive.test))
    )
