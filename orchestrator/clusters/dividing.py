"""Pure. How a plan is divided between clusters: into blocks, and blocks by speed and memory, so that all end together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.domain import Plan, TaskName, Unit
from orchestrator.schedule.forecast import Forecast, Outlook

PIECES = 8  # of a model whose sensitivity analysis has so many units or more
FINE_CHAINS = (
    500  # with so few, what a recipe does to a model is a block, and what several recipes share of it another
)
SWAPS = 200  # blocks among which pairs are looked for; among more, prices and moves come close enough
STEPS = 100  # improvements of one division at most
PRICINGS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Units that one cluster takes as a whole: those of a model, or a piece of a large one, or of one recipe for it."""

    id: str
    units: tuple[str, ...]
    """Still to do, needs first."""
    seconds: Mapping[str, float]
    """By cluster that all of them fit: what they take of all its slots. Empty if they fit none together."""


def cut(plan: Plan, forecast: Forecast, pools: Mapping[str, Collection[str]]) -> tuple[Block, ...]:
    """The plan's units to do as blocks, in the plan's order; `pools` are those of each cluster.

    What is done already counts for nothing, so that all controllers cut alike. Where no cluster has the memory for all of a
    block, its units are blocks of their own kind: those that fit the same clusters are together.
    """
    speeds = _Speeds(forecast, pools)
    members: dict[str, list[str]] = {}
    names = _fine(plan) if len(plan.chains) <= FINE_CHAINS else {}
    for key in plan.todo:
        members.setdefault(names.get(key) or _coarse(plan.units[key]), []).append(key)
    blocks: list[Block] = []
    for name, keys in members.items():
        whole = _block(name, keys, plan, speeds)
        if whole.seconds:
            blocks.append(whole)
            continue
        kinds: dict[tuple[str, ...], list[str]] = {}
        for key in keys:
            kinds.setdefault(tuple(speeds.of(plan.units[key])), []).append(key)
        blocks += [
            _block(f"{name}-on-{'-'.join(kind) or 'none'}", some, plan, speeds)
            for kind, some in kinds.items()
        ]
    return tuple(blocks)


def _fine(plan: Plan) -> dict[str, str]:
    """Unit -> its block: sensitivities and what several chains share are blocks of their own, the rest of a chain is one."""
    chains = Counter(key for chain in plan.chains for key in chain.units)
    return {
        key: key if chains[key] > 1 or plan.units[key].task is TaskName.SENSITIVITY else chain.prune or key
        for chain in plan.chains
        for key in chain.units
    }


def _coarse(unit: Unit) -> str:
    if unit.task is TaskName.SENSITIVITY and unit.parts >= PIECES:
        return f"{unit.model.digest}-{unit.part * PIECES // unit.parts}"
    return unit.model.digest


def divide(blocks: Sequence[Block], loads: Mapping[str, float]) -> dict[str, tuple[Block, ...]]:
    """Cluster -> the blocks that are best done there, those first that it is comparatively best at.

    `loads` are the clusters that live, each with the seconds that it is busy anyway. What fits none of them is nobody's.
    R||Cmax: the best of two greedy divisions and one by prices, with moves and swaps until the last cluster ends no sooner.
    """
    names = list(loads)
    fitting = [block for block in blocks if any(name in block.seconds for name in names)]
    if not names:
        return {}
    starts = [
        sorted(fitting, key=lambda block: (-_best(block, names), block.id)),
        sorted(fitting, key=lambda block: (-_advantage(block, names), block.id)),
    ]
    divisions = [*(_greedy(order, loads) for order in starts), _priced(fitting, loads)]
    if len(fitting) > SWAPS:
        divisions = [min(divisions, key=lambda division: makespan(division, loads))]
    best = min(
        (_improved(division, loads) for division in divisions),
        key=lambda division: makespan(division, loads),
    )
    return {
        name: tuple(sorted(best[name], key=lambda block: -_relative(block, name, names))) for name in names
    }


def makespan(division: Mapping[str, Sequence[Block]], loads: Mapping[str, float]) -> float:
    """When the last cluster ends."""
    return max(
        (
            loads[name] + sum(block.seconds[name] for block in blocks)
            for name, blocks in division.items()
            if blocks or loads[name]
        ),
        default=0.0,
    )


