"""Chooses accelerator, devices, strategy and precision from `trainer.gpus` and related settings."""

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

# Whether `precision: auto` is bf16-mixed on a CPU with bf16 instructions.
BF16_ON_CPU = True
# Multiply-adds per image from which bf16 is faster on such a CPU: in smaller networks casting costs more than it saves.
FEWEST_MULTIPLY_ADDS_FOR_BF16 = 2_000_000
NVML_CHECK_VARIABLE = "PYTORCH_NVML_BASED_CUDA_CHECK"


@dataclass(frozen=True)
class Placement:
    """The devices of a run, and how they compute.

    devices: a count or a list of indices. ranks: the number of processes on this machine. why: the reasons for what
    the settings left open, for the log. benchmark: whether cuDNN measures its algorithms for each shape and takes the
    fastest; None: as torch has it.
    """

    accelerator: str
    devices: int | list[int]
    strategy: str
    precision: str
    channels_last: bool
    device_name: str
    why: str
    benchmark: bool | None = None

    @property
    def ranks(self) -> int:
        return device_count(self.devices)


def place(trainer: Trainer, multiply_adds: int | None = None) -> Placement:
    """Returns the placement for the trainer's settings; raises `Refused` where this machine does not have it.

    multiply_adds: of the network, forward, per image; None for a network of the user's.
    """
    accelerator, devices, why = select_devices(trainer)
    several = device_count(devices) * trainer.num_nodes > 1
    strategy = "ddp" if trainer.strategy == "auto" and several else trainer.strategy
    precision, because = _precision(trainer, accelerator, multiply_adds)
    last = trainer.channels_last
    if last is None:
        last = multiply_adds is not None and _channels_last(accelerator, precision)
    reasons = "; ".join(filter(None, (why, because, "channels_last" if last else "")))
    benchmark = _benchmark(trainer, accelerator, fixed_shapes=multiply_adds is not None)
    return Placement(accelerator, devices, strategy, precision, last, device_name(accelerator), reasons, benchmark)


def select_devices(trainer: Trainer) -> tuple[str, int | list[int], str]:
    """Returns accelerator, devices, and the reason where the settings leave them open. Only counts GPUs, uses none.

    Raises `Refused` for devices that this machine does not have, and for a precision that they do not support.
    """
    accelerator, devices, why = _select(trainer)
    if accelerator == "cpu" and trainer.precision in ("16-mixed", "16-true"):
        # Lightning would silently train in bf16-mixed.
        instead = "the CPU does not train in float16; write bf16-mixed or 32-true"
        raise Refused([Problem("trainer.precision", trainer.precision, instead)])
    return accelerator, devices, why


def check_ranks(config: Config) -> None:
    """Raises `Refused` for a network in columns on a number of devices other than its columns."""
    trainer, groups = config.trainer, getattr(config.model, "groups", 0)
    if trainer.strategy == COLUMNS and (found := device_count(select_devices(trainer)[1])) != groups:
        instead = f"model.groups={groups} columns need one device each, not {found} in total"
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
            select_devices(trainer)
            check_ranks(config)
        except UserError as error:
            lines |= dict.fromkeys(str(error).splitlines())
    if lines:
        raise UserError("\n".join(lines))


def _select(trainer: Trainer) -> tuple[str, int | list[int], str]:
    gpus = trainer.gpus
    if trainer.strategy == COLUMNS and trainer.devices is None and (gpus is None or gpus == 0):
        return _two_columns(trainer)
    if gpus is None:
        if trainer.accelerator is None and trainer.devices is None:
            best = _best()
            return best, 1, "one device (fastest available)"
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
    """Places the paper's two columns where no number of devices is given: on two GPUs, or in two CPU processes.

    One GPU is rejected: its owner hardly meant the CPU.
    """
    there = torch.cuda.device_count()
    on_cpu = trainer.gpus == 0 or trainer.accelerator == "cpu"
    if on_cpu or (there == 0 and trainer.accelerator in (None, "auto")):
        return "cpu", 2, "two columns, two processes on the CPU" + ("" if on_cpu else ": this machine has no GPU")
    if there < 2 or trainer.accelerator == "mps":
        has = "one GPU" if there else "no CUDA GPU"
        instead = f"two columns need two GPUs, this machine has {has}; add trainer.gpus=0 for the CPU"
        raise Refused([Problem("trainer.strategy", COLUMNS, instead)])
    return "cuda", 2, "two columns, one GPU each"


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


def device_count(devices: int | list[int]) -> int:
    """Returns the number of devices, and so of ranks, of a count or a list of indices."""
    return len(devices) if isinstance(devices, list) else devices


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _precision(trainer: Trainer, accelerator: str, multiply_adds: int | None) -> tuple[str, str]:
    """Returns the precision to use, and the reason."""
    if trainer.precision != "auto":
        return trainer.precision, f"precision {trainer.precision}, as set"
    if accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16-mixed", "precision bf16-mixed: the GPU computes in bf16"
    if accelerator != "cpu" or not BF16_ON_CPU:
        return "32-true", f"precision 32-true: no bf16 on {accelerator}"
    if not cpu_computes_in_bf16():
        return "32-true", "precision 32-true: this CPU does not compute in bf16"
    if trainer.strategy == COLUMNS:
        return "32-true", "precision 32-true: columns on the CPU are meant for comparison with one device"
    if multiply_adds is not None and multiply_adds < FEWEST_MULTIPLY_ADDS_FOR_BF16:
        return "32-true", "precision 32-true: the network is too small to gain from bf16"
    return "bf16-mixed", "precision bf16-mixed: this CPU computes in bf16"


def cpu_computes_in_bf16() -> bool:
    """Returns whether the CPU has instructions for bf16 (AVX512_BF16 or AMX).

    torch computes in bf16 on other CPUs too, by way of float32 and more slowly. Not measured on ARM.
    """
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    has_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return has_onednn and any(check is not None and check() for check in checks)


def _channels_last(accelerator: str, precision: str) -> bool:
    """Returns whether convolutions are faster in that memory layout; on a CPU with oneDNN, in bf16 and in float32."""
    return {"cpu": precision in ("bf16-mixed", "bf16-true", "32-true"), "cuda": "16" in precision}.get(
        accelerator, False
    )


def _benchmark(trainer: Trainer, accelerator: str, fixed_shapes: bool) -> bool | None:
    """Returns the setting; by default true on a GPU, where shapes do not change and no bits are promised."""
    if trainer.benchmark is None and accelerator == "cuda" and fixed_shapes and not trainer.deterministic:
        return True
    return trainer.benchmark


def device_name(accelerator: str) -> str:
    """Returns the processor's name, as result.json has it."""
    if accelerator == "cuda":
        return torch.cuda.get_device_name()
    if accelerator != "cpu":
        return cpu_model()
    threads = torch.get_num_threads()
    return f"{cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"


@contextmanager
def skip_nvml_check(accelerator: str) -> Iterator[None]:
    """Makes torch check for GPUs without NVML inside the block, when training on the CPU of a machine without a GPU.

    torch's optimizers check at every step. Lightning makes them use NVML, whose library is then searched on the disk
    each time: 0.15 ms. CUDA's own check takes 2 us. Lightning avoids it because it breaks a later fork, but that is
    so only on a machine with a GPU.
    """
    if accelerator != "cpu" or torch.cuda.is_available():
        yield
        return
    before = os.environ.get(NVML_CHECK_VARIABLE)
    os.environ[NVML_CHECK_VARIABLE] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NVML_CHECK_VARIABLE]
        else:
            os.environ[NVML_CHECK_VARIABLE] = before
