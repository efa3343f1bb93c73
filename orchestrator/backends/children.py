"""Effects. A body in a child process: what it answers, or how its process ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from orchestrator.credentials import masked
from orchestrator.domain import Failure, FailureClass, UnitReport

Body = Callable[[Any], tuple[UnitReport, ...]]
Answer = tuple[UnitReport, ...] | Failure
_STARTING = threading.Lock()


def start(
    context: ForkServerContext | SpawnContext,
    body: Body,
    payload: Any,
    own: Mapping[str, str] | None = None,
) -> tuple[BaseProcess, Connection]:
    """A child that runs the body, and the pipe that `hear` listens at; it does not outlive this process.

    It has the environment of this moment, even if it is forked from a server that was started in an earlier one, and the
    variables of its `own` beside it.
    """
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_run, args=(body, payload, theirs, {**os.environ, **(own or {})}), daemon=True
    )
    with _main_hidden():
        process.start()
    theirs.close()
    return process, ours


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Multiprocessing would import the program's main module in each child: a script without a guard would run there again."""
    with _STARTING:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def hear(process: BaseProcess, pipe: Connection) -> tuple[Answer, float | None]:
    """Waits for the end of the child: its reports, or why there are none, and the seconds that its body took.

    A death without a word is POISON, and nobody knows how long it took.
    """
    answer: Answer
    seconds: float | None = None
    try:
        answer, seconds = pipe.recv()
    except (EOFError, OSError):  # at once, or in the middle of a word
        process.join()
        answer = Failure(
            failure_class=FailureClass.POISON, error=f"the worker process died ({_end_of(process)})"
        )
    pipe.close()
    process.join()
    return answer, seconds


def run_apart(body: Body, payload: Any) -> Answer:
    """The body in a child of its own: whoever kills this process has not killed what the body runs, and the reverse."""
    process, pipe = start(multiprocessing.get_context("spawn"), body, payload)
    try:
        return hear(process, pipe)[0]
    finally:
        process.kill()


def _run(body: Body, payload: Any, pipe: Connection, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_follow, daemon=True).start()
    begun = time.monotonic()
    try:
        answer: Answer = body(payload)
    except Exception as error:  # the body's own fault, not a unit's; the parent hears of it
        told = masked(f"{type(error).__name__}: {error}")
        answer = Failure(failure_class=FailureClass.INTERNAL, error=told)
    with suppress(BrokenPipeError):  # nobody listens any more
        pipe.send((answer, time.monotonic() - begun))
        pipe.close()


def _follow() -> None:
    """Ends this process with its parent, which may have been killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _end_of(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code < 0:
        return f"exit code {code}, {signal.Signals(-code).name}"
    return f"exit code {code}"
