"""Effects. The commands that look after a fleet: `doctor`, `verify` and `gc`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.commands.console import (
    AsJson,
    FleetFile,
    StoreOption,
    is_fleet,
    open_store,
    out,
    print_json,
    say,
    talk,
)
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.care.collection import Marked
    from orchestrator.care.damages import Verification
    from orchestrator.care.garbage import Doomed
    from orchestrator.probes.checks import Check
    from orchestrator.spec import Fleet

EXIT_DAMAGED = 4
SAY_EVERY_SECONDS = 5.0

_AGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([mhdw])\Z")
_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_STYLES: Mapping[str, str] = {"ok": "green", "warning": "yellow"}


def doctor(
    fleet: FleetFile,
    address: Annotated[
        str | None, typer.Option(help="Also look at this Ray cluster: auto, or host:port of its head.")
    ] = None,
    thorough: Annotated[
        bool,
        typer.Option("--thorough", help="100 rounds with 32 racers, where 20 with 8 are usual: minutes."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find out what store, registries, data, libraries and cluster really do; name each property that fails.

    The store is tried with real concurrency below doctor/, and all of it is removed. Exit code 0: all is well, or only
    warnings; 4: something is broken or not supported; 69: something does not answer; 77: something is not permitted.
    """
    from orchestrator.care.doctor import examine
    from orchestrator.probes.checks import exit_code
    from orchestrator.probes.ground import THOROUGH, Effort
    from orchestrator.survey import read_fleet

    spec, _ = read_fleet(fleet)
    checks = []
    for check in examine(spec, THOROUGH if thorough else Effort(), address):
        checks.append(check)
        if not as_json:
            _show_check(check)
    code = exit_code(checks)
    if as_json:
        print_json({"checks": [asdict(check) for check in checks], "exit_code": code})
    raise typer.Exit(code)


def verify(store: StoreOption = None, as_json: AsJson = False) -> None:
    """Re-check every digest in the store, and with a fleet file every published version; exit code 4 if one is wrong.

    Nothing is changed. Each damaged or missing object is named, with what to do.
    """
    from orchestrator.care.verification import verify as check

    done = check(open_store(store), _fleet_of(store), _progress())
    if as_json:
        print_json({
            "counts": dict(done.counts),
            "bytes": done.bytes,
            "damages": [asdict(damage) for damage in done.damages],
            "foreign": done.foreign,
            "unfinished": done.unfinished,
        })  # fmt: skip
    else:
        _show_verification(done)
    raise typer.Exit(EXIT_DAMAGED if done.damages else 0)


