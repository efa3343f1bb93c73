"""Effects. Puts artifacts that passed into a registry: each a version, complete or absent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.artifacts import artifact_files, differences, download_artifact
from orchestrator.domain import Judgement, ModelVersion
from orchestrator.errors import Damaged
from orchestrator.names import natural
from orchestrator.ports import ObjectStore, Outlet


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An artifact that passed its gates and claims an alias of its model."""

    version: str
    """Of the source model."""
    recipe: str
    artifact_digest: str
    nonzero_parameters: int
    drop: float
    """How much worse than the dense model; in the unit of the recipe's gate."""
    judgement: Judgement = Judgement.PASS
    """Inconclusive only where the recipe's gates allow it; what passed comes first."""
    measured: Mapping[str, str] = field(default_factory=dict)
    """What was measured, in words for the registry's readers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """An artifact that is now a version in a registry."""

    model: ModelVersion
    """The source."""
    version: str
    """Its name in the registry."""
    recipe: str
    artifact_digest: str
    verdict_key: str
    at: float
    actor: str
    run_id: str
    is_new: bool


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The one of several that gets the alias: newest source, passed before not known, fewest nonzero parameters, smallest drop, recipe's name."""
    newest = max((candidate.version for candidate in candidates), key=natural)
    return min(
        (candidate for candidate in candidates if candidate.version == newest),
        key=lambda one: (
            one.judgement is not Judgement.PASS,
            one.nonzero_parameters,
            math.inf if math.isnan(one.drop) else one.drop,
            one.recipe,
            one.artifact_digest,
        ),
    )


def published_version(source_version: str, recipe: str, artifact_digest: str) -> str:
    """What an artifact is published as: its version where the registry lets versions be named, else its label."""
    return f"{source_version}-{recipe}-{artifact_digest[:12]}"


def publish(
    store: ObjectStore,
    outlet: Outlet,
    *,
    model: ModelVersion,
    recipe: str,
    artifact_digest: str,
    verdict_key: str,
    at: float,
    actor: str,
    run_id: str,
    measured: Mapping[str, str] | None = None,
    seal: Callable[[Path], None] | None = None,
) -> Publication:
    """Makes an artifact a version of its model in the registry; nothing happens if it is one already.

    `seal` adds to a directory what is to stand beside the artifact's files and what the registry adds: provenance and signature.

    Errors: Damaged, if the artifact or the version that is there is not what it should be; RegistryError; NotFound.
    """
    label = published_version(model.version, recipe, artifact_digest)
    files = artifact_files(store, artifact_digest)
    lineage = {
        "source": model.id,
        "model": model.name,
        "version": model.version,
        "source_digest": model.digest,
        "recipe": recipe,
        "artifact_digest": artifact_digest,
        "verdict": verdict_key,
        "run": run_id,
        "actor": actor,
        **{f"measured.{name}": value for name, value in (measured or {}).items()},
    }

    def fill(into: Path) -> None:
        download_artifact(store, artifact_digest, into)

    with outlet.shelf(model.name, make=True) as shelf:
        there = shelf.find(label)
        version = there or shelf.place(label, fill, lineage, seal)
        if there:
            with outlet.opened(model.name, there) as directory:
                lines = differences(directory, files, outlet.adds)
            if lines:
                raise Damaged(
                    f"{model.name}@{there} in {outlet.url} is not the artifact {artifact_digest}: "
                    f"{'; '.join(lines[:5])}. Remove that version; the next run publishes it again."
                )
    return Publication(
        model=model,
        version=version,
        recipe=recipe,
        artifact_digest=artifact_digest,
        verdict_key=verdict_key,
        at=at,
        actor=actor,
        run_id=run_id,
        is_new=not there,
    )
