"""What Lightning is asked for: accelerator, devices, strategy and precision, from `trainer.gpus` and its neighbours."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet_exp.schema import Trainer
from alexnet_exp.settings import Problem, Refused


@dataclass(frozen=True)
class Placement:
    """Where a run computes. `devices` is a count or a list of indices; `ranks` is how many processes that makes here."""

    accelerator: str
    devices: int | list[int]
    strategy: str
    precision: str
    device_name: str
    why: str

    @property
    def ranks(self) -> int:
        return len(self.devices) if isinstance(self.devices, list) else self.devices


def place(trainer: Trainer) -> Placement:
    """The placement that the trainer's settings mean on this machine; raises `Refused` when it has not got it."""
    accelerator, devices, why = _chosen(trainer)
    ranks = len(devices) if isinstance(devices, list) else devices
    strategy = "ddp" if trainer.strategy == "auto" and ranks * trainer.num_nodes > 1 else trainer.strategy
    precision, because = _precision(trainer.precision, accelerator)
    return Placement(accelerator, devices, strategy, precision, device_name(accelerator), "; ".join(filter(None, (why, because))))


def _chosen(trainer: Trainer) -> tuple[str, int | list[int], str]:
    gpus = trainer.gpus
    if gpus is None:
        if trainer.accelerator is None and trainer.devices is None:
            best = _best()
            return best, 1, "one device, the best there is"
        accelerator = trainer.accelerator if trainer.accelerator not in (None, "auto") else _best()
        accelerator = str(accelerator)
        if accelerator == "gpu":
            accelerator = "mps" if torch.backends.mps.is_available() else "cuda"
        return accelerator, _devices(trainer, accelerator), ""
    there = torch.cuda.device_count()
    if gpus in (0, []):
        return "cpu", 1, ""
    wanted = gpus if isinstance(gpus, list) else list(range(there if gpus == -1 else gpus))
    if not there or max(wanted, default=0) >= there or not wanted:
        has = f"GPUs 0 to {there - 1}" if there > 1 else "one GPU, number 0" if there else "no CUDA GPU"
        instead = f"write trainer.gpus={there}" if there else "write trainer.gpus=0 for the CPU"
        raise Refused([Problem("trainer.gpus", gpus, f"this machine has {has}; {instead}")])
    return "cuda", wanted, ""


def _devices(trainer: Trainer, accelerator: str) -> int | list[int]:
    devices = trainer.devices
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(accelerator)
    if there == 0:
        raise Refused([Problem("trainer.accelerator", trainer.accelerator, "this machine has none; write trainer.gpus=0 for the CPU")])
    if devices is None:
        count: int | list[int] = 1
    elif devices in ("auto", -1):
        count = there or 1
    else:
        count = devices
    wanted = count if isinstance(count, int) else max(count, default=-1) + 1
    if there is not None and wanted > there:
        raise Refused([Problem("trainer.devices", devices, f"this machine has {there} of accelerator {accelerator}")])
    if wanted < 1:
        raise Refused([Problem("trainer.devices", devices, "must be at least 1")])
    return count


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _precision(wanted: str, accelerator: str) -> tuple[str, str]:
    """The precision to use, and why where `auto` chose it."""
    if wanted != "auto":
        return wanted, ""
    if accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16-mixed", "precision auto: the GPU computes in bf16"
    return "32-true", f"precision auto: float32 on {accelerator}"


def device_name(accelerator: str) -> str:
    """The processor's name, as a result should tell it."""
    if accelerator == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    if accelerator == "cpu" and info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            return f"{names[0]}, {torch.get_num_threads()} threads"
    return platform.processor() or platform.machine()


def launched() -> bool:
    """Whether this process is already one rank of several, started by torchrun, SLURM or `launch.py`."""
    return "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1
