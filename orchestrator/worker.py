"""Effects. Runs one shard where the weights are: node cache -> task -> store; the result object is written last."""

from __future__ import annotations

import errno
import faulthandler
import importlib
import json
import os
import resource
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator import errors
from orchestrator.credentials import masked
from orchestrator.domain import (
    DataRef,
    Failure,
    FailureClass,
    Pool,
    Shard,
    TaskName,
    Unit,
    UnitReport,
    UnitStatus,
)
from orchestrator.planning import VERSIONS
from orchestrator.ports import ObjectStore
from orchestrator.scratch import scratch_directory
from orchestrator.spec import StoreSpec
from orchestrator.specs.registries import RegistrySpec
from orchestrator.tables.listing import result_key
from tasks.contract import BadInput, Dataset, Finding, Product, Work, is_of_memory

Tables = dict[str, list[Any]]
"""Rows by table name."""

Answer = TypeVar("Answer")

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_USED_UP = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""What a node itself refuses: no bug, and no fault of a model; another node, or a later try, may do."""
STDERR = 2  # the descriptor itself, whatever object stands for it

ENTRY: Mapping[TaskName, str] = {
    TaskName.SENSITIVITY: "tasks.sensitivity",
    TaskName.PRUNE: "tasks.pruning",
    TaskName.EVALUATE: "tasks.evaluation",
    TaskName.LATENCY: "tasks.latency",
}
"""Imported on the worker, not before: what imports this module need not load torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOrder:
    """All that a worker needs to know: values only, no credentials; those are in the worker's own environment."""

    run_id: str
    attempt_id: str
    limit_seconds: float
    """After so long the process ends itself, even if its code holds the interpreter."""
    shard: Shard
    pool: Pool
    units: tuple[Unit, ...]
    need_tasks: Mapping[str, str]
    """Unit key -> task, of every unit that these units read from."""
    predicted_seconds: Mapping[str, float]
    store: StoreSpec
    registries: Mapping[str, RegistrySpec]
    cache_root: str
    cache_bytes: int


@dataclass(slots=True, kw_only=True)
class Place:
    """What the units of one shard share on the node."""

    order: ShardOrder
    store: ObjectStore
    scratch: Path
    held: ExitStack = field(default_factory=ExitStack)
    paths: dict[str, Path] = field(default_factory=dict)


Compute = Callable[[Place, Unit, Path], Product]
"""A unit's own work, on its inputs and into its output directory; no judging, no commit."""


def run_shard(order: ShardOrder) -> tuple[UnitReport, ...]:
    """Runs the units one after the other; what one raises is a failure report for that unit alone."""
    from orchestrator.stores.opening import open_store

    faulthandler.dump_traceback_later(order.limit_seconds, exit=True, file=STDERR)
    try:
        with scratch_directory() as scratch:
            place = Place(order=order, store=open_store(order.store), scratch=scratch)
            with place.held:
                return tuple(run_unit(place, unit) for unit in order.units)
    finally:
        faulthandler.cancel_dump_traceback_later()


def data_key(digest: str) -> str:
    """Where the store keeps a dataset's file, so that workers need nothing but the store."""
    return f"data/{digest}"


def run_unit(place: Place, unit: Unit) -> UnitReport:
    """Runs one unit from its look at the store to its result."""
    started = time.time()
    return guarded(unit, lambda: look(place, unit) or finish(place, unit, started, _compute))


def guarded(unit: Unit, step: Callable[[], Answer]) -> Answer | UnitReport:
    """What a step of a unit's run answers; what it raises is a failure report for that unit alone."""
    started = time.time()
    try:
        return step()
    except Exception as error:  # the one place where anything may be caught: a unit's failure is data
        failure = classify(error)
        return UnitReport(
            key=unit.key, status=UnitStatus.FAILED, failure=failure, wall_seconds=time.time() - started
        )


def look(place: Place, unit: Unit) -> UnitReport | None:
    """Before any work: whether somebody else has finished the unit."""
    there = place.store.stat(result_key(unit.task, unit.key))
    return UnitReport(key=unit.key, status=UnitStatus.FOUND) if there else None


def finish(place: Place, unit: Unit, started: float, compute: Compute) -> UnitReport:
    """Computes the unit and commits its result, the artifact first; `compute` is the task itself, or a stand-in for it."""
    from orchestrator.tables import results

    with _measured() as used, _workspace(place, unit) as output:
        tables = _judge(place, unit) if unit.task is TaskName.JUDGE else _tables(place, unit, output, compute)
    provenance = _provenance(place.order, unit, started, used)
    commit = results.commit(place.store, unit.task, unit.key, results.encode(unit.task, tables, provenance))
    kinds = [str(finding["kind"]) for finding in tables["findings"]]
    if commit is results.Commit.EXISTED_DIFFERENT:
        kinds.append("nondeterminism")
    status = UnitStatus.DONE if commit is results.Commit.CREATED else UnitStatus.FOUND
    return UnitReport(key=unit.key, status=status, wall_seconds=used["wall_seconds"], findings=tuple(kinds))


