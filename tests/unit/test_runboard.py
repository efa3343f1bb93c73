"""What a board reads of what the others wrote: all that is new, however alike it looks, and nothing twice."""

from __future__ import annotations

import json
from dataclasses import replace

from orchestrator.clusters.runboard import Board, state_key
from orchestrator.simulation.store import MemoryStore


class Coarse(MemoryStore):
    """A store like S3: its listing has etags, and moments in whole seconds; here all in the same one."""

    reads = 0

    def list(self, prefix):
        for stat in MemoryStore.list(self, prefix):
            yield replace(stat, etag=self.etags[stat.key], modified=7.0)

    def get(self, key):
        self.reads += 1
        return MemoryStore.get(self, key)


def tell(store, load):
    body = {
        "cluster": "two", "owner": "two.x", "state": "running", "slots": 1, "load": load, "begun": [],
    }  # fmt: skip
    store.put(state_key("r", "two"), json.dumps(body).encode())


def test_what_is_written_twice_in_a_second_with_as_many_bytes_is_read_again():
    store = Coarse()
    board = Board(store, "r", "one", threads=1)
    board.beat({})
    tell(store, 1.0)
    assert [peer.load for peer in board.peers()] == [1.0]
    tell(store, 2.0)
    assert [peer.load for peer in board.peers()] == [2.0]


def test_what_has_not_changed_is_not_read_again():
    store = Coarse()
    board = Board(store, "r", "one", threads=1)
    board.beat({})
    tell(store, 1.0)
    board.peers()
    before = store.reads
    assert [peer.load for peer in board.peers()] == [1.0]
    assert store.reads == before
