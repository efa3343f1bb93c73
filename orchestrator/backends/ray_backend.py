"""Effects. Attempts as Ray tasks; the only file that imports ray. Ray's own retries are off: `retry` owns them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"
)  # every listener of a local cluster on loopback
os.environ.setdefault("RAY_task_oom_retries", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray ends a process whose head has been silent for so long; here the loop stops in its place, and has time to close its run.
os.environ.update(
    RAY_gcs_rpc_server_reconnect_timeout_s=str(
        int(os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "60")) + 600
    )
)

import ray
from ray import exceptions as ray_errors

from orchestrator import addresses
from orchestrator.backends.children import Answer, Body, run_apart
from orchestrator.backends.lookout import Lookout
from orchestrator.credentials import masked
from orchestrator.domain import Failure, FailureClass, Pool
from orchestrator.errors import NotPermitted, Unreachable, UsageError
from orchestrator.labels import satisfies
from orchestrator.ports import Assignment, AttemptEnded

_untyped: Any = ray  # parts of its interface have no types

OBJECT_STORE_BYTES = 128 * 2**20  # no weights travel through it, only a few hundred bytes a unit
STARTS = 3
ANSWER_SECONDS = 10.0
CONNECT_TRIES = "RAY_gcs_server_port_wait_time_s"
"""Ray's own setting; whoever sets it knows a head that takes its time."""
CANNOT_START = (Exception,)  # what ray.init raises has no common class: a slow daemon is a bare Exception
NODES_EVERY_SECONDS = 2.0
PATIENCE_SECONDS = int(os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"]) - 600  # noqa: SIM112 (so Ray spells it)
MEMORY_STEP = 2**29  # few distinct shapes: Ray keeps one scheduling class for each

CLASSES: tuple[tuple[type[BaseException], FailureClass], ...] = (
    (ray_errors.OutOfMemoryError, FailureClass.MEMORY),
    (ray_errors.ObjectStoreFullError, FailureClass.MEMORY),
    (ray_errors.OutOfDiskError, FailureClass.STORAGE),
    (ray_errors.RuntimeEnvSetupError, FailureClass.ENVIRONMENT),
    (ray_errors.TaskUnschedulableError, FailureClass.ENVIRONMENT),
    (ray_errors.TaskPlacementGroupRemoved, FailureClass.ENVIRONMENT),
    (ray_errors.AuthenticationError, FailureClass.PERMISSION),
    (ray_errors.TaskCancelledError, FailureClass.TIMEOUT),
    (ray_errors.WorkerCrashedError, FailureClass.POISON),
    (ray_errors.NodeDiedError, FailureClass.INFRASTRUCTURE),
    (ray_errors.LocalRayletDiedError, FailureClass.CLUSTER),
    (ray_errors.ObjectLostError, FailureClass.INFRASTRUCTURE),
    (ray_errors.RaySystemError, FailureClass.INFRASTRUCTURE),
    (ray_errors.RpcError, FailureClass.INFRASTRUCTURE),
    (ray_errors.RayTaskError, FailureClass.INTERNAL),
    (ray_errors.RayError, FailureClass.INFRASTRUCTURE),
)
"""From child to parent class: the first that fits is meant."""


def classify(error: BaseException) -> FailureClass:
    """The failure class of an exception that Ray raised for an attempt."""
    if isinstance(error, ray_errors.RayActorError) and error.preempted:
        return FailureClass.PREEMPTION
    return next((kind for cls, kind in CLASSES if isinstance(error, cls)), FailureClass.INTERNAL)


@dataclass(slots=True)
class RayBackend:
    """A connection to a Ray cluster: one that it starts on this machine's loopback, or one that is there."""

    pools: Mapping[str, Pool]
    body: Body
    remote: Any
    temporary: Path | None
    refs: dict[Any, str] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)
    lookout: Lookout[Sequence[Mapping[str, Any]]] = field(init=False)
    """Sees the nodes that can be given work."""
    leaving: frozenset[str] = frozenset()
    """Nodes whose end has been announced."""
    units: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Attempt -> its units."""
    suspects: set[str] = field(default_factory=set)
    """Units that were in a worker that died without a word: they run apart from their worker, to see which of the two dies."""
    apart: set[str] = field(default_factory=set)
    """Attempts that run so."""

    def __post_init__(self) -> None:
        self.lookout = Lookout(self._nodes, NODES_EVERY_SECONDS)
        self.lookout.begin()

    def capacity(self) -> dict[str, int]:
        """Slots that the nodes alive now give each pool, at most as many as the spec says; none while the head is silent."""
        nodes = self.lookout.last(PATIENCE_SECONDS) or ()
        return {name: _slots(pool, nodes) for name, pool in self.pools.items()}

    def largest_nodes(self) -> dict[str, int]:
        """Of the nodes alive now; in the steps in which memory is asked for."""
        nodes = self.lookout.last(PATIENCE_SECONDS) or ()
        memories = {
            name: [_memory_on(node) for node in nodes if _slots_on(pool, node)]
            for name, pool in self.pools.items()
        }
        return {name: max(found) for name, found in memories.items() if found}

    def _nodes(self) -> Sequence[Mapping[str, Any]]:
        self.leaving = self.leaving | _leaving()
        return [node for node in _untyped.nodes() if node["Alive"] and node["NodeID"] not in self.leaving]

    def submit(self, assignment: Assignment) -> None:
        """Sends the attempt to Ray with its pool's resources and labels."""
        pool = assignment.pool
        options: dict[str, Any] = {
            "num_cpus": pool.cpus_per_shard,
            "num_gpus": pool.gpus_per_shard,
            "name": assignment.attempt_id,
        }
        if pool.label_selector:
            options["label_selector"] = dict(pool.label_selector)
        if pool.memory_bytes is not None:
            options["memory"] = -(-assignment.shard.memory_bytes // MEMORY_STEP) * MEMORY_STEP
        units = assignment.shard.units
        is_apart = not self.suspects.isdisjoint(units)
        ref = self.remote.options(**options).remote(assignment.payload, is_apart)
        self.refs[ref] = assignment.attempt_id
        self.units[assignment.attempt_id] = units
        if is_apart:
            self.apart.add(assignment.attempt_id)
        self.started[assignment.attempt_id] = time.monotonic()

    def wait(self, seconds: float) -> Sequence[AttemptEnded]:
        """Attempts that ended: waits for the first one, then takes all that are there; all of them, if the head is silent."""
        if not self.refs:
            return ()
        refs = list(self.refs)
        first, _ = ray.wait(refs, num_returns=1, timeout=seconds, fetch_local=False)
        if not first:
            return self._lost() if self.lookout.silence() > PATIENCE_SECONDS else ()
        ended, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        return tuple(self._end(ref) for ref in ended or first)

    def cancel(self, attempt_id: str, *, force: bool) -> None:
        """Raises KeyboardInterrupt in the task, or kills its worker."""
        if force:
            self.apart.discard(attempt_id)  # its worker's death is then no stranger's doing
        for ref, name in self.refs.items():
            if name == attempt_id:
                ray.cancel(ref, force=force)

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        self.refs.clear()
        self.lookout.end()
        _leave()
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)

    def _lost(self) -> tuple[AttemptEnded, ...]:
        """Whatever becomes of them, nobody will tell."""
        words = f"the head of the Ray cluster has not answered for {self.lookout.silence():.0f} s"
        if self.lookout.problem:
            words = f"{words} ({self.lookout.problem})"
        failure = Failure(failure_class=FailureClass.CLUSTER, error=words)
        ended = tuple(
            AttemptEnded(
                attempt_id=attempt_id,
                failure=failure,
                wall_seconds=time.monotonic() - self.started.pop(attempt_id),
            )
            for attempt_id in self.refs.values()
        )
        self.refs.clear()
        self.units.clear()
        self.apart.clear()
        return ended

    def _end(self, ref: Any) -> AttemptEnded:
        attempt_id = self.refs.pop(ref)
        since_submission = time.monotonic() - self.started.pop(attempt_id)
        units = self.units.pop(attempt_id)
        was_apart = attempt_id in self.apart
        self.apart.discard(attempt_id)
        try:
            answer, node, seconds = ray.get(ref)
        except ray_errors.RayError as error:
            failure = Failure(failure_class=self._blame(error, was_apart=was_apart), error=_words(error))
            if failure.failure_class is FailureClass.POISON:
                self.suspects.update(units)
            return AttemptEnded(attempt_id=attempt_id, failure=failure, wall_seconds=since_submission)
        if isinstance(answer, Failure):
            return AttemptEnded(attempt_id=attempt_id, failure=answer, node=node, wall_seconds=seconds)
        return AttemptEnded(attempt_id=attempt_id, reports=answer, node=node, wall_seconds=seconds)

    def _blame(self, error: ray_errors.RayError, *, was_apart: bool) -> FailureClass:
        kind = classify(error)
        if kind is FailureClass.POISON and was_apart:
            return (
                FailureClass.INFRASTRUCTURE
            )  # somebody killed the worker; what it ran was in another process
        if kind is FailureClass.INFRASTRUCTURE and any(node in str(error) for node in self.leaving):
            return FailureClass.PREEMPTION
        return kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a look at a cluster tells."""

    gcs_address: str
    """host:port of its head."""
    version: str
    """Of Ray; a cluster of another version cannot be joined."""
    nodes: int
    slots: Mapping[str, int]
    """By pool, on the nodes that are there, whatever the spec's limit is."""


