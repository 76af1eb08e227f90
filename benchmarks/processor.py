"""Describes the processor of this machine: the folder of its results, the head of its column, facts of `lscpu`."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from alexnet_exp.processes.cpus import cores
from alexnet_exp.runs.provenance import cpu_model

RESULTS = Path(__file__).parent / "results"
FILE = "processor.json"  # beside the results of a processor
# The best that a processor multiplies with: the flag of /proc/cpuinfo or lscpu, and its name. The first one found.
INSTRUCTIONS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX512-BF16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "avx": "AVX",
    "bf16": "ARM-BF16",
    "asimd": "NEON",
}
LSCPU = (
    *("Model name", "CPU family", "Model", "Stepping", "CPU(s)", "Thread(s) per core"),
    *("L1d cache", "L2 cache", "L3 cache", "Hypervisor vendor"),
)


@dataclass(frozen=True)
class Processor:
    """A processor or GPU. label: the head of its column. facts: what the system reports about it, by name."""

    label: str
    instructions: str
    facts: Mapping[str, str]

    @property
    def folder(self) -> str:
        """Returns such as `intel-6-207-amx-2-cores`."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")

    def save(self, results: Path) -> Path:
        """Makes the folder of this processor below `results`, and returns it."""
        folder = results / self.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return folder


@cache
def this_processor() -> Processor:
    """Returns that of this machine; from /proc/cpuinfo and `lscpu` where there are such."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    first = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    flags = {*first.get("flags", first.get("Features", "")).split()}
    vendor = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}.get(first.get("vendor_id", ""), os.uname().machine)
    model = "-".join(first[key] for key in ("cpu family", "model") if key in first) or cpu_model()
    instructions = next((name for flag, name in INSTRUCTIONS.items() if flag in flags), "scalar")
    many = cores()
    return Processor(f"{vendor} {model}, {instructions}, {many} core{'s' * (many > 1)}", instructions, _lscpu())


def gpu(name: str) -> Processor:
    """Returns the GPU of a name that torch reports, in this machine."""
    return Processor(name, "CUDA", {"GPU": name, "Processor of the machine": this_processor().label})


def processors(results: Path) -> dict[Path, Processor]:
    """Returns the processors of which there are results, by their folders, in the order of their names."""
    files = sorted(results.glob(f"*/{FILE}"))
    return {file.parent: Processor(**json.loads(file.read_text(encoding="utf-8"))) for file in files}


def results_folder() -> Path:
    """Returns the folder of this processor's results in the checkout; it need not exist."""
    return RESULTS / this_processor().folder


def _lscpu() -> dict[str, str]:
    try:
        done = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C"})
    except (OSError, subprocess.CalledProcessError):
        return {"Model name": cpu_model()}
    found = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in done.stdout.splitlines())
    }
    return {name: found[name] for name in LSCPU if name in found}
