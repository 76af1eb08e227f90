"""The instruction sets for which the kernels have code of their own, and what a machine must have to run each."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from alexnet_exp.kernels import native

INSTRUCTION_SETS = {
    "x86-64": "",
    "haswell": "avx2 fma bmi2",
    "skylake-avx512": "avx512f avx512bw avx512cd avx512dq avx512vl",
    "cooperlake": "avx512_bf16 avx512_vnni",
    "sapphirerapids": "amx_tile amx_bf16 avx512vbmi avx512_fp16",
}
"""The compiler's name of a processor, and features of Linux's list that processors before it lack."""

ROOT = Path(__file__).parents[2]
NUMERIC_TESTS = [f"tests/kernels/test_{operator}.py" for operator in ("batch_norm", "convolution", "dropout")]
"""The tests of operators on tensors, for processes with other kernels."""


def needs(name: str) -> tuple[str, ...]:
    """Returns the compiler's flags for an instruction set; skips where the machine or the compiler lacks it."""
    if platform.machine() != "x86_64":
        pytest.skip(f"{name}: this machine is no x86-64")
    earlier = [*INSTRUCTION_SETS][: [*INSTRUCTION_SETS].index(name) + 1]
    features = {feature for each in earlier for feature in INSTRUCTION_SETS[each].split()}
    if missing := features - {*native.processor().split()}:
        pytest.skip(f"{name}: this processor lacks {', '.join(sorted(missing))}")
    flag = f"-march={name}"
    known = subprocess.run(["cc", flag, "-E", "-"], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    if not known:
        pytest.skip(f"this compiler does not know {flag}")
    return (flag,)
