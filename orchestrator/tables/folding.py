"""Effects. Results -> Delta tables, each exactly once, with any number of folders at once and a crash anywhere.

A batch of units is fixed by a create-only object before any of its rows are written. Each table remembers, in the very
commit that adds a batch's rows, the batch's number, and takes batches in order only. So a batch that is fixed is written
by whoever comes first, once, and a folder that dies leaves work that the next one finishes. A rebuild begins a new
generation of batches, whose first empties the tables; folders of the old one then lose every commit, for the number in
a table only grows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pyarrow as pa
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from orchestrator.errors import Damaged, NotFound, StoreError
from orchestrator.ports import ObjectStore
from orchestrator.tables import results, schemas
from orchestrator.tables.batchlog import Batch, BatchLog, generation_of, generations
from orchestrator.tables.delta import BatchTable, BrokenTable, Conflict
from orchestrator.tables.folded_rows import rows_by_table, without_bulk
from orchestrator.tables.listing import THREADS, Listing, listing
from orchestrator.tables.results import Result

BATCH_UNITS = 5000
BATCH_BYTES = 64 << 20
"""Of result objects: bounds the memory that a batch takes."""

_CONFLICTS = 100  # in a row, before a folder gives up on a table; it waits 0.2 s on average between them


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A result whose rows are not in the tables, and why."""

    unit_key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What one call did: the units and batches that it fixed, and what it had to leave out."""

    units: int
    batches: int
    skipped: tuple[Skipped, ...]
    foreign: int
    """Objects among the results that are none."""


@dataclass(slots=True)
class _Fold:
    """One call of `fold`, as far as it has come."""

    store: ObjectStore
    listed: Listing
    log: BatchLog
    tables: Mapping[str, BatchTable]
    skipped: dict[str, str] = field(default_factory=dict)
    loaded: dict[str, Result] = field(default_factory=dict)


def fold(store: ObjectStore) -> Folded:
    """Brings every table up to the results that are there now.

    Errors: NotPermitted, where nothing may be written; StoreError; Unreachable. What was done by then stays.
    """
    listed, log = listing(store), BatchLog(store)
    log.refresh()
    if not listed.results and not log.batches:
        return Folded(units=0, batches=0, skipped=(), foreign=listed.foreign)
    state = _Fold(store, listed, log, _open_tables(store))
    log.refresh()
    for name, table in state.tables.items():
        if table.last_batch > log.last_number:  # the log is written first, and was read last
            raise StoreError(
                f"tables/{name} in {store.url} holds batches that the log lacks; `prunefleet rebuild` makes the tables anew"
            )
    units = batches = 0
    while True:
        _write_all(state)
        chunk = _next_chunk(state)
        if not chunk:
            skipped = tuple(Skipped(unit_key=key, reason=why) for key, why in sorted(state.skipped.items()))
            return Folded(units=units, batches=batches, skipped=skipped, foreign=listed.foreign)
        if log.append(chunk):
            units, batches = units + len(chunk), batches + 1
        log.refresh()


def rebuild(store: ObjectStore) -> Folded:
    """Makes every table anew from the results alone; readers and folders may go on meanwhile.

    Only a table that cannot be opened any more is deleted first; nobody else may fold at that moment.
    """
    for name in schemas.FOLDED:
        try:
            BatchTable(store, name, schemas.TABLES[name])
        except BrokenTable:
            for found in list(store.list(f"tables/{name}/")):
                store.delete(found.key)
    held = [generation_of(table.last_batch) for table in _open_tables(store).values()]
    BatchLog(store).begin(1 + max([*held, *generations(store)]))
    return fold(store)


def _open_tables(store: ObjectStore) -> dict[str, BatchTable]:
    with ThreadPoolExecutor(len(schemas.FOLDED)) as pool:
        tables = pool.map(lambda name: BatchTable(store, name, schemas.TABLES[name]), schemas.FOLDED)
        return dict(zip(schemas.FOLDED, tables, strict=True))


def _write_all(state: _Fold) -> None:
    """Every batch that is fixed, in order, into every table that lacks it."""
    for batch in state.log.batches:
        lacking = {name: table for name, table in state.tables.items() if table.last_batch < batch.number}
        if lacking:
            rows = _rows_of(state, batch)
            for name, table in lacking.items():
                _write(table, rows[name], batch)
            for _, key in batch.units:
                state.loaded.pop(key, None)
    state.loaded.clear()


def _write(table: BatchTable, rows: pa.Table, batch: Batch) -> None:
    """One batch into one table, unless it is there; after a conflict the table is looked at again."""
    try:
        _write_unless_there(table, rows, batch)
    except Conflict as conflict:
        raise conflict.error from conflict


def _write_unless_there(table: BatchTable, rows: pa.Table, batch: Batch) -> None:
    for attempt in Retrying(
        retry=retry_if_exception_type(Conflict),
        stop=stop_after_attempt(_CONFLICTS),
        wait=wait_random(0.0, 0.4),
        after=lambda _: table.refresh(),
        reraise=True,
    ):
        with attempt:
            if table.last_batch >= batch.number:
                return
            if not batch.is_first and table.last_batch != batch.number - 1:
                raise StoreError(
                    f"a table lacks the batches before {batch.number}; `prunefleet rebuild` makes the tables anew"
                )
            table.write(rows, batch.number, is_first=batch.is_first)


def _rows_of(state: _Fold, batch: Batch) -> Mapping[str, pa.Table]:
    """The rows of a batch by table; a unit that cannot be read any more is left out and told."""
    _load_all(state, [(task, key) for task, key in batch.units if key not in state.loaded])
    return rows_by_table([state.loaded[key] for _, key in batch.units if key in state.loaded])


def _next_chunk(state: _Fold) -> list[tuple[str, str]]:
    """The next units that are in no batch and can be read; empty when there are none left."""
    logged = state.log.unit_keys()
    waiting = iter(
        sorted(
            (key, task, size)
            for key, (task, size) in state.listed.results.items()
            if key not in logged and key not in state.skipped
        )
    )
    while True:
        chunk: list[tuple[str, str]] = []
        total = 0
        for key, task, size in itertools.islice(waiting, BATCH_UNITS):
            chunk.append((task, key))
            total += size
            if total >= BATCH_BYTES:
                break
        _load_all(state, chunk)
        readable = [(task, key) for task, key in chunk if key in state.loaded]
        if readable or not chunk:
            return readable


def _load_all(state: _Fold, units: Sequence[tuple[str, str]]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for (_, key), result in zip(
            units, pool.map(lambda unit: _load(state.store, *unit), units), strict=True
        ):
            if isinstance(result, str):
                state.skipped[key] = result
            else:
                state.loaded[key] = result


def _load(store: ObjectStore, task: str, unit_key: str) -> Result | str:
    """One result without what no table holds, or why it cannot be read."""
    try:
        result = results.read(store, task, unit_key)
    except (Damaged, NotFound) as error:
        return str(error)
    return replace(result, table=without_bulk(result))
