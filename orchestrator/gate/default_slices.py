"""Pure. The slices that are looked at where a recipe names none: known from the examples and the dense model alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.gate.statistics import Floats

Index = NDArray[np.intp]

PREFIX = "default "
"""Begins the name of every such slice."""
RARE = "(rare)"
"""The classes that have too few examples each, together."""
MOST_GROUPS = 10


def default_groups(
    values: Mapping[str, Floats], kinds: Sequence[str], least: int, clusters: Index | None = None
) -> dict[str, Index]:
    """Slice name -> positions of its examples, for each kind whose value every example has.

    `label`: one slice a class; classes of fewer than `least` examples are one together. `confidence` and `length`: up to
    ten slices of about as many examples, at least `least` each, 1 being the least sure or the shortest; equal values are
    never parted. `least` counts clusters where examples have some. A kind that would be one slice only says nothing and is left out.
    """
    groups: dict[str, Index] = {}
    for kind in kinds:
        found = values[kind]
        units = np.arange(len(found)) if clusters is None else clusters
        if len(found) == 0 or np.isnan(found).any():
            continue
        parts = dict(_classes(found, least, units) if kind == "label" else _tenths(found, least, units))
        if len(parts) > 1:
            groups |= {f"{PREFIX}{kind}={name}": members for name, members in parts.items()}
    return groups


def _classes(labels: Floats, least: int, units: Index) -> Iterator[tuple[str, Index]]:
    rare = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(np.unique(units[members])) >= least:
            yield str(int(label)), members
        else:
            rare.append(members)
    if rare:
        yield RARE, np.sort(np.concatenate(rare))


def _tenths(values: Floats, least: int, units: Index) -> Iterator[tuple[str, Index]]:
    size = len(values)
    wanted = min(MOST_GROUPS, len(np.unique(units)) // max(1, least))
    if wanted < 2:
        return
    order = np.argsort(values, kind="stable")
    ends = [*(np.flatnonzero(np.diff(values[order])) + 1), size]
    cuts, start = [0], 0
    seen: set[int] = set()
    for end in map(int, ends):
        seen.update(units[order[start:end]].tolist())
        start = end
        if end >= len(cuts) * size / wanted and len(seen) >= least:
            cuts.append(end)
            seen.clear()
    if size - cuts[-1]:  # too few are left for a slice of their own
        cuts[-1] = size
    for number, (start, end) in enumerate(itertools.pairwise(cuts), start=1):
        yield f"{number} of {len(cuts) - 1}", np.sort(order[start:end])
