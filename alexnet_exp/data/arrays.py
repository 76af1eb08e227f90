"""Provides a cache of arrays that are slow to read, as memory-mapped .npy files in the user's cache folder.

After its array, where readers of .npy files ignore it, each file has the checksum of the array.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from alexnet_exp.atomic import atomic_write
from alexnet_exp.data.memmap import CHECKSUM_DTYPE

Arrays = Mapping[str, NDArray[np.generic]]


def map_arrays(folder: Path, stem: str, names: tuple[str, ...], make: Callable[[], Arrays]) -> tuple[Arrays, str]:
    """Returns the arrays `names` of the files `stem`-NAME.npy in `folder`, and a text for the log.

    If a file is missing or damaged, `make` creates all of them. All processes share one copy of the mapped files. If
    the folder is not writable, the arrays stay in this process, and the text gives the reason; otherwise it is empty.
    """
    paths = {name: folder / f"{stem}-{name}.npy" for name in names}
    with suppress(OSError, ValueError, EOFError):  # missing, damaged, empty
        return _read(paths), ""
    made = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            _write(path, made[name])
        return _read(paths), ""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return made, f"{folder} is not writable ({reason}), so each process has its own copy of the images"


def _read(paths: Mapping[str, Path]) -> Arrays:
    """Returns the mapped arrays. Raises ValueError for a damaged file."""
    # mode "c" (copy on write): torch warns about read-only arrays
    arrays = {name: np.load(path, mmap_mode="c") for name, path in paths.items()}
    for name, path in paths.items():
        with path.open("rb") as file:
            file.seek(-CHECKSUM_DTYPE.itemsize, os.SEEK_END)
            if file.read() != _checksum(arrays[name]):
                raise ValueError(f"{path}: damaged")
    return arrays


def _write(path: Path, array: NDArray[np.generic]) -> None:
    with atomic_write(path) as file:
        np.save(file, array)
        file.write(_checksum(array))


def _checksum(array: NDArray[np.generic]) -> bytes:
    return CHECKSUM_DTYPE.type(crc32(np.ascontiguousarray(array).data)).tobytes()
