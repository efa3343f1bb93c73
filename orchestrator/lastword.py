"""Effects. Which of a run's controllers publishes, folds and reports: the last that works on it, and only one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator import leases, runs
from orchestrator.clusters.runboard import Board
from orchestrator.controller import Signals
from orchestrator.errors import NotSupported
from orchestrator.nights import heartbeat
from orchestrator.ports import Clock

LOOK_AGAIN_SECONDS = 1.0


@contextmanager
def last_word(board: Board | None, clock: Clock, signals: Signals, before: str) -> Iterator[bool]:
    """Whether this controller is to close the run, as long as the block lasts; one without a board is alone.

    It waits for the others that live, and for whoever closes already, and takes over from both when they are lost. It leaves
    at once where it was told to stop while others go on. `before` is `runs.closing` from before its work.
    """
    while board is not None and not board.is_ousted() and not _is_closed(board, before):
        board.beat({"state": "ended", "slots": 0, "load": 0.0, "begun": []})
        if board.peers():
            if signals.drain:
                break
        else:
            try:
                held = _acquired(board, clock)
            except NotSupported:  # then two may close it, which does the same twice
                yield True
                return
            if held is not None:
                with heartbeat.kept(board.store, held, clock.now, lambda: None):
                    yield not _is_closed(board, before)
                return
        clock.sleep(min(LOOK_AGAIN_SECONDS, board.heartbeat_seconds))
    yield board is None


def _acquired(board: Board, clock: Clock) -> leases.Held | None:
    name = f"close-{board.run_id}"
    return leases.acquire(board.store, name, board.owner, clock.now(), heartbeat.LEASE_SECONDS)


def _is_closed(board: Board, before: str) -> bool:
    """Whether another has closed the run since this one began."""
    return runs.closing(board.store, board.run_id) != before
