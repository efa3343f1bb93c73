"""A right store in memory whose calls are few enough to get one wrong at a time."""

from __future__ import annotations

import hashlib
import threading
import time

from orchestrator.errors import NotFound
from orchestrator.ports import Stat


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
