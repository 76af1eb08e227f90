"""What Lightning is asked for: accelerator, devices, strategy and precision, from `trainer.gpus` and its neighbours."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from alexnet_exp.config.schema import COLUMNS, Config, Trainer
from alexnet_exp.errors import Problem, Refused, UserError
from alexnet_exp.runs.provenance import cpu_model

BF16_ON_CPU = True
"""Whether `precision: auto` is bf16-mixed on a CPU that computes in it."""
ENOUGH_FOR_BF16 = 2_000_000
"""Multiply-adds an image from which bf16 is the faster on such a CPU: below, casting takes more than it saves."""

ASKS_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"


@dataclass(frozen=True)
class Placement:
    """Where and how a run computes.

    `devices` is a count or a list of indices; `ranks`, how many processes it makes here. `why` says in words what was
    not asked for.
    """

    accelerator: str
    devices: int | list[int]
    strategy: str
    precision: str
    channels_last: bool
    device_name: str
    why: str

    @property
    def ranks(self) -> int:
        return count(self.devices)


def place(trainer: Trainer, multiply_adds: int | None = None) -> Placement:
    """The placement that the trainer's settings mean on this machine; raises `Refused` when it has not got it.

    multiply_adds: of the network, forward, for an image; None for a network of the user's.
    """
    accelerator, devices, why = chosen(trainer)
    several = count(devices) * trainer.num_nodes > 1
    strategy = "ddp" if trainer.strategy == "auto" and several else trainer.strategy
    precision, because = _precision(trainer, accelerator, multiply_adds)
    last = trainer.channels_last
    if last is None:
        last = multiply_adds is not None and _channels_last(accelerator, precision)
    said = "; ".join(filter(None, (why, because, "channels_last" if last else "")))
    return Placement(accelerator, devices, strategy, precision, last, device_name(accelerator), said)


def chosen(trainer: Trainer) -> tuple[str, int | list[int], str]:
    """Accelerator, devices, and why where they were not asked for. Touches no GPU: it only counts them.

    Raises `Refused` for devices that are not there, and for a precision in which they do not train.
    """
    accelerator, devices, why = _chosen(trainer)
    if accelerator == "cpu" and trainer.precision in ("16-mixed", "16-true"):
        # Lightning would train in bf16-mixed instead
        instead = "this CPU has no float16 training; write bf16-mixed or 32-true"
        raise Refused([Problem("trainer.precision", trainer.precision, instead)])
    return accelerator, devices, why


def check_ranks(config: Config) -> None:
    """Refuses a network in columns on another number of devices than it has columns."""
    trainer, groups = config.trainer, getattr(config.model, "groups", 0)
    if trainer.strategy == COLUMNS and (found := count(chosen(trainer)[1])) != groups:
        instead = f"model.groups={groups} columns need a device each, not {found} in all"
        enough = f"trainer.gpus={groups}, or trainer.accelerator=cpu trainer.devices={groups}"
        raise Refused([Problem("trainer.strategy", COLUMNS, f"{instead}; write {enough}")])


def check_devices(configs: Iterable[Config]) -> None:
    """Raises UserError with one line for each device, precision or strategy that this machine does not have."""
    lines, seen = dict[str, None](), list[Any]()
    for config in configs:
        trainer, groups = config.trainer, getattr(config.model, "groups", None)
        asked = (trainer.gpus, trainer.accelerator, trainer.devices, trainer.precision, trainer.strategy, groups)
        if asked in seen:
            continue
        seen.append(asked)
        try:
            chosen(trainer)
            check_ranks(config)
        except UserError as error:
            lines |= dict.fromkeys(str(error).splitlines())
    if lines:
        raise UserError("\n".join(lines))


def _chosen(trainer: Trainer) -> tuple[str, int | list[int], str]:
    gpus = trainer.gpus
    if trainer.strategy == COLUMNS and trainer.devices is None and (gpus is None or gpus == 0):
        return _two_columns(trainer)
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


def _two_columns(trainer: Trainer) -> tuple[str, int | list[int], str]:
    """Where the paper's two columns go when no number of devices is given: to two GPUs, or two processes on the CPU.

    One GPU is refused: whoever has it hardly meant the CPU.
    """
    there = torch.cuda.device_count()
    on_cpu = trainer.gpus == 0 or trainer.accelerator == "cpu"
    if on_cpu or (there == 0 and trainer.accelerator in (None, "auto")):
        return "cpu", 2, "two columns, two processes on the CPU" + ("" if on_cpu else ": there is no GPU")
    if there < 2 or trainer.accelerator == "mps":
        has = "one GPU" if there else "no CUDA GPU"
        instead = f"two columns need two GPUs, and this machine has {has}; add trainer.gpus=0 for the CPU"
        raise Refused([Problem("trainer.strategy", COLUMNS, instead)])
    return "cuda", 2, "two columns, a GPU each"


def _devices(trainer: Trainer, accelerator: str) -> int | list[int]:
    devices = trainer.devices
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(accelerator)
    if there == 0:
        none = "this machine has none; write trainer.gpus=0 for the CPU"
        raise Refused([Problem("trainer.accelerator", trainer.accelerator, none)])
    if accelerator == "cpu" and isinstance(devices, list):
        raise Refused([Problem("trainer.devices", devices, "the CPU is one device; write a number of processes")])
    found: int | list[int] = 1 if devices is None else (there or 1) if devices in ("auto", -1) else devices
    wanted = found if isinstance(found, int) else max(found, default=-1) + 1
    if there is not None and wanted > there:
        raise Refused([Problem("trainer.devices", devices, f"this machine has {there} of accelerator {accelerator}")])
    if wanted < 1:
        raise Refused([Problem("trainer.devices", devices, "must be at least 1")])
    return found


def count(devices: int | list[int]) -> int:
    """How many devices, and so ranks, a count or a list of indices is."""
    return len(devices) if isinstance(devices, list) else devices


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _precision(trainer: Trainer, accelerator: str, multiply_adds: int | None) -> tuple[str, str]:
    """The precision to use, and why."""
    if trainer.precision != "auto":
        return trainer.precision, f"precision {trainer.precision}, as set"
    if accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16-mixed", "precision bf16-mixed: the GPU computes in bf16"
    if accelerator != "cpu" or not BF16_ON_CPU:
        return "32-true", f"precision 32-true: no bf16 on {accelerator}"
    if not cpu_computes_in_bf16():
        return "32-true", "precision 32-true: this CPU does not compute in bf16"
    if trainer.strategy == COLUMNS:
        return "32-true", "precision 32-true: columns on the CPU are there to be compared with one device"
    if multiply_adds is not None and multiply_adds < ENOUGH_FOR_BF16:
        return "32-true", "precision 32-true: the network is too small to gain from bf16"
    return "bf16-mixed", "precision bf16-mixed: this CPU computes in bf16"


def cpu_computes_in_bf16() -> bool:
    """Whether the CPU has instructions for bf16 (AVX512_BF16 or AMX).

    torch would compute in it on other CPUs too, by way of float32 and so more slowly. Not measured on ARM.
    """
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    has_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return has_onednn and any(check is not None and check() for check in checks)


def _channels_last(accelerator: str, precision: str) -> bool:
    """Whether convolutions are faster in that memory layout; on a CPU those of oneDNN, in bf16 and in float32."""
    return {"cpu": precision in ("bf16-mixed", "bf16-true", "32-true"), "cuda": "16" in precision}.get(
        accelerator, False
    )


def device_name(accelerator: str) -> str:
    """The processor's name, as a result should tell it."""
    if accelerator == "cuda":
        return torch.cuda.get_device_name()
    if accelerator != "cpu":
        return cpu_model()
    threads = torch.get_num_threads()
    return f"{cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"


@contextmanager
def no_gpu_looked_for(accelerator: str) -> Iterator[None]:
    """Around a training on the CPU of a machine without a GPU: torch's optimizers ask for one at every step.

    Lightning has them ask NVML, whose library is then searched on the disk each time: 0.15 ms. CUDA itself knows in 2
    us; that a look of CUDA's spoils a fork, which is Lightning's reason, is so only where there is a device.
    """
    if accelerator != "cpu" or torch.cuda.is_available():
        yield
        return
    before = os.environ.get(ASKS_NVML)
    os.environ[ASKS_NVML] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[ASKS_NVML]
        else:
            os.environ[ASKS_NVML] = before
