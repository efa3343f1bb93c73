"""Effects. How a plan is shown: by recipe, beside the last run's, what cannot be, and what it should take."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.commands.console import say

if TYPE_CHECKING:
    from orchestrator.plandiff import PlanChange
    from orchestrator.survey import Survey

MOST_CHANGES = 20
CHANGE_COLUMNS = 5  # sign, why, what, units, detail
SIGNS = {"left over": ("…", "yellow"), "gone": ("−", "red"), "changed bytes": ("~", "cyan"), "changed recipe": ("~", "cyan")}  # fmt: skip


def differences(seen: Survey) -> tuple[str, tuple[PlanChange, ...]]:
    """The fleet's last run, and how this plan differs from its; empty where there was none. Errors: Damaged."""
    from orchestrator import plandiff
    from orchestrator.reports import lastrun

    run_id, before = lastrun.last(seen.store, lastrun.CHAINS, plandiff.COLUMNS, seen.plan.fleet)
    return (run_id, plandiff.changes(before, seen.plan)) if run_id else ("", ())


def plan_json(seen: Survey) -> dict[str, Any]:
    """What `plan --json` prints."""
    from orchestrator import planview
    from orchestrator.schedule import tonight

    run_id, changes = differences(seen)
    return {
        **planview.as_json(seen.plan, seen.placement, seen.pools, seen.costs),
        "since": {"run_id": run_id, "changes": [asdict(change) for change in changes]} if run_id else None,
        "tonight": tonight.as_json(seen.tonight),
    }


def show_plan(seen: Survey, console: Console, *, units: bool) -> None:
    """The whole plan: data where it was asked for, talk before a run; its units only if they are asked for."""
    from orchestrator import planview
    from orchestrator.wording import plain

    tell = partial(console.print, markup=False, highlight=False)
    for warning in seen.warnings:
        say(f"warning: {plain(warning, 400)}", style="yellow")
    table = Table(box=None, pad_edge=False)
    rows = planview.recipe_rows(seen.plan)
    tasks = [task.value for task in planview.TASKS if any(task.value in row for row in rows)]
    for column in ("recipe", "models", *tasks):
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = ["{}/{}".format(*row[task]) if task in row else "" for task in tasks]
        table.add_row(escape(row["recipe"]), str(row["models"]), *cells)
    console.print(table)
    _show_differences(seen, console)
    for item in seen.plan.impossible:
        tell(f"cannot: {plain(item.subject)}: {plain(item.reason, 600)}", style="red")
    for key, reason in seen.plan.quarantined.items():
        unit = seen.plan.units[key]
        name = f"{unit.task.value} of {plain(unit.model.id)} by {plain(unit.recipe)}"
        tell(f"quarantined: {name}: {plain(reason, 400)}", style="red")
    for reason in sorted(set(seen.placement.misfits.values())):
        tell(f"cannot: {plain(reason, 400)}", style="red")
    for notice in planview.notices(seen.plan):
        tell(f"note: {plain(notice, 400)}")
    for line in seen.tonight.sentences:
        tell(f"tonight: {plain(line, 600)}", style="yellow")
    tell(_summary(seen))
    if units:
        _list_units(seen, console)


def _show_differences(seen: Survey, console: Console) -> None:
    from orchestrator.wording import count, plain

    run_id, changes = differences(seen)
    if not changes:
        return
    tell = partial(console.print, markup=False, highlight=False)
    tell(f"since run {run_id}:")
    listing = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(CHANGE_COLUMNS):
        listing.add_column(overflow="fold")
    for change in changes[:MOST_CHANGES]:
        sign, style = SIGNS.get(change.why.value, ("+", "green"))
        work = count(change.units, "unit") if change.units else ""
        cells = (sign, change.why.value, plain(change.subject), work, plain(change.detail, 240))
        listing.add_row(*(escape(cell) for cell in cells), style=style)
    console.print(listing)
    if len(changes) > MOST_CHANGES:
        tell(f"and {len(changes) - MOST_CHANGES} more; `plan --json` lists them all")


def _summary(seen: Survey) -> str:
    from orchestrator import planview
    from orchestrator.wording import count, duration, size

    told = planview.summary(seen.plan, seen.placement, seen.pools)
    if not told["to_do"]:
        return f"nothing to do: {told['done']} of {told['wanted']} units are done"
    dollars = told["predicted_cost_dollars"]
    return (
        f"{count(told['to_do'], 'unit')} to do, {told['done']} cached, {told['impossible']} impossible; "
        f"about {duration(told['predicted_work_seconds'])} of work, "
        f"at least {duration(told['lower_bound_seconds'])} on these pools, "
        f"up to {size(told['peak_memory_bytes'])} of memory a shard"
        + (f", about ${dollars:.2f}" if dollars else "")
    )


def _list_units(seen: Survey, console: Console) -> None:
    from orchestrator import planview
    from orchestrator.wording import plain

    listing = Table(box=None, pad_edge=False)
    for column in ("unit", "task", "model", "recipe", "state", "why"):
        listing.add_column(column, overflow="fold")
    for key in seen.plan.units:
        row = planview.unit_row(seen.plan, seen.placement, key, seen.pools, seen.costs)
        cells = (
            key[:12],
            row["task"],
            plain(row["model"]),
            row["recipe"],
            row["state"],
            plain(row["why"], 200),
        )
        listing.add_row(*(escape(str(cell)) for cell in cells))
    console.print(listing)
