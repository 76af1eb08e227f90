"""Provides a safe reader of CIFAR's pickled batches: plain values and integer arrays, checked before numpy is used.

numpy trusts pickles: an array of dtype `object` is a list of addresses, and the state of a dtype sets the offsets of
its fields. The pickle therefore creates no numpy objects. Its names refer to the stand-ins below, which store their
arguments. An array is created at the end, from bytes whose number matches its shape.
"""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

INTEGER_DTYPES = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}
BYTE_ORDERS = "<>=|"
MOST_DIMENSIONS = 2
# The state of a dtype without fields, shape, alignment and flags, after its byte order.
PLAIN_DTYPE = (None, None, None, -1, -1, 0)


def read_batch(file: Any) -> Any:
    """Returns the object in `file`; its arrays are `PickledArray`s.

    Raises UnpicklingError, or another exception of a damaged pickle, for anything but plain values and integer arrays.
    """
    # the batches are from Python 2, whose byte strings (keys and array contents) latin1 decodes without loss
    return _Unpickler(file, encoding="latin1").load()


class PickledArray:
    """An array in a pickle. `array` is empty until the pickle sets its state."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: NDArray[Any] = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        """Accepts version, shape, dtype, whether the order is Fortran's, and the bytes."""
        _, shape, dtype, fortran, content = _parts(state, 5, "an array")
        self.array = _array(content, dtype, shape, "F" if fortran else "C")


class _Dtype:
    """An integer dtype, such as u1."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any):
        if not isinstance(name, str) or name not in INTEGER_DTYPES:
            raise pickle.UnpicklingError(f"it has an array of {name!r:.40}; only integers are supported")
        self.dtype: np.dtype[Any] = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        """Accepts version and byte order; rejects fields, a shape and flags, which integer dtypes do not have."""
        _, order, *rest = _parts(state, 8, "a dtype")
        if not isinstance(order, str) or len(order) != 1 or order not in BYTE_ORDERS or tuple(rest) != PLAIN_DTYPE:
            raise pickle.UnpicklingError("it has a dtype with fields, a shape or flags; only integers are supported")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class _Function:
    """A function that a pickle may call. It has no attributes, so that a pickle cannot change it."""

    __slots__ = ()


class _MakeDtype(_Function):
    """`numpy.dtype(name, align, copy)`."""

    __slots__ = ()

    def __call__(self, name: Any, *_: Any) -> _Dtype:
        return _Dtype(name)


class _Reconstruct(_Function):
    """`_reconstruct(ndarray, (0,), b"b")`: an array whose state follows."""

    __slots__ = ()

    def __call__(self, cls: Any, shape: Any, _: Any) -> PickledArray:
        if cls is not NDARRAY or shape != (0,):
            raise pickle.UnpicklingError("it creates an array in an unknown way")
        return PickledArray()


class _FromBuffer(_Function):
    """`_frombuffer(bytes, dtype, shape, order)`, as written by protocol 5."""

    __slots__ = ()

    def __call__(self, content: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
        made = PickledArray()
        made.array = _array(content, dtype, shape, "F" if order == "F" else "C")
        return made


NDARRAY = _Function()  # only referenced, never called
# Names in a pickled array, of numpy 1 and 2 and of all protocols.
STAND_INS: dict[tuple[str, str], _Function] = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): _MakeDtype(),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct() for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer() for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    """Reads plain values and arrays; rejects a pickle with any other name before it is loaded."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in STAND_INS:
            return STAND_INS[module, name]
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _parts(state: Any, count: int, of: str) -> tuple[Any, ...]:
    if not isinstance(state, tuple) or len(state) != count:
        raise pickle.UnpicklingError(f"it has {of} in an unknown form")
    return state


def _array(content: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("it has an array without a dtype")
    sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not sizes or len(shape) > MOST_DIMENSIONS:
        raise pickle.UnpicklingError(
            f"it has an array of shape {shape!r:.40}; at most {MOST_DIMENSIONS} dimensions are supported"
        )
    if isinstance(content, str):
        content = content.encode("latin1")  # a byte string of Python 2
    count = math.prod(shape) * dtype.dtype.itemsize
    if not isinstance(content, bytes | bytearray) or len(content) != count:
        held = f"{len(content):,} bytes" if isinstance(content, bytes | bytearray) else "no bytes"
        raise pickle.UnpicklingError(f"it has an array of {shape} that needs {count:,} bytes, but contains {held}")
    native = dtype.dtype.newbyteorder("=")
    return np.frombuffer(content, dtype.dtype).reshape(shape, order=order).astype(native, order="C")
