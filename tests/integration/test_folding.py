"""Results become rows exactly once: with folders side by side, killed anywhere, and with damage about."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars
import pytest

from orchestrator import folding, listing, results, schemas
from orchestrator.batchlog import BatchLog
from orchestrator.errors import Damaged, NotPermitted, StoreError
from orchestrator.folding import fold, rebuild
from orchestrator.stores.local import LocalStore
from orchestrator.tables import BatchTable, Conflict, read_table

CommitUnits = Callable[[Any, range], None]
UnitKey = Callable[[int], str]

ROWS_OF_FOUR = {
    "units": 4, "sensitivity": 3, "layers": 1, "artifacts": 1, "recoveries": 0, "evaluations": 1, "latencies": 0,
    "verdicts": 1, "exemplars": 0, "findings": 1,
}  # fmt: skip
"""Rows by table of any four consecutive units."""


def rows(store: Any, name: str) -> list[dict[str, Any]]:
    """A table's rows in an order of their own."""
    table = read_table(store, name)
    assert table is not None, name
    found: list[dict[str, Any]] = table.to_table().to_pylist()
    return sorted(found, key=repr)


def all_rows(store: Any) -> dict[str, list[dict[str, Any]]]:
    return {name: rows(store, name) for name in schemas.FOLDED}


def check_exactly_once(store: Any, units: int) -> None:
    """Every unit's rows are there once; `units` is a multiple of four."""
    found = all_rows(store)
    assert {name: len(table) for name, table in found.items()} == {
        name: count * units // 4 for name, count in ROWS_OF_FOUR.items()
    }
    assert max(Counter(row["unit_key"] for row in found["units"]).values()) == 1
    assert {row["unit_key"] for row in found["units"]} == listing.completed(store)


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


# Crashes: between any two effects, one at a time and in pairs.


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """crash_at(n, when) ends the process before or after its n-th effect; returns the effects seen so far."""
    real_write, real_fix = BatchTable.write, BatchLog._fix

    def arm(number: int | None, when: str = "before") -> list[str]:
        seen: list[str] = []

        def effect(name: str, act: Callable[[], Any]) -> Any:
            seen.append(name)
            is_fatal = len(seen) - 1 == number
            if is_fatal and when == "before":
                raise Crash
            done = act()
            if is_fatal:
                raise Crash
            return done

        def write(table: BatchTable, *arguments: Any, **named: Any) -> None:
            effect("write", lambda: real_write(table, *arguments, **named))

        def fix(log: BatchLog, batch: Any) -> Any:
            return effect("fix", lambda: real_fix(log, batch))

        monkeypatch.setattr(BatchTable, "write", write)
        monkeypatch.setattr(BatchLog, "_fix", fix)
        return seen

    return arm


@pytest.fixture
def two_batches(
    tmp_path: Path, commit_units: CommitUnits, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], LocalStore]]:
    """Makes copies of a store in which folding takes two batches."""
    monkeypatch.setattr(folding, "BATCH_UNITS", 2)
    original = LocalStore(tmp_path / "original")
    commit_units(original, range(4))
    numbers = itertools.count()

    def copy() -> LocalStore:
        target = tmp_path / f"copy-{next(numbers)}"
        shutil.copytree(original.url, target)
        return LocalStore(target)

    yield copy
    shutil.rmtree(tmp_path, ignore_errors=True)


EFFECTS = 2 * (1 + len(schemas.FOLDED))


def test_the_effects_are_those_that_the_crashes_enumerate(two_batches: Any, crash_at: Any) -> None:
    seen = crash_at(None)
    fold(two_batches())
    assert seen == ["fix", *["write"] * len(schemas.FOLDED)] * 2
    assert len(seen) == EFFECTS


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_effect_loses_and_doubles_nothing(two_batches: Any, crash_at: Any, when: str) -> None:
    for number in range(EFFECTS):
        store = two_batches()
        crash_at(number, when)
        with pytest.raises(Crash):
            fold(store)
        crash_at(None)
        fold(store)
        check_exactly_once(store, 4)


def test_pairs_of_crashes_lose_and_double_nothing(two_batches: Any, crash_at: Any) -> None:
    pairs = list(itertools.product(range(EFFECTS), range(EFFECTS), ("before", "after"), ("before", "after")))
    for first, second, one, other in random.Random(0).sample(pairs, 30):
        store = two_batches()
        for number, when in ((first, one), (second, other)):
            crash_at(number, when)
            try:
                fold(store)
            except Crash:
                continue
        crash_at(None)
        fold(store)
        check_exactly_once(store, 4)


