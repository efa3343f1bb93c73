"""Effects. Looks far away again and again from a thread of its own: a look at what is dead may never come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Generic, TypeVar

GOODBYE_SECONDS = 1.0

Sight = TypeVar("Sight")


@dataclass(slots=True)
class Lookout(Generic[Sight]):
    """What was last seen, and since when nothing has been."""

    look: Callable[[], Sight]
    every_seconds: float
    seen: list[Sight] = field(default_factory=list)
    """The last sight; none before the first look has come back."""
    seen_at: float = 0.0
    problem: str = ""
    """Why the latest look saw nothing, if it came back at all."""
    came_back: Event = field(default_factory=Event)
    over: Event = field(default_factory=Event)
    thread: Thread = field(init=False)

    def begin(self) -> None:
        """Starts to look; silence counts from here."""
        self.seen_at = time.monotonic()
        self.thread = Thread(target=self._go, name="lookout", daemon=True)
        self.thread.start()

    def last(self, patience: float) -> Sight | None:
        """The last sight; waits for the first one, but not longer than the patience. None: there is none so young."""
        self.came_back.wait(max(0.0, patience - self.silence()))
        return self.seen[0] if self.seen and self.silence() <= patience else None

    def silence(self) -> float:
        """Seconds since something was seen."""
        return time.monotonic() - self.seen_at

    def end(self) -> None:
        """Looks no more; waits for a look under way, but not for one that may never come back."""
        self.over.set()
        self.thread.join(GOODBYE_SECONDS)

    def _go(self) -> None:
        while not self.over.is_set():
            try:
                self.seen = [self.look()]
                self.seen_at, self.problem = time.monotonic(), ""
                self.came_back.set()
            except (
                Exception
            ) as error:  # such a look has seen nothing; what counts is for how long that goes on
                self.problem = f"{type(error).__name__}: {error}"
            self.over.wait(self.every_seconds)
