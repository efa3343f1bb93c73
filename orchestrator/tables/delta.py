"""Effects. The Delta tables of a store: read as data sets, and appended to exactly once for each batch number."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from pyarrow import fs
from tenacity import RetryCallState, Retrying, wait_random_exponential

from orchestrator.errors import NotPermitted, PrunefleetError, StoreError, Unreachable
from orchestrator.ports import ObjectStore

APPLICATION = "prunefleet"
"""The name under which each table remembers the last batch that it holds."""

Read = TypeVar("Read")

_READINGS = 6
"""How often a table is read that cannot be; deltalake itself repeats what the server refuses, and no torn answer."""
_READINGS_OF_BROKEN = 3
_CONNECT_SECONDS = 5
_AWS = "s3.amazonaws.com"
_DENIED = (
    "permission denied",
    "accessdenied",
    "forbidden",
    "privileges",
    "expiredtoken",
    "read-only file system",
    "invalidaccesskey",
    "signature",
)
_SILENT = ("error sending request", "connection refused", "timed out", "dns error")
_SHORTEST_SECRET = 4
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_STACK = re.compile(r"\n\s*0: .*", re.DOTALL)
_LONGEST = 300


@runtime_checkable
class TableHome(Protocol):
    """A store in which deltalake can keep tables."""

    def delta(self, name: str) -> tuple[str, dict[str, str]]:
        """The table's URI and the storage options, which may hold credentials."""


class BrokenTable(StoreError):
    """A table's own log cannot be read."""


class Conflict(Exception):
    """Another writer was first, or our own commit is in doubt: what the table now holds must be looked at again."""

    def __init__(self, error: PrunefleetError):
        super().__init__(str(error))
        self.error = error


class BatchTable:
    """One Delta table as this process last saw it; made if it was not there. Several makers end with the same one."""

    def __init__(self, store: ObjectStore, name: str, schema: pa.Schema):
        self._uri, self._options = _home(store, name)
        self._where = f"tables/{name} in {store.url}"
        self._table = self._read(lambda: self._opened(schema))

    @property
    def last_batch(self) -> int:
        """The number of the last batch that this view of the table holds; 0 if none."""
        return self._read(lambda: self._table.transaction_version(APPLICATION)) or 0

    def write(self, rows: pa.Table, number: int, *, is_first: bool) -> None:
        """Appends a batch and its number in one commit; the first of a generation takes the place of all rows.

        Errors: Conflict, if another batch was committed since this view was taken, or it is not known whether this one
        was; NotPermitted; BrokenTable.
        """
        try:
            write_deltalake(
                self._table,
                rows,
                mode="overwrite" if is_first else "append",
                schema_mode=self._schema_mode(rows, is_first=is_first),
                commit_properties=CommitProperties(app_transactions=[Transaction(APPLICATION, number)]),
            )
        except CommitFailedError as error:
            told = StoreError(f"{self._where}: other writers were first every time; try again")
            raise Conflict(told) from error
        except (DeltaError, OSError) as error:
            explained = self._explained(error)
            is_in_doubt = _is_remote(error) and not isinstance(explained, NotPermitted)
            raise (Conflict(explained) if is_in_doubt else explained) from error

    def refresh(self) -> None:
        """Takes a new view of the table."""
        self._read(self._table.update_incremental)

    def _opened(self, schema: pa.Schema) -> DeltaTable:
        try:
            return DeltaTable(self._uri, storage_options=self._options)
        except TableNotFoundError:
            return self._made(schema)

    def _made(self, schema: pa.Schema) -> DeltaTable:
        try:
            return DeltaTable.create(self._uri, schema, mode="ignore", storage_options=self._options)
        except (DeltaError, OSError):  # another made it first, or it cannot be made: opening tells
            return DeltaTable(self._uri, storage_options=self._options)

    def _schema_mode(self, rows: pa.Table, *, is_first: bool) -> Literal["merge", "overwrite"] | None:
        """A column that a newer version of prunefleet writes is added; otherwise the schema stays untouched."""
        if {field.name for field in self._table.schema().fields} >= set(rows.schema.names):
            return None
        return "overwrite" if is_first else "merge"

    def _read(self, act: Callable[[], Read]) -> Read:
        return _patiently(act, self._explained)

    def _explained(self, error: Exception) -> PrunefleetError:
        return _explain(error, self._where, self._options)


