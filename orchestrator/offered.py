"""Effects. Names that a fleet may use: ours, and those that installed packages offer as entry points."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points

CRITERIA = "prunefleet.criteria"
OWN_CRITERIA = (
    "magnitude", "wanda", "activation", "variance", "taylor", "fisher", "sparsegpt", "random", "loss",
)  # fmt: skip
"""Those of `tasks.masks.criteria`, which loads torch, and the one that measures cuts."""


def checked(name: str, known: Sequence[str], group: str) -> str:
    """The name, if it is a known one or an entry point's; else ValueError, with what there is. Nothing is loaded."""
    offered = [point.name for point in entry_points(group=group)]
    if name in known or name in offered:
        return name
    shown = ", ".join(repr(other) for other in (*known, *sorted(offered)))
    raise ValueError(f"input should be one of {shown}, or the name of an entry point of {group}")


def known_criterion(name: str) -> str:
    """The name, if it stands for a criterion here; else ValueError, with what there is."""
    return checked(name, OWN_CRITERIA, CRITERIA)
