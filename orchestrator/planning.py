"""Pure. A fleet, a catalog and what is done -> the plan: what is left, and why for everything that cannot be."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from orchestrator.domain import Catalog, Chain, DataRef, Impossible, ModelVersion, Plan, Step, TaskName, Unit
from orchestrator.gate.looks import looks_at
from orchestrator.identity import digest
from orchestrator.spec import DatasetSpec, Fleet, LatencySpec, Match, RecipeSpec
from orchestrator.specs.prune import PruneSpec
from tasks.contract import TASK_VERSIONS

VERSIONS: Mapping[str, int] = {**TASK_VERSIONS, "judge": 4}

DEFAULT_SLICES = ("label", "confidence", "length")
"""What a recipe that names no slices is judged by; see `default_slices`. Part of the judge's key."""
BY_ROW = ("wanda", "activation", "variance")
"""Criteria whose scores tell inputs of the same output apart, and no outputs."""
PARAMETERS_PER_SENSITIVITY_UNIT = (
    20_000_000  # a unit of this size is minutes on a CPU, so a lost one costs little
)
MAX_SENSITIVITY_UNITS = 64
MADE_BY_US = (
    "prunefleet"  # a version with this tag is an artifact: compressing it again must be asked for elsewhere
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A dataset's file as found on disk; `problem` says why it cannot be used."""

    path: str
    digest: str
    bytes: int
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """The steps of one recipe, before it meets a model."""

    sensitivity: Step | None
    prune: Step | None
    evaluate: Step | None
    latency: Step | None
    judge: Step | None


def build_plan(
    fleet: Fleet,
    catalog: Catalog,
    completed: frozenset[str],
    data: Mapping[str, DataFile],
    quarantined: Mapping[str, str],
) -> Plan:
    """The set difference `wanted - done`, with its order.

    `completed`: unit keys that have a result. `data`: dataset name -> its file. `quarantined`: unit key -> reason.
    """
    units: dict[str, Unit] = {}
    chains: list[Chain] = []
    impossible: list[Impossible] = _broken(fleet, catalog)
    for name, recipe in fleet.recipes.items():
        problems = sorted(
            {f"dataset {d}: {data[d].problem}" for d in _datasets_of(recipe) if data[d].problem}
        )
        if problems:
            impossible.append(Impossible(subject=f"recipe {name}", recipe=name, reason="; ".join(problems)))
            continue
        matched = [model for model in catalog.versions if _matches(recipe.match, model)]
        if not matched:
            impossible.append(
                Impossible(subject=f"recipe {name}", recipe=name, reason=_nothing_matched(recipe, catalog))
            )
            continue
        steps = _steps_of(recipe, fleet, data)
        looks = looks_at(matched) if recipe.gates and recipe.gates.spending == "by_version" else {}
        for model in matched:
            if not model.problem:
                own = _at_look(steps, looks[model.id]) if looks else steps
                chains.append(_add_chain(units, name, recipe, own, model))
    done = frozenset(key for key in units if key in completed)
    held_back = _held_back(units, quarantined, done)
    return Plan(
        fleet=fleet.name,
        units=units,
        done=done,
        todo=tuple(key for key in units if key not in done and key not in held_back),
        impossible=tuple(impossible),
        quarantined={key: reason for key, reason in quarantined.items() if key in units and key not in done},
        chains=tuple(chains),
    )


def _at_look(steps: _Steps, look: int) -> _Steps:
    """The steps with a judge that spends what this look has of the error."""
    if steps.judge is None:
        return steps
    params = {**steps.judge.params, "gates": {**steps.judge.params["gates"], "look": look}}
    return replace(steps, judge=_step(TaskName.JUDGE, params, None, steps.judge.seed))


def unit_key(
    step: Step, model_digest: str, needs: tuple[str, ...] = (), part: int = 0, parts: int = 1
) -> str:
    """The name of a unit of work: the digest of everything its result depends on, and of nothing else."""
    text = "|".join(("unit", "1", step.digest, model_digest, f"{part}/{parts}", ",".join(needs)))
    return hashlib.sha256(text.encode()).hexdigest()


def sensitivity_units(model: ModelVersion, asked: int | None) -> int:
    """Into how many units a model's sensitivity analysis is divided: by its size only, so that keys are stable."""
    if asked is not None:
        return asked
    return max(1, min(MAX_SENSITIVITY_UNITS, ceil(model.parameters / PARAMETERS_PER_SENSITIVITY_UNIT)))


def dependents(units: Mapping[str, Unit]) -> dict[str, list[str]]:
    """Unit key -> the units that read its result."""
    readers: dict[str, list[str]] = {}
    for key, unit in units.items():
        for need in unit.needs:
            readers.setdefault(need, []).append(key)
    return readers


def datasets_wanted(fleet: Fleet) -> tuple[str, ...]:
    """Names of the datasets that some recipe reads."""
    return tuple(sorted({name for recipe in fleet.recipes.values() for name in _datasets_of(recipe)}))


def _held_back(units: Mapping[str, Unit], quarantined: Mapping[str, str], done: Container[str]) -> set[str]:
    """What is quarantined or needs such a unit; a result, however late it came, outweighs a quarantine."""
    if not quarantined:
        return set()
    held: set[str] = set()
    for key, unit in units.items():
        if key not in done and (key in quarantined or not held.isdisjoint(unit.needs)):
            held.add(key)
    return held


def _datasets_of(recipe: RecipeSpec) -> set[str]:
    names = (
        recipe.sensitivity.dataset if recipe.sensitivity else None,
        recipe.prune.dataset if recipe.prune else None,
        recipe.evaluate.dataset if recipe.evaluate else None,
    )
    return {name for name in names if name}


def _matches(match: Match, model: ModelVersion) -> bool:
    return (
        MADE_BY_US not in model.tags
        and fnmatch.fnmatchcase(model.registry, match.registry)
        and fnmatch.fnmatchcase(model.name, match.name)
        and fnmatch.fnmatchcase(model.version, match.version)
        and (fnmatch.fnmatchcase(model.architecture, match.architecture) or _broken_beyond_knowing(model))
    )


def _broken_beyond_knowing(model: ModelVersion) -> bool:
    return bool(model.problem) and not model.architecture


def _broken(fleet: Fleet, catalog: Catalog) -> list[Impossible]:
    found = []
    for model in catalog.versions:
        if model.problem:
            wanting = [name for name, recipe in fleet.recipes.items() if _matches(recipe.match, model)]
            if wanting:
                found.append(Impossible(subject=model.id, recipe=", ".join(wanting), reason=model.problem))
    return found


def _nothing_matched(recipe: RecipeSpec, catalog: Catalog) -> str:
    asked = (
        ", ".join(f"{key}: {value}" for key, value in recipe.match.model_dump().items() if value != "*")
        or "everything"
    )
    seen = sorted(
        {
            model.architecture
            for model in catalog.versions
            if model.architecture and MADE_BY_US not in model.tags
        }
    )
    there = f"the architectures there are {', '.join(seen[:12])}" if seen else "there are none at all"
    return f"it matches none of the {len(catalog.versions)} model versions found ({asked}); {there}"


def _data_ref(
    name: str, spec: DatasetSpec, file: DataFile, split: str, samples: int | None, slices: tuple[str, ...]
) -> DataRef:
    return DataRef(
        name=name, path=file.path, digest=file.digest, bytes=file.bytes, kind=spec.kind, split=split,
        slices=slices, shape=spec.shape, samples=samples,
    )  # fmt: skip


def _step(task: TaskName, params: Mapping[str, Any], data: DataRef | None, seed: int) -> Step:
    identity = {
        "task": task.value,
        "version": VERSIONS[task.value],
        "params": params,
        "seed": seed,
        "data": None
        if data is None
        else [data.digest, data.kind, data.split, list(data.slices), list(data.shape), data.samples],
    }
    return Step(task=task, params=params, data=data, seed=seed, digest=digest(identity))


def _steps_of(recipe: RecipeSpec, fleet: Fleet, data: Mapping[str, DataFile]) -> _Steps:
    def ref(name: str, split: str, samples: int | None, slices: tuple[str, ...] = ()) -> DataRef:
        return _data_ref(name, fleet.datasets[name], data[name], split, samples, slices)

    sensitivity = prune = evaluate = latency = judge = None
    if recipe.sensitivity and recipe.prune:
        asked = recipe.sensitivity
        calibration = ref(asked.dataset, asked.split, asked.samples)
        what = _cut_kinds(recipe.prune) if recipe.prune.cut else _mask_params(recipe.prune)
        params = {**what, "grid": list(asked.grid), "metric": asked.metric}
        sensitivity = _step(TaskName.SENSITIVITY, params, calibration, recipe.seed)
    if recipe.prune:
        calibration_data = _calibration_of(recipe, ref)
        prune = _step(TaskName.PRUNE, _prune_params(recipe, recipe.prune), calibration_data, recipe.seed)
    if recipe.evaluate:
        asked_slices = recipe.evaluate.slices
        dataset = fleet.datasets[recipe.evaluate.dataset]
        slices = dataset.slices if asked_slices is None else asked_slices
        cluster = (dataset.cluster_by,) if dataset.cluster_by else ()
        columns = tuple(dict.fromkeys((*slices, *cluster)))
        examples = ref(recipe.evaluate.dataset, recipe.evaluate.split, recipe.evaluate.samples, columns)
        by_default = asked_slices is None and not slices
        seen = {
            "fidelity": recipe.evaluate.metric == "fidelity",
            "lengths": by_default and examples.kind == "text",
        }
        evaluate = _step(TaskName.EVALUATE, {name: True for name, on in seen.items() if on}, examples, 0)
        if recipe.evaluate.latency:
            timed = ref(recipe.evaluate.dataset, recipe.evaluate.split, recipe.evaluate.samples)
            latency = _step(TaskName.LATENCY, recipe.evaluate.latency.model_dump(), timed, 0)
        if recipe.prune:
            gates = recipe.gates.model_dump(exclude={"inconclusive", "spending"}) if recipe.gates else None
            params = {
                "metric": recipe.evaluate.metric,
                "dataset": recipe.evaluate.dataset,
                "slices": list(slices),
                "gates": gates,
            }
            if by_default:
                params["default_slices"] = list(DEFAULT_SLICES)
            if dataset.cluster_by:
                params["cluster"] = dataset.cluster_by
            judge = _step(TaskName.JUDGE, params, None, recipe.seed)
    return _Steps(sensitivity=sensitivity, prune=prune, evaluate=evaluate, latency=latency, judge=judge)


def _prune_params(recipe: RecipeSpec, prune: PruneSpec) -> dict[str, Any]:
    if prune.cut is not None:
        timing = (recipe.evaluate.latency if recipe.evaluate else None) or LatencySpec()
        return {
            "criterion": prune.criterion,
            "cut": prune.cut.shares,
            "round_to": prune.round_to,
            **({"allocation": prune.allocation} if prune.is_measured else {}),
            **prune.extras,
            **({"timing": timing.model_dump()} if prune.has_latency_budget else {}),
        }
    return {
        **_mask_params(prune),
        "amount": prune.share,
        "allocation": prune.allocation,
        "max_amount": 1.0 if prune.is_even else prune.max_amount,
        **({"min_amount": prune.min_amount} if prune.min_amount else {}),
        **prune.extras,
    }


def _cut_kinds(prune: PruneSpec) -> dict[str, Any]:
    """What is tried of a cut does not depend on how much of it the recipe takes."""
    assert prune.cut is not None
    return {"criterion": prune.criterion, "cut": list(prune.cut.shares), "round_to": prune.round_to}


def _mask_params(prune: PruneSpec) -> dict[str, Any]:
    scope = prune.scope or ("row" if prune.criterion in BY_ROW else "tensor")
    return {
        "criterion": prune.criterion,
        "pattern": prune.pattern,
        "scope": None if prune.is_n_of_m else scope,
        "skip": list(prune.skip),
        **({"min_tokens": prune.min_tokens} if prune.min_tokens > 1 else {}),
    }


def _calibration_of(recipe: RecipeSpec, ref: Any) -> DataRef | None:
    """A criterion that looks at weights alone gets no data, so that other data does not make another unit."""
    assert recipe.prune
    if not recipe.prune.needs_data:
        return None
    shared = recipe.sensitivity
    name = recipe.prune.dataset or (shared.dataset if shared else None)
    assert name, "the spec has checked that calibration data is there"
    own_data = recipe.prune.dataset is not None
    split = recipe.prune.split or (shared.split if shared and not own_data else "all")
    samples = recipe.prune.samples or (shared.samples if shared and not own_data else None)
    found: DataRef = ref(name, split, samples)
    return found


def _add_chain(
    units: dict[str, Unit], name: str, recipe: RecipeSpec, steps: _Steps, model: ModelVersion
) -> Chain:
    wanted: list[str] = []

    def add(step: Step, needs: tuple[str, ...] = (), part: int = 0, parts: int = 1) -> str:
        key = unit_key(step, model.digest, needs, part, parts)
        wanted.append(key)
        if key not in units:
            units[key] = Unit(
                key=key, step=step, model=model, recipe=name, needs=needs, part=part, parts=parts
            )
        return key

    measured: tuple[str, ...] = ()
    prune = dense = pruned = latency = judge = ""
    if steps.sensitivity:
        parts = sensitivity_units(model, recipe.sensitivity.units if recipe.sensitivity else None)
        measured = tuple(add(steps.sensitivity, part=part, parts=parts) for part in range(parts))
    if steps.prune:
        is_measured = steps.prune.params.get("allocation") in ("sensitivity", "knapsack")
        reads = measured if is_measured else ()
        prune = add(steps.prune, needs=reads)
    if steps.evaluate:
        dense = add(steps.evaluate)
        if prune:
            pruned = add(steps.evaluate, needs=(prune,))
    if steps.latency:
        latency = add(steps.latency, needs=(prune,))
    if steps.judge:
        judge = add(steps.judge, needs=(dense, pruned))
    return Chain(
        recipe=name, model=model, units=tuple(wanted), prune=prune, dense=dense, pruned=pruned, judge=judge,
        latency=latency,
    )  # fmt: skip