def read_table(store: ObjectStore, name: str) -> Any:
    """The table as a pyarrow data set, or None if it was never made. Errors: StoreError; NotPermitted; Unreachable."""
    uri, options = _home(store, name)

    def opened() -> Any:
        try:
            return DeltaTable(uri, storage_options=options).to_pyarrow_dataset(
                filesystem=files_at(uri, options)
            )
        except TableNotFoundError:
            return None

    return _patiently(opened, lambda error: _explain(error, f"tables/{name} in {store.url}", options))


def files_at(uri: str, options: Mapping[str, str]) -> fs.FileSystem:
    """Arrow's own view of the files below a table's URI, by deltalake's storage options.

    deltalake's is a Python object, of which a thread of Arrow's may hold the last reference: at the end of the
    interpreter, that thread then aborts the process.
    """
    if not uri.startswith("s3://"):
        return fs.SubTreeFileSystem(uri, fs.LocalFileSystem())
    endpoint = urlsplit(options.get("aws_endpoint_url", "https:"))
    server = fs.S3FileSystem(
        access_key=options.get("aws_access_key_id"),
        secret_key=options.get("aws_secret_access_key"),
        session_token=options.get("aws_session_token"),
        region=options["aws_region"],
        scheme=endpoint.scheme,
        endpoint_override=f"{endpoint.netloc}{endpoint.path}".rstrip("/") or None,
        force_virtual_addressing=options.get("aws_virtual_hosted_style_request") == "true",
        proxy_options=_proxy(endpoint.scheme, endpoint.hostname or _AWS),
        tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE") or None,
        connect_timeout=_CONNECT_SECONDS,
        retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=_READINGS),
    )
    return fs.SubTreeFileSystem(uri.removeprefix("s3://"), server)


def _proxy(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for this host, as boto3 and deltalake find it."""
    return None if proxy_bypass(host) else getproxies().get(scheme)


def _patiently(act: Callable[[], Read], explained: Callable[[Exception], PrunefleetError]) -> Read:
    """What the reading gives; repeated where it fails, for an answer may have been cut or changed on its way."""

    def read() -> Read:
        try:
            return act()
        except (DeltaError, OSError) as error:
            raise explained(error) from error

    return Retrying(
        retry=_may_pass,
        stop=lambda _: False,
        wait=wait_random_exponential(multiplier=0.1, max=2),
        reraise=True,
    )(read)


def _may_pass(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    readings = _READINGS_OF_BROKEN if isinstance(error, BrokenTable) else _READINGS
    return isinstance(error, StoreError) and state.attempt_number < readings


def _home(store: ObjectStore, name: str) -> tuple[str, dict[str, str]]:
    if not isinstance(store, TableHome):
        raise StoreError(f"the store {store.url} cannot hold tables; use a directory or an S3 store")
    return store.delta(name)


def _explain(error: Exception, where: str, options: Mapping[str, str]) -> PrunefleetError:
    said = " ".join(_STACK.sub("", _COLOURS.sub("", str(error))).split())
    for name, value in options.items():
        if name.startswith("aws_") and ("key" in name or "token" in name) and len(value) >= _SHORTEST_SECRET:
            said = said.replace(value, "***")
    shown = "".join(character if character.isprintable() else " " for character in said)[:_LONGEST]
    if any(word in said.lower() for word in _DENIED):
        return NotPermitted(f"{where}: {shown}; check who may write and read there, and until when")
    if any(word in said.lower() for word in _SILENT):
        return Unreachable(f"{where}: {shown}; check the endpoint and the network")
    is_broken = isinstance(error, DeltaError) and not _is_remote(error)
    return (BrokenTable if is_broken else StoreError)(
        f"{where}: {shown}; `prunefleet rebuild` makes the tables anew from the results"
    )


def _is_remote(error: Exception) -> bool:
    """Whether the server failed and not the table, so that nothing is known of what was asked of it."""
    return "generic s3 error" in str(error).lower()
