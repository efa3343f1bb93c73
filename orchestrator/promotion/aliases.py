"""Effects. Moves the aliases of a registry, with a record of who, when, why and from what.

A move is announced in the store (intent), made in the registry (effect), then recorded. Whoever next moves that alias
finishes what a crash left in between, so that no move is without its record and no record without its move.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from orchestrator.errors import AliasMoved, BrokenInvariant, Damaged, NoSuchVersion, NotFound, RegistryError
from orchestrator.identity import canonical, digest
from orchestrator.names import problem_of_part, problem_of_path, shown
from orchestrator.ports import ObjectStore, Outlet
from orchestrator.promotion.aliasturn import turn
from orchestrator.promotion.publishing import Publication


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """An alias that is to point to a version, and where that version comes from; the columns of `promotions`."""

    registry: str
    """The name that the fleet gives to the registry in which the alias is."""
    model: str
    alias: str
    published_version: str
    at: float
    """Seconds since the epoch."""
    actor: str
    reason: str
    unit_key: str = ""
    """Of the verdict."""
    run_id: str = ""
    version: str = ""
    """Of the source model."""
    model_digest: str = ""
    """Of the source model."""
    recipe: str = ""
    artifact_digest: str = ""
    fleet: str = ""
    """Whose move it is."""


def move_to(publication: Publication, *, registry: str, alias: str, reason: str, fleet: str = "") -> Move:
    """The move that makes an alias point to what was just published."""
    return Move(
        registry=registry,
        model=publication.model.name,
        alias=alias,
        published_version=publication.version,
        at=publication.at,
        actor=publication.actor,
        reason=reason,
        unit_key=publication.verdict_key,
        run_id=publication.run_id,
        version=publication.model.version,
        model_digest=publication.model.digest,
        recipe=publication.recipe,
        artifact_digest=publication.artifact_digest,
        fleet=fleet,
    )


def read_aliases(outlet: Outlet, model: str) -> Mapping[str, str]:
    """Alias -> version of one model. Errors: RegistryError."""
    if why := problem_of_path(model):
        raise RegistryError(f"{shown(model)!r} cannot be the name of a model: {why}")
    return outlet.aliases(model)


def move_alias(
    store: ObjectStore, outlet: Outlet, move: Move, expected: tuple[str | None] | None = None
) -> dict[str, Any] | None:
    """Makes the alias point to the version; the row of `promotions` that records it, or None if it points there already.

    `expected`: the one version, or nothing, from which it may be moved.

    Errors: NoSuchVersion; AliasMoved; RegistryError, if the aliases cannot be read; those of the store.
    """
    if why := problem_of_part(move.alias):
        raise RegistryError(f"{shown(move.alias)!r} cannot be an alias: {why}")
    intent = f"promotions-begun/{digest([outlet.url, move.model, move.alias])}.json"
    with turn(store, outlet, move.model, move.alias) as ours, outlet.shelf(move.model, make=False) as shelf:
        aliases = shelf.aliases()
        _finish(store, intent, aliases.get(move.alias))
        if not shelf.has(move.published_version):
            raise NoSuchVersion(f"{move.model} in {outlet.url} has no version {move.published_version}")
        previous = aliases.get(move.alias)
        if previous == move.published_version:
            return None
        if expected is not None and previous != expected[0]:
            raise AliasMoved(
                f"{move.alias} of {move.model} points to {previous} by now, and not to {expected[0]}; look again"
            )
        ours.keep()
        at = ours.moved_at(move.at)
        row = {
            **asdict(move), "registry_url": outlet.url, "previous_version": previous, "at": _text(at),
        }  # fmt: skip
        store.put(intent, canonical(row))
        shelf.point(move.alias, move.published_version, previous)
        current = shelf.aliases().get(move.alias)
        _record(store, row)
        store.delete(intent)
    if current != move.published_version:
        raise AliasMoved(
            f"{move.alias} of {move.model} was moved to {move.published_version}, which is recorded, and right after by somebody "
            f"who records nothing here to {current}; look at it"
        )
    return {**row, "at": datetime.fromtimestamp(at, UTC)}


def _finish(store: ObjectStore, intent: str, current: str | None) -> None:
    """Records a move that was made and not recorded; forgets one that was announced and not made."""
    try:
        data = store.get(intent)
    except NotFound:
        return
    try:
        row = json.loads(data)
        is_made = row["published_version"] == current
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"{intent} is damaged: look at it and at the alias, then delete it") from error
    if is_made:
        _record(store, row)
    store.delete(intent)


def _record(store: ObjectStore, row: Mapping[str, Any]) -> None:
    """Creates the record; its key begins with the time, so that keys are in the order of the moves."""
    time = row["at"].translate(str.maketrans("", "", "-:+"))
    data = canonical(row)
    key = f"promotions/{time}-{digest(row)[:16]}.json"
    if not store.put_if_absent(key, data) and store.get(key) != data:
        raise BrokenInvariant(f"{key} records another move under the same digest")


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
