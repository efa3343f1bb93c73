"""Pure. The morning report: what stood after the last night and what stands now -> what changed, regressions first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.domain import Pool
from orchestrator.reports.cases import Case, cases_of
from orchestrator.reports.data import ReportData, Row
from orchestrator.schedule.costs import money
from orchestrator.wording import change, count, plain

SCHEMA = 1
"""Of the JSON form; grows when a key changes its meaning."""


class Kind(StrEnum):
    """What changed, in the order in which it is told."""

    BLOCKED = "blocked"
    FAILED = "failed"
    IMPOSSIBLE = "impossible"
    INCONCLUSIVE = "inconclusive"
    MISSED = "missed"
    MOVED = "moved"
    PASSED = "passed"
    MENDED = "mended"
    NEW = "new"
    GONE = "gone"


TITLES: Mapping[Kind, str] = {
    Kind.BLOCKED: "newly blocked",
    Kind.FAILED: "newly failed",
    Kind.IMPOSSIBLE: "newly impossible",
    Kind.INCONCLUSIVE: "newly inconclusive",
    Kind.MISSED: "missed nights",
    Kind.MOVED: "aliases moved",
    Kind.PASSED: "newly passed",
    Kind.MENDED: "no longer failing",
    Kind.NEW: "new model versions",
    Kind.GONE: "model versions gone",
}
PROBLEMS = frozenset({Kind.BLOCKED, Kind.FAILED, Kind.IMPOSSIBLE, Kind.MISSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """One thing that is not as it was."""

    kind: Kind
    subject: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What stands after a night, as far as the next one is compared with it."""

    cases: Mapping[str, str]
    """`registry/name@version recipe` -> how it ended."""
    versions: tuple[str, ...]
    """Model versions that some recipe matches."""
    failures: Mapping[str, str]
    """What failed -> why."""
    impossible: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """What is known of a night beside what changed; the record of its slot."""

    fleet: str
    slot: str
    scheduled_at: float
    begun_at: float
    ended_at: float
    tries: int = 1
    trigger: str = ""
    run_id: str = ""
    outcome: str
    exit_code: int
    carried_over: int = 0
    stop_reason: str = ""
    missed: tuple[str, ...] = ()
    unit_seconds: float = 0.0
    """Of all units finished in this night."""
    dollars: float = 0.0
    notices: tuple[str, ...] = ()
    """What a person should know of the night itself: no lease was possible, nobody could be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Morning:
    """What is reported in the morning."""

    night: Night
    changes: tuple[Changed, ...]
    statuses: Mapping[str, int] = field(default_factory=dict)
    """How many model versions under a recipe stand how, changed or not."""
    is_first: bool = False
    """Whether there is no night to compare with."""

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.changes or self.night.carried_over or self.night.notices)

    @property
    def is_problem(self) -> bool:
        """Whether somebody should look: something was newly refused, failed, missed, or the night did not come to its end."""
        return any(item.kind in PROBLEMS for item in self.changes) or self.night.exit_code not in (0, 3, 4, 5)

    @property
    def headline(self) -> str:
        """What changed, in one sentence, worst first."""
        counts = Counter(item.kind for item in self.changes)
        told = [f"{counts[kind]:,} {TITLES[kind]}" for kind in Kind if counts[kind]]
        if self.night.carried_over:
            told.append(f"{count(self.night.carried_over, 'unit')} carried over")
        sentence = ", ".join(told) if told else "nothing changed"
        start = "First night: " if self.is_first else ""
        return f"{start}{sentence if start else sentence[0].upper() + sentence[1:]}."

    def of(self, kind: Kind) -> tuple[Changed, ...]:
        """The changes of one kind."""
        return tuple(item for item in self.changes if item.kind is kind)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for programs."""
        return {
            "schema": SCHEMA,
            "headline": self.headline,
            "is_quiet": self.is_quiet,
            "is_problem": self.is_problem,
            "is_first": self.is_first,
            "night": asdict(self.night),
            "changes": [asdict(item) for item in self.changes],
            "statuses": dict(self.statuses),
        }


