"""Stores that get one thing wrong: what they write, swap and read, and what they hold and remove."""

from __future__ import annotations

import time
import unicodedata
from dataclasses import replace
from urllib.parse import unquote

from cases.plain_stores import MemoryStore, MemoryUploads, etag_of

from orchestrator.errors import NotFound, StoreError

A_MOMENT = 0.002  # seconds: long enough for another thread to come in between


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
