"""Provides the compiled functions of this folder's .c files, with the types of their arguments declared.

The only place that declares them: the modules with functions on tensors call them through `library()`.
"""

from __future__ import annotations

from ctypes import CDLL, Array, c_float, c_int, c_int64, c_uint32, c_void_p
from functools import cache
from typing import TYPE_CHECKING, Any

from alexnet_exp.kernels.native import native

if TYPE_CHECKING:
    from torch import Tensor

Signature = tuple[Any, list[Any]]
"""The type of the result (None: void) and those of the arguments, in order."""

SIGNATURES: dict[str, Signature] = {
    # images.c
    "crop_squares": (None, [*[c_void_p] * 2, *[c_int64] * 6, *[c_void_p] * 3, c_int]),
    "standardize": (None, [*[c_void_p] * 2, *[c_int64] * 3, *[c_void_p] * 2, *[c_int64] * 2, *[c_int] * 3]),
    # resize.c
    "resize_square": (c_int, [c_void_p, *[c_int64] * 8, c_void_p]),
    # lrn.c
    "lrn": (c_int, [*[c_void_p] * 3, *[c_int64] * 4, *[c_float] * 3, *[c_int] * 2]),
    # convolution.c
    "convolution_takes": (c_int, [c_int64, c_int64]),
    "convolution_forward": (c_int, [*[c_void_p] * 4, c_int, c_void_p, c_int]),
    "convolution_input_gradient": (c_int, [*[c_void_p] * 4, c_int]),
    "convolution_weight_gradient": (c_int, [*[c_void_p] * 5, c_int]),
    # windows.c
    "convolution_windows": (None, [*[c_void_p] * 2, *[c_int64] * 3, c_void_p, c_int]),
    "convolution_windows_sum": (None, [*[c_void_p] * 2, c_int64, c_void_p, c_int]),
    # batch_norm.c
    "batch_norm_statistics": (c_int, [c_void_p, c_int, *[c_int64] * 2, *[c_void_p] * 2, c_int]),
    "batch_norm_forward": (None, [c_void_p, c_int, *[c_void_p] * 6, c_int]),
    "batch_norm_sums": (c_int, [*[c_void_p] * 2, c_int, *[c_int64] * 2, *[c_void_p] * 4, c_int]),
    "batch_norm_backward": (None, [*[c_void_p] * 3, c_int, *[c_void_p] * 7, c_int]),
    # dropout.c
    "relu_dropout": (None, [c_void_p, c_int64, c_uint32, c_float, *[c_void_p] * 2, c_int]),
    "relu_dropout_backward": (None, [*[c_void_p] * 2, c_int64, c_float, c_void_p, c_int]),
}


@cache
def library() -> CDLL | None:
    """Returns the kernels of this machine; None where there are none (`native().why` says why)."""
    loaded = native().library
    if loaded is not None:
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    return loaded


def loaded() -> CDLL:
    """Returns the kernels, for callers that have checked that there are some."""
    kernels = library()
    assert kernels is not None, "called without a check that the kernels exist"
    return kernels


def address(tensor: Tensor | None) -> int | None:
    """Returns the address of a tensor's first value; None, a null pointer, for None."""
    return None if tensor is None else tensor.data_ptr()


def is_half(tensor: Tensor) -> bool:
    """Returns the argument `half` of the kernels for float32 (False) and bfloat16 (True)."""
    return tensor.element_size() == 2


def int64s(*numbers: int) -> Array[c_int64]:
    """Returns an array of C's int64_t."""
    return (c_int64 * len(numbers))(*numbers)


def check_memory(failed: int) -> None:
    """Raises MemoryError where a kernel returned that it got no memory."""
    if failed:
        raise MemoryError("out of memory in a fused kernel; use a smaller data.batch_size")
