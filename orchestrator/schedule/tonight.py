"""Pure. What a night's hours suffice for: which recipes' work is expected to be done, what is carried over, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.domain import Plan
from orchestrator.schedule.fairness import OTHERS, Turn
from orchestrator.spec import Fleet
from orchestrator.specs.teams import TeamSpec
from orchestrator.wording import count, duration, number


@dataclass(frozen=True, slots=True, kw_only=True)
class Tonight:
    """How far the hours are expected to go, if all slots are always busy and the estimates are right."""

    seconds: float | None
    """Of the night; None where nothing limits it."""
    done: Mapping[str, int]
    """Chains by recipe that are expected to be finished."""
    carried_over: Mapping[str, int]
    sentences: tuple[str, ...]


def hours_of(fleet: Fleet) -> float | None:
    """Seconds that the fleet's schedule gives a night; None if nothing limits it."""
    schedule = fleet.schedule
    if schedule is None:
        return None
    limits = [schedule.window, schedule.budget_hours and schedule.budget_hours * 3600]
    return min((limit for limit in limits if limit is not None), default=None)


def tonight(plan: Plan, turns: Sequence[Turn], slots: int, fleet: Fleet) -> Tonight:
    """The order of work held against the hours and the teams' deadlines."""
    seconds, room = hours_of(fleet), max(1, slots)
    done: Counter[str] = Counter()
    over: Counter[str] = Counter()
    kept = lost = 0.0
    for turn in turns:
        fits = seconds is None or turn.ends <= seconds * room
        (done if fits else over)[plan.chains[turn.chain].recipe] += 1
        kept, lost = kept + fits * turn.saving, lost + (not fits) * turn.saving
    sentences = [*_late(turns, room, fleet.teams)]
    if over and seconds is not None:
        total = turns[-1].ends / room
        told = ", ".join(f"{recipe}: {number_of:,}" for recipe, number_of in sorted(over.items()))
        why = {
            "saving": "what saves most parameters an hour comes first",
            "longest": "teams take turns" if fleet.teams else "the scheduler begins with the longest chains",
        }[fleet.spend]
        sentences.insert(
            0,
            f"{duration(seconds)} a night do not suffice for {duration(total)} of work on {count(room, 'slot')}: about "
            f"{count(sum(over.values()), 'model')} carried over ({told}); {why}; "
            f"{number(kept, 3)} of {number(kept + lost, 3)} parameters' savings come tonight",
        )
    return Tonight(seconds=seconds, done=done, carried_over=over, sentences=tuple(sentences))


def as_json(found: Tonight) -> dict[str, Any]:
    """Plain values."""
    return {
        "seconds": found.seconds,
        "done": dict(found.done),
        "carried_over": dict(found.carried_over),
        "sentences": list(found.sentences),
    }


def _late(turns: Sequence[Turn], slots: int, teams: Mapping[str, TeamSpec]) -> list[str]:
    """Teams whose deadline cannot be met even if all slots work for them in turn."""
    ends: dict[str, float] = {}
    for turn in turns:
        if turn.team != OTHERS:
            ends[turn.team] = turn.ends / slots
    return [
        f"team {name}: its work ends after about {duration(ends[name])}, its deadline is {duration(team.deadline)}"
        for name, team in teams.items()
        if team.deadline is not None and ends.get(name, 0.0) > team.deadline
    ]
