"""Effects. The commands `nightly` and `morning`: a night once per slot, and what it changed."""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.commands.console import AsJson, FleetFile, print_json, say, write_file
from orchestrator.commands.stopping import stoppable
from orchestrator.commands.watching import MetricsOpen, MetricsPort, observed
from orchestrator.credentials import masked
from orchestrator.errors import PrunefleetError, UsageError

if TYPE_CHECKING:
    from orchestrator.controller import Signals
    from orchestrator.endings import RunSummary
    from orchestrator.nights.nightly import Answer
    from orchestrator.schedule.window import StopAt
    from orchestrator.spec import Fleet
    from orchestrator.specs.nights import ScheduleSpec

RETRY_SECONDS = 900.0  # a resident's, where a night could not be run; a registry may be away for a while
EXIT_DUE = 6
KINDS: Mapping[str, Literal["html", "md", "json"]] = {".html": "html", ".md": "md", ".json": "json"}


def nightly(
    fleet: FleetFile,
    resident: Annotated[
        bool, typer.Option("--resident", help="Stay and run every night, until told to stop.")
    ] = False,
    trigger: Annotated[
        str, typer.Option(envvar="PRUNEFLEET_TRIGGER", help="Who calls, for the record: cron, systemd, …")
    ] = "",
    address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster: auto or host:port. Default: one on this machine."),
    ] = None,
    backend: Annotated[str, typer.Option(help="ray, or local for child processes without Ray.")] = "ray",
    cache: Annotated[
        Path | None, typer.Option(help="Where this machine's nodes cache models and data.")
    ] = None,
    metrics_port: MetricsPort = None,
    metrics_open: MetricsOpen = False,
    only_due: Annotated[
        bool, typer.Option("--due", help="Only say whether a slot is due: exit with 6 if one is, else 0.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the fleet's night once per slot of its schedule, whoever calls this however often; write the morning report.

    Call it as often as you like, from cron, a systemd timer or Kubernetes, on one machine or several: it does something only
    if a slot has begun whose night is not over. Exit codes are those of `run`; 0 if there is nothing to do.
    """
    if only_due:
        raise typer.Exit(_say_whether_due(fleet, as_json=as_json))
    code = 0
    way = _Way(
        address=address, backend=backend, cache=cache, metrics_port=metrics_port, metrics_open=metrics_open
    )
    with stoppable() as signals:
        while True:
            code, is_open = _once(fleet, signals, trigger, way, as_json=as_json, resident=resident)
            if not resident or signals.drain:
                break
            _wait(fleet, signals, RETRY_SECONDS if is_open else math.inf)
            if signals.drain:
                code = 0
                break
    raise typer.Exit(code)


def morning(
    fleet: FleetFile,
    slot: Annotated[str, typer.Argument(metavar="[SLOT]", help="Such as 2026-11-22T0100.")] = "latest",
    to: Annotated[
        Path | None, typer.Option("--to", help="Write it to a file: .html, .md or .json. Default: print it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a night changed: the morning report."""
    from orchestrator.api import open_fleet

    kind = to.suffix if to else ".json" if as_json else ".md"
    if kind not in KINDS:
        raise UsageError(f"{to}: a morning report is .html, .md or .json")
    page = open_fleet(fleet).morning(slot, KINDS[kind])
    if to:
        write_file(to, page.encode())
    else:
        sys.stdout.write(page)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How a night's run is carried out."""

    address: str | None
    backend: str
    cache: Path | None
    metrics_port: int | None
    metrics_open: bool


def _say_whether_due(path: Path, *, as_json: bool) -> int:
    """Asks the store alone. The exit code."""
    from orchestrator.nights.looking import has_work, look
    from orchestrator.nights.nightly import Answer
    from orchestrator.stores.opening import open_store
    from orchestrator.survey import read_fleet

    spec, _ = read_fleet(path)
    store, at = open_store(spec.store), time.time()
    decision = look(store, spec.name, _schedule_of(path, spec), at)
    is_due, reason = has_work(store, spec.name, decision, at)
    answer = Answer(due=decision, exit_code=EXIT_DUE if is_due else 0, reason=reason)
    _show(answer, as_json=as_json, resident=False)
    return answer.exit_code


def _schedule_of(path: Path, spec: Fleet) -> ScheduleSpec:
    if spec.schedule is None:
        raise UsageError(f'{path}: there is no schedule; add one such as schedule: {{at: "01:00"}}')
    return spec.schedule


def _once(
    path: Path, signals: Signals, trigger: str, way: _Way, *, as_json: bool, resident: bool
) -> tuple[int, bool]:
    """One trigger; the exit code, and whether its slot is still open. A resident outlives what one night cannot do."""
    from orchestrator.api import open_fleet
    from orchestrator.controller import SystemClock
    from orchestrator.execution import RunOptions, execute, new_run_id
    from orchestrator.nights.due import Duty
    from orchestrator.nights.nightly import Watch
    from orchestrator.nights.nightly import nightly as keep
    from orchestrator.schedule.placement import pools_of

    def carry_out(stop: StopAt, signals: Signals) -> RunSummary:
        from orchestrator.api import cache_root
        from orchestrator.backends.opening import choose_backend
        from orchestrator.promotion.offices import this_user

        options = RunOptions(
            cache_root=cache_root(way.cache, way.address),
            stop=stop,
            actor=this_user(),
        )
        connect, seen, run_id = (
            choose_backend(way.backend, way.address),
            opened.plan(),
            new_run_id(time.time()),
        )
        with observed(seen, run_id, way.metrics_port, way.metrics_open, signals) as metrics:
            summary = execute(seen, connect, options, signals, (metrics,), run_id)
            metrics.closed(summary.exit_code, time.time())
        return summary

    try:
        opened = open_fleet(path)
        watch = Watch(
            store=opened.store,
            fleet=opened.spec.name,
            schedule=_schedule_of(path, opened.spec),
            notify=opened.spec.notify,
            pools=pools_of(opened.spec),
            clock=SystemClock(),
            trigger=trigger or ("resident" if resident else ""),
        )
        answer = keep(watch, carry_out, signals)
    except PrunefleetError as error:
        if not resident:
            raise
        say(f"prunefleet: {error}", style="red")
        return error.exit_code, True
    except Exception:  # a bug: a resident says so and goes on to the next trigger
        if not resident:
            raise
        say(masked(traceback.format_exc()), style="red")
        return 1, True
    _show(answer, as_json=as_json, resident=resident)
    return answer.exit_code, answer.due.duty is Duty.RUN and answer.morning is None


def _wait(path: Path, signals: Signals, longest: float) -> None:
    """Until the next slot, by the wall clock and by the fleet file as it is then; at most so many seconds."""
    from orchestrator.nights.nightly import DOZE_SECONDS
    from orchestrator.nights.slots import following, latest
    from orchestrator.survey import read_fleet

    since = time.time()
    told = ""
    while not signals.drain and time.time() - since < longest:
        try:
            schedule = read_fleet(path)[0].schedule
        except PrunefleetError as error:
            schedule = None
            told = _say_once(f"prunefleet: {error}", told)
        begun = latest(schedule, time.time()) if schedule else None
        if begun is not None and begun.begins > since:
            return
        if schedule and (coming := following(schedule, time.time())):
            told = _say_once(f"the next night is slot {coming.name}", told)
        for _ in range(int(DOZE_SECONDS)):
            if signals.drain:
                return
            time.sleep(1.0)


def _say_once(text: str, told: str) -> str:
    if text != told:
        say(text)
    return text


def _show(answer: Answer, *, as_json: bool, resident: bool) -> None:
    slot = answer.due.slot
    if as_json:
        print_json({
            "slot": slot.name if slot else None,
            "duty": answer.due.duty.value,
            "reason": answer.reason,
            "exit_code": answer.exit_code,
            "morning": answer.morning.to_json() if answer.morning else None,
            "untold": list(answer.untold),
        })  # fmt: skip
        return
    from orchestrator.wording import plain

    if answer.morning or not resident:
        say(plain(answer.reason, 400))
    if answer.morning:
        say(f"morning report: {answer.morning.headline}")
    for why in answer.untold:
        say(f"nobody was told: {plain(why, 400)}", style="yellow")
