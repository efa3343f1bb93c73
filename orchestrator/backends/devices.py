"""Pure. Which of a machine's GPUs each attempt has: those of its pool that the fewest others use."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.domain import Pool

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""What CUDA and ROCm read before they look for devices."""


@dataclass(slots=True)
class Devices:
    """The devices of each pool, and who has them."""

    of_pool: Mapping[str, Sequence[str]]
    held: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Attempt -> its devices."""

    def take(self, attempt_id: str, pool: Pool) -> dict[str, str]:
        """The variable that shows an attempt as many devices as a shard is to have; none for a pool without."""
        if not pool.has_gpus or not self.of_pool[pool.name]:
            return {}
        users = Counter(device for devices in self.held.values() for device in devices)
        idlest = sorted(self.of_pool[pool.name], key=lambda device: users[device])
        self.held[attempt_id] = tuple(idlest[: math.ceil(pool.gpus_per_shard)])
        return {VISIBLE: ",".join(self.held[attempt_id])}

    def give_back(self, attempt_id: str) -> None:
        """The attempt is over."""
        self.held.pop(attempt_id, None)


def divided(pools: Iterable[Pool], visible: str | None) -> dict[str, tuple[str, ...]]:
    """Each pool's devices, by their numbers on the machine, or as `visible` (the variable's value) lists them.

    A list that is shorter than what the pools promise is shared between them; an empty one leaves all of them without.
    """
    listed = None if visible is None else [name for part in visible.split(",") if (name := part.strip())]
    found: dict[str, tuple[str, ...]] = {}
    first = 0
    for pool in pools:
        numbers = range(first, first := first + (math.ceil(pool.gpus) if pool.has_gpus else 0))
        if listed is None:
            found[pool.name] = tuple(map(str, numbers))
        else:
            names = (listed[number % len(listed)] for number in numbers if listed)
            found[pool.name] = tuple(dict.fromkeys(names))
    return found
