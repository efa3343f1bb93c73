"""Effects. An attempt's process on a virtual node: the worker's own steps, one unit after the other, as its fate allows."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator import worker
from orchestrator.domain import FailureClass, Unit, UnitReport
from orchestrator.schedule.costs import memory_bytes
from orchestrator.simulation import bodies
from orchestrator.simulation.bodies import Nature
from orchestrator.simulation.cluster import Attempt
from orchestrator.simulation.store import Crashed
from orchestrator.simulation.weather import Fate

if TYPE_CHECKING:
    from orchestrator.simulation.night import Night

START_SECONDS = 0.05
NOTICE_SECONDS = 30.0  # until a lost node is noticed
SLOWNESS = 20.0
ENDS: dict[Fate, FailureClass] = {
    Fate.LOST: FailureClass.INFRASTRUCTURE,
    Fate.PREEMPTED: FailureClass.PREEMPTION,
    Fate.KILLED: FailureClass.POISON,
    Fate.STARVED: FailureClass.MEMORY,
    Fate.BROKEN: FailureClass.ENVIRONMENT,
}
BLAMES: dict[Fate, FailureClass] = {
    Fate.KILLED: FailureClass.POISON,
    Fate.STARVED: FailureClass.MEMORY,
    Fate.SILENT: FailureClass.POISON,
}
"""Fates that look like the units' own fault: they befall a unit less often than would get it quarantined."""


@dataclass(slots=True, eq=False)
class Process:
    """What runs a shard."""

    night: Night
    attempt: Attempt
    place: worker.Place
    reports: list[UnitReport] = field(default_factory=list)
    done: int = 0
    fate: Fate | None = None
    rng: random.Random = field(default_factory=random.Random)
    is_stuck: bool = False

    def begin(self) -> None:
        """Draws what is to come, and goes to work."""
        night, shard = self.night, self.attempt.assignment.shard
        self.rng.seed(night.scene.seed * 1_000_003 + self.attempt.number)
        self.fate = night.fate_of(self.attempt)
        if self.fate in BLAMES and not night.may_blame(self.attempt, BLAMES[self.fate]):
            self.fate = None
        if self.fate is not None:
            night.count(self.fate)
        moment = self.rng.random() * max(1.0, shard.predicted_seconds)
        if self.fate in ENDS or self.fate in (Fate.ZOMBIE, Fate.SILENT):
            night.timeline.after(moment, self._meet_fate)
        night.timeline.after(START_SECONDS, self._look_again)

    def _meet_fate(self) -> None:
        cluster, fate = self.night.cluster, self.fate
        if not self.attempt.lives or fate is None:
            return
        if fate is Fate.SILENT:
            self.is_stuck = True
            self.night.timeline.after(self.place.order.limit_seconds, self._end_itself)
        elif fate is Fate.ZOMBIE:
            cluster.disown(self.attempt, FailureClass.INFRASTRUCTURE, "taken for lost", delay=NOTICE_SECONDS)
        else:
            delay = NOTICE_SECONDS if fate is Fate.LOST else 0.0
            cluster.fail(self.attempt, ENDS[fate], f"its fate was to be {fate}", delay=delay)

    def _end_itself(self) -> None:
        if self.attempt.lives:
            self.night.cluster.fail(self.attempt, FailureClass.POISON, "it ended itself at its limit")

    def _look(self) -> None:
        """Before the next unit: has somebody done it?"""
        units = self.place.order.units
        if self.done == len(units):
            self._end()
            return
        unit = units[self.done]
        found = self._step(unit, lambda: worker.look(self.place, unit))
        if isinstance(found, UnitReport):
            self._tell(found)
        elif self.attempt.lives:
            seconds = self.place.order.predicted_seconds[unit.key] * self.rng.lognormvariate(0.0, 0.5)
            slow = SLOWNESS if self.fate is Fate.SLOW else 1.0
            self.night.timeline.after(seconds * slow, lambda: self._finish(unit))

    def _finish(self, unit: Unit) -> None:
        """The unit's time is over: its work is done, and committed."""
        if not self.attempt.lives or self.is_stuck:
            return
        report = self._step(unit, lambda: self._work(unit))
        if isinstance(report, UnitReport):
            self._tell(report)

    def _tell(self, report: UnitReport) -> None:
        self.reports.append(report)
        self.done += 1
        self.night.timeline.after(0.01, self._look_again)

    def _look_again(self) -> None:
        if self.attempt.lives and not self.is_stuck:
            self._look()

    def _end(self) -> None:
        cluster = self.night.cluster
        match self.fate:
            case Fate.MUTE:
                cluster.stop(self.attempt)
            case Fate.LATE:
                cluster.report(self.attempt, self.reports, delay=10 ** self.rng.uniform(0, 4))
            case Fate.TWICE:
                cluster.report(self.attempt, self.reports)
                cluster.report(self.attempt, self.reports, delay=self.rng.uniform(0, 60))
            case _:
                cluster.report(self.attempt, self.reports)

    def _step(self, unit: Unit, step: Callable[[], UnitReport | None]) -> UnitReport | None:
        """One step of the worker; None if the process died in it."""
        try:
            return worker.guarded(unit, step)
        except Crashed:
            if self.attempt.lives:
                is_blamed = self.night.may_blame(self.attempt, FailureClass.POISON) or self._is_poison(unit)
                kind = FailureClass.POISON if is_blamed else FailureClass.INFRASTRUCTURE
                self.night.cluster.fail(self.attempt, kind, f"it died at {unit.key[:8]}")
            return None

    def _is_poison(self, unit: Unit) -> bool:
        return self.night.scene.natures.get(unit.key) is Nature.POISON

    def _work(self, unit: Unit) -> UnitReport:
        """The unit's computation and commit, as its nature allows."""
        night, key = self.night, unit.key
        night.tries[key] += 1
        match night.scene.natures.get(key):
            case Nature.POISON:
                raise Crashed
            case Nature.BAD_INPUT:
                bodies.refuse(unit)
            case Nature.GREEDY:
                raise MemoryError("no memory is enough")
            case Nature.HUNGRY if self.attempt.assignment.shard.memory_bytes < 3 * memory_bytes(unit):
                raise MemoryError("it needs three times as much")
            case Nature.FLAKY if night.tries[key] <= 2 and night.may_blame(self.attempt, FailureClass.POISON):
                raise Crashed
            case Nature.BUGGY if night.tries[key] == 1:
                raise RuntimeError("a bug that shows only once")
        return worker.finish(self.place, unit, self.attempt.started_at, bodies.compute)
