"""Effects. The commands `promote`, `rollback` and `history`: aliases, moved with a record of who, when, why and from what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from orchestrator.commands.console import AsJson, FleetFile, out, print_json, say, survey_of
from orchestrator.errors import UsageError

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name in the registry.")]
Alias = Annotated[str, typer.Option("--alias", help="The alias that is to move.")]
RegistryOption = Annotated[
    str | None,
    typer.Option("--registry", help="In which registry; default: the one that recipes publish to."),
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the record.")]
Actor = Annotated[
    str | None, typer.Option("--actor", envvar="PRUNEFLEET_ACTOR", help="Who; default: the user's name.")
]


def promote(
    fleet: FleetFile,
    model: Model,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="A published version, or an alias of it.")
    ],
    alias: Alias,
    reason: Reason = "",
    propose: Annotated[bool, typer.Option("--propose", help="Propose it to others, and approve it.")] = False,
    approve: Annotated[
        bool,
        typer.Option(
            "--approve", help="Approve what somebody proposed; the last approval that is needed moves."
        ),
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            exists=True,
            dir_okay=False,
            help="The PEM file of your Ed25519 private key, to sign an approval.",
        ),
    ] = None,
    registry: RegistryOption = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Move an alias to a version that passed its gates, after a look at its very bytes.

    Exit code 3: its gates blocked it; 5: they could not tell; 77: approvals are missing.
    """
    from orchestrator.errors import NotPermitted
    from orchestrator.promotion import promoting
    from orchestrator.promotion.claims import claim_of
    from orchestrator.promotion.offices import office_of

    if propose and approve:
        raise UsageError("--propose and --approve exclude each other: two people are asked for")
    if not approve and not reason:
        raise UsageError("say why, with --reason")
    seen = survey_of(fleet)
    office = office_of(seen.fleet, seen.store, registry, actor)
    claim = claim_of(seen, office.outlet, model, version)
    private = key.read_bytes() if key else None
    if propose or approve:
        step = (
            promoting.propose(office, claim, alias, reason, private)
            if propose
            else promoting.approve(office, claim, alias, private)
        )
        say(
            f"{'proposed' if propose else 'approved'}: {alias} of {model} to {claim.version} (proposal {step.id[:12]})"
        )
    try:
        row = promoting.promote(office, claim, alias, reason)
    except NotPermitted as error:
        if not (propose or approve):
            raise
        say(f"not moved yet: {error}")
        raise typer.Exit(0) from None
    _show_move(row, model, alias, as_json=as_json)


def rollback(
    fleet: FleetFile,
    model: Model,
    alias: Alias,
    to: Annotated[str | None, typer.Option("--to", help="To which version; default: the one before.")] = None,
    reason: Reason = "",
    registry: RegistryOption = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Move an alias back to a version that it pointed to before."""
    from orchestrator.api import open_fleet

    if not reason:
        raise UsageError("say why, with --reason")
    row = open_fleet(fleet).rollback(model, alias=alias, reason=reason, to=to, registry=registry, actor=actor)
    _show_move(row, model, alias, as_json=as_json)


def history(
    fleet: FleetFile,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only of this model.")] = None,
    alias: Annotated[str | None, typer.Option("--alias", help="Only of this alias.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show every move that this fleet made of an alias: when, from what to what, by whom, why."""
    from orchestrator.api import open_fleet
    from orchestrator.wording import moment, plain

    rows = open_fleet(fleet).history(model, alias)
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("no alias was moved yet")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("at", "model", "alias", "from", "to", "by", "why"):
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = (
            moment(row["at"]), f"{row['registry']}/{row['model']}", row["alias"], row["previous_version"] or "",
            row["published_version"], row["actor"], row["reason"],
        )  # fmt: skip
        table.add_row(*(escape(plain(cell, 200)) for cell in cells))
    out.print(table)


def _show_move(row: dict[str, Any] | None, model: str, alias: str, *, as_json: bool) -> None:
    from orchestrator.wording import plain

    if as_json:
        print_json({"moved": row is not None, "row": row})
    elif row is None:
        say(f"{alias} of {plain(model)} points there already")
    else:
        before = f" from {plain(row['previous_version'])}" if row["previous_version"] else ""
        say(f"moved: {alias} of {plain(model)}{before} to {plain(row['published_version'])}", style="green")