def connect(pools: Mapping[str, Pool], body: Body, address: str | None) -> RayBackend:
    """Starts a cluster on this machine, or joins the one at `address` (`auto` or host:port).

    Errors: Unreachable; NotPermitted, if others can reach the cluster and it asks for no token; UsageError.
    """
    if address is None:
        return RayBackend(pools=pools, body=body, remote=_remote(body), temporary=_start_here(pools))
    _join(address)
    return RayBackend(pools=pools, body=body, remote=_remote(body), temporary=None)


def look(pools: Mapping[str, Pool], address: str) -> Sighting:
    """Joins the cluster at `address`, looks at its nodes and leaves it. Errors: those of `connect`."""
    gcs_address = _join(address)
    try:
        nodes = [node for node in _untyped.nodes() if node["Alive"]]
        slots = {name: sum(_slots_on(pool, node) for node in nodes) for name, pool in pools.items()}
        return Sighting(gcs_address=gcs_address, version=ray.__version__, nodes=len(nodes), slots=slots)
    finally:
        _leave()


def _join(address: str) -> str:
    """Joins a running cluster, unless it is open to others; the address of its head."""
    addresses.check_cluster(address, os.environ)
    _check_answers(address)
    try:
        with _sigterm_kept(), _not_for_ever():
            ray.init(address=address, configure_logging=False, log_to_driver=False)
    except CANNOT_START as error:
        if "Version mismatch" in str(error):
            told = " ".join(str(error).split())
            raise UsageError(f"the Ray cluster at {address}: {told}; use one image for all") from error
        raise Unreachable(
            f"the Ray cluster at {address} cannot be used: {_first_line(error)}. Is it running, and is its token set?"
        ) from error
    gcs_address = str(_untyped.get_runtime_context().gcs_address)
    try:
        addresses.check_cluster(gcs_address, os.environ)  # `auto` says only now where it is
    except NotPermitted:
        _leave()
        raise
    return gcs_address


