"""Effects. Holds a lease while work goes on: renews it from a thread, and says when it is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from orchestrator.errors import StoreError, Unreachable
from orchestrator.leases import Held, release, renew
from orchestrator.ports import ObjectStore

BEAT_SECONDS = 30.0
LEASE_SECONDS = 5 * BEAT_SECONDS


@contextmanager
def kept(
    store: ObjectStore,
    held: Held,
    now: Callable[[], float],
    lost: Callable[[], None],
    beat_seconds: float = BEAT_SECONDS,
    lease_seconds: float = LEASE_SECONDS,
) -> Iterator[None]:
    """Renews the lease until the block ends, then gives it back; calls `lost` once if another took it or it ran out.

    A store that does not answer is asked again: the lease is ours until it expires.
    """
    ended = threading.Event()
    current = [held]

    def beat() -> None:
        while not ended.wait(beat_seconds):
            try:
                renewed = renew(store, current[0], now(), lease_seconds)
            except (StoreError, Unreachable):
                if now() < current[0].lease.expires:
                    continue
                renewed = None
            if renewed is None:
                lost()
                return
            current[0] = renewed

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(StoreError, Unreachable):  # it runs out by itself
            release(store, current[0])
