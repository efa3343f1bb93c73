"""Effects. How a command that runs work heeds SIGTERM and Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import typer

from orchestrator.commands.console import talk

if TYPE_CHECKING:
    from orchestrator.controller import Signals

EXIT_INTERRUPTED = 75


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