def test_a_crash_of_a_rebuild_is_finished_by_the_next_fold(two_batches: Any, crash_at: Any) -> None:
    for number, when in itertools.product(range(0, EFFECTS + 8, 2), ("before", "after")):
        store = two_batches()
        crash_at(None)
        fold(store)
        crash_at(number, when)
        with pytest.raises(Crash):
            rebuild(store)
        crash_at(None)
        fold(store)
        check_exactly_once(store, 4)


def test_a_folder_that_slept_through_another_fold_adds_nothing(
    two_batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each effect of one folder another runs to its end."""
    for number in range(EFFECTS):
        store, count, real = two_batches(), itertools.count(), BatchTable.write

        def write(
            table: BatchTable, *arguments: Any, store: Any = store, count: Any = count, number: int = number,
            real: Any = real, **named: Any,
        ) -> None:  # fmt: skip
            if next(count) == number:
                monkeypatch.setattr(BatchTable, "write", real)
                fold(store)
            real(table, *arguments, **named)

        monkeypatch.setattr(BatchTable, "write", write)
        fold(store)
        monkeypatch.setattr(BatchTable, "write", real)
        check_exactly_once(store, 4)


def test_a_folder_that_slept_through_a_rebuild_adds_nothing(
    two_batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(EFFECTS):
        store, count, real = two_batches(), itertools.count(), BatchTable.write

        def write(
            table: BatchTable, *arguments: Any, store: Any = store, count: Any = count, number: int = number,
            real: Any = real, **named: Any,
        ) -> None:  # fmt: skip
            if next(count) == number:
                monkeypatch.setattr(BatchTable, "write", real)
                rebuild(store)
            real(table, *arguments, **named)

        monkeypatch.setattr(BatchTable, "write", write)
        fold(store)
        monkeypatch.setattr(BatchTable, "write", real)
        fold(store)
        check_exactly_once(store, 4)


def test_of_two_views_of_a_table_one_writes_the_next_batch(any_store: Any) -> None:
    schema = schemas.TABLES["findings"]
    views = [BatchTable(any_store, "findings", schema) for _ in range(4)]
    barrier = threading.Barrier(4)

    def write(view: BatchTable) -> bool:
        barrier.wait()
        try:
            view.write(schema.empty_table(), 1_000_000_001, is_first=True)
        except Conflict:
            view.refresh()
            assert view.last_batch == 1_000_000_001
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, views)).count(True) == 1


# Real processes.

_FOLDER = """
import os, sys
from orchestrator import folding
from orchestrator.spec import StoreSpec
from orchestrator.stores.opening import open_store

folding.BATCH_UNITS = 3
store = open_store(StoreSpec.model_validate_json(sys.argv[1]))
print("here", flush=True)
sys.stdin.readline()
act = folding.rebuild if sys.argv[2] == "rebuild" else folding.fold
for _ in range(int(sys.argv[3])):
    act(store)
"""


def spec_of(store: Any) -> str:
    if isinstance(store, LocalStore):
        return json.dumps({"url": store.url})
    return str(store._spec.model_dump_json())


@pytest.fixture
def start_folder(any_store: Any) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that fold; each waits for a line on its standard input."""
    started: list[subprocess.Popen[str]] = []

    def start(act: str = "fold", times: int = 1) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _FOLDER, spec_of(any_store), act, str(times)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n", process.stderr.read() if process.stderr else ""
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_that_fold_at_once_fold_each_unit_once(
    any_store: Any, commit_units: CommitUnits, start_folder: Any
) -> None:
    commit_units(any_store, range(8))
    folders = [start_folder(times=2) for _ in range(4)]
    for folder in folders:
        go(folder)
    commit_units(any_store, range(8, 12))
    for folder in folders:
        _, said = folder.communicate(timeout=240)
        assert folder.returncode == 0, said
    fold(any_store)
    check_exactly_once(any_store, 12)


def test_processes_that_fold_and_rebuild_at_once_fold_each_unit_once(
    any_store: Any, commit_units: CommitUnits, start_folder: Any
) -> None:
    commit_units(any_store, range(4))
    fold(any_store)
    commit_units(any_store, range(4, 8))
    folders = [start_folder(), start_folder("rebuild"), start_folder(times=2)]
    for folder in folders:
        go(folder)
    for folder in folders:
        _, said = folder.communicate(timeout=240)
        assert folder.returncode == 0, said
    fold(any_store)
    check_exactly_once(any_store, 8)


def test_killed_folders_lose_and_double_nothing(
    any_store: Any, commit_units: CommitUnits, start_folder: Any
) -> None:
    commit_units(any_store, range(12))
    generator = random.Random(1)
    for _ in range(3):
        folder = start_folder()
        go(folder)
        time.sleep(generator.uniform(0.1, 0.9))
        folder.kill()
    fold(any_store)
    check_exactly_once(any_store, 12)
