"""Effects. The turn to move an alias: one mover at a time of all that share a store, where the registry itself has no lock."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator import leases
from orchestrator.errors import AliasMoved, NotSupported
from orchestrator.identity import digest
from orchestrator.ports import ObjectStore, Outlet

SECONDS = 300.0
"""Longer than any request to a registry may take, so that who has a fresh lease has it until its request has ended."""
PATIENCE_SECONDS = 4 * SECONDS
LOOK_AGAIN_SECONDS = 0.1

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Turn:
    """The right to move an alias; None as its lease where nobody else can move it, or nothing can be leased."""

    store: ObjectStore
    held: leases.Held | None
    is_alone: bool = False
    """The registry itself keeps others away."""

    def keep(self) -> None:
        """Right before the move: has the turn for as long as a request may take. Errors: AliasMoved, if it was lost."""
        if self.held is None:
            return
        renewed = leases.renew(self.store, self.held, time.time(), SECONDS)
        if renewed is None:
            raise AliasMoved("the turn to move this alias ran out, and another mover has it; look again")
        self.held = renewed

    def moved_at(self, asked_at: float) -> float:
        """When the alias is moved: while turns are taken, not before it was one's turn, so that records come in order."""
        return max(asked_at, time.time()) if self.held or self.is_alone else asked_at


@contextmanager
def turn(store: ObjectStore, outlet: Outlet, model: str, alias: str) -> Iterator[Turn]:
    """Waits until it is ours to move this alias. Errors: AliasMoved, if others move it all the time."""
    if outlet.locks:
        yield Turn(store, None, is_alone=True)
        return
    name = f"alias-{digest([outlet.url, model, alias])[:32]}"
    try:
        held = _waited_for(store, name, alias)
    except NotSupported as error:
        logger.warning("UNSAFE: %s of %s is moved without a turn: %s", alias, model, error)
        yield Turn(store, None)
        return
    ours = Turn(store, held)
    try:
        yield ours
    finally:
        if ours.held is not None:
            leases.release(store, ours.held)


def _waited_for(store: ObjectStore, name: str, alias: str) -> leases.Held:
    owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    until = time.monotonic() + PATIENCE_SECONDS
    while (held := leases.acquire(store, name, owner, time.time(), SECONDS)) is None:
        if time.monotonic() > until:
            raise AliasMoved(f"others move {alias} all the time; try again")
        time.sleep(LOOK_AGAIN_SECONDS)
    return held