def standing_of(data: ReportData) -> Standing:
    """What stands, from all that a run's report shows."""
    cases = cases_of(data)
    return Standing(
        cases={_name(case): case.status for case in cases},
        versions=tuple(sorted({_version(case) for case in cases})),
        failures={
            f"{row.get('subject')} {row.get('recipe')}": f"{row.get('class')}: {row.get('error')}"
            for row in data.failures
        },
        impossible={f"{row.get('subject')}": f"{row.get('reason')}" for row in data.impossible},
    )


def compare(
    before: Standing | None, now: Standing, details: Mapping[str, str], moves: Iterable[Row], night: Night
) -> Morning:
    """What changed between two nights; `moves` are the alias moves made since the one before."""
    old = before or Standing(cases={}, versions=(), failures={}, impossible={})
    found = [
        *_verdicts(old, now, details),
        *(
            Changed(kind=Kind.FAILED, subject=subject, detail=why)
            for subject, why in now.failures.items()
            if subject not in old.failures
        ),
        *(
            Changed(kind=Kind.IMPOSSIBLE, subject=subject, detail=why)
            for subject, why in now.impossible.items()
            if subject not in old.impossible
        ),
        *(
            Changed(kind=Kind.MISSED, subject=name, detail="its work was left to this night")
            for name in night.missed
        ),
        *(_moved(row) for row in moves),
        *(
            Changed(kind=Kind.MENDED, subject=subject)
            for part in ("failures", "impossible")
            for subject in getattr(old, part)
            if subject not in getattr(now, part)
        ),
        *(
            Changed(kind=Kind.NEW, subject=version)
            for version in now.versions
            if version not in set(old.versions)
        ),
        *(
            Changed(kind=Kind.GONE, subject=version)
            for version in old.versions
            if version not in set(now.versions)
        ),
    ]
    order = {kind: place for place, kind in enumerate(Kind)}
    return Morning(
        night=night,
        changes=tuple(sorted(found, key=lambda item: (order[item.kind], item.subject))),
        statuses=Counter(now.cases.values()),
        is_first=before is None,
    )


def details_of(data: ReportData) -> dict[str, str]:
    """For each model version under a recipe: how much worse it became, as people read it."""
    told = {}
    for case in cases_of(data):
        whole, worst = case.whole, case.worst_slice
        parts = [case.reason.removesuffix(".")] if case.reason else []
        if not parts and whole and whole.value is not None:
            parts.append(f"{case.metric} {change(whole.value, case.unit)} worse over all")
            if worst and worst.value is not None:
                parts.append(f"{change(worst.value, case.unit)} in slice {worst.slice}")
        told[_name(case)] = plain("; ".join(parts))
    return told


def spent(units: Sequence[Row], pools: Mapping[str, Pool]) -> tuple[float, float]:
    """Seconds and dollars of these units' rows."""
    seconds = dollars = 0.0
    for row in units:
        took = float(row.get("wall_seconds") or 0.0)
        seconds += took
        if (pool := pools.get(row.get("pool") or "")) is not None:
            dollars += money(took, pool)
    return seconds, dollars


def _verdicts(old: Standing, now: Standing, details: Mapping[str, str]) -> Iterable[Changed]:
    kinds = {"block": Kind.BLOCKED, "inconclusive": Kind.INCONCLUSIVE, "pass": Kind.PASSED}
    for name, status in now.cases.items():
        was = old.cases.get(name)
        if status != was and status in kinds:
            before = f"was {was}" if was in kinds else ""
            detail = "; ".join(part for part in (details.get(name, ""), before) if part)
            yield Changed(kind=kinds[status], subject=name, detail=detail)


def _moved(row: Row) -> Changed:
    before = row.get("previous_version")
    return Changed(
        kind=Kind.MOVED,
        subject=f"{row.get('registry')}/{row.get('model')}:{row.get('alias')}",
        detail=f"{before + ' → ' if before else '→ '}{row.get('published_version')}, by {row.get('actor')}: {row.get('reason')}",
    )


def _version(case: Case) -> str:
    return f"{case.registry}/{case.model}@{case.version}"


def _name(case: Case) -> str:
    return f"{_version(case)} {case.recipe}"
