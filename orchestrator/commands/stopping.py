"""Effects. What ends a command that runs work: its window, its budget, SIGTERM and Ctrl-C."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.console import talk

if TYPE_CHECKING:
    from orchestrator.controller import Signals
    from orchestrator.schedule.window import StopAt

EXIT_INTERRUPTED = 75
BudgetHours = Annotated[
    float | None,
    typer.Option(min=0.0, help="Start nothing more after so many hours; the rest is carried over."),
]
Window = Annotated[
    str | None,
    typer.Option(
        help="Start work only in these hours, like 01:00-06:00 or 22:00-06:00 Europe/Berlin; the rest is carried over."
    ),
]


def stop_of(window: str | None, budget_hours: float | None) -> StopAt | None:
    """What ends a run that begins now first. Errors: UsageError."""
    from orchestrator.schedule.window import first_stop, parse_window

    hours = parse_window(window, None) if window is not None else None
    return first_stop(hours, budget_hours, time.time())


@contextmanager
def stoppable() -> Iterator[Signals]:
    """SIGTERM and Ctrl-C: the first one lets what runs end, the second one stops at once; both are resumable."""
    from orchestrator.controller import Signals

    signals = Signals()

    def heed(number: int, frame: FrameType | None) -> None:
        if signals.drain:
            raise KeyboardInterrupt
        signals.drain = f"stopped by {signal.Signals(number).name}"
        talk.print(f"{signals.drain}: waiting for what runs; again to stop at once", markup=False)

    old = {number: signal.signal(number, heed) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None  # of itself typer makes it 130
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
