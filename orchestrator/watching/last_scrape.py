"""Effects. Who scrapes a run, and the one scrape more that sees how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

LONGEST_WAIT_SECONDS = 60.0
SLACK_SECONDS = 5.0


class Scrapes:
    """A WSGI application that notes when the one within it was asked."""

    def __init__(
        self, application: Callable[..., Any], port: int, clock: Callable[[], float] = time.monotonic
    ):
        self.application = application
        self.port = port
        self.clock = clock
        self.last = clock()
        self.longest_gap: float | None = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        at = self.clock()
        yield from self.application(environ, start_response)
        # only now has the answer left
        self.longest_gap = max(self.longest_gap or 0.0, at - self.last)
        self.last = at

    def patience(self) -> float:
        """Seconds within which whoever scrapes should come again; 0 where nobody does."""
        if self.longest_gap is None:
            return 0.0
        return min(LONGEST_WAIT_SECONDS, 2 * self.longest_gap + SLACK_SECONDS)

    def wait_for_one_more(self, is_stopped: Callable[[], bool]) -> bool:
        """Waits, no longer than `patience`, for a scrape that begins after this call; whether it came."""
        since = self.clock()
        end = since + self.patience()
        while self.last <= since and self.clock() < end and not is_stopped():
            time.sleep(0.05)
        return self.last > since
