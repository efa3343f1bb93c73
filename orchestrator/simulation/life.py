"""Effects. One life of a controller in a simulated night: from its survey to its end, or to the effect at which it dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator import quarantine, underway
from orchestrator.clusters.runboard import Board
from orchestrator.clusters.sharing import Share
from orchestrator.controller import SHORTEST_WAIT_SECONDS, Controller
from orchestrator.domain import FailureClass, Plan, Shard, UnitStatus
from orchestrator.errors import PrunefleetError
from orchestrator.planning import build_plan
from orchestrator.ports import AttemptEnded
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.placement import place, pools_of
from orchestrator.schedule.retry import POLICY
from orchestrator.schedule.scheduling import ENDED, Progress, Start, UnitState, begin, next_wake
from orchestrator.simulation.cluster import STOPPED, Connection
from orchestrator.simulation.store import Crashed, View
from orchestrator.tables.listing import completed
from orchestrator.worker import ShardOrder

if TYPE_CHECKING:
    from orchestrator.simulation.night import Night

RUN = "shared"  # the run of all clusters of a night


@dataclass(slots=True, eq=False)
class Life:
    """A controller's process; it holds nothing that the store does not, so that a new life can go on."""

    night: Night
    name: str
    view: View = field(init=False)
    backend: Connection = field(init=False)
    controller: Controller = field(init=False)
    progress: Progress | None = None
    end: str = ""
    """How it ended; empty while it lasts."""
    is_busy: bool = False
    alarms: int = 0
    known: set[str] = field(default_factory=set)
    """Units whose results it has seen."""
    starts: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    """How often a unit's process died when it ran alone."""
    running: set[str] = field(default_factory=set)
    cluster: str = ""
    """Whose part of the plan it carries out; empty for all of it."""

    def __post_init__(self) -> None:
        night = self.night
        self.view = night.view(self.name, lambda: not self.end)
        clusters = {name: spec.pools for name, spec in night.scene.fleet.clusters.items()}
        pools = frozenset(clusters[self.cluster]) if self.cluster else None
        self.backend = Connection(night.cluster, heard=lambda: self.act(first=False), pools=pools)
        share = None
        if self.cluster:
            board = Board(self.view, RUN, self.cluster, owner=f"{self.cluster}.{self.name}", threads=1)
            share = Share(board=board, pools=clusters)
        self.controller = Controller(
            run_id=self.name,
            store=self.view,
            backend=self.backend,
            clock=night.timeline,
            payload=self._order,
            watchers=(self,),
            share=share,
        )

    def act(self, *, first: bool) -> None:
        """Does what is to do now, until nothing more is; what befalls it meanwhile waits, and what it raises ends it."""
        if self.end or self.is_busy:
            return
        self.is_busy = True
        try:
            if first:
                self.progress = self._survey()
            assert self.progress is not None, "a controller plans before it acts"
            self._rounds(self.progress)
        except Crashed:
            self.night.bury(self, "crashed")
        except PrunefleetError as error:
            self.night.bury(self, f"exit {error.exit_code}: {error}")
        finally:
            self.is_busy = False

    def _survey(self) -> Progress:
        scene = self.night.scene
        done = completed(self.view)
        held = {key: quarantine.reason(self.view, key) for key in quarantine.list_units(self.view)}
        left = underway.left(self.view, threads=1)
        plan = build_plan(scene.fleet, scene.catalog, done, scene.data, held)
        self.known = set(plan.done)
        pools = pools_of(scene.fleet)
        progress = begin(plan, pools, Costs(), place(plan, pools, Costs()).misfits, left)
        if self.controller.share:
            self.controller.share.join(progress)
        return progress

    def _rounds(self, progress: Progress) -> None:
        more = True
        while more:
            self.controller.take_in(progress, self.backend.taken())
            if not progress.is_over:
                self.controller.round(progress)
            more = bool(self.backend.ended)
        if progress.is_over:
            ended = progress.stop is not None or all(state in ENDED for state in progress.states.values())
            self.controller.close(progress)
            self.night.hold(ended, f"{self.name} ends, and units are left that nobody waits for")
            self.night.bury(self, "over")
            return
        self.alarms += 1
        alarm = self.alarms
        at = self.night.timeline.at
        seconds = max(SHORTEST_WAIT_SECONDS, next_wake(progress, at))
        if self.controller.share:
            look = self.controller.share.next_look(progress, self.backend.capacity())
            seconds = max(SHORTEST_WAIT_SECONDS, min(seconds, look - at))
        self.night.timeline.after(seconds, lambda: self._wake(alarm))

    def _wake(self, alarm: int) -> None:
        if alarm == self.alarms:
            self.act(first=False)

    def _order(self, start: Start) -> ShardOrder:
        assert self.progress is not None
        plan, pools = self.progress.plan, self.progress.pools
        units = tuple(plan.units[key] for key in start.shard.units)
        pool = pools[start.shard.pool]
        return ShardOrder(
            run_id=self.name,
            attempt_id=start.attempt_id,
            limit_seconds=start.limit_seconds,
            shard=start.shard,
            pool=pool,
            units=units,
            need_tasks={need: plan.units[need].task.value for unit in units for need in unit.needs},
            predicted_seconds={
                unit.key: self.progress.forecast.of(unit).seconds[pool.name] for unit in units
            },
            store=self.night.scene.fleet.store,
            registries={},
            cache_root="",
            cache_bytes=0,
        )

    def begun(self, start: Start, at: float) -> None:
        """An attempt starts: never on what is known to be done, never twice at once."""
        night = self.night
        night.tell(f"{self.name} starts {start.attempt_id} on {start.shard.pool}: {_short(start.shard)}")
        for key in start.shard.units:
            night.hold(key not in self.known, f"{self.name} starts {key}, whose result it has seen")
            night.hold(key not in self.running, f"{self.name} runs {key} twice at once")
            self.starts[key] += 1
            self.running.add(key)

    def ended(self, event: AttemptEnded, shard: Shard, plan: Plan, at: float) -> None:
        """An attempt is over."""
        self.running.difference_update(shard.units)
        reports = ", ".join(f"{report.key[:8]} {report.status}" for report in event.reports)
        why = event.failure.failure_class if event.failure else reports
        was_stopped = event.failure is not None and event.failure.error == STOPPED
        if why is FailureClass.POISON and len(shard.units) == 1 and not was_stopped:
            self.deaths[shard.units[0]] += 1
        self.night.tell(f"{self.name} hears of {event.attempt_id}: {why}")
        for report in event.reports:
            if report.status is not UnitStatus.FAILED:
                self.known.add(report.key)
                is_own = self.night.creators.get(report.key) == (self.name, event.attempt_id)
                claims = report.status is UnitStatus.DONE
                self.night.hold(is_own == claims, f"{event.attempt_id} says {report.status} of {report.key}")

    def looked(self, progress: Progress, capacity: Mapping[str, int], at: float) -> None:
        """After a round: what is counted adds up, and nobody was tried more often than the policy allows."""
        hold = self.night.hold
        todo = progress.plan.todo
        hold(set(progress.states) == set(todo), "a unit was forgotten")
        hold(+Counter(progress.states.values()) == +progress.counts, "the counts do not add up")
        running = [key for attempt in progress.running.values() for key in attempt.shard.units]
        hold(len(running) == len(set(running)), "a unit is in two attempts")
        for name, used in progress.used_slots.items():
            own = [attempt for attempt in progress.running.values() if attempt.shard.pool == name]
            hold(len(own) == used, f"{used} slots of {name} are counted for {len(own)} attempts")
            memory = sum(attempt.shard.memory_bytes for attempt in own)
            hold(progress.used_memory[name] == memory, f"the memory of {name} does not add up")
        for key, counts in progress.failures.items():
            for kind, count in counts.items():
                hold(count <= POLICY[kind].tries, f"{key} failed {count} times as {kind}")
        for key, state in progress.states.items():
            if state in (UnitState.READY, UnitState.RUNNING):
                needs = progress.plan.units[key].needs
                there = all(
                    need not in progress.states or progress.states[need] is UnitState.DONE for need in needs
                )
                hold(there, f"{key} is ready before what it needs")


def _short(shard: Shard) -> str:
    return " ".join(key[:8] for key in shard.units)
