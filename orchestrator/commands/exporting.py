"""Effects. The command `exporter`: an endpoint for Prometheus that is there when no run is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.console import FleetFile, say

if TYPE_CHECKING:
    from orchestrator.watching.exporting import Exporter

PORT = 9464
FEW = 5


def exporter(
    fleet: FleetFile,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = PORT,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds between two readings of the store.")] = 60.0,
    once: Annotated[bool, typer.Option("--once", help="Read once, print the metrics, and end.")] = False,
    certificate_file: Annotated[
        Path | None, typer.Option(help="Serve TLS with this certificate (PEM).")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Scrapers must show a certificate of this authority.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A file with the token, or user:password, that scrapers must send.")
    ] = None,
    is_open: Annotated[
        bool, typer.Option("--open", help="Let other machines scrape without any of these.")
    ] = False,
) -> None:
    """Serve the fleet's metrics from its store alone: last success, carry-over, quarantine, cost, quality, savings."""
    import sys

    from orchestrator.commands.stopping import stoppable
    from orchestrator.credentials import masked
    from orchestrator.schedule.placement import pools_of
    from orchestrator.stores.opening import open_store
    from orchestrator.survey import read_fleet
    from orchestrator.watching.exporting import Exporter
    from orchestrator.watching.scrapes import Guard, serve

    spec, _ = read_fleet(fleet)
    made = Exporter(spec.name, open_store(spec.store), pools_of(spec), spec.recipes, spec.schedule)
    if once:
        problem = made.read()
        sys.stdout.write(made.text.decode())
        if told := _told(made, problem):
            say(masked(told), style="red")
        if problem:
            raise typer.Exit(69)
        return
    guard = Guard(certificate=certificate_file, key=key_file, client_ca=client_ca, token=token_file)
    server = serve(lambda: made.text, host, port, guard, is_open=is_open)
    say(f"metrics: http{'s' if certificate_file else ''}://{host}:{server.server_port}/metrics")
    with stoppable() as signals:
        said = ""
        while not signals.drain:
            told = _told(made, made.read())
            if told != said:
                say(masked(told or "the store is read again, and every record in it"), style="yellow")
            said = told
            _wait(signals, every)
    server.shutdown()


def _told(made: Exporter, problem: str) -> str:
    """One line for a store that cannot be read, or for each damaged record, the first few of many."""
    damaged = [f"damaged and left out: {record}" for record in made.damaged[:FEW]]
    more = len(made.damaged) - FEW
    return problem or "\n".join([*damaged, *([f"and {more} more that are damaged"] if more > 0 else [])])


def _wait(signals: object, seconds: float) -> None:
    import time

    end = time.monotonic() + seconds
    while not getattr(signals, "drain", "") and time.monotonic() < end:
        time.sleep(min(0.2, seconds))
