"""The probe of stores, tried on a right store in memory and on stores that each get one thing wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cases.flawed_listings import (
    IgnoresTheRestOfThePrefix,
    ListsInAnyOrder,
    ListsLate,
    ListsOneLess,
    ListsOnePage,
    ListsWhatWasRemoved,
    ListsWrongSizes,
    RepeatsTheEndOfAPage,
)
from cases.flawed_stores import (
    BeginsVisibly,
    ChangesEtags,
    ComposesAccents,
    CutsLongObjects,
    DecodesNames,
    FlipsAByte,
    FlipsAByteOfFiles,
    ForgetsSwaps,
    GivesWhatWasRemoved,
    HoldsUpperForLower,
    IgnoresCreateOnly,
    IgnoresPlainWritesInSwaps,
    KeepsOddNames,
    KeepsParts,
    KeepsTheLoser,
    LooksBeforeItCreates,
    LooksBeforeItSwaps,
    LosesTheLastPart,
    ReadsInTwoSteps,
    ReadsTheLastButOne,
    RefusesOddNames,
    RefusesToRemoveNothing,
    RemembersTheAbsence,
    RemovesNothing,
    SaysAWrongSize,
    SaysCreatedToAll,
    SaysCreatedToNobody,
    ShowsHalfAFile,
    SwapsAlways,
    SwapsNever,
    WritesInTwoSteps,
)
from cases.plain_stores import MemoryStore, MemoryUploads

from orchestrator.errors import NotPermitted, NotSupported, StoreError, Unreachable
from orchestrator.probes.checks import State
from orchestrator.probes.ground import Effort, Ground
from orchestrator.probes.storage import PROPERTIES, probe_store

EFFORT = Effort(rounds=4, racers=4, keys=1050, large_bytes=2 << 20)


MUTANTS = {
    "create-only": (IgnoresCreateOnly, LooksBeforeItCreates, SaysCreatedToAll, SaysCreatedToNobody, KeepsTheLoser),
    "swap": (SwapsAlways, SwapsNever, LooksBeforeItSwaps, ForgetsSwaps, IgnoresPlainWritesInSwaps),
    "read-after-write": (ReadsTheLastButOne, RemembersTheAbsence, GivesWhatWasRemoved),
    "atomic overwrite": (WritesInTwoSteps, ReadsInTwoSteps),
    "listing": (
        ListsOneLess, ListsOnePage, RepeatsTheEndOfAPage, ListsInAnyOrder, ListsWrongSizes, ListsWhatWasRemoved,
        ListsLate, IgnoresTheRestOfThePrefix,
    ),
    "whole bytes": (
        CutsLongObjects, FlipsAByte, FlipsAByteOfFiles, LosesTheLastPart, SaysAWrongSize, ChangesEtags,
    ),
    "unfinished uploads": (ShowsHalfAFile,),
    "removal": (RefusesToRemoveNothing, RemovesNothing),
    "odd keys": (HoldsUpperForLower, ComposesAccents, DecodesNames, RefusesOddNames, KeepsOddNames),
}  # fmt: skip


ALL = [(name, mutant) for name, mutants in MUTANTS.items() for mutant in mutants]


def probe(store, effort=EFFORT, uploads=None):
    ground = Ground(stores=[store] * effort.racers, effort=effort, partial=uploads)
    return {check.name: check for check in probe_store(ground)}


def broken(checks):
    return {name for name, check in checks.items() if check.state is State.BROKEN}


def test_every_property_has_a_mutant():
    assert set(MUTANTS) == {item.name for item in PROPERTIES}


@pytest.mark.parametrize(("name", "mutant"), ALL, ids=[mutant.__name__ for _, mutant in ALL])
def test_a_store_that_gets_one_thing_wrong_is_found_out(name, mutant):
    checks = probe(mutant())
    assert name in broken(checks), {key: check.seen for key, check in checks.items()}
    assert checks[name].seen
    assert checks[name].follows
    assert checks[name].advice


@pytest.mark.parametrize("uploads", [BeginsVisibly, KeepsParts])
def test_uploads_that_show_or_leave_their_parts_are_found_out(uploads):
    store = MemoryStore()
    assert broken(probe(store, uploads=uploads(store))) == {"unfinished uploads"}


def test_the_words_say_how_many_racers_believed_that_they_were_first():
    checks = probe(IgnoresCreateOnly(), replace(EFFORT, rounds=20, racers=8))
    assert checks["create-only"].seen.startswith(
        "8 of 8 racers were told that they created the same key; more than one was in 20 of 20 rounds"
    )
    assert "UNSAFE" in checks["create-only"].advice


def test_a_right_store_is_never_accused_and_is_left_empty():
    small = Effort(rounds=3, racers=4, keys=40, large_bytes=100_000)
    for _ in range(60):
        store = MemoryStore()
        checks = probe(store, small, MemoryUploads(store))
        assert {check.state for check in checks.values()} == {State.OK}, checks
        assert store.objects == {}


def test_one_racer_alone_is_enough_for_what_needs_no_race():
    assert broken(probe(MemoryStore(), Effort(rounds=1, racers=1, keys=3, large_bytes=10))) == set()


def test_a_store_without_swaps_is_not_broken_but_lacks_something():
    class WithoutSwaps(MemoryStore):
        def swap(self, key, data, etag):
            raise NotSupported("501 Not Implemented")

    checks = probe(WithoutSwaps())
    assert checks["swap"].state is State.UNSUPPORTED
    assert "UNSAFE" in checks["swap"].advice
    assert broken(checks) == set()


@pytest.mark.parametrize(
    ("error", "state"),
    [(Unreachable("no answer"), State.UNREACHABLE), (NotPermitted("403"), State.DENIED), (StoreError("500"), State.BROKEN)],
)  # fmt: skip
def test_a_store_that_does_not_answer_gets_one_line(error, state):
    class Silent(MemoryStore):
        def put(self, key, data):
            raise error

    checks = probe(Silent())
    assert [(name, check.state) for name, check in checks.items()] == [("answers", state)]
    assert str(error) in checks["answers"].seen


@pytest.mark.parametrize(
    ("error", "state"),
    [(Unreachable("no answer"), State.UNREACHABLE), (NotPermitted("403"), State.DENIED), (StoreError("500"), State.BROKEN)],
)  # fmt: skip
def test_an_error_on_the_way_is_that_propertys_own(error, state):
    class NoLists(MemoryStore):
        def list(self, prefix):
            if "/list/" in prefix:
                raise error
            yield from super().list(prefix)

    checks = probe(NoLists())
    assert checks["listing"].state is state
    assert checks["create-only"].state is State.OK


def test_what_cannot_be_removed_is_told():
    checks = probe(RemovesNothing())
    assert checks["cleaning up"].state is State.WARNING
    assert "objects left below doctor/" in checks["cleaning up"].seen


def test_a_clock_that_is_wrong_is_told():
    class Early(MemoryStore):
        def stat(self, key):
            found = super().stat(key)
            return replace(found, modified=found.modified - 3600) if found else None

    checks = probe(Early())
    assert checks["answers"].state is State.WARNING
    assert "60 minutes behind" in checks["answers"].seen
    assert broken(checks) == set()


def test_a_crash_in_a_probe_leaves_nothing_behind(monkeypatch):
    from orchestrator.probes import storage

    def crash(ground):
        ground.first.put(ground.key("half"), b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "PROPERTIES", (replace(PROPERTIES[0], probe=crash),))
    store = MemoryStore()
    with pytest.raises(KeyboardInterrupt):
        probe(store)
    assert store.objects == {}
