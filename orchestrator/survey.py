"""Effects. Reads the world once - registries, datasets, store - into one frozen value from which everything is decided."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from orchestrator import quarantine, underway
from orchestrator.datafiles import find_data
from orchestrator.domain import Catalog, Plan, Pool
from orchestrator.errors import NotFound, SpecError
from orchestrator.planning import build_plan
from orchestrator.ports import ObjectStore
from orchestrator.scanning import scan
from orchestrator.schedule import fairness, tonight
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.placement import Placement, place, pools_of, pools_on
from orchestrator.schedule.tonight import Tonight
from orchestrator.spec import Fleet, load_fleet
from orchestrator.stores.opening import open_store
from orchestrator.wording import count

COSTS_KEY = "catalog/costs.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """All that one plan was made from, and the plan."""

    fleet: Fleet
    fleet_text: str
    store: ObjectStore
    catalog: Catalog
    warnings: tuple[str, ...]
    costs: Costs
    pools: Mapping[str, Pool]
    plan: Plan
    placement: Placement
    suspects: frozenset[str]
    """Units to do that were under way when another run ended without a word, or are so in one that goes on."""
    tonight: Tonight
    """What the hours suffice for."""

    def placed_on(self, largest_nodes: Mapping[str, int]) -> Survey:
        """The same, placed anew on a cluster whose largest nodes have so much memory."""
        pools = pools_on(self.pools, largest_nodes)
        if pools == self.pools:
            return self
        return replace(self, pools=pools, placement=place(self.plan, pools, self.costs))


def read_fleet(path: Path) -> tuple[Fleet, str]:
    """The fleet file, checked, and its text. Errors: SpecError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file; `prunefleet init` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    return load_fleet(text, str(path), PurePosixPath(path.resolve().parent)), text


def survey(
    fleet: Fleet, fleet_text: str, at: float, *, retry_quarantined: bool = False, own_run: str = ""
) -> Survey:
    """Scans, lists what is done, and plans; what runs in `own_run` is no suspect. Errors: StoreError, RegistryError, Unreachable, NotPermitted."""
    from orchestrator.tables.listing import completed

    store = open_store(fleet.store)
    scanned = scan(fleet, store, at)
    data = find_data(fleet)
    done = completed(store)
    left = underway.left(store, own_run=own_run)
    held = quarantine.read(store)
    plan = build_plan(fleet, scanned.catalog, done, data, held)
    if retry_quarantined and plan.quarantined:
        quarantine.lift(store, plan.quarantined)
        plan = build_plan(fleet, scanned.catalog, done, data, {})
    plan = replace(plan, impossible=(*scanned.impossible, *plan.impossible))
    costs = read_costs(store)
    pools = pools_of(fleet)
    suspects = left.intersection(plan.todo)
    slots = sum(pool.slots for pool in pools.values())
    is_ordered = bool(fleet.teams) or fleet.spend != "longest"
    is_limited = tonight.hours_of(fleet) is not None
    turns = fairness.turns(plan, pools, costs, fleet.teams, fleet.spend) if is_ordered or is_limited else ()
    if is_ordered:
        plan = replace(plan, bands=fairness.bands_of(plan, turns, slots))
    return Survey(
        fleet=fleet,
        fleet_text=fleet_text,
        store=store,
        catalog=scanned.catalog,
        warnings=(*scanned.warnings, *_warning_of(suspects)),
        costs=costs,
        pools=pools,
        plan=plan,
        placement=place(plan, pools, costs),
        suspects=suspects,
        tonight=tonight.tonight(plan, turns, slots, fleet),
    )


def _warning_of(suspects: Collection[str]) -> tuple[str, ...]:
    if not suspects:
        return ()
    units = count(len(suspects), "unit")
    return (
        f"{units} under way in a run that ended without a word, or goes on: tried alone, after the others",
    )


def read_costs(store: ObjectStore) -> Costs:
    """What past runs taught about durations; nothing where there is none."""
    try:
        value = json.loads(store.get(COSTS_KEY))
    except (NotFound, ValueError):
        return Costs()
    return Costs.from_json(value) if isinstance(value, dict) else Costs()


def write_costs(store: ObjectStore, costs: Costs) -> None:
    """Keeps what this run taught."""
    store.put(COSTS_KEY, json.dumps(costs.to_json()).encode())
