"""Pure. A plan beside the last run's: what is new, what changed and where, what is left over, what is gone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.domain import Chain, Plan, TaskName
from orchestrator.identity import digest
from orchestrator.reports.data import Row
from orchestrator.wording import count

COLUMNS = ("registry", "model", "version", "digest", "recipe", "tasks")
"""Of a chain as a run leaves it for the next plan."""
MOST_NAMES = 6


class Why(StrEnum):
    """Why there is work, or none any more, in the order in which it is told."""

    MODEL = "new model"
    VERSION = "new version"
    BYTES = "changed bytes"
    RECIPE = "new recipe"
    CHANGED = "changed recipe"
    LEFT = "left over"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    """One reason for work, or for less of it."""

    why: Why
    subject: str
    """A model version, or a recipe where all its models share the reason."""
    units: int
    """To do because of it."""
    detail: str


@dataclass(slots=True)
class _Group:
    units: set[str] = field(default_factory=set)
    names: dict[str, None] = field(default_factory=dict)
    tasks: set[str] = field(default_factory=set)


def chain_rows(plan: Plan) -> list[dict[str, Any]]:
    """What a run leaves of its plan: of each chain, a short digest of its units by task."""
    return [_row(plan, chain) for chain in plan.chains]


def _row(plan: Plan, chain: Chain) -> dict[str, Any]:
    keys: dict[str, list[str]] = defaultdict(list)
    for key in chain.units:
        keys[plan.units[key].task.value].append(key)
    model = chain.model
    return {
        "registry": model.registry,
        "model": model.name,
        "version": model.version,
        "digest": model.digest,
        "recipe": chain.recipe,
        "tasks": {task: digest(sorted(own))[:16] for task, own in keys.items()},
    }


def changes(before: Sequence[Row], plan: Plan) -> tuple[PlanChange, ...]:
    """Why each unit is to do that is to do, compared with the last plan's rows, and what that plan had beside it."""
    known = {_place(row): row for row in before}
    models = {(row["registry"], row["model"]) for row in before}
    versions = {(row["registry"], row["model"], row["version"]) for row in before}
    groups: dict[tuple[Why, str], _Group] = defaultdict(_Group)
    still = set()
    for chain in plan.chains:
        still.add((chain.model.registry, chain.model.name, chain.model.version, chain.recipe))
        todo = [key for key in chain.units if key not in plan.done]
        if not todo:
            continue
        row = _row(plan, chain)
        why = _why(row, known.get(_place(row)), models, versions)
        by_recipe = why in (Why.RECIPE, Why.CHANGED)
        group = groups[why, chain.recipe if by_recipe else chain.model.id]
        group.units.update(todo)
        group.names[chain.model.id if by_recipe else chain.recipe] = None
        if why is Why.CHANGED:
            group.tasks.update(_differing(row, known[_place(row)]))
    for place, was in known.items():
        if place not in still:
            subject = f"{was['registry']}/{was['model']}@{was['version']}"
            groups[Why.GONE, subject].names[str(was["recipe"])] = None
    order = {why: index for index, why in enumerate(Why)}
    found = [
        PlanChange(why=why, subject=subject, units=len(group.units), detail=_detail(why, group))
        for (why, subject), group in groups.items()
    ]
    return tuple(sorted(found, key=lambda change: (order[change.why], change.subject)))


def _differing(row: Row, was: Row) -> list[str]:
    return [task for task, own in row["tasks"].items() if was["tasks"].get(task) != own]


def _why(row: Row, was: Row | None, models: set[Any], versions: set[Any]) -> Why:
    if was is None:
        if (row["registry"], row["model"]) not in models:
            return Why.MODEL
        is_known = (row["registry"], row["model"], row["version"]) in versions
        return Why.RECIPE if is_known else Why.VERSION
    if was["digest"] != row["digest"]:
        return Why.BYTES
    return Why.LEFT if was["tasks"] == row["tasks"] else Why.CHANGED


def _detail(why: Why, group: _Group) -> str:
    named = _listed(group.names)
    if why is Why.CHANGED:
        first = next(task.value for task in TaskName if task.value in group.tasks)
        return f"from {first} on: its parameters, data or code are others; {named}"
    return named


def _listed(names: Iterable[str]) -> str:
    all_names = list(names)
    more = len(all_names) - MOST_NAMES
    return ", ".join(all_names[:MOST_NAMES]) + (
        f" and {count(more, 'more').removesuffix('s')}" if more > 0 else ""
    )


def _place(row: Row) -> tuple[Any, ...]:
    return row["registry"], row["model"], row["version"], row["recipe"]
