"""Arrays that took a while to read, kept as .npy files in the user's cache folder and mapped into memory from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_exp.atomic import replacing

Arrays = Mapping[str, NDArray[np.generic]]


def mapped_arrays(folder: Path, stem: str, names: tuple[str, ...], make: Callable[[], Arrays]) -> tuple[Arrays, str]:
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
    # "c": torch warns of an array that it could not write to
    return {name: np.load(path, mmap_mode="c") for name, path in paths.items()}


def _write(path: Path, array: NDArray[np.generic]) -> None:
    with replacing(path) as file:
        np.save(file, array)
