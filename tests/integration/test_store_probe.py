"""The probe of stores, tried on a right store in memory and on stores that each get one thing wrong."""

from __future__ import annotations

import hashlib
import threading
import time
import unicodedata
from dataclasses import replace
from urllib.parse import unquote

import pytest

from orchestrator.errors import NotFound, NotPermitted, NotSupported, StoreError, Unreachable
from orchestrator.ports import Stat
from orchestrator.probes.checks import State
from orchestrator.probes.ground import Effort, Ground
from orchestrator.probes.storage import PROPERTIES, probe_store

EFFORT = Effort(rounds=4, racers=4, keys=1050, large_bytes=2 << 20)
A_MOMENT = 0.002  # seconds: long enough for another thread to come in between


def etag_of(data):
    return hashlib.sha256(data).hexdigest()


class MemoryStore:
    """A right store: every call is atomic. Tests override what is to go wrong."""

    url = "memory"

    def __init__(self):
        self.lock = threading.RLock()
        self.objects = {}

    def get(self, key):
        try:
            return self.objects[key][0]
        except KeyError:
            raise NotFound(f"there is no {key}") from None

    def put(self, key, data):
        with self.lock:
            self.objects[key] = (data, time.time())

    def put_if_absent(self, key, data):
        with self.lock:
            if key in self.objects:
                return False
            self.objects[key] = (data, time.time())
            return True

    def swap(self, key, data, etag):
        with self.lock:
            there = self.objects.get(key)
            if (etag_of(there[0]) if there else None) != etag:
                return None
            self.objects[key] = (data, time.time())
            return etag_of(data)

    def stat(self, key):
        there = self.objects.get(key)
        if there is None:
            return None
        return Stat(key=key, bytes=len(there[0]), etag=etag_of(there[0]), modified=there[1])

    def list(self, prefix):
        with self.lock:
            found = {key: value for key, value in self.objects.items() if key.startswith(prefix)}
        for key in sorted(found, key=str.encode):
            yield Stat(key=key, bytes=len(found[key][0]), etag="", modified=found[key][1])

    def delete(self, key):
        with self.lock:
            self.objects.pop(key, None)

    def upload(self, path, key):
        self.put(key, path.read_bytes())

    def download(self, key, path):
        path.write_bytes(self.get(key))


class MemoryUploads:
    """Uploads in parts that are right."""

    def __init__(self, store):
        self.store = store
        self.begun = []

    def begin(self, key, data):
        self.begun.append(key)
        return key

    def abandon(self, upload):
        self.begun.remove(upload)

    def unfinished(self, prefix):
        yield from [key for key in self.begun if key.startswith(prefix)]


class IgnoresCreateOnly(MemoryStore):
    def put_if_absent(self, key, data):
        self.put(key, data)
        return True


class LooksBeforeItCreates(MemoryStore):
    def put_if_absent(self, key, data):
        if key in self.objects:
            return False
        time.sleep(A_MOMENT)
        self.put(key, data)
        return True


class SaysCreatedToAll(MemoryStore):
    def put_if_absent(self, key, data):
        super().put_if_absent(key, data)
        return True


class SaysCreatedToNobody(MemoryStore):
    def put_if_absent(self, key, data):
        super().put_if_absent(key, data)
        return False


class KeepsTheLoser(MemoryStore):
    def put_if_absent(self, key, data):
        won = super().put_if_absent(key, data)
        if not won and data != b"late":
            self.put(key, data)
        return won


class SwapsAlways(MemoryStore):
    def swap(self, key, data, etag):
        self.put(key, data)
        return etag_of(data)


class SwapsNever(MemoryStore):
    def swap(self, key, data, etag):
        return super().swap(key, data, etag) if etag is None else None


class LooksBeforeItSwaps(MemoryStore):
    def swap(self, key, data, etag):
        there = self.stat(key)
        if (there.etag if there else None) != etag:
            return None
        time.sleep(A_MOMENT)
        self.put(key, data)
        return etag_of(data)


class ForgetsSwaps(MemoryStore):
    """Acknowledges each third swap of a register without carrying it out."""

    count = 0

    def swap(self, key, data, etag):
        self.count += 1
        if etag and self.count % 3 == 0 and self.stat(key).etag == etag:
            return etag_of(data)
        return super().swap(key, data, etag)


class IgnoresPlainWritesInSwaps(MemoryStore):
    """Compares with the last swap instead of with what is there."""

    def __init__(self):
        super().__init__()
        self.last = {}

    def swap(self, key, data, etag):
        with self.lock:
            if self.last.get(key) != etag:
                return None
            self.put(key, data)
            self.last[key] = etag_of(data)
            return etag_of(data)


class ReadsTheLastButOne(MemoryStore):
    """The first read after an overwrite sees what was there before."""

    def __init__(self):
        super().__init__()
        self.old = {}

    def put(self, key, data):
        with self.lock:
            if key in self.objects:
                self.old[key] = self.objects[key][0]
            super().put(key, data)

    def get(self, key):
        return self.old.pop(key) if key in self.old else super().get(key)


class RemembersTheAbsence(MemoryStore):
    """Once a key was not there, it is not there for a few looks more, as with a cache of misses."""

    def __init__(self):
        super().__init__()
        self.misses = {}

    def get(self, key):
        if self.misses.get(key, 0) > 0:
            self.misses[key] -= 1
            raise NotFound(key)
        try:
            return super().get(key)
        except NotFound:
            self.misses[key] = 1
            raise