@dataclass(slots=True)
class _Speeds:
    forecast: Forecast
    pools: Mapping[str, Collection[str]]
    known: dict[Outlook, dict[str, float]] = field(default_factory=dict)

    def of(self, unit: Unit) -> dict[str, float]:
        """By cluster with room: seconds of the unit if all of the cluster's slots took their share of it."""
        outlook = self.forecast.of(unit)
        if outlook not in self.known:
            self.known[outlook] = {
                cluster: 1.0 / rate
                for cluster, pools in self.pools.items()
                if (rate := self._rate(outlook, pools)) > 0
            }
        return self.known[outlook]

    def _rate(self, outlook: Outlook, pools: Collection[str]) -> float:
        return sum(
            self.forecast.pools[name].slots / outlook.seconds[name] for name in pools if name in outlook.rooms
        )


def _block(name: str, keys: Sequence[str], plan: Plan, speeds: _Speeds) -> Block:
    totals: dict[str, float] | None = None
    for key in keys:
        own = speeds.of(plan.units[key])
        if totals is None:
            totals = dict(own)
        else:
            totals = {cluster: total + own[cluster] for cluster, total in totals.items() if cluster in own}
    return Block(id=name, units=tuple(keys), seconds=totals or {})


def _best(block: Block, names: Sequence[str]) -> float:
    return min(block.seconds[name] for name in names if name in block.seconds)


def _advantage(block: Block, names: Sequence[str]) -> float:
    """How much longer it takes where it is second best."""
    ordered = sorted(block.seconds.get(name, math.inf) for name in names)
    return ordered[1] / ordered[0] if len(ordered) > 1 else math.inf


def _relative(block: Block, name: str, names: Sequence[str]) -> float:
    elsewhere = min((block.seconds.get(other, math.inf) for other in names if other != name), default=1.0)
    return elsewhere / block.seconds[name]


def _greedy(order: Sequence[Block], loads: Mapping[str, float]) -> dict[str, list[Block]]:
    """Each block to where it would end first."""
    ends = dict(loads)
    division: dict[str, list[Block]] = {name: [] for name in loads}
    for block in order:
        at = min(
            (name for name in loads if name in block.seconds),
            key=lambda name: ends[name] + block.seconds[name],
        )
        division[at].append(block)
        ends[at] += block.seconds[at]
    return division


def _priced(blocks: Sequence[Block], loads: Mapping[str, float]) -> dict[str, list[Block]]:
    """Each block to where it costs least, at prices for a second of each cluster that rise with its load: the dual way."""
    prices = dict.fromkeys(loads, 1.0)
    best: dict[str, list[Block]] = {name: [] for name in loads}
    end = math.inf
    for step in range(PRICINGS):
        division: dict[str, list[Block]] = {name: [] for name in loads}
        ends = dict(loads)
        for block in blocks:
            at = min(
                (name for name in loads if name in block.seconds),
                key=lambda name: prices[name] * block.seconds[name],
            )
            division[at].append(block)
            ends[at] += block.seconds[at]
        last = max(ends.values())
        if last < end:
            best, end = division, last
        mean = sum(ends.values()) / len(ends)
        if mean == 0:
            break
        for name in prices:
            prices[name] *= max(ends[name] / mean, 0.1) ** (2.0 / (step + 2))
    return best


def _improved(division: dict[str, list[Block]], loads: Mapping[str, float]) -> dict[str, list[Block]]:
    ends = {name: loads[name] + sum(b.seconds[name] for b in blocks) for name, blocks in division.items()}
    for _ in range(STEPS):
        last = max((name for name in ends if division[name]), key=lambda name: ends[name], default=None)
        if last is None:
            break
        step = min(
            (
                found
                for name in ends
                if name != last
                for found in [_step(division, ends, last, name)]
                if found
            ),
            key=lambda found: found[0],
            default=None,
        )
        if step is None:
            break
        _, to, there, back = step
        for block, source, target in ((there, last, to), (back, to, last)):
            if block is not None:
                division[source].remove(block)
                division[target].append(block)
                ends[source] -= block.seconds[source]
                ends[target] += block.seconds[target]
    return division


_Step = tuple[float, str, Block, Block | None]


def _step(
    division: Mapping[str, Sequence[Block]], ends: Mapping[str, float], last: str, to: str
) -> _Step | None:
    """The move or swap after which the later of the two clusters ends soonest; None if none is better than now."""
    best: _Step | None = None
    limit = ends[last] * (1 - 1e-9)
    movable = [block for block in division[last] if to in block.seconds]
    returnable = [block for block in division[to] if last in block.seconds]
    if len(movable) + len(returnable) > SWAPS:
        returnable = []
    for there in movable:
        for back in (None, *returnable):
            here = ends[last] - there.seconds[last] + (back.seconds[last] if back else 0.0)
            other = ends[to] + there.seconds[to] - (back.seconds[to] if back else 0.0)
            end = max(here, other)
            if end < limit:
                limit, best = end, (end, to, there, back)
    return best
