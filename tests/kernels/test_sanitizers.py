"""The kernels touch no memory but their own, and do nothing that C leaves undefined: checked by compiled-in sanitizers.

Each exported function is called with buffers of exactly its sizes (cases.py), and the tests of the kernels run with
sanitized ones. A deliberate error in a copy of a kernel, or in a call from Python, ends the check.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_exp.kernels import native
from alexnet_exp.kernels.bindings import SIGNATURES, library
from alexnet_exp.kernels.native import FLAGS_VARIABLE
from tests.kernels.cases import all_calls
from tests.kernels.driver import SANITIZED, build_driver, build_library, run
from tests.kernels.instruction_sets import INSTRUCTION_SETS, NUMERIC_TESTS, ROOT, needs

# AVX-512 without bfloat16 runs code of its neighbors only.
SETS = [name for name in INSTRUCTION_SETS if name != "skylake-avx512"]
# Leaks are reported for the driver only: Python frees little at its end.
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
IN_PYTHON = """
import sys
import torch
from alexnet_exp.kernels.native import native
assert native().library is not None, native().why
{then}
"""
RUN_TESTS = "import pytest; sys.exit(pytest.main(['-n', '0', '-q', '-x', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
OVERRUN = """
from alexnet_exp.kernels.bindings import address, loaded
x = torch.ones(1000, dtype=torch.bfloat16)
loaded().relu_dropout_backward(address(x), address(x), 1001, 1.0, address(x), 1)
"""
ERRORS = {
    "reads one value too many": ("i < count", "i <= count", "heap-buffer-overflow"),
    "overflows a signed integer": (
        "g[i]) * scale",
        "g[i]) * (float)((int)count * 2000000000)",
        "signed integer overflow",
    ),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(library() is None, reason=f"no kernels: {native.native().why}"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build_driver(tmp_path_factory.mktemp("sanitized"), SANITIZED)
    except subprocess.CalledProcessError:
        pytest.skip("this compiler has no sanitizers")


@pytest.mark.parametrize("name", SETS)
def test_every_function_keeps_to_its_memory(name: str, driver: Path, tmp_path: Path) -> None:
    sanitized = build_library(tmp_path, (*SANITIZED, *needs(name)))
    calls = all_calls(tiles=name == "sapphirerapids")
    assert {call.function for call in calls} == {*SIGNATURES}
    run([driver, sanitized], calls)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_a_kernel_is_found(error: str, driver: Path, tmp_path: Path) -> None:
    right, wrong, message = ERRORS[error]
    sources = tmp_path / "sources"
    sources.mkdir()
    shutil.copy(native.SOURCE_FOLDER / "common.h", sources)
    text = (native.SOURCE_FOLDER / "dropout.c").read_text()
    assert right in text
    (sources / "dropout.c").write_text(text.replace(right, wrong))
    broken = build_library(tmp_path / "built", SANITIZED, sources=sources)
    calls = [call for call in all_calls() if call.function == "relu_dropout_backward" and call.arrays()[0].size]
    with pytest.raises(AssertionError, match=message):
        run([driver, broken], calls)


def test_the_tests_of_the_kernels_pass_with_sanitized_ones(driver: Path, tmp_path: Path) -> None:
    done = _in_python(RUN_TESTS, tmp_path, *NUMERIC_TESTS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    done = _in_python(OVERRUN, tmp_path)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


def _in_python(then: str, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs statements in a process that loads sanitized kernels; the sanitizer must be loaded first."""
    found = [
        subprocess.run(["cc", f"-print-file-name={name}.so"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan", "libubsan")
    ]
    environment = {
        **os.environ,
        **OPTIONS,
        "CC": "cc",
        "LD_PRELOAD": ":".join(found),
        "XDG_CACHE_HOME": str(cache),
        FLAGS_VARIABLE: shlex.join(SANITIZED),
    }
    command = [sys.executable, "-c", IN_PYTHON.format(then=then), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600)
