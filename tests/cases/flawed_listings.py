"""Stores whose listings are wrong."""

from __future__ import annotations

from dataclasses import replace

from cases.plain_stores import MemoryStore


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
