"""Pure. What an artifact was made of and how, as an in-toto statement with a SLSA provenance predicate (both v1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from orchestrator.domain import ModelVersion, Unit

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:prunefleet:compression:v1"
BUILDER = "urn:prunefleet:builder"
FILES_DIGEST = "prunefleetFiles"
"""A digest of several files: SHA-256 of their sorted names and SHA-256s. No `sha256` of in-toto, which is of one file's bytes."""


def statement(
    *,
    subjects: Mapping[str, str],
    model: ModelVersion,
    recipe: str,
    units: Sequence[Unit],
    run_id: str,
    at: float,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """The statement about an artifact's files (relative path -> SHA-256), made by these units; `versions` are the builder's."""
    data = {unit.step.data.digest: unit.step.data.name for unit in units if unit.step.data}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": path, "digest": {"sha256": digest}} for path, digest in sorted(subjects.items())
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "model": model.id,
                    "recipe": recipe,
                    "steps": [_step(unit) for unit in units],
                },
                "internalParameters": {"unitKeys": [unit.key for unit in units]},
                "resolvedDependencies": [
                    {"name": model.id, "digest": {FILES_DIGEST: model.digest}},
                    *({"name": name, "digest": {"sha256": digest}} for digest, name in sorted(data.items())),
                ],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": dict(versions)},
                "metadata": {"invocationId": run_id, "finishedOn": _text(at)},
            },
        },
    }


def _step(unit: Unit) -> dict[str, Any]:
    step = unit.step
    return {
        "task": unit.task.value,
        "params": step.params,
        "seed": step.seed,
        "part": unit.part,
        "parts": unit.parts,
    }


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
