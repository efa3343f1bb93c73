"""Effects. How a command that carries a run out is watched from outside: its metrics on a loopback port while it works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.console import say

if TYPE_CHECKING:
    from orchestrator.survey import Survey
    from orchestrator.watching.run_metrics import RunMetrics

MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65535,
        help="Serve Prometheus metrics on this loopback port while running; 0 takes a free one.",
    ),
]


@contextmanager
def observed(seen: Survey, run_id: str, port: int | None) -> Iterator[RunMetrics]:
    """The metrics of one run, served from its plan on until the block ends; a watcher for `execute`.

    Errors: UsageError, if the port is taken.
    """
    from orchestrator.errors import UsageError
    from orchestrator.release import release
    from orchestrator.watching.run_metrics import RunMetrics

    metrics = RunMetrics(seen.pools, seen.costs)
    metrics.named(seen.fleet.name, run_id, release())
    metrics.planned(seen.plan, seen.placement, time.time())
    if port is None:
        yield metrics
        return
    with ExitStack() as open_things:
        try:
            taken = open_things.enter_context(metrics.served(port))
        except OSError as error:
            raise UsageError(
                f"--metrics-port {port}: {error.strerror or error}; choose another, or 0"
            ) from error
        say(f"metrics: http://127.0.0.1:{taken}/metrics")
        yield metrics
