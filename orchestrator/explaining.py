"""Pure. Why a unit is as it is: what its name is made of, what became of it, and what came nearest to it before."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.domain import Plan, Pool, Unit
from orchestrator.errors import UsageError
from orchestrator.planning import VERSIONS, dependents
from orchestrator.planview import state_of, unit_row
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.placement import Placement

SHORTEST_PREFIX = 4

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """The latest result of the same task on the same model under another name, and what tells the two apart."""

    unit_key: str
    run_id: str
    version: str
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that is known of one unit."""

    unit: Row
    """As in the plan: what it is, its state, why, and what it should take."""
    recipes: tuple[str, ...]
    """Those that want it."""
    made_of: Row
    """What its key is the digest of."""
    needs: tuple[Row, ...]
    readers: tuple[Row, ...]
    """The units whose results it reads and those that read its own: unit_key, task, state."""
    result: Row | None
    """Its row in `units`, if it is done."""
    attempts: tuple[Row, ...]
    """Its rows in `attempts`: every try that failed."""
    findings: tuple[Row, ...]
    nearest: Nearest | None
    """Only of a unit without a result: why an older one does not serve."""


def find_units(plan: Plan, asked: str) -> tuple[str, ...]:
    """The units that `asked` means: a unit key or the beginning of one, or a model: NAME, NAME@VERSION, REGISTRY/NAME@VERSION.

    Errors: UsageError, with what comes near.
    """
    if len(asked) >= SHORTEST_PREFIX and (keys := [key for key in plan.units if key.startswith(asked)]):
        return tuple(keys)
    if keys := [key for key, unit in plan.units.items() if asked in _names(unit)]:
        return tuple(keys)
    known = {name for unit in plan.units.values() for name in _names(unit)}
    close = difflib.get_close_matches(asked, sorted(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise UsageError(
        f"the fleet has no unit and no model {asked!r}; {hint}`prunefleet plan FLEET --units` lists the units; "
        f"of a key at least {SHORTEST_PREFIX} characters are needed"
    )


def explain(
    plan: Plan,
    placement: Placement,
    pools: Mapping[str, Pool],
    costs: Costs,
    key: str,
    *,
    units: Sequence[Row],
    attempts: Iterable[Row],
    findings: Iterable[Row],
) -> Explanation:
    """One unit of a plan, with the rows of the tables `units`, `attempts` and `findings` that are about it or its model."""
    unit = plan.units[key]
    result = next((row for row in units if row["unit_key"] == key), None)
    return Explanation(
        unit=unit_row(plan, placement, key, pools, costs),
        recipes=tuple(dict.fromkeys(chain.recipe for chain in plan.chains if key in chain.units)),
        made_of=made_of(unit),
        needs=tuple(_brief(plan, placement, need) for need in unit.needs),
        readers=tuple(_brief(plan, placement, reader) for reader in dependents(plan.units).get(key, ())),
        result=result,
        attempts=tuple(row for row in attempts if row["unit_key"] == key),
        findings=tuple(row for row in findings if row["unit_key"] == key),
        nearest=None if key in plan.done else nearest(unit, units),
    )


def made_of(unit: Unit) -> dict[str, Any]:
    """Everything that a unit's key is the digest of; two units that agree in it are one."""
    data = unit.step.data
    return {
        "task": unit.task.value,
        "task_version": VERSIONS[unit.task.value],
        "model_digest": unit.model.digest,
        "params": dict(unit.step.params),
        "seed": unit.step.seed,
        "data": None
        if data is None
        else {
            "digest": data.digest,
            "kind": data.kind,
            "split": data.split,
            "slices": list(data.slices),
            "shape": list(data.shape),
            "samples": data.samples,
        },
        "part": f"{unit.part + 1}/{unit.parts}",
        "reads": list(unit.needs),
    }


def nearest(unit: Unit, units: Iterable[Row]) -> Nearest | None:
    """Of the results of the same task on any version of the same model: the one with the fewest differences, the newest of several."""
    found = [
        (row, differences(unit, row))
        for row in units
        if row["task"] == unit.task.value
        and (row["registry"], row["model"]) == (unit.model.registry, unit.model.name)
        and row["unit_key"] != unit.key
    ]
    if not found:
        return None
    row, told = min(found, key=lambda one: (len(one[1]), -_seconds(one[0])))
    return Nearest(
        unit_key=row["unit_key"],
        run_id=row["run_id"],
        version=row["version"],
        differences=told or ("its data, what it reads of other units, or its part is another",),
    )


def differences(unit: Unit, row: Row) -> tuple[str, ...]:
    """What tells a unit from a row of `units`: `name: theirs, now ours`."""
    theirs = _read(row["params"])
    ours = dict(unit.step.params)
    told = [
        f"{name}: {_shown(theirs, name)}, now {_shown(ours, name)}"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    ]
    if row["model_digest"] != unit.model.digest:
        told.append(f"the model's bytes: those of version {row['version']}, now of {unit.model.version}")
    if (code := f"{unit.task.value}/{VERSIONS[unit.task.value]}") != row["code_version"]:
        told.append(f"the version of the task: {row['code_version']}, now {code}")
    if row["seed"] != unit.step.seed:
        told.append(f"seed: {row['seed']}, now {unit.step.seed}")
    return tuple(told)


def _names(unit: Unit) -> tuple[str, ...]:
    model = unit.model
    return model.name, f"{model.name}@{model.version}", f"{model.registry}/{model.name}", model.id


def _brief(plan: Plan, placement: Placement, key: str) -> Row:
    unit = plan.units[key]
    return {"unit_key": key, "task": unit.task.value, "state": state_of(plan, placement, key)[0]}


def _read(params: str | None) -> dict[str, Any]:
    value = json.loads(params) if params else {}
    return value if isinstance(value, dict) else {}


def _shown(params: Mapping[str, Any], name: str) -> str:
    return json.dumps(params[name], ensure_ascii=False) if name in params else "nothing"


def _seconds(row: Row) -> float:
    finished = row["finished_at"]
    return finished.timestamp() if finished else 0.0
