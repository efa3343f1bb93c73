"""Pure. What was found out about one property, and how a command ends that found it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

EXIT_OK, EXIT_BROKEN, EXIT_UNREACHABLE, EXIT_NOT_PERMITTED = 0, 4, 69, 77


class State(StrEnum):
    """How it stands with a property."""

    OK = "ok"
    WARNING = "warning"
    """Worth knowing; nothing is wrong for certain."""
    BROKEN = "broken"
    UNSUPPORTED = "not supported"
    """The other side says openly that it cannot do this."""
    UNREACHABLE = "unreachable"
    DENIED = "not permitted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One property: what happened, what follows from it for prunefleet, and what to do."""

    area: str
    """What was looked at: `store`, `registry zoo`, `dataset manual`, `cluster`, `versions`."""
    name: str
    """The property."""
    state: State
    seen: str
    follows: str = ""
    advice: str = ""


def exit_code(checks: Iterable[Check]) -> int:
    """77 if something was refused, else 69 if something does not answer, else 4 if something is broken or missing."""
    states = {check.state for check in checks}
    if State.DENIED in states:
        return EXIT_NOT_PERMITTED
    if State.UNREACHABLE in states:
        return EXIT_UNREACHABLE
    return EXIT_BROKEN if states & {State.BROKEN, State.UNSUPPORTED} else EXIT_OK
