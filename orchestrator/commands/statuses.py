"""Effects. The command `status`: runs as the store tells them, once, or watched from any terminal until the run ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from orchestrator.commands import clusters
from orchestrator.commands.console import AsJson, StoreOption, aligned, open_store, print_json, say, talk
from orchestrator.errors import Damaged, NotFound, StoreError, Unreachable, UsageError
from orchestrator.ports import ObjectStore

POLL_SECONDS = 2.0
SILENT_SECONDS = 60.0


def status(
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run's id, its beginning, or `latest`; default: all, or the latest with --watch.",
        ),
    ] = None,
    store: StoreOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay and show how it goes, by pool, until the run ends.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show runs, from the store alone."""
    from orchestrator import runs

    if watch and as_json:
        raise UsageError("--watch is for people and --json for programs: ask for one of them")
    opened = open_store(store)
    if run_id or watch:
        run_id = runs.named(opened, run_id or "latest")
    if watch and run_id:
        follow(opened, run_id)
    found = [runs.read_status(opened, run_id)] if run_id else runs.list_runs(opened)
    if as_json:
        print_json(clusters.with_clusters(opened, found[0]) if run_id else found)
    elif not found:
        say("no run yet")
    else:
        _show(found)
        if run_id:
            _show_notices(found[0])
            clusters.show_clusters(opened, run_id)


def follow(
    store: ObjectStore,
    run_id: str,
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Shows a run's bars until its status says that it has ended; a store that does not answer is asked again.

    A controller that is silent is named, and waited for: the same command that began the run goes on with it.
    """
    from orchestrator import runs
    from orchestrator.terminal import Bars
    from orchestrator.wording import duration, plain

    told: Mapping[str, Any] = runs.read_status(store, run_id)
    heard, is_told = clock(), False
    with Bars(talk, quiet=False) as bars:
        while told.get("state") != "ended":
            bars.show(look_of(told), clock())
            wait(POLL_SECONDS)
            try:
                now = runs.read_status(store, run_id)
            except (Damaged, NotFound):
                raise
            except (StoreError, Unreachable) as error:
                say(f"the store does not answer, and is asked again: {plain(error, 200)}", style="yellow")
                continue
            if now.get("updated_at") != told.get("updated_at"):
                heard, is_told = clock(), False
            elif clock() - heard > SILENT_SECONDS and not is_told:
                silence = duration(clock() - heard)
                say(
                    f"no word of its controller for {silence}: if it is dead, run the same command again",
                    style="yellow",
                )
                is_told = True
            told = now
        bars.show(look_of(told), clock())


def look_of(status: Mapping[str, Any]) -> Any:
    """A run's status as the live view shows it."""
    from orchestrator.runs import number_of
    from orchestrator.terminal import Look

    counts: Mapping[str, int] = status.get("units", {})
    failed = counts.get("failed", 0) + counts.get("quarantined", 0)
    pools = status.get("pools", {})
    return Look(
        total=int(number_of(status, "to_do")),
        over=counts.get("done", 0) + failed,
        failed=failed,
        seconds_left=status.get("eta_seconds") if status.get("state") == "running" else 0.0,
        pools={name: (pool.get("running", 0), pool.get("slots", 0)) for name, pool in pools.items()},
    )


def standing(status: Mapping[str, Any], now: float) -> str:
    """How a run stands: how it ended, that it runs, or for how long nobody has heard of its controller."""
    from orchestrator.runs import number_of
    from orchestrator.wording import duration

    silence = now - number_of(status, "updated_at", now)
    if status.get("state") == "running" and silence > SILENT_SECONDS:
        return f"silent for {duration(silence)}"
    return str(status.get("outcome") or status.get("state") or "")


def _show(found: Sequence[Mapping[str, Any]]) -> None:
    from orchestrator.wording import plain

    now = time.time()
    rows = [["run", "fleet", "state", "wanted", "done before", "done", "failed", "left", "exit"]]
    for row in found:
        counts = row.get("units", {})
        failed = counts.get("failed", 0) + counts.get("quarantined", 0)
        left = sum(counts.get(state, 0) for state in ("waiting", "ready", "running"))
        cells = (
            row.get("run_id"), row.get("fleet"), standing(row, now), row.get("wanted"),
            row.get("done_before"), counts.get("done", 0), failed, left, row.get("exit_code"),
        )  # fmt: skip
        rows.append(["" if cell is None else plain(cell) for cell in cells])
    # A table would fold ids in a narrow terminal, and a folded id cannot be copied.
    sys.stdout.writelines(f"{line}\n" for line in aligned(rows))
    if any(standing(row, now).startswith("silent") for row in found):
        say(
            "silent: no word of its controller; if it is dead, the same command goes on with its work",
            style="yellow",
        )
    for row in found:
        if problem := row.get("problem"):
            say(f"run {plain(row['run_id'])}: {plain(problem)}", style="yellow")


def _show_notices(status: Mapping[str, Any]) -> None:
    from orchestrator.wording import plain

    for notice in status.get("notices", ()):
        say(f"note: {plain(str(notice), 400)}", style="yellow")