def _tables(place: Place, unit: Unit, output: Path, compute: Compute) -> Tables:
    product = compute(place, unit, output)
    tables: Tables = {name: list(rows) for name, rows in product.tables.items()}
    tables["findings"] = [_finding_row(finding) for finding in product.findings]
    if product.has_artifact:
        _keep_artifact(place, output, tables)
    return tables


def _compute(place: Place, unit: Unit, output: Path) -> Product:
    device, fallback = _device(place.order.pool)
    work = Work(
        model=_model(place, unit),
        params=unit.step.params,
        datasets=_datasets(place, unit.step.data, unit.task),
        inputs=_inputs(place, unit),
        output=output,
        dense=_registered(place, unit) if unit.reads_both else None,
        part=unit.part,
        parts=unit.parts,
        seed=unit.step.seed,
        threads=max(1, int(place.order.pool.cpus_per_shard)),
        device=device,
    )
    _use_threads(work.threads)
    try:
        product: Product = importlib.import_module(ENTRY[unit.task]).run(work)
    except BadInput as error:
        raise _in_the_users_words(error, place, unit) from error
    return replace(product, findings=(*product.findings, *fallback))


def _in_the_users_words(error: BadInput, place: Place, unit: Unit) -> BadInput:
    """The same error about the file that the user named, and not about this node's copy of it."""
    data, file = unit.step.data, error.file
    if data and data.digest in place.paths:
        file = file.replace(f"{place.paths[data.digest]}/data{Path(data.path).suffix}", data.path)
    if unit.model.digest in place.paths:
        file = file.replace(str(place.paths[unit.model.digest]), unit.model.uri)
    return BadInput(error.what, why=error.why, do=error.do, file=file, tensor=error.tensor, line=error.line)


def _judge(place: Place, unit: Unit) -> Tables:
    from orchestrator.gate import judging
    from orchestrator.tables import results

    dense, pruned = (
        results.read(place.store, TaskName.EVALUATE, need).rows("outcomes") for need in unit.needs
    )
    return dict(judging.run(unit.step.params, dense, pruned, unit.step.seed))


def _model(place: Place, unit: Unit) -> Path:
    """A local directory with the weights the unit is about: the registry's version, or the artifact of a prune unit."""
    from orchestrator import artifacts
    from orchestrator.tables import results

    if unit.task in (TaskName.EVALUATE, TaskName.LATENCY) and unit.needs:
        (row,) = results.read(place.store, TaskName.PRUNE, unit.needs[0]).rows("artifacts")
        digest, size = str(row["digest"]), int(row["bytes"])
        return _hold(place, digest, size, lambda into: artifacts.download_artifact(place.store, digest, into))
    return _registered(place, unit)


def _registered(place: Place, unit: Unit) -> Path:
    """A local directory with the registry's version."""
    from orchestrator.registries.opening import open_registry

    model = unit.model
    registry = open_registry(model.registry, place.order.registries[model.registry])
    return _hold(place, model.digest, model.bytes, lambda into: registry.fetch(model, into))


def _datasets(place: Place, data: DataRef | None, task: TaskName) -> dict[str, Dataset]:
    if data is None:
        return {}
    name = f"data{Path(data.path).suffix}"

    def fill(into: Path) -> None:
        place.store.download(data_key(data.digest), into / name)
        _check_file(into / name, data)

    path = _hold(place, data.digest, data.bytes, fill) / name
    role = "evaluation" if task in (TaskName.EVALUATE, TaskName.LATENCY) else "calibration"
    return {
        role: Dataset(
            path=path,
            kind=data.kind,
            split=data.split,
            slices=data.slices,
            shape=data.shape,
            samples=data.samples,
        )
    }


def _check_file(path: Path, data: DataRef) -> None:
    import hashlib

    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != data.digest:
        raise errors.Damaged(
            f"dataset {data.name}: the store's copy has digest {found}, planned was {data.digest}"
        )


