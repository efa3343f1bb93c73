"""Effects. What installed packages offer as entry points: loaded by its name, and of the kind that it has to be."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TypeVar

from tasks.contract import BadInput, raise_if_of_machine

_Offered = TypeVar("_Offered")


def offered(group: str, name: str, kind: type[_Offered], what: str) -> _Offered | None:
    """The object that an installed package offers under this name of a group, None where none does.

    Errors: BadInput, with `what` cannot be used, if it does not load or is of another kind.
    """
    for point in entry_points(group=group, name=name):
        try:
            found = point.load()
        except Exception as error:  # their module may fail in any manner
            raise_if_of_machine(error)
            raise _unusable(
                group, name, kind, what, f"does not load: {type(error).__name__}: {str(error)[:300]}"
            ) from error
        if not isinstance(found, kind):
            raise _unusable(group, name, kind, what, f"is a {type(found).__name__}, not a {kind.__name__}")
        return found
    return None


def names_offered(group: str) -> set[str]:
    """The names that installed packages offer in a group; nothing is loaded."""
    return {point.name for point in entry_points(group=group)}


def _unusable(group: str, name: str, kind: type, what: str, why: str) -> BadInput:
    return BadInput(
        f"{what} cannot be used",
        why=f"the entry point {name} of {group} {why}",
        do=f"Let it name a {kind.__module__}.{kind.__qualname__}.",
    )
