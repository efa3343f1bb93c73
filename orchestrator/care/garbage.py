"""Pure. What in a store nothing points to any more, and why each thing may go or has to stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.ports import Stat

DAY = 86_400.0
SHORTEST = 3600.0
"""Seconds: an upload that is younger than this may still be going on, whatever anybody says."""


class Kind(StrEnum):
    """What a thing is."""

    ARTIFACT = "artifact"
    HALF_ARTIFACT = "half an artifact"
    """An upload that never came to its list of files."""
    DATASET = "dataset"
    QUARANTINE = "quarantine"
    PROBE = "probe"
    """What a killed `prunefleet doctor` left."""
    RUN = "run"
    NIGHT = "report of a night"
    """With its tries and messages; the record that the night is over stays for ever."""
    HALF_NIGHT = "night without an end"
    PROPOSAL = "proposal"
    """With its approvals."""
    ASIDE = "unfinished write"
    """A file that a killed writer left beside its place in a local store."""
    UPLOAD = "unfinished upload"
    """Parts in an S3 store that no listing shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One thing that could be garbage."""

    kind: Kind
    name: str
    """An artifact's or dataset's digest, a unit's key, a run's id, or where it lies."""
    keys: tuple[str, ...]
    """Its objects, in the order in which they are to be removed."""
    bytes: int
    modified: float
    """Of its youngest object, in seconds since the epoch by the store's clock; 0 if that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that decides what may go."""

    things: tuple[Thing, ...]
    artifacts: frozenset[str]
    """Digests that a result or a record of publication points to."""
    unreadable: tuple[str, ...]
    """Objects that could point to artifacts and cannot be read: then no artifact is known to be garbage."""
    done: frozenset[str]
    """Units that have a result."""
    data: frozenset[str] | None
    """Digests of the files that the fleet reads now; None if that is not known."""
    is_running: bool
    """Whether a run seems to be going on."""
    runs: frozenset[str]
    """Runs that a record of publication names."""
    nights: frozenset[str]
    """Nights whose report something needs."""
    proposals: frozenset[str] | None
    """Proposals that were carried out, or may be; None if that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How old something must be."""

    at: float
    """Now, in seconds since the epoch."""
    older_than: float = 7 * DAY
    runs_older_than: float | None = None
    """None: records of runs and reports of nights stay, however old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """A thing that may go, and why."""

    thing: Thing
    reason: str


def thing_of(kind: Kind, name: str, objects: Sequence[Stat]) -> Thing:
    """As old as its youngest object; of no known age if one of them has none."""
    times = [one.modified for one in objects]
    return Thing(
        kind=kind,
        name=name,
        keys=tuple(one.key for one in objects),
        bytes=sum(one.bytes for one in objects),
        modified=max(times) if times and min(times) > 0 else 0.0,
    )


def garbage(facts: Facts, limits: Limits) -> tuple[Doomed, ...]:
    """What may go, in the order of the facts."""
    judged = ((thing, _reason(thing, facts)) for thing in facts.things if is_old(thing, limits))
    return tuple(Doomed(thing=thing, reason=reason) for thing, reason in judged if reason)


def is_old(thing: Thing, limits: Limits) -> bool:
    """Whether its age is known, and above the limit for its kind."""
    limit = limits.runs_older_than if thing.kind in (Kind.RUN, Kind.NIGHT) else limits.older_than
    return limit is not None and thing.modified > 0 and limits.at - thing.modified >= max(limit, SHORTEST)


def held_back(facts: Facts) -> Iterable[str]:
    """Why whole kinds of things stay, for people."""
    if facts.unreadable:
        shown = ", ".join(facts.unreadable[:3])
        yield (
            f"no artifact is removed: {len(facts.unreadable)} objects that may point to one cannot be read ({shown}); "
            "`prunefleet verify` says what to do with them"
        )
    kinds = {thing.kind for thing in facts.things}
    if Kind.DATASET in kinds and facts.data is None:
        yield "no dataset is removed: only a fleet file whose datasets can all be read says which are wanted"
    elif Kind.DATASET in kinds and facts.is_running:
        yield "no dataset is removed: a run is going on, or ended without a word"
    if Kind.PROPOSAL in kinds and facts.proposals is None:
        yield "no proposal is removed: only a fleet file with `promotion` says how long they count"


def _reason(thing: Thing, facts: Facts) -> str:
    """Why nothing needs it; empty if something does, or might."""
    match thing.kind:
        case Kind.ARTIFACT | Kind.HALF_ARTIFACT:
            if facts.unreadable or thing.name in facts.artifacts:
                return ""
            half = "its upload was never completed, and " if thing.kind is Kind.HALF_ARTIFACT else ""
            return f"{half}no result and no publication points to it"
        case Kind.DATASET:
            is_free = facts.data is not None and thing.name not in facts.data and not facts.is_running
            return "the fleet reads no such file any more" if is_free else ""
        case Kind.QUARANTINE:
            return "its unit has a result now" if thing.name in facts.done else ""
        case Kind.RUN:
            return "" if thing.name in facts.runs else "no publication names it, and its record is old"
        case Kind.NIGHT:
            return (
                ""
                if thing.name in facts.nights
                else "its night is over, and no later one is compared with it"
            )
        case Kind.HALF_NIGHT:
            return "" if thing.name in facts.nights else "its night never ended, and a later one did"
        case Kind.PROPOSAL:
            is_free = facts.proposals is not None and thing.name not in facts.proposals
            return "it was never carried out, and counts no more" if is_free else ""
        case Kind.PROBE:
            return "a probe of the store left it"
        case Kind.ASIDE | Kind.UPLOAD:
            return "whoever wrote it did not come to the end"
