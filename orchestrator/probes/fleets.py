"""Effects. What a fleet names, beside its store: registries that can be read or written, and files of data."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.datafiles import find_data
from orchestrator.domain import ModelVersion
from orchestrator.errors import NotPermitted, RegistryError, Unreachable
from orchestrator.ports import ObjectStore
from orchestrator.probes.checks import Check, State
from orchestrator.registries.opening import open_outlet
from orchestrator.scanning import scan_registry, wanted_registries
from orchestrator.spec import Fleet
from orchestrator.specs.registries import RegistrySpec
from orchestrator.wording import count, plain, size

_SHOWN = 3


def check_registries(fleet: Fleet, store: ObjectStore, at: float) -> Iterator[Check]:
    """One line a registry: what is in it; and whether the one that is published to can be written."""
    for name, spec in fleet.registries.items():
        yield _registry(fleet, name, store, at)
        if any(recipe.publish and recipe.publish.registry == name for recipe in fleet.recipes.values()):
            yield _target(name, spec)


def check_datasets(fleet: Fleet) -> Iterator[Check]:
    """One line for each dataset that some recipe reads."""
    for name, file in find_data(fleet).items():
        area = f"dataset {name}"
        if file.problem:
            follows = "Nothing of the recipes that read it is planned."
            yield Check(area=area, name="file", state=State.BROKEN, seen=file.problem, follows=follows)
        else:
            kind = fleet.datasets[name].kind
            seen = f"{kind}, {size(file.bytes)}, SHA-256 {file.digest[:12]}…"
            yield Check(area=area, name="file", state=State.OK, seen=seen)


def _registry(fleet: Fleet, name: str, store: ObjectStore, at: float) -> Check:
    area, warnings = f"registry {name}", list[str]()
    try:
        versions = scan_registry(fleet, name, store, at, warnings)
    except (RegistryError, NotPermitted, Unreachable) as error:
        is_used = name in wanted_registries(fleet)
        state = State.DENIED if isinstance(error, NotPermitted) else State.UNREACHABLE
        return Check(
            area=area,
            name="scan",
            state=state if is_used else State.WARNING,
            seen=str(error),
            follows="None of its models is planned." if is_used else "No recipe reads it.",
            advice=f"Correct registries.{name}, or bring it back.",
        )
    broken = [version for version in versions if version.problem]
    seen = f"{count(len(versions), 'version')} of {count(len({one.name for one in versions}), 'model')}"
    if broken:
        return Check(
            area=area,
            name="scan",
            state=State.WARNING,
            seen=f"{seen}, of which {len(broken)} are broken: {_first(broken)}",
            follows="What is broken is left out of every plan, and the run says so.",
            advice="Repair or remove these versions.",
        )
    is_target = any(recipe.publish and recipe.publish.registry == name for recipe in fleet.recipes.values())
    if not versions and name in wanted_registries(fleet) and not is_target:
        return Check(
            area=area,
            name="scan",
            state=State.WARNING,
            seen="it answers, and has no versions",
            follows="Nothing of it is planned.",
            advice=f"See whether registries.{name} names the right place, and what its `select` leaves out.",
        )
    if warnings:
        return Check(area=area, name="scan", state=State.WARNING, seen=f"{seen}; {'; '.join(warnings)}")
    return Check(area=area, name="scan", state=State.OK, seen=seen)


def _first(broken: list[ModelVersion]) -> str:
    told = [f"{plain(one.name)}@{plain(one.version)}: {plain(one.problem, 200)}" for one in broken[:_SHOWN]]
    return "; ".join(told) + (f"; and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else "")


def _target(name: str, spec: RegistrySpec) -> Check:
    """Whether this user may publish there."""
    area = f"registry {name}"
    try:
        return Check(area=area, name="publish", state=State.OK, seen=open_outlet(name, spec).probe())
    except (RegistryError, NotPermitted, Unreachable) as error:
        return Check(
            area=area,
            name="publish",
            state=State.DENIED if isinstance(error, NotPermitted) else State.UNREACHABLE,
            seen=str(error),
            follows="What passes its gates is not published.",
            advice=f"Give this user the right to write there, or correct registries.{name}.",
        )
