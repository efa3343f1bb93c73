"""Pure. What became better or worse, came or went between two runs of a fleet: the figures of each case, compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orchestrator.names import natural
from orchestrator.reports.cases import STATUSES, Case
from orchestrator.reports.data import Row
from orchestrator.wording import MISSING, change, number, plain, size

COLUMNS = (
    "registry", "model", "version", "recipe", "status", "metric", "falls", "harm", "worst", "bytes",
    "speedup", "speedup_low", "speedup_high",
)  # fmt: skip
"""Of a case's figures, as one run leaves them for the next."""

_RANKS = {"pass": 0, "measured": 0, "done": 0, "waiting": 1, "inconclusive": 2, "impossible": 3, "failed": 3, "block": 4}  # fmt: skip
_HARM, _BYTES = 0.001, 0.01  # what is less than a tenth of a point, or 1 %, is not told


class Turn(StrEnum):
    """What became of a case, in the order in which it is told."""

    WORSE = "worse"
    BETTER = "better"
    NEW = "new"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One case that is not as it was."""

    turn: Turn
    subject: str
    recipe: str
    told: str
    index: int | None
    """Of the case now; None for what is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """All of them, the worse first, and how many cases are as they were."""

    items: tuple[Difference, ...]
    same: int

    def of(self, turn: Turn) -> tuple[Difference, ...]:
        """Those of one kind."""
        return tuple(item for item in self.items if item.turn is turn)

    @property
    def sentence(self) -> str:
        """`2 worse, 1 new, 54 as before.`"""
        told = [f"{len(self.of(turn)):,} {turn.value}" for turn in Turn if self.of(turn)]
        if not told:
            return f"Nothing changed: {self.same:,} as before."
        return ", ".join([*told, f"{self.same:,} as before"]) + "."


def figures_of(cases: Iterable[Case]) -> list[dict[str, Any]]:
    """What a run leaves of each case for the next one to compare with: the values of `COLUMNS`."""
    return [_figures(case) for case in sorted(cases, key=lambda case: (case.full_id, case.recipe))]


def _figures(case: Case) -> dict[str, Any]:
    return {
        **{name: getattr(case, name) for name in COLUMNS if name not in ("harm", "worst")},
        "harm": case.whole.value if case.whole else None,
        "worst": case.worst_slice.value if case.worst_slice else None,
    }


def differences(before: Sequence[Row], cases: Sequence[Case]) -> Differences:
    """Every case beside what it was in `before`; a new version of a model beside the latest that there was."""
    known = {_key(row): row for row in before}
    line: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in before:
        line[_line(row)].append(row)
    found, seen, same = [], set(), 0
    for case in cases:
        now = _figures(case)
        was = known.get(_key(now)) or max(
            line[_line(now)], key=lambda row: natural(str(row["version"])), default=None
        )
        if was is not None:
            seen.add(_key(was))
        turn, told = _turn(was, now)
        if turn is None:
            same += 1
        else:
            found.append(
                Difference(turn=turn, subject=case.id, recipe=case.recipe, told=told, index=case.index)
            )
    gone = [
        Difference(
            turn=Turn.GONE, subject=_subject(row), recipe=str(row["recipe"]), told=_status(row), index=None
        )
        for key, row in known.items()
        if key not in seen
    ]
    order = {turn: place for place, turn in enumerate(Turn)}
    found.sort(key=lambda item: order[item.turn])  # within a kind by the urgency in which cases come
    return Differences(items=(*found, *sorted(gone, key=lambda x: (x.subject, x.recipe))), same=same)


def _turn(was: Row | None, now: Row) -> tuple[Turn | None, str]:
    if was is None:
        return Turn.NEW, _standing(now)
    moves = _moves(was, now)
    told = "; ".join(move for _, move in moves)
    is_newer = was["version"] != now["version"]
    if is_newer:
        told = f"version {plain(was['version'], 40)} before; {told or 'as it was'}"
    if not moves:
        return (Turn.NEW if is_newer else None), told
    return (Turn.WORSE if moves[0][0] else Turn.BETTER), told


def _moves(was: Row, now: Row) -> list[tuple[bool, str]]:
    """Whether each figure that moved is worse now, and how it reads; the weightiest first."""
    found = []
    before, after = (_RANKS.get(str(row["status"]), _RANKS["waiting"]) for row in (was, now))
    if before != after:
        found.append((after > before, f"{_status(was)} → {_status(now)}"))
    if was["metric"] == now["metric"]:
        for name, of in (("harm", "over all"), ("worst", "in the worst slice")):
            if _differs(was[name], now[name], _HARM):
                shown = f"{plain(now['metric'], 24)} {_harm(was, name)} → {_harm(now, name)} {of}"
                found.append((now[name] > was[name], shown))
    if _differs(was["bytes"], now["bytes"], _BYTES * (was["bytes"] or 0)):
        found.append((now["bytes"] > was["bytes"], f"files {size(was['bytes'])} → {size(now['bytes'])}"))
    if _are_apart(was, now):
        told = f"speed {number(was['speedup'], 3)}× → {number(now['speedup'], 3)}×"
        found.append((now["speedup"] < was["speedup"], told))
    return found


def _are_apart(was: Row, now: Row) -> bool:
    """Whether the intervals of the two speeds do not meet: what is within them is noise."""
    ends = [row[name] for row in (was, now) for name in ("speedup_low", "speedup_high")]
    return None not in ends and (ends[1] < ends[2] or ends[3] < ends[0])


def _differs(was: float | None, now: float | None, least: float) -> bool:
    return was is not None and now is not None and abs(now - was) > least


def _harm(row: Row, name: str) -> str:
    """As the metric itself moves: accuracy falls where loss rises."""
    value = row[name]
    return change(-value if row["falls"] else value, "pt" if row["falls"] else "%")


def _standing(row: Row) -> str:
    known = row["harm"] is not None
    return (
        f"{_status(row)}; {plain(row['metric'], 24)} {_harm(row, 'harm')} over all" if known else _status(row)
    )


def _status(row: Row) -> str:
    return STATUSES.get(str(row["status"]), ("", MISSING))[1]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*_line(row), row["version"])


def _line(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["registry"], row["model"], row["recipe"]


def _subject(row: Row) -> str:
    return plain(f"{row['registry']}/{row['model']}@{row['version']}", 72)
