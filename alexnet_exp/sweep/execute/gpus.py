"""Which GPUs a job gets, when several jobs share a machine. Numbers in, numbers out: no GPU is touched, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible(environment: Mapping[str, str], count: int) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them: numbers, UUIDs or MIG devices.

    count: how many CUDA says there are under `environment`.
    """
    named = environment.get(VISIBLE)
    names = map(str, range(count)) if named is None else (name.strip() for name in named.split(","))
    return list(names)[:count]


@dataclass(frozen=True)
class Share:
    """GPUs that a job holds, by their positions among the visible ones, and the CUDA_VISIBLE_DEVICES that it gets."""

    positions: frozenset[int]
    names: str | None


class Gpus:
    """Gives each job GPUs of its own. names: those that there are, see `visible`.

    What a job wants is a number of GPUs, whichever, or the very ones, by position. In the latter case it sees all of
    them, so that they keep the numbers by which it asks for them. What wants none sees none.
    """

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self._free = set(range(len(self.names)))

    def fits(self, wanted: int | Sequence[int]) -> bool:
        """Whether `take` would succeed now."""
        return wanted <= len(self._free) if isinstance(wanted, int) else self._free.issuperset(wanted)

    def take(self, wanted: int | Sequence[int]) -> Share:
        """Holds GPUs for a job; raises ValueError where they are not free."""
        if not self.fits(wanted):
            raise ValueError(f"GPUs {wanted} are not free among {sorted(self._free)} of {len(self.names)}")
        positions = sorted(self._free)[:wanted] if isinstance(wanted, int) else sorted(set(wanted))
        self._free.difference_update(positions)
        if not self.names:
            return Share(frozenset(), None)
        seen = positions if isinstance(wanted, int) else range(len(self.names))
        return Share(frozenset(positions), ",".join(self.names[position] for position in seen))

    def give_back(self, share: Share) -> None:
        """Lets go of what `take` gave."""
        self._free |= share.positions
