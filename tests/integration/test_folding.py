"""Results become rows exactly once, and damage is told, left out and mended."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest
from cases.folded_rows import CommitUnits, UnitKey, all_rows, check_exactly_once, rows
from pyarrow import fs

from orchestrator.errors import Damaged, NotPermitted, StoreError
from orchestrator.stores.local import LocalStore
from orchestrator.tables import folding, listing, results, schemas
from orchestrator.tables.delta import BrokenTable, read_table
from orchestrator.tables.folding import fold, rebuild


def test_each_row_lands_in_its_table_with_its_identity(
    any_store: Any, commit_units: CommitUnits, unit_key: UnitKey
) -> None:
    commit_units(any_store, range(4))
    folded = fold(any_store)
    assert (folded.units, folded.batches, folded.skipped, folded.foreign) == (4, 1, (), 0)
    check_exactly_once(any_store, 4)
    found = all_rows(any_store)
    for name, table in found.items():
        assert all(set(row) == set(schemas.TABLES[name].names) for row in table)
        assert all(row["registry"] == "zoo" and row["recipe"] == "half" for row in table)
    assert [row["delta"] for row in found["sensitivity"]] == [0.0, 1.0, 2.0]
    assert {row["unit_key"] for row in found["sensitivity"]} == {unit_key(0)}
    assert found["artifacts"][0]["bytes"] == 1
    (unit,) = (row for row in found["units"] if row["unit_key"] == unit_key(1))
    assert (unit["status"], unit["task"], unit["gpu_seconds"]) == ("done", "prune", None)
    assert unit["started_at"].timestamp() == 1_700_000_001.5
    assert (unit["finished_at"] - unit["started_at"]).total_seconds() == unit["wall_seconds"]


def test_nothing_is_folded_twice_and_what_is_new_is_folded(any_store: Any, commit_units: CommitUnits) -> None:
    assert fold(any_store).units == 0
    commit_units(any_store, range(4))
    assert fold(any_store).units == 4
    assert fold(any_store).units == 0
    commit_units(any_store, range(4, 8))
    assert fold(any_store).units == 4
    check_exactly_once(any_store, 8)


def test_an_empty_store_gets_no_tables(local_store: LocalStore) -> None:
    assert fold(local_store).batches == 0
    assert list(local_store.list("")) == []
    assert read_table(local_store, "units") is None


def test_many_units_make_batches_of_a_bounded_size(
    local_store: LocalStore, commit_units: CommitUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "BATCH_UNITS", 7)
    commit_units(local_store, range(20))
    assert fold(local_store).batches == 3
    check_exactly_once(local_store, 20)
    monkeypatch.setattr(folding, "BATCH_UNITS", 1000)
    monkeypatch.setattr(folding, "BATCH_BYTES", 1)
    commit_units(local_store, range(20, 24))
    assert fold(local_store).batches == 4
    check_exactly_once(local_store, 24)


def test_damage_is_told_left_out_and_folded_once_it_is_mended(
    any_store: Any, commit_units: CommitUnits, unit_key: UnitKey
) -> None:
    commit_units(any_store, range(4))
    key = listing.result_key("sensitivity", unit_key(0))
    whole = any_store.get(key)
    any_store.put(key, whole[: len(whole) // 2])
    any_store.put(listing.result_key("prune", "0" * 64), b"garbage")
    any_store.put("results/readme.txt", b"hello")
    any_store.put("results/prune/ab/" + "c" * 64 + ".arrow", b"in the wrong drawer")
    for _ in range(2):
        folded = fold(any_store)
        assert {skipped.unit_key for skipped in folded.skipped} == {unit_key(0), "0" * 64}
        assert all("results/" in skipped.reason for skipped in folded.skipped)
        assert folded.foreign == 2
    assert len(rows(any_store, "units")) == 3
    any_store.put(key, whole)
    any_store.delete(listing.result_key("prune", "0" * 64))
    assert fold(any_store).skipped == ()
    check_exactly_once(any_store, 4)


def test_a_result_under_anothers_key_is_damage(
    local_store: LocalStore, commit_units: CommitUnits, unit_key: UnitKey
) -> None:
    commit_units(local_store, range(1))
    local_store.put(
        listing.result_key("sensitivity", unit_key(9)),
        local_store.get(listing.result_key("sensitivity", unit_key(0))),
    )
    with pytest.raises(Damaged, match=unit_key(9)):
        results.read(local_store, "sensitivity", unit_key(9))
    assert [skipped.unit_key for skipped in fold(local_store).skipped] == [unit_key(9)]


def test_rebuilt_tables_equal_folded_ones_row_for_row(
    any_store: Any, commit_units: CommitUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "BATCH_UNITS", 3)
    for start in (0, 4):
        commit_units(any_store, range(start, start + 4))
        fold(any_store)
    folded = all_rows(any_store)
    monkeypatch.setattr(folding, "BATCH_UNITS", 5)
    assert rebuild(any_store).units == 8
    assert all_rows(any_store) == folded
    rebuild(any_store)
    assert all_rows(any_store) == folded
    commit_units(any_store, range(8, 12))
    assert fold(any_store).units == 4
    check_exactly_once(any_store, 12)


@pytest.mark.parametrize(
    "loss", ["a table", "all tables", "a table's log", "a data file", "the batches", "everything"]
)
def test_a_rebuild_mends_every_loss(local_store: LocalStore, commit_units: CommitUnits, loss: str) -> None:
    commit_units(local_store, range(8))
    fold(local_store)
    before, tables = all_rows(local_store), Path(local_store.url) / "tables"
    match loss:
        case "a table":
            shutil.rmtree(tables / "units")
        case "all tables":
            for name in schemas.FOLDED:
                shutil.rmtree(tables / name)
        case "a table's log":
            (tables / "units" / "_delta_log" / f"{0:020}.json").write_bytes(b"torn")
        case "a data file":
            for file in (tables / "units").glob("*.parquet"):
                file.unlink()
        case "the batches":
            shutil.rmtree(tables / "_batches")
        case _:
            shutil.rmtree(tables)
    rebuild(local_store)
    assert all_rows(local_store) == before


def test_a_table_that_cannot_be_read_is_told_in_one_sentence_with_what_to_do(
    local_store: LocalStore, commit_units: CommitUnits
) -> None:
    commit_units(local_store, range(2))
    fold(local_store)
    for entry in (Path(local_store.url) / "tables" / "units" / "_delta_log").iterdir():
        entry.write_bytes(b"{torn")
    with pytest.raises(BrokenTable) as caught:
        read_table(local_store, "units")
    told = str(caught.value)
    assert told.startswith(f"tables/units in {local_store.url}: ")
    assert told.endswith("`prunefleet rebuild` makes the tables anew from the results")
    assert "unknown>" not in told


def test_lost_tables_come_back_by_folding_alone(local_store: LocalStore, commit_units: CommitUnits) -> None:
    commit_units(local_store, range(8))
    fold(local_store)
    before = all_rows(local_store)
    shutil.rmtree(Path(local_store.url) / "tables" / "findings")
    fold(local_store)
    assert all_rows(local_store) == before
    shutil.rmtree(Path(local_store.url) / "tables")
    fold(local_store)
    assert all_rows(local_store) == before


def test_lost_batches_are_noticed_and_never_folded_again(
    local_store: LocalStore, commit_units: CommitUnits
) -> None:
    commit_units(local_store, range(4))
    fold(local_store)
    shutil.rmtree(Path(local_store.url) / "tables" / "_batches")
    commit_units(local_store, range(4, 8))
    with pytest.raises(StoreError, match="rebuild"):
        fold(local_store)
    rebuild(local_store)
    check_exactly_once(local_store, 8)


@pytest.mark.parametrize("content", [b"torn", b"{}", b"[]", b'{"units": [["prune"]]}'])
def test_a_batch_that_cannot_be_read_is_named(
    local_store: LocalStore, commit_units: CommitUnits, content: bytes
) -> None:
    commit_units(local_store, range(4))
    fold(local_store)
    local_store.put("tables/_batches/000001/00000001.json", content)
    with pytest.raises(StoreError, match="00000001.json.*rebuild"):
        fold(local_store)
    rebuild(local_store)
    check_exactly_once(local_store, 4)


def test_a_table_of_an_older_version_gains_the_new_columns(
    local_store: LocalStore, commit_units: CommitUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {
        **schemas.TABLES,
        "units": schemas.TABLES["units"].remove(schemas.TABLES["units"].get_field_index("seed")),
    }
    with monkeypatch.context() as past:
        past.setattr(schemas, "TABLES", old)
        commit_units(local_store, range(4))
        fold(local_store)
    commit_units(local_store, range(4, 8))
    fold(local_store)
    check_exactly_once(local_store, 8)
    assert Counter(row["seed"] for row in rows(local_store, "units")) == {None: 4, 0: 4}
    rebuild(local_store)
    assert Counter(row["seed"] for row in rows(local_store, "units")) == {0: 8}


def check_that_others_read(store: Any) -> None:
    fold(store)
    uri, options = store.delta("units")
    frame = polars.read_delta(uri, storage_options=options)
    assert frame.height == 4
    assert frame["wall_seconds"].sum() == 6.0


def test_others_read_the_tables_too(local_store: LocalStore, commit_units: CommitUnits) -> None:
    commit_units(local_store, range(4))
    check_that_others_read(local_store)


def test_no_thread_of_arrow_holds_what_needs_an_interpreter(
    any_store: Any, commit_units: CommitUnits
) -> None:
    commit_units(any_store, range(4))
    fold(any_store)
    read = read_table(any_store, "units")
    assert read.to_table().num_rows == 4
    assert isinstance(read.filesystem, fs.SubTreeFileSystem)
    assert isinstance(read.filesystem.base_fs, fs.LocalFileSystem | fs.S3FileSystem)


@pytest.mark.s3
def test_others_read_the_tables_on_s3_too(s3_store: Callable[..., Any], commit_units: CommitUnits) -> None:
    store = s3_store("some/prefix")
    commit_units(store, range(4))
    check_that_others_read(store)


def test_a_store_that_may_only_be_read_is_not_folded(
    local_store: LocalStore, commit_units: CommitUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_units(local_store, range(4))
    fold(local_store)
    commit_units(local_store, range(4, 8))

    def refuse(key: str, data: bytes) -> bool:
        raise NotPermitted(f"cannot create {key}")

    monkeypatch.setattr(local_store, "put_if_absent", refuse)
    with pytest.raises(NotPermitted):
        fold(local_store)
    check = Counter(row["unit_key"] for row in rows(local_store, "units"))
    assert len(check) == 4
