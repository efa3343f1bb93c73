"""Pure. What each command prints with `--json`: models of which the schemas, the documentation and a test are made.

Keys may be added within a release of the first number; none goes or changes its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Output(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


Counts = dict[str, int]


class PlannedUnit(Output):
    """One unit of work."""

    unit_key: str
    """The digest of everything that its result depends on."""
    task: str
    model: str
    """`registry/name@version`."""
    recipe: str
    part: str
    """Such as `2/4`, of the units that a task is divided into."""
    state: str
    """cached, to do, waiting, quarantined or impossible."""
    why: str
    predicted_seconds: float
    """On the pool that does it fastest."""
    predicted_memory_bytes: int


class PlanSummary(Output):
    """Counts, and the prediction for the units to do."""

    models: int
    wanted: int
    done: int
    to_do: int
    impossible: int
    quarantined: int
    predicted_work_seconds: float
    """Of one slot."""
    lower_bound_seconds: float
    """Of the whole, however it is scheduled on these pools."""
    peak_memory_bytes: int
    predicted_cost_dollars: float


class ImpossibleThing(Output):
    """What the fleet asks for and cannot be planned."""

    subject: str
    recipe: str
    reason: str


class Change(Output):
    """One reason for work, or for less of it, compared with the last run's plan."""

    why: str
    """new model, new version, changed bytes, new recipe, changed recipe, left over or gone."""
    subject: str
    """A model version, or a recipe."""
    units: int
    """To do because of it."""
    detail: str


class Since(Output):
    """How the plan differs from that of the fleet's last run."""

    run_id: str
    changes: list[Change]


class Tonight(Output):
    """What the hours suffice for, where the fleet limits them."""

    seconds: float | None
    done: Counts
    """Chains, each a version and a recipe, by recipe."""
    carried_over: Counts
    sentences: list[str]


class PlanOutput(Output):
    """`plan`: what a run would do."""

    fleet: str
    summary: PlanSummary
    units: list[PlannedUnit]
    impossible: list[ImpossibleThing]
    quarantined: dict[str, str]
    """Unit key -> why it is not tried again."""
    notices: list[str]
    """What the recipes of each pattern cannot be expected to gain."""
    since: Since | None
    """Null before the first run."""
    tonight: Tonight


class RunOutput(Output):
    """`run`: how it ended."""

    run_id: str
    outcome: str
    exit_code: int
    units: Counts
    """By state: waiting, ready, running, done, failed, quarantined."""
    verdicts: Counts
    """Of this run, by verdict."""
    findings: Counts
    """Of this run, by kind."""
    pruned_models: int
    neither_smaller_nor_faster: int
    """Of them."""
    published: list[str]
    carried_over: int
    stop_reason: str
    notices: list[str]
    """What a person should know of the run itself, beside its units."""
    report: str
    """Where it is."""


class PoolStatus(Output):
    """A pool while a run lives."""

    running: int
    """Slots busy."""
    slots: int


class StatusOutput(Output):
    """`status RUN`: what the store knows of a run. Without RUN: a list of these, newest first."""

    run_id: str
    problem: str | None = None
    """Why the status cannot be read; then nothing else is there."""
    fleet: str | None = None
    state: str | None = None
    """running or ended."""
    started_at: float | None = None
    """Seconds since the epoch, as all moments here."""
    updated_at: float | None = None
    finished_at: float | None = None
    wanted: int | None = None
    done_before: int | None = None
    to_do: int | None = None
    impossible: int | None = None
    quarantined: int | None = None
    units: Counts | None = None
    """By state, of those to do."""
    eta_seconds: float | None = None
    pools: dict[str, PoolStatus] | None = None
    outcome: str | None = None
    exit_code: int | None = None
    stop_reason: str | None = None
    verdicts: Counts | None = None
    findings: Counts | None = None
    published: int | None = None
    unpublished: dict[str, str] | None = None
    """What could not be published, and why; the next run tries again."""
    notices: list[str] | None = None
    """What a person should know of the run itself, such as records that the store refused."""
    clusters: dict[str, dict[str, Any]] | None = None
    """What each cluster said last, and `age_seconds`; only where clusters share the run."""


class NearestResult(Output):
    """The latest result of the same task on the same model under another name."""

    unit_key: str
    run_id: str
    version: str
    differences: list[str]


class ExplainedUnit(Output):
    """`explain`: a list of these."""

    unit: PlannedUnit
    recipes: list[str]
    """Those that want it."""
    made_of: dict[str, Any]
    """What its key is the digest of."""
    needs: list[dict[str, Any]]
    readers: list[dict[str, Any]]
    """Units whose results it reads, and that read its own: unit_key, task, state."""
    result: dict[str, Any] | None
    """Its row in the table `units`."""
    attempts: list[dict[str, Any]]
    """Its rows in `attempts`: every try that failed."""
    findings: list[dict[str, Any]]
    nearest: NearestResult | None


