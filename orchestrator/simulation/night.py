"""Effects. A simulated night: controllers, workers and a store under virtual time and weather, and what must always hold."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator import artifacts, worker
from orchestrator.domain import Catalog, FailureClass, Plan, TaskName, Unit
from orchestrator.errors import BrokenInvariant, Damaged
from orchestrator.planning import DataFile, build_plan
from orchestrator.quarantine import list_units
from orchestrator.schedule.placement import pools_of
from orchestrator.schedule.retry import POLICY
from orchestrator.simulation import bodies
from orchestrator.simulation.bodies import HOPELESS, Nature
from orchestrator.simulation.clock import Timeline
from orchestrator.simulation.cluster import Attempt, Cluster, Connection, Node
from orchestrator.simulation.life import Life
from orchestrator.simulation.process import NOTICE_SECONDS, Process
from orchestrator.simulation.store import MemoryStore, View
from orchestrator.simulation.weather import Fate, Loss, Script, Site, Strike, Weather
from orchestrator.spec import Fleet
from orchestrator.tables import results
from orchestrator.tables.listing import PREFIX, completed, result_key

PAUSE_SECONDS = 600.0
DEEPEST_PAUSE = 3  # actors that stand still within one another's pauses
ORPHAN_SECONDS = 7200.0  # after its controller's end, an attempt's process is ended as well
GONE = "gone with its cluster"
NEVER = 30 * 86_400.0  # when a lost cluster's nodes come back
MOST_EVENTS = 100_000  # a night of that many has run into a circle
IN_MEMORY = Path(
    "/dev/shm"
)  # Linux's file system in memory: a night makes and removes a directory for each unit
SOLO_TRIES = POLICY[FailureClass.POISON].tries


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a night is played with."""

    seed: int
    fleet: Fleet
    catalog: Catalog
    data: Mapping[str, DataFile]
    natures: Mapping[str, Nature] = field(default_factory=dict)
    """By unit key; all others are sound."""
    controllers: tuple[float, ...] = (0.0,)
    """When each one starts."""
    lives: int = 3
    """Times that each one is started again at most, before the weather calms down."""
    restart_seconds: float = 60.0
    orphans: bool = False
    """Whether attempts outlive their controller for a while."""
    weather: Weather = field(default_factory=Script)
    lost_clusters: Mapping[str, float] = field(default_factory=dict)
    """When a cluster goes for good, with all its nodes and its controller. The controllers are the fleet's clusters' in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How a night went."""

    digest: str
    """Of all that happened, in its order: equal for two nights that went the same way."""
    sites: tuple[Site, ...]
    """Every effect that the weather was asked about."""
    attempts: int
    lives: int
    computed: int
    results: int
    quarantined: int
    left: int
    """Units that the weather's runs left to the calm one."""
    befell: Mapping[str, int]
    """How often each strike and each fate came about."""
    seconds: float
    """Virtual ones."""
    last_result_at: float
    """Before the calm run."""
    lines: tuple[str, ...]
    """The trace, if it was asked for."""


