"""Pure. In which order a fleet's work is done where it matters who comes first: teams by their weights, savings by the hour.

Work is ordered by chains, since half a chain saves nothing. Teams take turns as in weighted fair queueing (Demers, Keshav and
Shenker, 1989): the next chain is of the team that was given least for its weight. The order is cut into bands of a few minutes
of the whole cluster, or less; within a band the scheduler is free to put work where it runs best.
"""

from __future__ import annotations

import fnmatch
import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.domain import Chain, Plan, Pool
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.forecast import Forecast
from orchestrator.specs.teams import Spend, TeamSpec

BAND_SECONDS = 300.0  # of all slots: what may overtake what
BANDS = 64  # at least, so that the order means something where all of it takes minutes
OTHERS = ""
"""The team of all work that no team claims."""
UNKNOWN_SHARE = 0.5  # of parameters, where a recipe names a quality and not an amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A chain in the order of work."""

    chain: int
    """Its place in the plan's chains."""
    team: str
    work: float
    """Seconds of those of its units to do that no earlier turn has, each on its fastest pool."""
    saving: float
    """Parameters that are expected to go."""
    ends: float
    """Seconds of work up to its end, of all slots together."""


@dataclass(slots=True)
class _Queue:
    """A team's chains that have had no turn; those that save most an hour first, or those that take longest."""

    by_saving: bool
    heap: list[tuple[float, int, int]] = field(default_factory=list)
    versions: dict[int, int] = field(default_factory=dict)

    def put(self, chain: int, saving: float, work: float) -> None:
        version = self.versions.get(chain, 0) + 1
        self.versions[chain] = version
        rate = (math.inf if work <= 0 else saving / work) if self.by_saving else work
        heapq.heappush(self.heap, (-rate, chain, version))

    def pop(self) -> int | None:
        while self.heap:
            _, chain, version = heapq.heappop(self.heap)
            if self.versions.get(chain) == version:
                del self.versions[chain]
                return chain
        return None


def turns(
    plan: Plan, pools: Mapping[str, Pool], costs: Costs, teams: Mapping[str, TeamSpec], spend: Spend
) -> tuple[Turn, ...]:
    """The chains with work to do, in the order in which they are to be done."""
    works, savings = works_of(plan, pools, costs), [saving_of(plan, chain) for chain in plan.chains]
    needed = [tuple(dict.fromkeys(key for key in chain.units if key in works)) for chain in plan.chains]
    owners = [team_of(chain, teams) for chain in plan.chains]
    return order(needed, works, savings, owners, teams, spend)


def order(
    needed: Sequence[Sequence[str]],
    works: Mapping[str, float],
    savings: Sequence[float],
    owners: Sequence[str],
    teams: Mapping[str, TeamSpec],
    spend: Spend,
) -> tuple[Turn, ...]:
    """`needed`: the units to do of each chain; `works`: seconds of each; `savings`, `owners`: of each chain."""
    users: dict[str, list[int]] = {}
    for chain, keys in enumerate(needed):
        for key in keys:
            users.setdefault(key, []).append(chain)
    left = [math.fsum(works[key] for key in keys) for keys in needed]
    queues: dict[str, _Queue] = {}
    for chain, keys in enumerate(needed):
        if keys:
            queue = queues.setdefault(owners[chain], _Queue(by_saving=spend == "saving"))
            queue.put(chain, savings[chain], left[chain])
    served = dict.fromkeys(queues, 0.0)
    taken: set[str] = set()
    found: list[Turn] = []
    ends = 0.0
    while queues:
        team = min(queues, key=lambda name: _urgency(name, teams.get(name, TeamSpec()), served[name]))
        popped = queues[team].pop()
        if popped is None:
            del queues[team]
            continue
        chain = popped
        fresh = [key for key in needed[chain] if key not in taken]
        work = math.fsum(works[key] for key in fresh)
        taken.update(fresh)
        served[team] += work
        ends += work
        found.append(Turn(chain=chain, team=team, work=work, saving=savings[chain], ends=ends))
        for other in sorted({user for key in fresh for user in users[key]} - {chain}):
            if owners[other] in queues and other in queues[owners[other]].versions:
                rest = math.fsum(works[key] for key in needed[other] if key not in taken)
                queues[owners[other]].put(other, savings[other], rest)
    return tuple(found)


def bands_of(plan: Plan, found: Sequence[Turn], slots: int) -> dict[str, int]:
    """Unit -> band, earlier first; a unit that several chains need has that of the first."""
    if not found:
        return {}
    width = min(BAND_SECONDS * max(1, slots), found[-1].ends / BANDS) or 1.0
    bands: dict[str, int] = {}
    for turn in found:
        band = int((turn.ends - turn.work) / width)
        for key in plan.chains[turn.chain].units:
            bands.setdefault(key, band)
    return bands


def works_of(plan: Plan, pools: Mapping[str, Pool], costs: Costs) -> dict[str, float]:
    """Seconds of each unit to do, on the pool that is fastest for it."""
    forecast = Forecast(pools, costs)
    return {key: forecast.of(plan.units[key]).fastest for key in plan.todo}


def team_of(chain: Chain, teams: Mapping[str, TeamSpec]) -> str:
    """The first team that claims a chain."""
    for name, team in teams.items():
        by_recipe = any(fnmatch.fnmatchcase(chain.recipe, pattern) for pattern in team.recipes)
        if by_recipe and any(
            fnmatch.fnmatchcase(chain.model.registry, pattern) for pattern in team.registries
        ):
            return name
    return OTHERS


def saving_of(plan: Plan, chain: Chain) -> float:
    """Parameters that a chain is expected to take away or set to zero; 0 where it only measures."""
    if not chain.prune:
        return 0.0
    params = plan.units[chain.prune].step.params
    counted = [float(share) for kind, share in (params.get("budget") or {}).items() if kind != "latency"]
    if counted:
        share = 1.0 - min(counted)
    elif params.get("quality"):
        share = UNKNOWN_SHARE
    elif cut := params.get("cut"):
        share = float(sum(cut.values())) / len(cut)
    else:
        share = float(params.get("amount") or 0.0)
    return float(chain.model.parameters) * share


def _urgency(name: str, team: TeamSpec, served: float) -> tuple[int, float, float, str]:
    deadline = math.inf if team.deadline is None else team.deadline
    return -team.priority, deadline, served / team.weight, name
