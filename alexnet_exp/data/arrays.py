"""Arrays that took a while to read, kept as .npy files in the user's cache folder and mapped into memory from there.

Behind its array, where readers of .npy files do not look, each file has the checksum of it.
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
    """The arrays `names` of the files `stem`-NAME.npy in `folder`; what is missing or damaged there is made anew.

    Mapped, all processes share one copy of them. Where the folder cannot be written they are this process's own, and
    the text says why.
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
        return made, f"{folder} cannot be written ({reason}), so each process holds a copy of the images"


def _read(paths: Mapping[str, Path]) -> Arrays:
    """Raises ValueError for a file that is damaged."""
    # "c": torch warns of an array that it could not write to
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
