"""Pure. The nouns of prunefleet, frozen; each has one meaning everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of one model in one registry."""

    registry: str
    name: str
    version: str
    digest: str
    """Of every file's bytes; empty when the version is broken."""
    uri: str
    format: str
    bytes: int
    parameters: int
    architecture: str
    tags: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    """Why no unit can be planned on it: which file or tensor, why, what to do. Empty when it is sound."""

    @property
    def id(self) -> str:
        """`registry/name@version`, for people; identities are digests."""
        return f"{self.registry}/{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Every model version found, at one moment."""

    versions: tuple[ModelVersion, ...]


class TaskName(StrEnum):
    """What a unit does."""

    SENSITIVITY = "sensitivity"
    PRUNE = "prune"
    EVALUATE = "evaluate"
    LATENCY = "latency"
    JUDGE = "judge"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRef:
    """A dataset as a unit uses it: which file, by content, and how it is read."""

    name: str
    path: str
    digest: str
    bytes: int
    kind: str
    split: str
    slices: tuple[str, ...]
    shape: tuple[int, ...]
    samples: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A task with all its parameters, before it meets a model. Shared by every unit made from it."""

    task: TaskName
    params: Mapping[str, Any]
    data: DataRef | None
    seed: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One task on one input with all its parameters; yields one result object."""

    key: str
    step: Step
    model: ModelVersion
    recipe: str
    """The first recipe that wants it; a shared unit serves several."""
    needs: tuple[str, ...] = ()
    """Keys of the units whose results it reads."""
    part: int = 0
    parts: int = 1

    @property
    def task(self) -> TaskName:
        """What it does."""
        return self.step.task

    @property
    def reads_both(self) -> bool:
        """Whether it looks at a pruned model and at the dense one beside each other."""
        compares = self.task is TaskName.EVALUATE and bool(self.needs) and "fidelity" in self.step.params
        return self.task is TaskName.LATENCY or compares


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The units that one recipe wants of one model version."""

    recipe: str
    model: ModelVersion
    units: tuple[str, ...]
    prune: str
    dense: str
    pruned: str
    judge: str
    """Keys of the chain's prune, dense evaluation, pruned evaluation and judge units; empty where the recipe has none."""
    latency: str = ""
    """Key of the unit that times the dense model against the pruned one; empty where the recipe has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Impossible:
    """Something the fleet asks for that no unit can be planned for."""

    subject: str
    recipe: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the fleet wants, what of it is done, what is left, and what cannot be."""

    fleet: str
    units: Mapping[str, Unit]
    """Every unit that is wanted, by key, in an order in which needs come first."""
    done: frozenset[str]
    todo: tuple[str, ...]
    """Keys still to do, needs first."""
    impossible: tuple[Impossible, ...]
    quarantined: Mapping[str, str]
    """Units that are the model's own fault, and the reason recorded; what needs them is not planned either."""
    chains: tuple[Chain, ...]
    bands: Mapping[str, int] = field(default_factory=dict)
    """Unit -> band, where it matters who comes first: what is in a lower band starts before. Empty: it does not matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a unit is expected to take on a pool."""

    seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A class of nodes in a cluster."""

    name: str
    cpus: float
    gpus: float
    memory_bytes: int | None
    """In all; None means unknown, so memory is not counted."""
    cpus_per_shard: float
    gpus_per_shard: float
    label_selector: Mapping[str, str]
    price_per_hour: float
    node_memory_bytes: int | None = None
    """Of its largest node, which a shard must fit; None means unknown."""

    @property
    def slots(self) -> int:
        """Shards that run at once."""
        limits = [
            have / asked
            for have, asked in ((self.cpus, self.cpus_per_shard), (self.gpus, self.gpus_per_shard))
            if asked
        ]
        return int(min(limits, default=0))

    @property
    def has_gpus(self) -> bool:
        """Whether a shard on this pool computes on a GPU."""
        return self.gpus_per_shard > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Units that share one model load. One Ray task runs one shard."""

    id: str
    units: tuple[str, ...]
    pool: str
    predicted_seconds: float
    memory_bytes: int


class FailureClass(StrEnum):
    """Whose fault a failure is; decides what is owed (see `retry`)."""

    INFRASTRUCTURE = "infrastructure"
    CLUSTER = "cluster"
    """All of it is gone, or this machine's way to it."""
    PREEMPTION = "preemption"
    MEMORY = "memory"
    TIMEOUT = "timeout"
    STORAGE = "storage"
    ENVIRONMENT = "environment"
    PERMISSION = "permission"
    POISON = "poison"
    BAD_INPUT = "bad_input"
    CHANGED = "changed"
    """The model is no longer what was planned; the next plan sees the new one."""
    UPSTREAM = "upstream"
    """A unit that it needs failed: not tried at all."""
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why something did not work: data, not an exception."""

    failure_class: FailureClass
    error: str
    file: str = ""
    line: int = 0


class UnitStatus(StrEnum):
    """How a unit ended within an attempt."""

    DONE = "done"
    FOUND = "found"
    """Somebody else had finished it; its result was there before any work."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitReport:
    """The few hundred bytes a worker sends the controller about one unit."""

    key: str
    status: UnitStatus
    failure: Failure | None = None
    wall_seconds: float = 0.0
    findings: tuple[str, ...] = ()
    """Kinds of the findings, one for each."""


POINTS = frozenset({"accuracy", "f1", "fidelity"})
"""Metrics that fall with harm and change by points; the others rise, and change relative to the dense value."""


def falls_with_harm(evaluation: Mapping[str, Any]) -> bool:
    """Whether the metric of a row of `evaluations` falls with harm and changes by points; of a user's own the row tells."""
    told = evaluation.get("falls")
    return evaluation.get("metric") in POINTS if told is None else bool(told)


class Judgement(StrEnum):
    """The three answers of a gate."""

    PASS = "pass"
    BLOCK = "block"
    INCONCLUSIVE = "inconclusive"
