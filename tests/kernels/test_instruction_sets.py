"""The kernels are right on every kind of processor: built for it, they give what numpy gives in float64."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernels.cases import all_calls
from tests.kernels.driver import Call, build_driver, build_library, run
from tests.kernels.instruction_sets import INSTRUCTION_SETS, needs

ARM_COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
ARM_LIBRARIES = "/usr/aarch64-linux-gnu"
ARM_PACKAGES = "gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user"

pytestmark = pytest.mark.slow


def multiplies_bfloat16(expected: bool) -> Call:
    """A call that fails where the library has the kernels of convolutions against what is expected."""

    def check(result: int, _: object) -> None:
        assert bool(result) == expected

    return Call("convolution_takes", [64, 64], check)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_the_kernels_of_each_instruction_set(name: str, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    library = build_library(tmp_path, needs(name))
    has_products = name in ("cooperlake", "sapphirerapids")
    calls = all_calls(tiles=name == "sapphirerapids")
    run([build_driver(tmp_path / "driver"), library], [multiplies_bfloat16(has_products), *calls])


@pytest.mark.parametrize("architecture", ["armv8-a", "armv8.6-a+bf16"])
def test_the_kernels_on_arm(architecture: str, tmp_path: Path) -> None:
    """In an emulator. ARM has all candidates but the native convolutions."""
    if shutil.which(ARM_COMPILER) is None or shutil.which(EMULATOR) is None:
        pytest.skip(f"needs {ARM_PACKAGES}")
    library = build_library(tmp_path, (f"-march={architecture}",), (ARM_COMPILER,))
    driver = build_driver(tmp_path / "driver", compiler=(ARM_COMPILER,))
    assert b"AArch64" in subprocess.run(["readelf", "-h", library], capture_output=True, check=True).stdout
    run([EMULATOR, "-L", ARM_LIBRARIES, driver, library], [multiplies_bfloat16(False), *all_calls()])
