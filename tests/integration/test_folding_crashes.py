"""Results become rows exactly once, whenever a folder dies or sleeps."""

from __future__ import annotations

import itertools
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cases.folded_rows import CommitUnits, check_exactly_once

from orchestrator.stores.local import LocalStore
from orchestrator.tables import folding, schemas
from orchestrator.tables.batchlog import BatchLog
from orchestrator.tables.delta import BatchTable, Conflict
from orchestrator.tables.folding import fold, rebuild


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
EVERY = pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(1800)], id="every")
"""Of the effects; without `-m soak` it is one in so many."""


def test_the_effects_are_those_that_the_crashes_enumerate(two_batches: Any, crash_at: Any) -> None:
    seen = crash_at(None)
    fold(two_batches())
    assert seen == ["fix", *["write"] * len(schemas.FOLDED)] * 2
    assert len(seen) == EFFECTS


def test_a_crash_at_any_effect_loses_and_doubles_nothing(two_batches: Any, crash_at: Any) -> None:
    """After an effect is before the next one, but for the last."""
    for number, when in (*((number, "before") for number in range(EFFECTS)), (EFFECTS - 1, "after")):
        store = two_batches()
        crash_at(number, when)
        with pytest.raises(Crash):
            fold(store)
        crash_at(None)
        fold(store)
        check_exactly_once(store, 4)


@pytest.mark.parametrize("count", [6, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_pairs_of_crashes_lose_and_double_nothing(two_batches: Any, crash_at: Any, count: int) -> None:
    pairs = list(itertools.product(range(EFFECTS), range(EFFECTS), ("before", "after"), ("before", "after")))
    for first, second, one, other in random.Random(0).sample(pairs, count):
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


@pytest.mark.parametrize("step", [8, EVERY])
def test_a_crash_of_a_rebuild_is_finished_by_the_next_fold(
    two_batches: Any, crash_at: Any, step: int
) -> None:
    for number, when in itertools.product(range(0, EFFECTS + 8, step), ("before", "after")):
        store = two_batches()
        crash_at(None)
        fold(store)
        crash_at(number, when)
        with pytest.raises(Crash):
            rebuild(store)
        crash_at(None)
        fold(store)
        check_exactly_once(store, 4)


@pytest.mark.parametrize("meanwhile", [fold, rebuild])
@pytest.mark.parametrize("step", [6, EVERY])
def test_a_folder_that_slept_through_another_fold_or_a_rebuild_adds_nothing(
    two_batches: Any, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Any], Any], step: int
) -> None:
    """At an effect of one folder another process does its work from beginning to end."""
    real = BatchTable.write
    for number in range(0, EFFECTS, step):
        store, count = two_batches(), itertools.count()

        def write(
            table: BatchTable, *arguments: Any, store: Any = store, count: Any = count, number: int = number,
            **named: Any,
        ) -> None:  # fmt: skip
            if next(count) == number:
                monkeypatch.setattr(BatchTable, "write", real)
                meanwhile(store)
            real(table, *arguments, **named)

        monkeypatch.setattr(BatchTable, "write", write)
        fold(store)
        monkeypatch.setattr(BatchTable, "write", real)
        if meanwhile is rebuild:
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
