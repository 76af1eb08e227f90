"""Provides the compiled functions of this folder's .c files, with the types of their arguments declared.

The only place that declares them: images.py, lrn.py and fused.py call `library()`.
"""

from __future__ import annotations

from ctypes import CDLL, c_float, c_int, c_int64, c_uint32, c_void_p
from functools import cache
from typing import Any

from alexnet_exp.kernels.native import native

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
    # batch_norm.c
    "batch_norm_statistics": (c_int, [c_void_p, *[c_int64] * 2, *[c_void_p] * 2, c_int]),
    "batch_norm_forward": (None, [*[c_void_p] * 6, c_int]),
    "batch_norm_sums": (c_int, [*[c_void_p] * 8, c_int]),
    "batch_norm_backward": (None, [*[c_void_p] * 10, c_int]),
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