@dataclass(slots=True, eq=False)
class Night:
    """The state of a night; `play` is what to call."""

    scene: Scene
    keeps_lines: bool = False
    timeline: Timeline = field(default_factory=Timeline)
    store: MemoryStore = field(init=False)
    cluster: Cluster = field(init=False)
    units: Mapping[str, Unit] = field(init=False)
    scratch: Path = field(init=False)
    lives: list[Life] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    """How often each unit was computed, or began to be."""
    creators: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Of each result, the run and the attempt."""
    befell: Counter[str] = field(default_factory=Counter)
    sites: list[Site] = field(default_factory=list)
    is_calm: bool = False
    pauses: int = 0
    last_result_at: float = 0.0
    gone: set[str] = field(default_factory=set)
    """Clusters that were lost."""
    trace: hashlib._Hash = field(default_factory=hashlib.sha256)
    lines: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        pools = pools_of(self.scene.fleet)
        nodes = [
            Node(name=f"{pool.name}-{number}", pool=pool.name, slots=1)
            for pool in pools.values()
            for number in range(pool.slots)
        ]
        self.store = MemoryStore(now=self.timeline.now, written=self._written)
        self.cluster = Cluster(timeline=self.timeline, pools=pools, nodes=nodes, body=self._process)
        self.units = self._plan().units

    def play(self) -> Told:
        """From the first controller's start until nothing moves; then a calm run must bring all that can be done to its end.

        Errors: BrokenInvariant, with what does not hold and the end of the trace.
        """
        with tempfile.TemporaryDirectory(
            prefix="prunefleet-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None
        ) as scratch:
            self.scratch = Path(scratch)
            for number, at in enumerate(self.scene.controllers):
                self.timeline.after(at, functools.partial(self._live, f"c{number}", 1))
            for loss in self.scene.weather.losses:
                self.timeline.after(loss.at, functools.partial(self._lose, loss))
            for cluster, at in self.scene.lost_clusters.items():
                self.timeline.after(at, functools.partial(self._lose_cluster, cluster))
            self._until_nothing_moves()
            self.is_calm = True
            for node in self.cluster.nodes:
                self.cluster.repair(node)
            before = len(completed(self.store))
            self._live("calm", 1)
            self._until_nothing_moves()
            self._check_end()
        return Told(
            digest=self.trace.hexdigest(),
            sites=tuple(self.sites),
            attempts=self.cluster.attempts,
            lives=len(self.lives),
            computed=self.tries.total(),
            results=len(completed(self.store)),
            quarantined=len(list_units(self.store)),
            left=len(completed(self.store)) - before,
            befell=dict(self.befell),
            seconds=self.timeline.at,
            last_result_at=self.last_result_at,
            lines=tuple(self.lines),
        )

    def hold(self, is_so: bool, otherwise: str) -> None:
        """Notes what must be so; the night ends after this event where it is not."""
        if not is_so:
            self.broken.append(otherwise)

    def tell(self, line: str) -> None:
        """Adds to the trace."""
        text = f"{self.timeline.at:.3f} {line}"
        self.trace.update(text.encode())
        if self.keeps_lines:
            self.lines.append(text)

    def view(self, actor: str, is_alive: Callable[[], bool]) -> View:
        """An actor's way to the store."""
        return View(store=self.store, actor=actor, strikes=self._strike, pause=self._pause, is_alive=is_alive)

    def fate_of(self, attempt: Attempt) -> Fate | None:
        """What is to befall an attempt."""
        return None if self.is_calm else self.scene.weather.fate(attempt.number - 1)

    def count(self, evil: Strike | Fate) -> None:
        """Notes that it came about."""
        self.befell[f"{type(evil).__name__.lower()}: {evil}"] += 1

    def may_blame(self, attempt: Attempt, kind: FailureClass) -> bool:
        """Whether weather may look like the units' own fault once more without getting one of them quarantined."""
        life = self._life_of(attempt.home)
        if life.end or life.progress is None:
            return True
        limit = POLICY[kind].tries - 1
        failures = life.progress.failures
        return all(failures.get(key, Counter())[kind] < limit for key in attempt.assignment.shard.units)

    def bury(self, life: Life, end: str) -> None:
        """A life is over; unless it came to its end by itself, another begins after a while."""
        life.end = end
        life.backend.close()
        self.tell(f"{life.name}: {end}")
        for attempt in life.backend.attempts.values():
            if self.scene.orphans:
                self.timeline.after(ORPHAN_SECONDS, functools.partial(self.cluster.stop, attempt))
            else:
                self.cluster.stop(attempt)
        name, _, count = life.name.partition(".")
        is_last = int(count) >= self.scene.lives and not self.is_calm
        if end not in ("over", GONE) and not is_last:
            self.timeline.after(
                self.scene.restart_seconds, functools.partial(self._live, name, int(count) + 1)
            )

    def _live(self, name: str, count: int) -> None:
        clusters = list(self.scene.fleet.clusters)
        shared = clusters and name.startswith("c") and name[1:].isdigit()
        cluster = clusters[int(name[1:]) % len(clusters)] if shared else ""
        if cluster in self.gone:
            return
        life = Life(self, f"{name}.{count}", cluster=cluster)
        self.lives.append(life)
        self.tell(f"{life.name}: begins")
        life.act(first=True)

    def _life_of(self, home: Connection) -> Life:
        return next(life for life in reversed(self.lives) if life.backend is home)

    def _until_nothing_moves(self) -> None:
        while self.timeline.step():
            self.hold(self.timeline.events < MOST_EVENTS, "the night does not end")
            if self.broken:
                self._fail()

    def _process(self, attempt: Attempt) -> None:
        name = f"{self._life_of(attempt.home).name}/{attempt.assignment.attempt_id}"
        view = self.view(name, lambda: attempt.lives)
        place = worker.Place(order=attempt.assignment.payload, store=view, scratch=self.scratch)
        Process(self, attempt, place).begin()

    def _strike(self, site: Site) -> Strike | None:
        strike = None
        if not self.is_calm:
            strike = self.scene.weather.strike(len(self.sites), site)
            self.sites.append(site)
        if strike is Strike.PAUSE and self.pauses >= DEEPEST_PAUSE:
            strike = None
        if strike is not None:
            self.count(strike)
        self.tell(f"{site.actor} {site.verb} {site.key}{f': {strike}' if strike else ''}")
        return strike

    def _pause(self) -> None:
        self.pauses += 1
        self.timeline.sleep(PAUSE_SECONDS)
        self.pauses -= 1

    def _lose(self, loss: Loss) -> None:
        node = self.cluster.nodes[loss.node % len(self.cluster.nodes)]
        self.tell(f"node {node.name} goes")
        for attempt in self.cluster.lose(node, loss.seconds):
            if not attempt.is_told:
                self.cluster.disown(
                    attempt, FailureClass.INFRASTRUCTURE, "its node was lost", delay=NOTICE_SECONDS
                )

    def _lose_cluster(self, cluster: str) -> None:
        """Its nodes, its controller and all that it runs; nobody is told."""
        self.tell(f"cluster {cluster} goes")
        self.gone.add(cluster)
        pools = self.scene.fleet.clusters[cluster].pools
        for node in self.cluster.nodes:
            if node.pool in pools:
                self.cluster.lose(node, NEVER)
        for life in self.lives:
            if life.cluster == cluster and not life.end:
                self.bury(life, GONE)

    def _written(self, key: str, before: bytes | None, after: bytes) -> None:
        """What readers may see: whole results of whole artifacts, which stay as they are."""
        if not key.startswith(PREFIX):
            return
        self.hold(before is None, f"{key} was written twice")
        try:
            result = results.decode(after)
        except Damaged as error:
            self.hold(False, f"{key} is half-written: {error}")
            return
        unit = self.units.get(result.provenance["unit_key"])
        if unit is None or key != result_key(unit.task, unit.key):
            self.hold(False, f"{key} is nobody's result")
            return
        if not self.is_calm:
            self.last_result_at = self.timeline.at
        self.creators[unit.key] = (result.provenance["run_id"], result.provenance["attempt"])
        self.hold(result.content_sha256 == bodies.expected(unit), f"{key} holds other rows than it must")
        self.tell(f"result {key} {result.content_sha256[:16]}")
        for need in unit.needs:
            needed = result_key(self.units[need].task, need)
            self.hold(needed in self.store.objects, f"{key} was written before {needed}, which it reads")
        if unit.task is TaskName.PRUNE:
            self._check_artifact(unit)

    def _check_artifact(self, unit: Unit) -> None:
        digest = bodies.artifact_digest(unit.key[:2])
        listing = self.store.objects.get(artifacts.artifact_key(digest, artifacts.LISTING), b"{}")
        files = json.loads(listing).get("files", {})
        self.hold(bool(files), f"the result of {unit.key} was written before its artifact")
        for path, file in files.items():
            data = self.store.objects.get(artifacts.artifact_key(digest, path), b"")
            self.hold(hashlib.sha256(data).hexdigest() == file["sha256"], f"{path} of {digest} is not whole")

    def _plan(self) -> Plan:
        scene = self.scene
        return build_plan(scene.fleet, scene.catalog, completed(self.store), scene.data, {})

    def _check_end(self) -> None:
        """All that can be done is done; what cannot be is quarantined, and nobody else."""
        hopeless: set[str] = set()
        guilty: set[str] = set()
        for key, unit in self.units.items():
            if not hopeless.isdisjoint(unit.needs):
                hopeless.add(key)
            elif self.scene.natures.get(key) in HOPELESS:
                hopeless.add(key)
                guilty.add(key)
        done, held = completed(self.store), set(list_units(self.store))
        for key in sorted(self.units.keys() - hopeless - done):
            self.hold(False, f"the {self.units[key].task} {key} was lost")
        self.hold(not done & hopeless, "a result came out of nothing")
        self.hold(guilty <= held, f"not quarantined: {sorted(guilty - held)}")
        self.hold(held <= guilty, f"innocent, and quarantined: {sorted(held - guilty)}")
        for life in self.lives:
            self.hold(bool(life.end), f"{life.name} has no end")
            for key in guilty:
                counts = life.progress.failures.get(key, Counter()) if life.progress else Counter()
                most = (
                    SOLO_TRIES + counts[FailureClass.TIMEOUT]
                )  # who dies after its deadline is not blamed for that
                self.hold(life.deaths[key] <= most, f"{key} died alone {life.deaths[key]} times")
        for node in self.cluster.nodes:
            self.hold(not node.attempts, f"{node.name} still runs something")
        left = build_plan(
            self.scene.fleet, self.scene.catalog, done, self.scene.data, dict.fromkeys(held, "")
        )
        self.hold(not left.todo, f"a next night would find work: {left.todo}")
        if self.broken:
            self._fail()

    def _fail(self) -> None:
        tail = "\n  ".join(self.lines[-60:])
        raise BrokenInvariant("; ".join(self.broken[:5]) + (f"\n  {tail}" if tail else ""))


def play(scene: Scene, *, keeps_lines: bool = False) -> Told:
    """Plays a night. Errors: BrokenInvariant."""
    return Night(scene, keeps_lines=keeps_lines).play()
