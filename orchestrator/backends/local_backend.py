"""Effects. Attempts in child processes of this machine, without Ray: for a laptop, for tests, and as the contract's measure."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from orchestrator.backends import children
from orchestrator.backends.devices import VISIBLE, Devices, divided
from orchestrator.domain import Failure, Pool
from orchestrator.ports import Assignment, AttemptEnded

PRELOAD = [
    "orchestrator.worker",
    "orchestrator.tables.results",
    "orchestrator.gate.judging",
    "orchestrator.node_cache",
    "orchestrator.artifacts",
    "orchestrator.registries.opening",
    "orchestrator.stores.opening",
    "tasks.preloading",
]
"""Imported once by the server that children are forked from, so that an attempt does not pay for torch again."""


@dataclass(slots=True)
class _Child:
    process: BaseProcess
    pipe: Connection
    started: float


@dataclass(slots=True)
class LocalBackend:
    """One process an attempt; a process that dies without an answer is POISON, as a crashed Ray worker is."""

    pools: Mapping[str, Pool]
    body: children.Body
    children: dict[str, _Child] = field(default_factory=dict)
    devices: Devices = field(init=False)
    """Every attempt sees those alone that are its own."""

    def __post_init__(self) -> None:
        self.devices = Devices(divided(self.pools.values(), os.environ.get(VISIBLE)))

    def capacity(self) -> dict[str, int]:
        """The slots of the spec; there is no cluster that could have fewer."""
        return {name: pool.slots for name, pool in self.pools.items()}

    def largest_nodes(self) -> dict[str, int]:
        """Nothing: memory is not handed out here, and the spec's total is that of this machine."""
        return {}

    def submit(self, assignment: Assignment) -> None:
        """Starts a process for the attempt."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        own = self.devices.take(assignment.attempt_id, assignment.pool)
        process, pipe = children.start(context, self.body, assignment.payload, own)
        self.children[assignment.attempt_id] = _Child(process=process, pipe=pipe, started=time.monotonic())

    def wait(self, seconds: float) -> Sequence[AttemptEnded]:
        """Attempts that ended, in the order in which they were started."""
        if not self.children:
            return ()
        ready = set(wait([child.pipe for child in self.children.values()], timeout=seconds))
        ended = [name for name, child in self.children.items() if child.pipe in ready]
        return tuple(self._end(name) for name in ended)

    def cancel(self, attempt_id: str, *, force: bool) -> None:
        """SIGTERM, or SIGKILL."""
        child = self.children.get(attempt_id)
        if child and child.process.pid:
            os.kill(child.process.pid, signal.SIGKILL if force else signal.SIGTERM)

    def close(self) -> None:
        """Kills what still runs."""
        for child in self.children.values():
            child.process.kill()
            child.process.join()
        self.children.clear()

    def _end(self, attempt_id: str) -> AttemptEnded:
        child = self.children.pop(attempt_id)
        answer, seconds = children.hear(child.process, child.pipe)
        self.devices.give_back(attempt_id)
        reports, failure = ((), answer) if isinstance(answer, Failure) else (answer, None)
        return AttemptEnded(
            attempt_id=attempt_id,
            reports=reports,
            failure=failure,
            node="local",
            wall_seconds=time.monotonic() - child.started if seconds is None else seconds,
        )
