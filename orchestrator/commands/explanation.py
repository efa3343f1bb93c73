"""Effects. The command `explain`: why a unit ran, was cached, waits or failed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from orchestrator.commands.console import AsJson, FleetFile, out, print_json

if TYPE_CHECKING:
    from orchestrator.explaining import Explanation

KEY_SHOWN = 12


def explain(
    fleet: FleetFile,
    asked: Annotated[
        str,
        typer.Argument(
            metavar="UNIT", help="A unit's key, its beginning, or a model: NAME, NAME@VERSION, REGISTRY/NAME."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show why a unit ran, was cached, waits, cannot be done or failed; of a model, all its units."""
    from orchestrator.api import open_fleet

    found = open_fleet(fleet).explain(asked)
    if as_json:
        print_json([asdict(one) for one in found])
    elif len(found) == 1:
        _show_one(found[0])
    else:
        _show_all(found)


def _show_all(found: tuple[Explanation, ...]) -> None:
    from orchestrator.wording import plain

    table = Table(box=None, pad_edge=False)
    for column in ("unit", "task", "model", "recipes", "state", "why", "failed tries"):
        table.add_column(column, overflow="fold")
    for one in found:
        cells = (
            one.unit["unit_key"][:KEY_SHOWN],
            one.unit["task"],
            plain(one.unit["model"]),
            ", ".join(one.recipes),
            one.unit["state"],
            plain(one.unit["why"], 200),
            len(one.attempts),
        )
        table.add_row(*(escape(str(cell)) for cell in cells))
    out.print(table)


def _show_one(one: Explanation) -> None:
    from orchestrator.wording import duration, plain, size

    def line(name: str, text: object) -> None:
        out.print(f"{name:<10} {plain(text, 2000)}", markup=False, highlight=False)

    line("unit", one.unit["unit_key"])
    line(
        "is",
        f"{one.unit['task']} of {one.unit['model']}, part {one.unit['part']}, for {', '.join(one.recipes)}",
    )
    line("state", f"{one.unit['state']}: {one.unit['why']}")
    line(
        "should",
        f"take {duration(one.unit['predicted_seconds'])} and {size(one.unit['predicted_memory_bytes'])}",
    )
    if one.result:
        row = one.result
        line(
            "took",
            f"{duration(row['wall_seconds'] or 0.0)} and {size(row['peak_memory_bytes'] or 0)} in pool {row['pool']} on {row['node']}",
        )
        line(
            "made by",
            f"run {row['run_id']}, attempt {row['attempt']}, at {row['finished_at']}, code {row['code_version']}",
        )
    if one.nearest:
        line("nearest", f"{one.nearest.unit_key[:KEY_SHOWN]} of run {one.nearest.run_id}, which differs:")
        for difference in one.nearest.differences:
            line("", difference)
    for name, others in (("reads", one.needs), ("read by", one.readers)):
        for other in others:
            line(name, f"{other['unit_key'][:KEY_SHOWN]} {other['task']}: {other['state']}")
    for attempt in one.attempts:
        where = f" ({attempt['file']}:{attempt['line']})" if attempt["file"] else ""
        line(
            "failed",
            f"{attempt['failure_class']}: {attempt['error']}{where}; run {attempt['run_id']}, attempt {attempt['attempt']}, on {attempt['node'] or 'an unknown node'}",
        )
    for finding in one.findings:
        line("finding", f"{finding['kind']}: {finding['subject']}: {finding['message']}")
    line("made of", json.dumps(one.made_of, ensure_ascii=False, default=str))
