"""Pure. Virtual time: what is to happen, in the order in which it does; nothing waits."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Timeline:
    """A clock whose time passes from one event to the next; events of one moment happen as they were set down."""

    at: float = 0.0
    due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    events: int = 0

    def now(self) -> float:
        """Seconds since the beginning."""
        return self.at

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Sets down what happens in so many seconds."""
        self.events += 1
        heapq.heappush(self.due, (self.at + max(0.0, seconds), self.events, action))

    def step(self, until: float = float("inf")) -> bool:
        """Lets the next event happen if it is due by then; whether one did."""
        if not self.due or self.due[0][0] > until:
            return False
        at, _, action = heapq.heappop(self.due)
        self.at = max(self.at, at)
        action()
        return True

    def sleep(self, seconds: float) -> None:
        """Lets time pass for the caller alone: everybody else's events happen meanwhile."""
        end = self.at + seconds
        while self.step(end):
            pass
        self.at = max(self.at, end)