def _inputs(place: Place, unit: Unit) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of the results that a prune unit reads; an evaluation reads an artifact instead."""
    from orchestrator.tables import results

    if unit.task is not TaskName.PRUNE:
        return {}
    rows: list[Mapping[str, Any]] = []
    for need in unit.needs:
        rows.extend(results.read(place.store, place.order.need_tasks[need], need).rows("sensitivity"))
    return {"sensitivity": rows} if unit.needs else {}


def _hold(place: Place, digest: str, size: int, fill: Callable[[Path], None]) -> Path:
    from orchestrator.node_cache import NodeCache

    if digest not in place.paths:
        cache = NodeCache(Path(place.order.cache_root), place.order.cache_bytes)
        place.paths[digest] = place.held.enter_context(cache.hold(digest, size, fill))
    return place.paths[digest]


def _keep_artifact(place: Place, output: Path, tables: Tables) -> None:
    from orchestrator import artifacts

    digest, _ = artifacts.upload_artifact(place.store, output)
    (row,) = tables["artifacts"]
    tables["artifacts"] = [
        {**row, "digest": digest, "uri": f"{place.store.url.rstrip('/')}/artifacts/{digest}"}
    ]


def _device(pool: Pool) -> tuple[str, tuple[Finding, ...]]:
    if not pool.has_gpus:
        return "cpu", ()
    import torch

    if torch.cuda.is_available():
        return "cuda", ()
    message = "the pool promises a GPU, but torch sees none here: computed on the CPU"
    return "cpu", (Finding(kind="no_gpu", subject=pool.name, message=message),)


def _use_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


@contextmanager
def _workspace(place: Place, unit: Unit) -> Iterator[Path]:
    output = place.scratch / unit.key
    output.mkdir()
    try:
        yield output
    finally:
        shutil.rmtree(output, ignore_errors=True)


@contextmanager
def _measured() -> Iterator[dict[str, Any]]:
    """Wall and processor seconds and the peak memory of what runs inside."""
    used: dict[str, Any] = {}
    _reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield used
    finally:
        used["wall_seconds"] = time.perf_counter() - wall
        used["cpu_seconds"] = time.process_time() - cpu
        used["peak_memory_bytes"] = _peak()


def _reset_peak() -> None:
    """Linux forgets a process's peak when `5` is written here; elsewhere the peak is that of the process's life."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _provenance(order: ShardOrder, unit: Unit, started: float, used: Mapping[str, Any]) -> dict[str, Any]:
    model = unit.model
    return {
        "unit_key": unit.key,
        "run_id": order.run_id,
        "registry": model.registry,
        "model": model.name,
        "version": model.version,
        "model_digest": model.digest,
        "recipe": unit.recipe,
        "task": unit.task.value,
        "params": json.dumps(unit.step.params, sort_keys=True),
        "pool": order.pool.name,
        "node": socket.gethostname(),
        "attempt": order.attempt_id,
        "started_at": started,
        "finished_at": time.time(),
        "wall_seconds": used["wall_seconds"],
        "cpu_seconds": used["cpu_seconds"],
        "gpu_seconds": used["wall_seconds"] * order.pool.gpus_per_shard,
        "peak_memory_bytes": used["peak_memory_bytes"],
        "predicted_seconds": order.predicted_seconds.get(unit.key, 0.0),
        "model_bytes": model.bytes,
        "parameters": model.parameters,
        "code_version": f"{unit.task.value}/{VERSIONS[unit.task.value]}",
        "seed": unit.step.seed,
    }


def _finding_row(finding: Finding) -> dict[str, str]:
    return {
        "kind": finding.kind,
        "subject": finding.subject,
        "message": masked(finding.message),
    }


def classify(error: BaseException) -> Failure:
    """Whose fault an exception is."""
    where = _where(error)
    match error:
        case BadInput():
            kind = FailureClass.BAD_INPUT
        case errors.ModelChanged():
            kind = FailureClass.CHANGED
        case errors.NotPermitted():
            kind = FailureClass.PERMISSION
        case errors.StoreError() | errors.RegistryError() | errors.Unreachable():
            kind = FailureClass.STORAGE
        case ImportError():
            kind = FailureClass.ENVIRONMENT
        case OSError() if error.errno in _FORBIDDEN:
            kind = FailureClass.ENVIRONMENT
        case OSError() if error.errno in _USED_UP:
            kind = FailureClass.INFRASTRUCTURE
        case _:
            kind = FailureClass.MEMORY if is_of_memory(error) else FailureClass.INTERNAL
    text = (
        str(error)
        if isinstance(error, BadInput | errors.PrunefleetError)
        else f"{type(error).__name__}: {error}"
    )
    told = masked(text)[:4000]
    return Failure(failure_class=kind, error=told, file=where[0], line=where[1])


def _where(error: BaseException) -> tuple[str, int]:
    """The innermost frame in our own code, as a module path; no machine's directories."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        parts = Path(frame.filename).parts
        for room in ("orchestrator", "tasks"):
            if room in parts:
                return os.path.join(*parts[len(parts) - parts[::-1].index(room) - 1 :]), frame.lineno or 0
    return "", 0
