"""Effects. Fixtures for what is built upon a store: the stores themselves, and units with results.

`any_store`     a new, empty store, twice: a directory, then a real S3 server (skipped where Ceph is missing)
`local_store`   a new, empty directory
`commit_units`  commit_units(store, range(n)): results of numbered units, every task in turn
`unit_key`, `provenance`, `tables_of`   what those results are made of
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.stores.local import LocalStore
from orchestrator.tables import results

KINDS = ("local", pytest.param("ceph", marks=pytest.mark.s3))


@pytest.fixture(params=KINDS)
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A new, empty store: a directory, then a real S3 server."""
    if request.param == "local":
        return LocalStore(tmp_path / "a store")
    return request.getfixturevalue("s3_store")("some/prefix")


@pytest.fixture
def local_store(tmp_path: Path) -> LocalStore:
    """A new, empty directory."""
    return LocalStore(tmp_path / "store")


@pytest.fixture(scope="session")
def unit_key() -> Callable[[int], str]:
    """The key of the n-th unit of these tests."""
    return lambda number: hashlib.sha256(f"unit {number}".encode()).hexdigest()


@pytest.fixture(scope="session")
def provenance(unit_key: Callable[[int], str]) -> Callable[..., dict[str, Any]]:
    """How the n-th unit came to be."""

    def make(number: int, task: str, **changes: Any) -> dict[str, Any]:
        return {
            "unit_key": unit_key(number),
            "run_id": "r1",
            "registry": "zoo",
            "model": f"model-{number % 3}",
            "version": "1",
            "model_digest": "d" * 64,
            "recipe": "half",
            "task": task,
            "params": "{}",
            "pool": "cpu",
            "node": "n1",
            "attempt": f"a{number}",
            "started_at": 1_700_000_000.5 + number,
            "finished_at": 1_700_000_002.0 + number,
            "wall_seconds": 1.5,
            "cpu_seconds": 1.25,
            "gpu_seconds": None,
            "peak_memory_bytes": 1 << 30,
            "predicted_seconds": 2.0,
            "model_bytes": 100,
            "parameters": 50,
            "code_version": "1",
            "seed": 0,
            **changes,
        }

    return make


@pytest.fixture(scope="session")
def tables_of() -> Callable[[int], tuple[str, Mapping[str, Any]]]:
    """Task and rows of the n-th unit: every task in turn."""

    def make(number: int) -> tuple[str, Mapping[str, Any]]:
        finding = [{"kind": "zero_effect", "subject": f"layer {number}", "message": "nothing changed"}]
        match number % 4:
            case 0:
                rows = [
                    {"layer": f"l{layer}", "amount": 0.5, "delta": number / 8 + layer} for layer in range(3)
                ]
                return "sensitivity", {"sensitivity": rows, "findings": finding}
            case 1:
                artifact = {"uri": f"artifacts/{number}", "digest": f"{number}", "bytes": number}
                layer = {"layer": "l0", "pruned_parameters": number}
                return "prune", {"layers": [layer], "artifacts": [artifact]}
            case 2:
                return "evaluate", {"outcomes": [{"example": example, "loss": 1.5} for example in range(5)]}
            case _:
                verdict = {"verdict": "pass", "gate": "max_drop", "observed": number / 100}
                return "judge", {"evaluations": [{"metric": "loss", "value": 2.0}], "verdicts": [verdict]}

    return make


@pytest.fixture(scope="session")
def commit_units(
    provenance: Callable[..., dict[str, Any]], tables_of: Callable[[int], tuple[str, Mapping[str, Any]]]
) -> Callable[[Any, range], None]:
    """Commits the results of these units."""

    def commit(store: Any, numbers: range) -> None:
        for number in numbers:
            task, tables = tables_of(number)
            made = provenance(number, task)
            data = results.encode(task, tables, made)
            assert results.commit(store, task, made["unit_key"], data) is results.Commit.CREATED

    return commit
