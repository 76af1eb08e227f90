"""Builds the kernels for any processor, and calls every exported function outside Python, by driver.c.

That works with sanitizers and in an emulator. The results are compared with references in float64: `cases.py`.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Sequence
from ctypes import c_float, c_int, c_int64, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_exp.kernels import native
from alexnet_exp.kernels.bindings import SIGNATURES

Values = NDArray[Any]
TYPES = {c_int: "int", c_int64: "int64_t", c_uint32: "uint32_t", c_float: "float", c_void_p: "void *", None: "void"}
FUNCTIONS = [*SIGNATURES]
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1", "-O1")
TIMEOUT_S = 300


@dataclass(frozen=True)
class Inside:
    """A pointer to the value `first` of an array."""

    values: Values
    first: int


Argument = Values | Inside | int | float | None
Outputs = list[Values]
"""The arrays of a call afterwards, in the order of its arguments."""


@dataclass(frozen=True)
class Call:
    """A call of a C function, but for the last argument, the number of threads, if it has one."""

    function: str
    arguments: Sequence[Argument]
    check: Callable[[int, Outputs], None]
    """Gets the result (0 of void) and the arrays; asserts."""

    @property
    def is_threaded(self) -> bool:
        return len(self.arguments) + 1 == len(SIGNATURES[self.function][1])

    def arrays(self) -> list[Values]:
        return [each.values if isinstance(each, Inside) else each for each in self.arguments if _is_array(each)]


def _is_array(argument: Argument) -> bool:
    return isinstance(argument, np.ndarray | Inside)


def build_library(
    folder: Path, flags: Sequence[str] = (), compiler: Sequence[str] = ("cc",), sources: Path | None = None
) -> Path:
    """Compiles the kernels in the way that the package does, with more flags; returns the library."""
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted((sources or native.SOURCE_FOLDER).glob("*.c"))
    native._compile(files, [*compiler], (*native.COMPILER_FLAGS, *flags), folder, "kernels.so")
    return folder / "kernels.so"


def build_driver(folder: Path, flags: Sequence[str] = (), compiler: Sequence[str] = ("cc",)) -> Path:
    """Compiles driver.c; returns the program."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = [_dispatched(which, name) for which, name in enumerate(FUNCTIONS)]
    (folder / "calls.h").write_text("\n".join(cases))
    source, program = Path(__file__).with_name("driver.c"), folder / "driver"
    subprocess.run([*compiler, *flags, "-I", str(folder), "-o", str(program), str(source), "-ldl"], check=True)
    return program


def _dispatched(which: int, name: str) -> str:
    result, arguments = SIGNATURES[name]
    given = [
        f"a[{i}].pointer" if each is c_void_p else f"({TYPES[each]})a[{i}].{'real' if each is c_float else 'integer'}"
        for i, each in enumerate(arguments)
    ]
    types = ", ".join(TYPES[each] for each in arguments)
    call = f'(({TYPES[result]} (*)({types}))function("{name}"))({", ".join(given)})'
    return f"case {which}: {f'{call}; return 0' if result is None else f'return {call}'};"


def run(command: Sequence[str | Path], calls: Sequence[Call], environment: dict[str, str] | None = None) -> None:
    """Runs the driver `command` on the calls, in one thread and in three, and checks the results of each.

    Results must not depend on the number of threads, nor on where memory lies: at the start or the end of a page, or
    beside what must not be touched. Raises AssertionError, with the driver's last lines where it failed.
    """
    variants = [(1, False), (3, True)]
    sent = b"".join(_message(call, threads, at_end) for call in calls for threads, at_end in variants)
    done = subprocess.run([*map(str, command)], input=sent, capture_output=True, env=environment, timeout=TIMEOUT_S)
    lines = done.stderr.decode(errors="replace").splitlines()
    notes = [line for line in lines if not line.startswith("call ")]
    last = max((i for i, line in enumerate(lines) if line.startswith("call ")), default=-1)
    call = calls[int(lines[last].split()[1]) // len(variants)] if last >= 0 else None
    assert done.returncode == 0, "\n".join([f"exit status {done.returncode} in {call and call.function}", *notes[:40]])
    at = 0
    for call in calls:
        found = []
        for _ in variants:
            (result,) = struct.unpack_from("<q", done.stdout, at)
            at += 8
            outputs = []
            for array in call.arrays():
                outputs.append(np.frombuffer(done.stdout, array.dtype, array.size, at).reshape(array.shape))
                at += array.nbytes
            found.append((result, outputs))
        for result, outputs in found:
            call.check(result, outputs)
        for one, other in zip(*(outputs for _, outputs in found), strict=True):
            assert one.tobytes() == other.tobytes(), f"{call.function} depends on the number of threads"
    assert at == len(done.stdout)


def _message(call: Call, threads: int, at_end: bool) -> bytes:
    arguments = [*call.arguments, threads] if call.is_threaded else [*call.arguments]
    kinds = SIGNATURES[call.function][1]
    assert len(arguments) == len(kinds), call.function
    parts = [struct.pack("<qqq", FUNCTIONS.index(call.function), at_end, len(arguments))]
    parts += [_sent(each, kind) for each, kind in zip(arguments, kinds, strict=True)]
    return b"".join(parts)


def _sent(argument: Argument, kind: Any) -> bytes:
    if kind is c_float:
        assert isinstance(argument, float)
        return struct.pack("<qd", 3, argument)
    if isinstance(argument, np.ndarray | Inside):
        assert kind is c_void_p
        array, first = (argument.values, argument.first) if isinstance(argument, Inside) else (argument, 0)
        sizes = struct.pack("<qqqq", 1, array.nbytes, array.itemsize, first * array.itemsize)
        # torch's pointer of an empty tensor is null
        return sizes + np.ascontiguousarray(array).tobytes() if array.size else struct.pack("<q", 0)
    if argument is None:
        assert kind is c_void_p
        return struct.pack("<q", 0)
    assert isinstance(argument, int)
    return struct.pack("<qq", 2, argument)