def gc(
    store: StoreOption = None,
    older_than: Annotated[
        str,
        typer.Option(help="Leave whatever is younger: 12h, 7d, 4w; an upload may be going on. At least 1h."),
    ] = "7d",
    runs_older_than: Annotated[
        str | None,
        typer.Option(help="Also remove records of runs and reports of nights that are older."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go. The default.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what nothing points to any more; without --yes, only show it.

    What a result, a publication or a lease points to stays, and so does whatever is younger than the limit. Datasets
    are looked at only if --store is a fleet file, which says what is wanted.
    """
    from orchestrator.care import collection
    from orchestrator.care.garbage import Limits

    if yes and dry_run:
        raise UsageError("--dry-run and --yes exclude each other")
    opened, fleet = open_store(store), _fleet_of(store)
    age, runs_age = _seconds(older_than), _seconds(runs_older_than) if runs_older_than else None
    if not yes:
        marked = collection.mark(
            opened, fleet, Limits(at=time.time(), older_than=age, runs_older_than=runs_age)
        )
        _show_marked(marked, as_json=as_json)
        return
    with collection.sweeping(opened) as sweep:
        if sweep.warning:
            say(sweep.warning, style="yellow")
        marked = collection.mark(opened, fleet, Limits(at=sweep.at, older_than=age, runs_older_than=runs_age))
        swept = collection.sweep_away(sweep, marked)
    if as_json:
        print_json({
            "removed": [_row(doomed) for doomed in swept.removed],
            "spared": [_row(doomed) for doomed in swept.spared],
            "bytes": sum(doomed.thing.bytes for doomed in swept.removed),
            "held_back": marked.held_back,
            "warning": sweep.warning,
        })  # fmt: skip
        return
    _show_removed(swept.removed, "removed")
    for doomed in swept.spared:
        say(f"spared: {doomed.thing.kind.value} {doomed.thing.name}: it is in use again")
    for line in marked.held_back:
        say(line, style="yellow")


def rebuild(store: StoreOption = None) -> None:
    """Make the tables of results anew, from the results alone: where one is damaged, or cannot be opened any more.

    What reads tables may go on meanwhile. Exit code 4: results that are damaged were left out; `verify` names what to do.
    """
    from orchestrator.tables.folding import rebuild as made_anew
    from orchestrator.wording import count, plain

    opened = open_store(store)
    done = made_anew(opened)
    say(f"tables of {plain(opened.url, 300)} made anew from the results of {count(done.units, 'unit')}")
    for left_out in done.skipped:
        say(f"left out: {left_out.unit_key}: {plain(left_out.reason, 600)}", style="red")
    raise typer.Exit(EXIT_DAMAGED if done.skipped else 0)


def _fleet_of(option: str | None) -> Fleet | None:
    if not is_fleet(option):
        return None
    from orchestrator.survey import read_fleet

    return read_fleet(Path(option or "fleet.yaml"))[0]


def _seconds(text: str) -> float:
    """An age such as 12h, 7d or 4w. Errors: UsageError."""
    from orchestrator.care.garbage import SHORTEST

    match = _AGE.match(text.strip())
    if not match:
        raise UsageError(f"{text!r} is no age; write a number and m, h, d or w, such as 7d")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds < SHORTEST:
        raise UsageError(f"{text} is too short: an upload that is younger than an hour may still be going on")
    return seconds


def _show_check(check: Check) -> None:
    from orchestrator.wording import plain

    style = _STYLES.get(check.state.value, "red")
    head = f"{check.state.value:<13} {plain(check.area)}: {plain(check.name)}: {plain(check.seen, 1000)}"
    out.print(head, style=style, markup=False, highlight=False)
    for text in (check.follows, f"What to do: {check.advice}" if check.advice else ""):
        if text:
            out.print(f"{'':<13} {plain(text, 1000)}", markup=False, highlight=False)


def _progress() -> Any:
    """Says every few seconds how far it is."""
    from orchestrator.wording import size

    said = time.monotonic()

    def watch(done: Verification) -> None:
        nonlocal said
        if talk.is_terminal and time.monotonic() - said > SAY_EVERY_SECONDS:
            said = time.monotonic()
            say(f"{sum(done.counts.values())} things, {size(done.bytes)} read, {len(done.damages)} damaged")

    return watch


def _show_verification(done: Verification) -> None:
    from orchestrator.wording import count, plain, size

    for damage in done.damages:
        told = f"{damage.kind}: {plain(damage.subject, 300)}: {plain(damage.problem, 600)}"
        out.print(told, style="red", markup=False, highlight=False)
        out.print(f"    What to do: {plain(damage.advice, 600)}", markup=False, highlight=False)
    for key in done.foreign:
        out.print(f"not ours: {plain(key, 300)}", style="yellow", markup=False, highlight=False)
    for key in done.unfinished:
        out.print(
            f"unfinished: {plain(key, 300)}: `gc` removes it when it is old", markup=False, highlight=False
        )
    read = ", ".join(count(number, kind) for kind, number in sorted(done.counts.items())) or "nothing"
    verdict = f"{len(done.damages)} damaged or missing" if done.damages else "all as their digests say"
    say(f"{read}; {size(done.bytes)}: {verdict}", style="red" if done.damages else "green")


def _show_marked(marked: Marked, *, as_json: bool) -> None:
    if as_json:
        rows = [_row(doomed) for doomed in marked.doomed]
        print_json(
            {"garbage": rows, "bytes": sum(row["bytes"] for row in rows), "held_back": marked.held_back}
        )
        return
    _show_removed(marked.doomed, "would be removed; --yes removes it")
    for line in marked.held_back:
        say(line, style="yellow")


def _show_removed(doomed: Any, what: str) -> None:
    from orchestrator.wording import count, plain, size

    for one in doomed:
        told = f"{one.thing.kind.value}: {plain(one.thing.name, 300)}: {size(one.thing.bytes)}: {one.reason}"
        out.print(told, markup=False, highlight=False)
    total = sum(one.thing.bytes for one in doomed)
    say(f"{count(len(doomed), 'thing')}, {size(total)}: {what}" if doomed else "there is no garbage")


def _row(doomed: Doomed) -> dict[str, Any]:
    thing = doomed.thing
    return {
        "kind": thing.kind.value,
        "name": thing.name,
        "objects": len(thing.keys),
        "bytes": thing.bytes,
        "modified": thing.modified,
        "reason": doomed.reason,
    }
