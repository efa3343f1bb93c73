"""Pure. What a look at a whole store found: how much was read, what is damaged, what is not the store's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that is not what its digest says, or not there."""

    kind: str
    """`result`, `artifact`, `dataset`, `published`, `record`, `night` or `proposal`."""
    subject: str
    """Its key, or the version in its registry."""
    problem: str
    advice: str


@dataclass(slots=True)
class Verification:
    """What was read, and what is wrong with it."""

    counts: Counter[str] = field(default_factory=Counter)
    """Things looked at, by kind."""
    bytes: int = 0
    damages: list[Damage] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """Keys of objects that prunefleet did not write: named, never touched."""
    unfinished: list[str] = field(default_factory=list)
    """Artifacts that an upload has not completed and no result points to: `gc` removes them when they are old."""

    def count(self, kind: str, size: int) -> None:
        """That one more thing of this kind was looked at."""
        self.counts[kind] += 1
        self.bytes += size

    def damaged(self, kind: str, subject: str, problem: str, advice: str) -> None:
        """That something is wrong with it."""
        self.damages.append(Damage(kind=kind, subject=subject, problem=problem, advice=advice))


Watch = Callable[[Verification], None]
"""Called after each object."""
