"""Effects. The Delta tables of a store: read as data sets, and appended to exactly once for each batch number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol, runtime_checkable

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from orchestrator.errors import NotPermitted, PrunefleetError, StoreError, Unreachable
from orchestrator.ports import ObjectStore

APPLICATION = "prunefleet"
"""The name under which each table remembers the last batch that it holds."""

_DENIED = (
    "permission denied",
    "accessdenied",
    "forbidden",
    "read-only file system",
    "invalidaccesskey",
    "signature",
)
_SILENT = ("error sending request", "connection refused", "timed out", "dns error")
_SHORTEST_SECRET = 4


@runtime_checkable
class TableHome(Protocol):
    """A store in which deltalake can keep tables."""

    def delta(self, name: str) -> tuple[str, dict[str, str]]:
        """The table's URI and the storage options, which may hold credentials."""


class BrokenTable(StoreError):
    """A table's own log cannot be read."""


class Conflict(Exception):
    """Another writer was first; what the table now holds must be looked at again."""


class BatchTable:
    """One Delta table as this process last saw it; made if it was not there. Several makers end with the same one."""

    def __init__(self, store: ObjectStore, name: str, schema: pa.Schema):
        self._uri, self._options = _home(store, name)
        self._where = f"tables/{name} in {store.url}"
        with self._explained():
            try:
                self._table = DeltaTable(self._uri, storage_options=self._options)
            except TableNotFoundError:
                self._table = self._made(schema)

    @property
    def last_batch(self) -> int:
        """The number of the last batch that this view of the table holds; 0 if none."""
        return self._table.transaction_version(APPLICATION) or 0

    def write(self, rows: pa.Table, number: int, *, is_first: bool) -> None:
        """Appends a batch and its number in one commit; the first of a generation takes the place of all rows.

        Errors: Conflict, if another batch was committed since this view was taken; StoreError.
        """
        with self._explained():
            write_deltalake(
                self._table,
                rows,
                mode="overwrite" if is_first else "append",
                schema_mode=self._schema_mode(rows, is_first=is_first),
                commit_properties=CommitProperties(app_transactions=[Transaction(APPLICATION, number)]),
            )

    def refresh(self) -> None:
        """Takes a new view of the table."""
        with self._explained():
            self._table.update_incremental()

    def _made(self, schema: pa.Schema) -> DeltaTable:
        try:
            return DeltaTable.create(self._uri, schema, mode="ignore", storage_options=self._options)
        except DeltaError:  # another made it first, or it cannot be made: opening tells
            return DeltaTable(self._uri, storage_options=self._options)

    def _schema_mode(self, rows: pa.Table, *, is_first: bool) -> Literal["merge", "overwrite"] | None:
        """A column that a newer version of prunefleet writes is added; otherwise the schema stays untouched."""
        if {field.name for field in self._table.schema().fields} >= set(rows.schema.names):
            return None
        return "overwrite" if is_first else "merge"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except CommitFailedError as error:
            raise Conflict(str(error)) from error
        except (DeltaError, OSError) as error:
            raise _explain(error, self._where, self._options) from error


def read_table(store: ObjectStore, name: str) -> Any:
    """The table as a pyarrow data set, or None if it was never made. Errors: StoreError; NotPermitted; Unreachable."""
    uri, options = _home(store, name)
    try:
        return DeltaTable(uri, storage_options=options).to_pyarrow_dataset()
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise _explain(error, f"tables/{name} in {store.url}", options) from error


def _home(store: ObjectStore, name: str) -> tuple[str, dict[str, str]]:
    if not isinstance(store, TableHome):
        raise StoreError(f"the store {store.url} cannot hold tables; use a directory or an S3 store")
    return store.delta(name)


def _explain(error: Exception, where: str, options: Mapping[str, str]) -> PrunefleetError:
    said = " ".join(str(error).split())
    for name, value in options.items():
        if name.startswith("aws_") and ("key" in name or "token" in name) and len(value) >= _SHORTEST_SECRET:
            said = said.replace(value, "***")
    said = f"{where}: {said[:300]}"
    if any(word in said.lower() for word in _DENIED):
        return NotPermitted(f"{said}; check who may write and read there")
    if any(word in said.lower() for word in _SILENT):
        return Unreachable(f"{said}; check the endpoint and the network")
    is_broken = isinstance(error, DeltaError) and "generic s3 error" not in said.lower()
    return (BrokenTable if is_broken else StoreError)(f"{said}; the tables can be rebuilt from the results")
