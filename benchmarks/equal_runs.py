"""Whether two runs left the same, to the last bit: what a run that was killed and gone on with is held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet_exp.runs.reader import read_result
from alexnet_exp.runs.table import read_table

TIMES = ("seconds", "images_per_s")  # the columns that tell of time
TABLES = ("metrics.csv", "steps.csv")
CHECKPOINTS = ("last", "best")
RESULT = ("status", "metrics", "metrics_epoch", "epochs", "best_epoch", "tested", "fingerprint", "stopped_early")


@dataclass(frozen=True)
class Difference:
    """Something that is not the same. bits: how many of a tensor's or an array's; of anything else there is no count"""

    where: str
    bits: int = 0

    def __str__(self) -> str:
        return f"{self.where} ({self.bits} bits)" if self.bits else self.where


@dataclass(frozen=True)
class Rows:
    """A table's rows against the expected ones, each told by its first column: an epoch, a step."""

    expected: int
    lost: int
    repeated: int
    changed: int


def unequal(expected: Path, found: Path) -> list[Difference]:
    """All in which the folder of one run differs from that of another, but for the time that it took."""
    return list(_unequal(expected, found))


def _unequal(expected: Path, found: Path) -> Iterator[Difference]:
    for name in TABLES:
        if rows(expected / name) != rows(found / name):
            yield Difference(f"{name}: {compared(expected / name, found / name)}")
    for name in CHECKPOINTS:
        there = [(run / "checkpoints" / f"{name}.ckpt").exists() for run in (expected, found)]
        if all(there):
            yield from differences(state(expected, name), state(found, name), name)
        elif any(there):
            yield Difference(f"{name}.ckpt is not in both")
    first, second = read_result(expected), read_result(found)
    yield from (
        Difference(f"result.json: {key}: {first.get(key)} and {second.get(key)}")
        for key in RESULT
        if first.get(key) != second.get(key)
    )
    yield from differences(predictions(expected), predictions(found), "predictions")


def rows(file: Path) -> list[dict[str, str]]:
    """A table's rows but for the columns that tell of time; none where the file is not there."""
    if not file.exists():
        return []
    head, found = read_table(file)
    return [{key: value for key, value in zip(head, row, strict=True) if key not in TIMES} for row in found]


def compared(expected: Path, found: Path) -> Rows:
    """Which of a table's rows are lost, stand more often than once, or are not what they are expected to be."""
    wanted = {_key(row): row for row in rows(expected)}
    there = rows(found)
    counts = Counter(map(_key, there))
    return Rows(
        len(wanted),
        lost=sum(key not in counts for key in wanted),
        repeated=sum(count - 1 for count in counts.values()) + sum(key not in wanted for key in counts),
        changed=sum(row != wanted[_key(row)] for row in there if _key(row) in wanted),
    )


def _key(row: dict[str, str]) -> str:
    return next(iter(row.values()))


def state(run: Path, name: str = "last") -> dict[str, Any]:
    """A checkpoint's content but for the times in it: weights, optimizer, loop counters, callbacks, averages."""
    content = torch.load(run / "checkpoints" / f"{name}.ckpt", map_location="cpu", weights_only=True)
    for callback in content["callbacks"].values():
        for key in ("seconds", "seconds_of_epoch"):
            callback.pop(key, None)
    return dict(content)


def predictions(run: Path) -> dict[str, np.ndarray]:
    """The arrays of all files of predictions, by file and name."""
    found: dict[str, np.ndarray] = {}
    for file in sorted((run / "predictions").glob("*.npz")):
        with np.load(file) as arrays:
            found |= {f"{file.stem}.{key}": arrays[key] for key in arrays}
    return found


def differences(one: Any, two: Any, where: str = "") -> list[Difference]:
    """Where two nests of containers, numbers, arrays and tensors are not equal to the last bit."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        if one.dtype != two.dtype:
            return [Difference(f"{where}: {one.dtype} and {two.dtype}")]
        return differences(_bytes(one), _bytes(two), where)
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        if one.shape != two.shape or one.dtype != two.dtype:
            return [Difference(f"{where}: {one.dtype} {one.shape} and {two.dtype} {two.shape}")]
        ours, theirs = (np.frombuffer(each.tobytes(), np.uint8) for each in (one, two))
        bits = int(np.unpackbits(ours ^ theirs).sum())
        return [Difference(where, bits)] if bits else []
    if isinstance(one, dict) and isinstance(two, dict):
        if one.keys() != two.keys():
            return [Difference(f"{where}: {sorted(map(str, one.keys() ^ two.keys()))}")]
        return [each for key in one for each in differences(one[key], two[key], f"{where}.{key}")]
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        if len(one) != len(two):
            return [Difference(f"{where}: {len(one)} and {len(two)}")]
        pairs = enumerate(zip(one, two, strict=True))
        return [each for number, pair in pairs for each in differences(*pair, f"{where}.{number}")]
    return [] if one == two else [Difference(f"{where}: {one} and {two}")]


def bits(content: Any) -> int:
    """How many bits the tensors and arrays in a nest of containers have."""
    if isinstance(content, torch.Tensor | np.ndarray):
        return 8 * content.nbytes
    if isinstance(content, dict):
        return sum(map(bits, content.values()))
    return sum(map(bits, content)) if isinstance(content, list | tuple) else 0


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    """Its bytes, along a last dimension more: NumPy has no bfloat16."""
    return tensor.contiguous().reshape(*tensor.shape, 1).view(torch.uint8).numpy()
