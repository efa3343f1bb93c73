"""Pure. Which versions of a model share the error of a gate, and what is left for each."""

from __future__ import annotations

import math
from collections.abc import Iterable

from orchestrator.domain import ModelVersion
from orchestrator.names import natural


def looks_at(versions: Iterable[ModelVersion]) -> dict[str, int]:
    """`registry/name@version` -> its place among the sound versions of its model, from 1; equal contents share theirs.

    It follows from the catalog alone, in whatever order versions were judged; so a unit's key never depends on the store.
    """
    places: dict[tuple[str, str], dict[str, int]] = {}
    found = {}
    for model in sorted(versions, key=lambda model: natural(model.version)):
        if not model.problem:
            line = places.setdefault((model.registry, model.name), {})
            found[model.id] = line.setdefault(model.digest, len(line) + 1)
    return found


def spent(alpha: float, look: int | None) -> float:
    """What a look may err by, so that all looks that there will ever be err by `alpha` together; None stands alone.

    Errors: ValueError for a look below 1.
    """
    if look is None:
        return alpha
    if look < 1:
        raise ValueError(f"looks are counted from 1, not {look}")
    return alpha * 6 / (math.pi * look) ** 2
