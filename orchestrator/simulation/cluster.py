"""Effects. A cluster under virtual time: nodes with slots, attempts that end, are lost or hang, connections to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.domain import Failure, FailureClass, Pool, UnitReport
from orchestrator.ports import Assignment, AttemptEnded
from orchestrator.simulation.clock import Timeline

STOPPED = "it was stopped"


@dataclass(slots=True, eq=False)
class Node:
    """A machine of one pool."""

    name: str
    pool: str
    slots: int
    is_up: bool = True
    attempts: set[Attempt] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Attempt:
    """An attempt on its way, on its node, or over."""

    assignment: Assignment
    home: Connection
    number: int
    node: Node | None = None
    started_at: float = 0.0
    lives: bool = False
    """Whether its process does; a zombie's does although its end was told."""
    is_told: bool = False
    """Whether its controller has been sent its end."""


@dataclass(slots=True)
class Cluster:
    """Nodes, and what runs on them; attempts wait their turn where more are sent than there are slots."""

    timeline: Timeline
    pools: Mapping[str, Pool]
    nodes: Sequence[Node]
    body: Callable[[Attempt], None]
    """Sets down in the timeline what a started attempt does; it ends by `report` or `fail`."""
    free: dict[str, deque[Node]] = field(default_factory=dict)
    waiting: dict[str, deque[Attempt]] = field(default_factory=dict)
    up: dict[str, int] = field(default_factory=dict)
    """By pool, slots of nodes that are up."""
    attempts: int = 0
    spans: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """By pool, when slots were taken: from and until, in the order of their ends."""

    def __post_init__(self) -> None:
        for name in self.pools:
            self.free[name], self.waiting[name], self.up[name], self.spans[name] = deque(), deque(), 0, []
        for node in self.nodes:
            self._offer(node)

    def submit(self, assignment: Assignment, home: Connection) -> Attempt:
        """Starts an attempt as soon as there is a slot."""
        self.attempts += 1
        attempt = Attempt(assignment=assignment, home=home, number=self.attempts)
        pool = assignment.shard.pool
        self.waiting[pool].append(attempt)
        self._start(pool)
        return attempt

    def report(self, attempt: Attempt, reports: Sequence[UnitReport], *, delay: float = 0.0) -> None:
        """The attempt's process ends by itself; its controller hears of it."""
        self.stop(attempt)
        self._tell(attempt, delay, reports=tuple(reports))

    def fail(self, attempt: Attempt, failure_class: FailureClass, error: str, *, delay: float = 0.0) -> None:
        """The attempt's process is gone; its controller hears of it."""
        self.stop(attempt)
        self.disown(attempt, failure_class, error, delay=delay)

    def disown(
        self, attempt: Attempt, failure_class: FailureClass, error: str, *, delay: float = 0.0
    ) -> None:
        """Its controller hears that the attempt is gone, whether that is true or not."""
        self._tell(attempt, delay, failure=Failure(failure_class=failure_class, error=error))

    def stop(self, attempt: Attempt) -> None:
        """Ends the attempt's process, or takes it out of the queue; nobody hears of it."""
        node, pool = attempt.node, attempt.assignment.shard.pool
        if node is None:
            if attempt in self.waiting[pool]:
                self.waiting[pool].remove(attempt)
        elif attempt.lives:
            attempt.lives = False
            node.attempts.discard(attempt)
            self.spans[pool].append((attempt.started_at, self.timeline.at))
            if node.is_up:
                self.free[pool].append(node)
                self._start(pool)

    def cancel(self, attempt: Attempt, *, force: bool) -> None:
        """Stops it, or takes it out of the queue; a process that computes heeds no request, only force."""
        if attempt.is_told or (attempt.lives and not force):
            return
        kind = FailureClass.POISON if force else FailureClass.TIMEOUT
        self.fail(attempt, kind, STOPPED, delay=0.1)

    def lose(self, node: Node, seconds: float) -> list[Attempt]:
        """The node goes with all that it runs, and comes back so many seconds later; whom it took with it."""
        if not node.is_up:
            return []
        node.is_up = False
        self.up[node.pool] -= node.slots
        self.free[node.pool] = deque(other for other in self.free[node.pool] if other is not node)
        gone = sorted(node.attempts, key=lambda attempt: attempt.number)
        for attempt in gone:
            self.stop(attempt)
        self.timeline.after(seconds, lambda: self.repair(node))
        return gone

    def repair(self, node: Node) -> None:
        """The node is there again, empty."""
        if not node.is_up:
            node.is_up = True
            self._offer(node)
            self._start(node.pool)

    def _offer(self, node: Node) -> None:
        self.up[node.pool] += node.slots
        self.free[node.pool].extend([node] * node.slots)

    def _start(self, pool: str) -> None:
        free, waiting = self.free[pool], self.waiting[pool]
        while free and waiting:
            attempt, node = waiting.popleft(), free.popleft()
            attempt.node, attempt.lives, attempt.started_at = node, True, self.timeline.at
            node.attempts.add(attempt)
            self.body(attempt)

    def _tell(
        self,
        attempt: Attempt,
        delay: float,
        *,
        reports: tuple[UnitReport, ...] = (),
        failure: Failure | None = None,
    ) -> None:
        attempt.is_told = True
        event = AttemptEnded(
            attempt_id=attempt.assignment.attempt_id,
            reports=reports,
            failure=failure,
            node=attempt.node.name if attempt.node else "",
            wall_seconds=self.timeline.at - attempt.started_at,
        )
        self.timeline.after(delay, lambda: attempt.home.deliver(event))


@dataclass(slots=True, eq=False)
class Connection:
    """A controller's Backend: its own attempts on a cluster that others may use as well."""

    cluster: Cluster
    heard: Callable[[], None] = lambda: None
    """Called when an attempt's end has arrived."""
    attempts: dict[str, Attempt] = field(default_factory=dict)
    ended: list[AttemptEnded] = field(default_factory=list)
    is_open: bool = True
    pools: frozenset[str] | None = None
    """Those in its reach; None means all."""

    def capacity(self) -> dict[str, int]:
        """Slots of the nodes that are up."""
        return {name: up for name, up in self.cluster.up.items() if self.pools is None or name in self.pools}

    def largest_nodes(self) -> dict[str, int]:
        """Nothing: a virtual node has the memory of its pool."""
        return {}

    def submit(self, assignment: Assignment) -> None:
        """Starts an attempt as soon as there is a slot."""
        self.attempts[assignment.attempt_id] = self.cluster.submit(assignment, self)

    def wait(self, seconds: float) -> Sequence[AttemptEnded]:
        """Lets events happen until an attempt has ended; all ends of that moment."""
        until = self.cluster.timeline.at + seconds
        while not self.ended and self.cluster.timeline.step(until):
            pass
        while self.ended and self.cluster.timeline.step(self.cluster.timeline.at):
            pass
        if not self.ended:
            self.cluster.timeline.sleep(until - self.cluster.timeline.at)
        return self.taken()

    def taken(self) -> list[AttemptEnded]:
        """The ends that have arrived and were not taken before."""
        ended, self.ended = self.ended, []
        for event in ended:
            self.attempts.pop(event.attempt_id, None)
        return ended

    def cancel(self, attempt_id: str, *, force: bool) -> None:
        """Asks an attempt to stop, or kills it."""
        if attempt_id in self.attempts:
            self.cluster.cancel(self.attempts[attempt_id], force=force)

    def close(self) -> None:
        """Hears nothing more."""
        self.is_open = False

    def deliver(self, event: AttemptEnded) -> None:
        """An end arrives."""
        if self.is_open:
            self.ended.append(event)
            self.heard()
