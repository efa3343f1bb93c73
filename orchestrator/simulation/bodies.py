"""Effects. What virtual workers compute instead of the tasks: rows that follow from a unit's key, once its inputs are right."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator import artifacts
from orchestrator.domain import TaskName, Unit
from orchestrator.errors import BrokenInvariant
from orchestrator.gate import judging
from orchestrator.identity import digest_files
from orchestrator.tables import results, schemas
from orchestrator.tables.row_digest import row_digest
from orchestrator.worker import Place
from tasks.contract import BadInput, Product

Tables = Mapping[str, list[dict[str, Any]]]
WEIGHTS = "weights.bin"


class Nature(StrEnum):
    """What is wrong with a unit, whoever runs it."""

    POISON = "poison"
    """Kills its process, always."""
    BAD_INPUT = "bad_input"
    GREEDY = "greedy"
    """No memory is enough."""
    HUNGRY = "hungry"
    """Needs three times the memory that it was planned with."""
    FLAKY = "flaky"
    """Kills its process at its first two tries."""
    BUGGY = "buggy"
    """Raises at its first try."""


HOPELESS = frozenset({Nature.POISON, Nature.BAD_INPUT, Nature.GREEDY})


def compute(place: Place, unit: Unit, output: Path) -> Product:
    """The unit's rows, after its inputs have been read as the tasks' own worker reads them, and checked."""
    for need in unit.needs:
        read = results.read(place.store, place.order.need_tasks[need], need)
        if read.content_sha256 != content(read.task, need[:2]):
            raise BrokenInvariant(f"{unit.task} {unit.key} read rows of {need} that nobody computed")
        if read.task == TaskName.PRUNE:
            _read_artifact(place, read, output / "model")
    if unit.task is TaskName.PRUNE:
        (output / WEIGHTS).write_bytes(_weights(unit.key[:2]))
    return Product(tables=_rows(unit.task, unit.key[:2]), has_artifact=unit.task is TaskName.PRUNE)


def refuse(unit: Unit) -> None:
    """What a unit with bad input does."""
    raise BadInput("the weights hold NaN", why=f"unit {unit.key[:8]} was made so", do="Give it others.")


def expected(unit: Unit) -> str:
    """The digest of the rows that the unit's result must have."""
    if unit.task is TaskName.JUDGE:
        dense, pruned = unit.needs
        params = json.dumps(unit.step.params, sort_keys=True)
        return _judged(params, dense[:2], pruned[:2], unit.step.seed)
    return content(unit.task, unit.key[:2])


@functools.cache
def content(task: str, mark: str) -> str:
    """The digest of a result's rows, of any unit of the task whose key begins with `mark`."""
    tables = dict(_rows(task, mark))
    if task == TaskName.PRUNE:
        digest = artifact_digest(mark)
        (row,) = tables["artifacts"]
        tables["artifacts"] = [{**row, "digest": digest, "uri": f"memory:/artifacts/{digest}"}]
    return row_digest(schemas.result_table(task, tables))


def artifact_digest(mark: str) -> str:
    """That of the artifact of a prune unit whose key begins with `mark`."""
    return digest_files({WEIGHTS: hashlib.sha256(_weights(mark)).hexdigest()})


def _read_artifact(place: Place, read: results.Result, into: Path) -> None:
    (row,) = read.rows("artifacts")
    into.mkdir()
    artifacts.download_artifact(place.store, row["digest"], into)
    if (into / WEIGHTS).read_bytes() != _weights(read.provenance["unit_key"][:2]):
        raise BrokenInvariant(f"the artifact {row['digest']} is another unit's")


def _weights(mark: str) -> bytes:
    return f"weights {mark}".encode() * 8


def _rows(task: str, mark: str) -> Tables:
    number = int(mark, 16)
    match task:
        case TaskName.SENSITIVITY:
            return {"sensitivity": [{"layer": "a", "amount": 0.5, "metric": "loss", "delta": number / 7}]}
        case TaskName.PRUNE:
            size = len(_weights(mark))
            return {
                "layers": [{"layer": "a", "amount_asked": 0.5, "amount": 0.5}],
                "artifacts": [{"bytes": size, "nonzero_parameters": number}],
            }
        case TaskName.EVALUATE:
            losses = [(number % 4 + example) / 8 for example in range(3)]
            rows = [
                {"example": example, "slices": {}, "loss": loss, "tokens": 4}
                for example, loss in enumerate(losses)
            ]
            return {"outcomes": rows}
        case TaskName.LATENCY:
            return {"latencies": [{"runtime": "none", "repetitions": number, "speedup": 1.0}]}
    raise AssertionError(f"{task} has no stand-in")


@functools.cache
def _judged(params: str, dense: str, pruned: str, seed: int) -> str:
    read = [
        schemas.rows_of(schemas.result_table(TaskName.EVALUATE, _rows(TaskName.EVALUATE, mark)), "outcomes")
        for mark in (dense, pruned)
    ]
    tables = judging.run(json.loads(params), read[0], read[1], seed)
    return row_digest(schemas.result_table(TaskName.JUDGE, tables))
