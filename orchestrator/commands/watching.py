"""Effects. How a command that carries a run out is watched from outside: its metrics while it works, on loopback unless told otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.console import say

if TYPE_CHECKING:
    from orchestrator.controller import Signals
    from orchestrator.survey import Survey
    from orchestrator.watching.run_metrics import RunMetrics

MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65535,
        help="Serve Prometheus metrics on this port while running, on loopback; 0 takes a free one.",
    ),
]

MetricsOpen = Annotated[
    bool,
    typer.Option(
        "--metrics-open",
        help="Let other machines scrape that port; for where a network policy lets Prometheus alone in.",
    ),
]


@contextmanager
def observed(
    seen: Survey, run_id: str, port: int | None, is_open: bool, signals: Signals
) -> Iterator[RunMetrics]:
    """The metrics of one run, a watcher for `execute`; served from its plan on until whoever scraped it has seen its end.

    Errors: UsageError, if the port is taken, or none is there to be open.
    """
    from orchestrator.errors import UsageError
    from orchestrator.release import release
    from orchestrator.watching.run_metrics import RunMetrics

    if is_open and port is None:
        raise UsageError("--metrics-open needs --metrics-port")
    address = "0.0.0.0" if is_open else "127.0.0.1"
    metrics = RunMetrics(seen.pools, seen.costs)
    metrics.named(seen.fleet.name, run_id, release())
    metrics.planned(seen.plan, seen.placement, time.time())
    if port is None:
        yield metrics
        return
    with ExitStack() as open_things:
        try:
            scrapes = open_things.enter_context(metrics.served(port, address))
        except OSError as error:
            raise UsageError(
                f"--metrics-port {port}: {error.strerror or error}; choose another, or 0"
            ) from error
        say(f"metrics: http://{address}:{scrapes.port}/metrics")
        yield metrics
        if patience := scrapes.patience():
            say(f"metrics: the run is over; up to {patience:.0f} s for one scrape more")
        scrapes.wait_for_one_more(lambda: bool(signals.drain))
