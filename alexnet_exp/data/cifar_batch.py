"""A reader of CIFAR's pickled batches: plain values and arrays of whole numbers, checked before numpy sees them.

numpy trusts a pickle: an array of dtype `object` is a list of addresses, and a dtype's state sets where its fields are.
So the pickle builds no numpy object at all. The names in it lead to the stand-ins below, which keep what they are
given; an array is made at the end, from bytes whose count is that of its shape.
"""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

WHOLE_NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}
BYTE_ORDERS = "<>=|"
MOST_DIMENSIONS = 2
# What follows the byte order in the state of a dtype without fields, shape, alignment and flags.
PLAIN_DTYPE = (None, None, None, -1, -1, 0)


def read_batch(file: Any) -> Any:
    """The object that `file` holds; its arrays are `PickledArray`s.

    Raises UnpicklingError, or what else reading a damaged pickle raises, for anything but plain values and arrays of
    whole numbers.
    """
    # the batches were pickled by Python 2: latin1 is how its byte strings become keys and array contents
    return _Unpickler(file, encoding="latin1").load()


class PickledArray:
    """What a pickle says of an array. `array` is empty until the pickle has given its contents."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: NDArray[Any] = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        """Takes version, shape, dtype, whether it is in Fortran's order, and the bytes."""
        _, shape, dtype, fortran, content = _parts(state, 5, "an array")
        self.array = _array(content, dtype, shape, "F" if fortran else "C")


class _Dtype:
    """A dtype of whole numbers, such as u1."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any):
        if not isinstance(name, str) or name not in WHOLE_NUMBERS:
            raise pickle.UnpicklingError(f"it has an array of {name!r:.40}; whole numbers alone are read")
        self.dtype: np.dtype[Any] = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        """Takes version and byte order; refuses fields, a shape, or flags, which a dtype of whole numbers has not."""
        _, order, *rest = _parts(state, 8, "a dtype")
        if not isinstance(order, str) or len(order) != 1 or order not in BYTE_ORDERS or tuple(rest) != PLAIN_DTYPE:
            raise pickle.UnpicklingError("it has a dtype with fields, a shape or flags; whole numbers alone are read")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class _Function:
    """A function that a pickle may call. An object without attributes: a pickle cannot change it."""

    __slots__ = ()


class _MakeDtype(_Function):
    """`numpy.dtype(name, align, copy)`."""

    __slots__ = ()

    def __call__(self, name: Any, *_: Any) -> _Dtype:
        return _Dtype(name)


class _Reconstruct(_Function):
    """`_reconstruct(ndarray, (0,), b"b")`: an array that its state will fill."""

    __slots__ = ()

    def __call__(self, cls: Any, shape: Any, _: Any) -> PickledArray:
        if cls is not NDARRAY or shape != (0,):
            raise pickle.UnpicklingError("it makes an array in an unknown way")
        return PickledArray()


class _FromBuffer(_Function):
    """`_frombuffer(bytes, dtype, shape, order)`, which protocol 5 writes."""

    __slots__ = ()

    def __call__(self, content: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
        made = PickledArray()
        made.array = _array(content, dtype, shape, "F" if order == "F" else "C")
        return made


NDARRAY = _Function()  # it is only named, never called
# What a pickled array names: under numpy 1 and 2, and by any protocol.
STAND_INS: dict[tuple[str, str], _Function] = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): _MakeDtype(),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct() for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer() for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    """Reads plain values and arrays; a pickle that names anything else is refused before it can run it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in STAND_INS:
            return STAND_INS[module, name]
        raise pickle.UnpicklingError(f"it wants to load {module}.{name}")


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
            f"it has an array of shape {shape!r:.40}; at most {MOST_DIMENSIONS} sizes are read"
        )
    if isinstance(content, str):
        content = content.encode("latin1")  # a byte string of Python 2
    count = math.prod(shape) * dtype.dtype.itemsize
    if not isinstance(content, bytes | bytearray) or len(content) != count:
        held = f"{len(content):,} bytes" if isinstance(content, bytes | bytearray) else "no bytes"
        raise pickle.UnpicklingError(f"it has an array of {shape} that needs {count:,} bytes, and holds {held}")
    native = dtype.dtype.newbyteorder("=")
    return np.frombuffer(content, dtype.dtype).reshape(shape, order=order).astype(native, order="C")
