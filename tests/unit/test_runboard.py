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


class Blunt(MemoryStore):
    """A store whose listing has no etags, and one moment for all."""

    def list(self, prefix):
        for stat in MemoryStore.list(self, prefix):
            yield replace(stat, modified=7.0)


def test_a_claim_that_changed_hands_unseen_is_found_out_by_who_wants_it():
    """Otherwise nobody could ever take a block from an owner that has gone."""
    store = Blunt()
    east, west, last = (
        Board(store, "r", name, threads=1, owner=f"{name}.x") for name in ("east", "west", "last")
    )
    assert east.claim("block")
    last.look()
    west.look()
    assert west.claim("block")
    last.look()
    assert last.claims == {"block": "east.x"}, "the listing shows no change"
    assert not last.claim("block")
    last.look()
    assert last.claims == {"block": "west.x"}
    assert last.claim("block")