class Check(Output):
    """One property that was probed."""

    area: str
    name: str
    state: str
    seen: str
    follows: str
    advice: str


class DoctorOutput(Output):
    """`doctor`."""

    checks: list[Check]
    exit_code: int


class Damage(Output):
    """One thing that is not what its digest says, or not there."""

    kind: str
    subject: str
    problem: str
    advice: str


class VerifyOutput(Output):
    """`verify`."""

    counts: Counts
    """What was read, by kind."""
    bytes: int
    damages: list[Damage]
    foreign: list[str]
    """Keys that are none of ours."""
    unfinished: list[str]
    """Uploads that were never finished."""


class GarbageThing(Output):
    """What nothing points to."""

    kind: str
    name: str
    objects: int
    bytes: int
    modified: float
    reason: str


class GcOutput(Output):
    """`gc`: what would be removed."""

    garbage: list[GarbageThing]
    bytes: int
    held_back: list[str]
    """Why less is garbage than might be."""


class GcRemoved(Output):
    """`gc --yes`: what was removed."""

    removed: list[GarbageThing]
    spared: list[GarbageThing]
    """In use again since they were found."""
    bytes: int
    held_back: list[str]
    warning: str


class Job(Output):
    """A cluster's job."""

    cluster: str
    job: str
    new: bool


class SubmitOutput(Output):
    """`submit`."""

    run_id: str
    jobs: list[Job]


class NightTold(Output):
    """A night beside what changed."""

    fleet: str
    slot: str
    scheduled_at: float
    begun_at: float
    ended_at: float
    tries: int
    trigger: str
    run_id: str
    outcome: str
    exit_code: int
    carried_over: int
    """Units left to the next night."""
    stop_reason: str
    missed: list[str]
    """Slots before it that nobody ran."""
    unit_seconds: float
    """Of all units finished in this night."""
    dollars: float
    notices: list[str]
    """What a person should know of the night itself."""


class NightChange(Output):
    """One thing that is not as it was after the night before."""

    kind: str
    """blocked, failed, impossible, inconclusive, missed, moved, passed, mended, new or gone."""
    subject: str
    detail: str


class MorningOutput(Output):
    """`morning`: what a night changed."""

    version: int = Field(alias="schema")
    """Grows when a key changes its meaning."""
    headline: str
    is_quiet: bool
    is_problem: bool
    is_first: bool
    """Whether there was no night to compare with."""
    night: NightTold
    changes: list[NightChange]
    statuses: Counts
    """How many model versions under a recipe stand how."""


class NightlyOutput(Output):
    """`nightly`: what the trigger led to."""

    slot: str | None
    duty: str
    reason: str
    exit_code: int
    morning: MorningOutput | None
    """Null where no night was run."""
    untold: list[str]
    """Messages that did not arrive, and why."""


class Move(Output):
    """A move of an alias: a row of `promotions`."""

    unit_key: str | None
    run_id: str | None
    registry: str
    model: str
    version: str | None
    model_digest: str | None
    recipe: str | None
    fleet: str | None
    registry_url: str | None
    alias: str
    published_version: str
    previous_version: str | None
    artifact_digest: str | None
    at: str | None
    actor: str
    reason: str


class MoveOutput(Output):
    """`promote` and `rollback`."""

    moved: bool
    row: Move | None
    """Null where the alias pointed there already."""


class PoolUse(Output):
    """A simulated pool."""

    slots: int
    utilization: float


class Makespan(Output):
    """How long and how dear a simulated run is."""

    makespan_seconds: float
    lower_bound_seconds: float
    ratio: float
    dollars: float


class WiderMakespan(Makespan):
    """The same with one slot more."""

    saves_seconds: float
    more_dollars: float


class SimulateOutput(Makespan):
    """`simulate`."""

    units: Counts
    attempts: int
    pools: dict[str, PoolUse]
    one_slot_more: dict[str, WiderMakespan]
    """By the pool that is widened."""


OUTPUTS: Mapping[str, Any] = {
    "plan": PlanOutput,
    "run": RunOutput,
    "status": StatusOutput | list[StatusOutput],
    "query": list[dict[str, Any]],
    "explain": list[ExplainedUnit],
    "doctor": DoctorOutput,
    "verify": VerifyOutput,
    "gc": GcOutput | GcRemoved,
    "submit": SubmitOutput,
    "nightly": NightlyOutput,
    "morning": MorningOutput,
    "promote": MoveOutput,
    "rollback": MoveOutput,
    "history": list[Move],
    "simulate": SimulateOutput,
}
"""Command -> what it prints with `--json`."""


def schema_of(command: str) -> dict[str, Any]:
    """The JSON Schema of a command's output. Errors: KeyError, if it has none."""
    made = TypeAdapter(OUTPUTS[command]).json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"prunefleet {command} --json",
        **made,
    }
