"""Pure. Which layers calibration says enough about, and how many tokens came to each expert."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tasks.contract import Finding
from tasks.loading.models import Layer
from tasks.masks.criteria import OF_GRADIENTS, Criterion
from tasks.masks.selection import Selection, without_experts, without_groups

_OF_EXPERT = re.compile(r"(.*\bexperts?)\.(\d+)\.")


def fitting(selection: Selection, criterion: Criterion, name: str) -> Selection:
    """Without the layers that the criterion cannot look into."""
    if criterion.reconstructs:
        selection = without_groups(selection)
    if criterion.reconstructs or criterion.needs & OF_GRADIENTS:
        selection = without_experts(selection, name)
    return selection


def expert_tokens(layers: Sequence[Layer], tokens: Mapping[str, int]) -> Iterator[Finding]:
    """For each block of experts how many calibration tokens came to which."""
    counts: dict[str, dict[int, int]] = {}
    for layer in layers:
        if found := _expert_of(layer):
            block, number = found
            counts.setdefault(block, {}).setdefault(number, tokens.get(layer.name, 0))
    for block, hits in counts.items():
        missed = sum(count == 0 for count in hits.values())
        listed = ", ".join(f"{number}: {count}" for number, count in sorted(hits.items()))
        message = f"{missed} of {len(hits)} experts saw no calibration token; tokens of each: {listed}"
        yield Finding(kind="expert_tokens", subject=block, message=message)


def _expert_of(layer: Layer) -> tuple[str, int] | None:
    if layer.place is not None:
        return layer.weight.rpartition(".")[0], layer.place.expert
    found = _OF_EXPERT.match(layer.name)
    return (found[1], int(found[2])) if found else None
