"""Pure. The Pareto front: which of several things no other beats in everything that counts."""

from __future__ import annotations

from collections.abc import Sequence


def front(rows: Sequence[Sequence[float]]) -> frozenset[int]:
    """Places of the rows that no other row dominates; lower is better in every column.

    A row dominates another if it is nowhere greater and somewhere less, so equal rows stand or fall together. What is
    not known is infinite: it can then beat nothing in that column. No column may be NaN.
    """
    kept: list[int] = []
    for place in sorted(range(len(rows)), key=lambda index: tuple(rows[index])):
        # Only what comes before it in this order can dominate a row, and only the undominated need to be asked.
        if not any(_dominates(rows[other], rows[place]) for other in kept):
            kept.append(place)
    return frozenset(kept)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def staircase(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The front of points in a plane as corners of a line from left to right, each step first across, then down."""
    corners: list[tuple[float, float]] = []
    for x, y in sorted({points[place] for place in front(points)}):
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return corners
