"""Provides which native kernels a run uses, and the setting that excludes the others."""

from __future__ import annotations

from alexnet_exp.kernels import convolution
from alexnet_exp.kernels.native import native


def fused_path(device: str, precision: str, channels_last: bool, compiled: bool = False) -> tuple[bool, str]:
    """Returns whether a network trains by the fused kernels, and why not (`native kernels` where it does).

    Only in bfloat16: in float32 the results of a seed stay those of torch's operators.
    """
    if device != "cpu":
        return False, "fused kernels need the CPU"
    if precision != "bf16-mixed":
        return False, "fused kernels need trainer.precision=bf16-mixed"
    if not channels_last:
        return False, "fused kernels need trainer.channels_last=true"
    if compiled:
        return False, "fused kernels need trainer.compile=false"
    if native().library is None:
        return False, native().why
    if not convolution.has_bfloat16_products():
        return False, "fused kernels need a processor with AVX512_BF16"
    return True, "native kernels"


def kernels_of(device: str, precision: str, channels_last: bool, compiled: bool = False) -> str:
    """Returns the kernels of a run: `step, LRN, images`, `LRN, images`, on a GPU `images`; or `none: ` and why."""
    if native().library is None:
        return f"none: {native().why}"
    if device != "cpu":
        return "images"
    return "step, LRN, images" if fused_path(device, precision, channels_last, compiled)[0] else "LRN, images"
