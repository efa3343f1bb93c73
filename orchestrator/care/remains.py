"""Effects. What nights and proposals leave in a store, as things that could be garbage, and which of them something needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.care.garbage import Kind, Thing, thing_of
from orchestrator.errors import Damaged, NoStableBytes, NotFound
from orchestrator.names import is_sha256
from orchestrator.nights import nightrecords
from orchestrator.ports import ObjectStore, Stat
from orchestrator.promotion import approvals
from orchestrator.promotion.approvals import Proposal
from orchestrator.promotion.promoting import PREFIX as PROPOSALS
from orchestrator.spec import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """All proposals in a store."""

    known: Mapping[str, Proposal]
    """By id; only those that say what their name says."""
    unreadable: tuple[str, ...]
    """Keys of the others."""


def nights(store: ObjectStore) -> tuple[tuple[Thing, ...], frozenset[str]]:
    """What each night left beside its record, and the names of the nights of which that is needed.

    Needed are the last night of each fleet, the one with which the next is compared, and those that are not over and may be.
    """
    parts = [part for part in nightrecords.all_of(store) if part.slot]
    closed = {part.night for part in parts if part.what == "closed"}
    stands = {part.night for part in parts if part.name == nightrecords.STANDING}
    last, compared = dict(sorted(closed)), dict(sorted(closed & stands))
    left: dict[tuple[str, str], list[Stat]] = {}
    for part in parts:
        if part.what != "closed":
            left.setdefault(part.night, []).append(part.stat)
    things = tuple(
        thing_of(Kind.NIGHT if night in closed else Kind.HALF_NIGHT, "/".join(night), objects)
        for night, objects in sorted(left.items())
    )
    needed = {
        "/".join((fleet, slot))
        for fleet, slot in left
        if slot >= last.get(fleet, "") or slot == compared.get(fleet)
    }
    return things, frozenset(needed)


def proposals(store: ObjectStore) -> Iterator[Thing]:
    """Every proposal with its approvals, and approvals whose proposal is gone."""
    found: dict[str, list[Stat]] = {}
    for stat in store.list(PROPOSALS):
        found.setdefault(stat.key.removeprefix(PROPOSALS).partition("/")[0], []).append(stat)
    for name, objects in found.items():
        if is_sha256(name):
            yield thing_of(Kind.PROPOSAL, name, objects)


def proposed(store: ObjectStore) -> Proposed:
    """Reads every proposal."""
    known, unreadable = {}, []
    for stat in store.list(PROPOSALS):
        name, _, rest = stat.key.removeprefix(PROPOSALS).partition("/")
        if rest != "proposal.json":
            continue
        try:
            proposal = approvals.proposal_of(json.loads(store.get(stat.key)))
            if proposal.id != name:
                raise ValueError("it does not say what its name says")
            known[name] = proposal
        except NotFound:
            continue
        except (ValueError, RecursionError, NoStableBytes, Damaged):
            unreadable.append(stat.key)
    return Proposed(known=known, unreadable=tuple(unreadable))


def proposals_needed(
    found: Proposed, moves: Sequence[Mapping[str, Any]], fleet: Fleet | None, at: float
) -> frozenset[str] | None:
    """Ids of the proposals that were carried out, or may be yet; None where no fleet says for how long they count.

    One that was carried out shows that its version was once approved, which a rollback asks for.
    """
    if fleet is None or fleet.promotion is None:
        return None
    made = {
        (row.get("registry"), row.get("model"), row.get("alias"), row.get("published_version"))
        for row in moves
    }
    rule = fleet.promotion
    return frozenset(
        name
        for name, one in found.known.items()
        if (one.registry, one.model, one.alias, one.version) in made
        or one.fleet != fleet.name
        or not approvals.too_old(one.proposed_at, rule, at)
    )