def _start_here(pools: Mapping[str, Pool]) -> Path:
    """Starts a cluster on loopback; its directory. Ray gives its own daemon 30 s, which a busy machine may need more than once."""
    cpus = sum(pool.cpus for pool in pools.values() if not pool.label_selector)
    for start in range(STARTS):
        temporary = Path(tempfile.mkdtemp(prefix="pf-"))
        try:
            with _sigterm_kept():
                ray.init(
                    address="local",
                    num_cpus=max(1, int(cpus)),
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    configure_logging=False,
                    log_to_driver=False,
                    _temp_dir=str(temporary),
                )
            return temporary
        except CANNOT_START as error:
            _leave()
            shutil.rmtree(temporary, ignore_errors=True)
            if start == STARTS - 1:
                raise Unreachable(
                    f"no Ray cluster can be started on this machine: {_first_line(error)}"
                ) from error
    raise AssertionError("the loop returns or raises")


def _leave() -> None:
    """Leaves the cluster. Ray's own library sets SIGTERM back to end the process at once, unseen by Python."""
    with _sigterm_kept():
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Ray itself asks a head that is not there for minutes. Errors: Unreachable."""
    if address in addresses.NO_HOST or "://" in address:
        return
    place = addresses.place_of(address)
    try:
        socket.create_connection(place, timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise Unreachable(
            f"the Ray cluster at {address}: nothing answers at {place[0]} port {place[1]}: {error}. Is its head running?"
        ) from error


@contextmanager
def _not_for_ever() -> Iterator[None]:
    """One try of Ray's own, of about 40 s, where it makes twenty: a head can die while it is being asked."""
    if CONNECT_TRIES in os.environ:
        yield
        return
    os.environ[CONNECT_TRIES] = "1"
    try:
        yield
    finally:
        del os.environ[CONNECT_TRIES]


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would end the process at once: who had it before gets it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as answer:  # Ray's own to a SIGTERM that came meanwhile
        raise KeyboardInterrupt from answer
    finally:
        signal.signal(signal.SIGTERM, kept)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _words(error: ray_errors.RayError) -> str:
    """The cause's own words where there is one: Ray's text is a page of its own frames."""
    cause = getattr(error, "cause", None) or error
    return masked(f"{type(cause).__name__}: {_first_line(cause)}")[:1000]


def _remote(body: Body) -> Any:
    def run(payload: Any, is_apart: bool = False) -> tuple[Answer, str, float]:
        begun = time.monotonic()
        answer = run_apart(body, payload) if is_apart else body(payload)
        return answer, _untyped.util.get_node_ip_address(), time.monotonic() - begun

    return _untyped.remote(max_retries=0, retry_exceptions=False, enable_task_events=False)(run)


def _leaving() -> set[str]:
    """The ids of nodes that drain: somebody has announced their end, as clouds do before they take a node back."""
    from ray._private.state import state  # the only place where Ray tells

    return set(state.get_draining_nodes())


def _slots(pool: Pool, nodes: Sequence[Mapping[str, Any]]) -> int:
    return min(pool.slots, sum(_slots_on(pool, node) for node in nodes))


def _memory_on(node: Mapping[str, Any]) -> int:
    return int(node["Resources"].get("memory", 0.0)) // MEMORY_STEP * MEMORY_STEP


def _slots_on(pool: Pool, node: Mapping[str, Any]) -> int:
    if not satisfies(node.get("Labels", {}), pool.label_selector):
        return 0
    have = node["Resources"]
    limits = [
        have.get(resource, 0.0) / asked
        for resource, asked in (("CPU", pool.cpus_per_shard), ("GPU", pool.gpus_per_shard))
        if asked
    ]
    return int(min(limits, default=0))
