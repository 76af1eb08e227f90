"""Assigns GPUs to jobs that share a machine. It works with numbers and names only: no CUDA, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VISIBLE_GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(environment: Mapping[str, str], count: int) -> list[str]:
    """Returns the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES: numbers, UUIDs or MIG devices.

    count: the number of devices that CUDA reports under `environment`.
    """
    value = environment.get(VISIBLE_GPUS_VARIABLE)
    names = map(str, range(count)) if value is None else (name.strip() for name in value.split(","))
    return list(names)[:count]


@dataclass(frozen=True)
class GpuShare:
    """The GPUs of a job: their positions among the visible ones, and the value of its CUDA_VISIBLE_DEVICES."""

    positions: frozenset[int]
    names: str | None


class GpuAllocator:
    """Gives each job GPUs of its own. names: the visible GPUs, see `visible_gpus`.

    A job asks for a number of GPUs, or for GPUs by position. In the second case it sees all GPUs, so that the
    positions stay valid in it. A job that asks for 0 GPUs sees none.
    """

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self._free = set(range(len(self.names)))

    def has_free(self, wanted: int | Sequence[int]) -> bool:
        """Whether `acquire` would succeed now."""
        return wanted <= len(self._free) if isinstance(wanted, int) else self._free.issuperset(wanted)

    def acquire(self, wanted: int | Sequence[int]) -> GpuShare:
        """Reserves GPUs for a job; raises ValueError if they are not free."""
        if not self.has_free(wanted):
            raise ValueError(f"GPUs {wanted} are not free among {sorted(self._free)} of {len(self.names)}")
        positions = sorted(self._free)[:wanted] if isinstance(wanted, int) else sorted(set(wanted))
        self._free.difference_update(positions)
        if not self.names:
            return GpuShare(frozenset(), None)
        seen = positions if isinstance(wanted, int) else range(len(self.names))
        return GpuShare(frozenset(positions), ",".join(self.names[position] for position in seen))

    def release(self, share: GpuShare) -> None:
        """Makes the GPUs of a share free again."""
        self._free |= share.positions