class GivesWhatWasRemoved(MemoryStore):
    def __init__(self):
        super().__init__()
        self.removed = {}

    def delete(self, key):
        if key in self.objects:
            self.removed[key] = self.objects[key][0]
        super().delete(key)

    def get(self, key):
        return self.removed.pop(key) if key not in self.objects and key in self.removed else super().get(key)


class WritesInTwoSteps(MemoryStore):
    def put(self, key, data):
        if key in self.objects and len(data) > 1000:
            super().put(key, data[: len(data) // 2] + self.objects[key][0][len(data) // 2 :])
            time.sleep(A_MOMENT)
        super().put(key, data)


class ReadsInTwoSteps(MemoryStore):
    def get(self, key):
        first = super().get(key)
        if len(first) < 1000:
            return first
        time.sleep(A_MOMENT)
        return first[:1000] + super().get(key)[1000:]


class ListsOneLess(MemoryStore):
    def list(self, prefix):
        found = list(super().list(prefix))
        yield from found[:-1] if len(found) > 100 else found


class ListsOnePage(MemoryStore):
    def list(self, prefix):
        yield from list(super().list(prefix))[:1000]


class RepeatsTheEndOfAPage(MemoryStore):
    def list(self, prefix):
        for index, found in enumerate(super().list(prefix)):
            yield found
            if index == 999:
                yield found


class ListsInAnyOrder(MemoryStore):
    def list(self, prefix):
        yield from sorted(super().list(prefix), key=lambda found: found.key[::-1])


class ListsWrongSizes(MemoryStore):
    def list(self, prefix):
        for found in super().list(prefix):
            yield replace(found, bytes=max(found.bytes, 1))


class ListsWhatWasRemoved(MemoryStore):
    def __init__(self):
        super().__init__()
        self.removed = {}

    def delete(self, key):
        if key in self.objects:
            self.removed[key] = self.stat(key)
        super().delete(key)

    def list(self, prefix):
        ghosts = [
            found for key, found in self.removed.items() if key.startswith(prefix) and "/list/8/" in key
        ]
        self.removed = {}
        yield from sorted([*super().list(prefix), *ghosts], key=lambda found: found.key.encode())


class ListsLate(MemoryStore):
    """The last key that was written is not listed yet."""

    def put(self, key, data):
        super().put(key, data)
        self.last = key

    def list(self, prefix):
        late, self.last = getattr(self, "last", None), None
        yield from (found for found in super().list(prefix) if found.key != late)


class IgnoresTheRestOfThePrefix(MemoryStore):
    """Lists the directory, whatever beginning of a name is asked for."""

    def list(self, prefix):
        yield from super().list("/".join(prefix.split("/")[:3]))


class CutsLongObjects(MemoryStore):
    def get(self, key):
        return super().get(key)[:1_000_000]


class FlipsAByte(MemoryStore):
    def get(self, key):
        data = super().get(key)
        return data if len(data) < 1_000_000 else data[:-1] + bytes([data[-1] ^ 1])


class FlipsAByteOfFiles(MemoryStore):
    def download(self, key, path):
        data = bytearray(self.get(key))
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


class LosesTheLastPart(MemoryStore):
    def upload(self, path, key):
        self.put(key, path.read_bytes()[: 1 << 20])


class SaysAWrongSize(MemoryStore):
    def stat(self, key):
        found = super().stat(key)
        return replace(found, bytes=found.bytes + 1) if found and found.bytes > 1000 else found


class ChangesEtags(MemoryStore):
    count = 0

    def stat(self, key):
        found = super().stat(key)
        self.count += 1
        return replace(found, etag=f"{self.count}") if found and found.bytes > 1000 else found


class RefusesToRemoveNothing(MemoryStore):
    def delete(self, key):
        if key not in self.objects:
            raise NotFound(f"there is no {key}")
        super().delete(key)


class RemovesNothing(MemoryStore):
    def delete(self, key):
        return


class ShowsHalfAFile(MemoryStore):
    def upload(self, path, key):
        data = path.read_bytes()
        self.put(key, data[: len(data) // 2])
        time.sleep(0.05)
        self.put(key, data)


class HoldsUpperForLower(MemoryStore):
    def swapped(name):
        def call(self, key, *rest):
            return getattr(MemoryStore, name)(self, key.replace("/A", "/a"), *rest)

        return call

    get, put, put_if_absent, stat, delete = map(swapped, ("get", "put", "put_if_absent", "stat", "delete"))


class ComposesAccents(MemoryStore):
    def get(self, key):
        return super().get(unicodedata.normalize("NFC", key))

    def put_if_absent(self, key, data):
        return super().put_if_absent(unicodedata.normalize("NFC", key), data)


class DecodesNames(MemoryStore):
    def put_if_absent(self, key, data):
        return super().put_if_absent(unquote(key), data)

    def get(self, key):
        return super().get(unquote(key))


class RefusesOddNames(MemoryStore):
    def put_if_absent(self, key, data):
        if not key.isascii():
            raise StoreError("400: bad name")
        return super().put_if_absent(key, data)


class KeepsOddNames(MemoryStore):
    def delete(self, key):
        if "%" not in key:
            super().delete(key)


class BeginsVisibly(MemoryUploads):
    def begin(self, key, data):
        self.store.put(key, data)
        return super().begin(key, data)


class KeepsParts(MemoryUploads):
    def abandon(self, upload):
        return


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
