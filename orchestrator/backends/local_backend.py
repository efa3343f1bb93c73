"""Effects. Attempts in child processes of this machine, without Ray: for a laptop, for tests, and as the contract's measure."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from orchestrator.domain import Failure, FailureClass, Pool, UnitReport
from orchestrator.ports import Assignment, AttemptEnded

PRELOAD = [
    "orchestrator.worker",
    "orchestrator.results",
    "tasks.pruning",
    "tasks.sensitivity",
    "tasks.evaluation",
    "transformers.modeling_utils",
]
"""Imported once by the server that children are forked from, so that an attempt does not pay for torch again."""

Body = Callable[[Any], tuple[UnitReport, ...]]


@dataclass(slots=True)
class _Child:
    process: BaseProcess
    pipe: Connection
    started: float


@dataclass(slots=True)
class LocalBackend:
    """One process an attempt; a process that dies without an answer is POISON, as a crashed Ray worker is."""

    pools: Mapping[str, Pool]
    body: Body
    children: dict[str, _Child] = field(default_factory=dict)

    def capacity(self) -> dict[str, int]:
        """The slots of the spec; there is no cluster that could have fewer."""
        return {name: pool.slots for name, pool in self.pools.items()}

    def submit(self, assignment: Assignment) -> None:
        """Starts a process for the attempt."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(self.body, assignment.payload, theirs), daemon=True)
        process.start()
        theirs.close()
        self.children[assignment.attempt_id] = _Child(process=process, pipe=ours, started=time.monotonic())

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
        reports: tuple[UnitReport, ...] = ()
        failure: Failure | None = None
        try:
            answer = child.pipe.recv()
            reports, failure = ((), answer) if isinstance(answer, Failure) else (answer, None)
        except EOFError:
            child.process.join()
            failure = Failure(
                failure_class=FailureClass.POISON,
                error=f"the worker process died (exit code {child.process.exitcode})",
            )
        child.pipe.close()
        child.process.join()
        return AttemptEnded(
            attempt_id=attempt_id,
            reports=reports,
            failure=failure,
            node="local",
            wall_seconds=time.monotonic() - child.started,
        )


def _child(body: Body, payload: Any, pipe: Connection) -> None:
    try:
        answer: tuple[UnitReport, ...] | Failure = body(payload)
    except (
        Exception
    ) as error:  # the body's own fault, not a unit's; the parent hears of it instead of a dead process
        answer = Failure(failure_class=FailureClass.INTERNAL, error=f"{type(error).__name__}: {error}")
    pipe.send(answer)
    pipe.close()
