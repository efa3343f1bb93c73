"""Effects. A plan on a virtual cluster: how long it takes the real scheduler, and what another node would buy."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.controller import Controller
from orchestrator.domain import FailureClass, Plan, Pool, UnitReport, UnitStatus
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.scheduling import Progress, UnitState, begin, next_wake
from orchestrator.simulation.clock import Timeline
from orchestrator.simulation.cluster import Attempt, Cluster, Connection, Node
from orchestrator.simulation.store import MemoryStore

REPAIR_SECONDS = 600.0  # until a lost node has been replaced
NOTICE_SECONDS = 30.0  # until its loss is noticed


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """How the virtual cluster differs from what the cost model expects; by default it does not."""

    seed: int = 0
    noise: float = 0.0
    """Standard deviation of the logarithm of an attempt's time over its estimate."""
    losses_per_hour: float = 0.0
    """Of each node."""
    slots_per_node: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a simulated run went."""

    makespan_seconds: float
    units: Mapping[str, int]
    """By state."""
    attempts: int
    slots: Mapping[str, int]
    spans: Mapping[str, list[tuple[float, float]]]
    """By pool, when slots were taken: from and until."""
    dollars: float
    """All pools paid for from the first start to the last end."""

    def utilization(self, pool: str) -> float:
        """The share of the pool's slots that was taken, over the whole run."""
        room = self.slots[pool] * self.makespan_seconds
        return sum(end - start for start, end in self.spans[pool]) / room if room else 0.0


def simulate(
    plan: Plan,
    pools: Mapping[str, Pool],
    costs: Costs,
    misfits: Mapping[str, str],
    assumptions: Assumptions,
) -> Outcome:
    """Carries the plan out under virtual time, by the same loop, scheduler and retry policy as a real run."""
    rng = random.Random(assumptions.seed)
    timeline = Timeline()
    nodes = [node for pool in pools.values() for node in nodes_of(pool, assumptions.slots_per_node)]

    def body(attempt: Attempt) -> None:
        shard = attempt.assignment.shard
        seconds = shard.predicted_seconds * rng.lognormvariate(0.0, assumptions.noise)
        timeline.after(seconds, lambda: end(attempt))

    def end(attempt: Attempt) -> None:
        if attempt.lives:
            keys = attempt.assignment.shard.units
            cluster.report(attempt, [UnitReport(key=key, status=UnitStatus.DONE) for key in keys])

    cluster = Cluster(timeline=timeline, pools=pools, nodes=nodes, body=body)
    if assumptions.losses_per_hour:
        for node in nodes:
            _lose_now_and_then(cluster, node, assumptions.losses_per_hour / 3600, rng)
    backend = Connection(cluster=cluster)
    controller = Controller(
        run_id="simulated", store=MemoryStore(), backend=backend, clock=timeline, payload=lambda start: None
    )
    progress = begin(plan, pools, costs, misfits)
    while not progress.is_over:
        controller.round(progress)
        controller.take_in(progress, backend.wait(next_wake(progress, timeline.at)))
    return _outcome(progress, cluster, pools)


def with_another_slot(pool: Pool) -> Pool:
    """The pool with room for one shard more, at the price that one costs now."""
    return replace(
        pool,
        cpus=pool.cpus + pool.cpus_per_shard,
        gpus=pool.gpus + pool.gpus_per_shard,
        memory_bytes=pool.memory_bytes and pool.memory_bytes * (pool.slots + 1) // pool.slots,
        price_per_hour=pool.price_per_hour * (pool.slots + 1) / pool.slots,
    )


def nodes_of(pool: Pool, slots_per_node: int) -> list[Node]:
    """The pool's slots as nodes of equal size; the last one has what is left."""
    starts = range(0, pool.slots, slots_per_node)
    return [
        Node(name=f"{pool.name}-{start}", pool=pool.name, slots=min(slots_per_node, pool.slots - start))
        for start in starts
    ]


def _lose_now_and_then(cluster: Cluster, node: Node, rate: float, rng: random.Random) -> None:
    def go() -> None:
        for attempt in cluster.lose(node, REPAIR_SECONDS):
            cluster.disown(attempt, FailureClass.INFRASTRUCTURE, "its node was lost", delay=NOTICE_SECONDS)
        _lose_now_and_then(cluster, node, rate, rng)

    cluster.timeline.after(rng.expovariate(rate), go)


def _outcome(progress: Progress, cluster: Cluster, pools: Mapping[str, Pool]) -> Outcome:
    ends = [end for spans in cluster.spans.values() for _, end in spans]
    makespan = max(ends, default=0.0)
    counts = Counter(progress.counts)
    return Outcome(
        makespan_seconds=makespan,
        units={state.value: counts[state] for state in UnitState},
        attempts=cluster.attempts,
        slots={name: pool.slots for name, pool in pools.items()},
        spans=cluster.spans,
        dollars=sum(pool.price_per_hour for pool in pools.values()) * makespan / 3600,
    )
