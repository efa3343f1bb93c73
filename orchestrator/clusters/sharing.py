"""Effects. One cluster's part in a run of several: what it claims of the plan, what it leaves, and what it hears of the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.clusters.dividing import Block, cut, divide
from orchestrator.clusters.runboard import MISSED, Board, Peer, number_at
from orchestrator.domain import Failure, FailureClass
from orchestrator.errors import StoreError, Unreachable
from orchestrator.schedule.scheduling import ENDED, Progress, Stop, UnitState, free, hear, hold

IDLE_SECONDS = 2.0  # between looks while slots are free; a heartbeat where that is sooner
READY_PER_SLOT = 2.0
LOOKAHEAD = 2.0  # heartbeats' worth of work that is claimed ahead
PATIENCE = 600.0  # without a store, or with work that no living cluster has the pools for


@dataclass(slots=True, kw_only=True)
class Share:
    """What the loop asks once a round. Whoever loses the store, or a claim, loses time alone."""

    board: Board
    pools: Mapping[str, Collection[str]]
    """Those of each of the fleet's clusters."""
    blocks: dict[str, Block] = field(default_factory=dict)
    """Those with something left to do."""
    mine: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    """Units whose end the others know, or told."""
    others: tuple[Peer, ...] = ()
    """The other clusters that live, as of the last look."""
    looked_at: float = float("-inf")
    stuck_since: float | None = None
    is_ousted: bool = False

    @property
    def cluster(self) -> str:
        """This one's name."""
        return self.board.cluster

    @property
    def running_elsewhere(self) -> int:
        """Units that the other clusters run."""
        return sum(number_at(peer.told, "units", UnitState.RUNNING.value) for peer in self.others)

    @property
    def pools_elsewhere(self) -> dict[str, dict[str, int]]:
        """Slots of the other clusters' pools, and how many of them are busy."""
        return {
            name: {key: number_at(peer.told, "pools", name, key) for key in ("running", "slots")}
            for peer in self.others
            for name in self.pools.get(peer.cluster, ())
        }

    def join(self, progress: Progress) -> None:
        """Cuts the plan into blocks; nothing is this cluster's until it is claimed."""
        progress.own_pools = frozenset(self.pools[self.cluster])
        progress.prefix = f"{self.board.owner}-"
        self.blocks = {block.id: block for block in cut(progress.plan, progress.forecast, self.pools)}
        for block in self.blocks.values():
            hold(progress, block.units)

    def next_look(self, progress: Progress, capacity: Mapping[str, int]) -> float:
        """When to look again."""
        if self.is_ousted:
            return float("inf")
        idles = progress.counts[UnitState.READY] < sum(capacity.values()) - progress.used_slots.total()
        beat = self.board.heartbeat_seconds
        return self.looked_at + (min(beat, IDLE_SECONDS) if idles and progress.held else beat)

    def look(self, progress: Progress, capacity: Mapping[str, int], at: float) -> str:
        """Tells, hears, and claims what it is time for; why to start nothing more, or nothing."""
        if self.is_ousted or at < self.next_look(progress, capacity):
            return ""
        self.looked_at = at
        try:
            reason = self._exchange(progress, capacity, at)
        except (StoreError, Unreachable) as error:
            self._wait_for(progress, at, FailureClass.STORAGE, f"the store has not answered: {error}")
            return ""
        return reason

    def close(self, progress: Progress) -> None:
        """The last word: what has ended here, and that nothing more will."""
        if not self.is_ousted:
            self._tell(progress)
            self.board.beat(self._state(progress, {}, "ended", 0.0))

    def _exchange(self, progress: Progress, capacity: Mapping[str, int], at: float) -> str:
        if self.board.is_ousted():
            self.is_ousted = True
            return f"another controller has taken the place of {self.board.owner}"
        self._tell(progress)
        self.board.beat(self._state(progress, capacity, "running", at))
        for ended in self.board.heard():
            self.told.update(ended.done, ended.failed)
            hear(progress, ended.done, ended.failed)
        self.others = self.board.peers()
        peers = {peer.owner: peer for peer in self.others}
        progress.slots_elsewhere = sum(peer.slots for peer in peers.values())
        self.board.look()
        for name in [name for name in self.mine if self._owner(name) != self.board.owner]:
            self.mine.discard(name)
            hold(progress, self.blocks[name].units if name in self.blocks else ())
        self._forget(progress)
        if reason := self.board.asked_to_stop():
            return reason
        slots = sum(capacity.values())
        if slots and progress.stop is None:
            self._claim(progress, peers, slots)
        self._see_whether_stuck(progress, peers, slots, at)
        return ""

    def _claim(self, progress: Progress, peers: Mapping[str, Peer], slots: int) -> None:
        """What the division gives this cluster, as far as it is needed soon; else what others have claimed and not begun."""
        if not self._wants(progress, slots):
            return
        left = self._left(progress, peers, slots)
        nobodys = [
            left[name] for name in self.blocks if name not in self.mine and self._owner(name) not in peers
        ]
        loads = {peer.cluster: peer.load for peer in peers.values() if peer.slots}
        loads[self.cluster] = self._sum(left, self.mine)
        waiting: dict[str, list[Block]] = {}
        for name in self.blocks:
            owner = self._owner(name)
            if owner in peers and name not in peers[owner].begun:
                waiting.setdefault(peers[owner].cluster, []).append(left[name])
        ahead = {
            name: load + sum(block.seconds.get(name, 0.0) for block in waiting.get(name, ()))
            for name, load in loads.items()
        }
        if self._take(progress, divide(nobodys, ahead)[self.cluster], slots) or not self._idles(
            progress, slots
        ):
            return
        others = [block for blocks in waiting.values() for block in blocks]
        self._take(progress, divide(others, loads)[self.cluster], slots)

    def _take(self, progress: Progress, blocks: Iterable[Block], slots: int) -> int:
        taken = 0
        for block in blocks:
            if not self._wants(progress, slots):
                break
            if self.board.claim(block.id):
                self.mine.add(block.id)
                free(progress, self.blocks[block.id].units)
                taken += 1
        return taken

    def _wants(self, progress: Progress, slots: int) -> bool:
        """Whether its claims will not keep it busy until it has looked again, and once more."""
        if progress.counts[UnitState.READY] < READY_PER_SLOT * slots:
            return True
        load = self._sum(self._left(progress, {}, slots, self.mine), self.mine)
        return load < LOOKAHEAD * self.board.heartbeat_seconds

    def _idles(self, progress: Progress, slots: int) -> bool:
        return progress.counts[UnitState.READY] + progress.used_slots.total() < slots

    def _left(
        self, progress: Progress, peers: Mapping[str, Peer], slots: int, names: Iterable[str] | None = None
    ) -> dict[str, Block]:
        """What is left of each block, with the slots that the clusters have now in place of those that the fleet file says."""
        have = {peer.cluster: peer.slots for peer in peers.values()} | {self.cluster: slots}
        factors = {
            cluster: sum(progress.pools[pool].slots for pool in pools) / have[cluster]
            for cluster, pools in self.pools.items()
            if have.get(cluster)
        }
        found = {}
        for name in self.blocks if names is None else names:
            block = self.blocks[name]
            ended = sum(progress.states[key] in ENDED for key in block.units)
            share = 1.0 - ended / len(block.units)
            seconds = {
                cluster: seconds * share * factors[cluster]
                for cluster, seconds in block.seconds.items()
                if cluster in factors
            }
            found[name] = replace(block, seconds=seconds)
        return found

    def _sum(self, left: Mapping[str, Block], names: Iterable[str]) -> float:
        return sum(left[name].seconds.get(self.cluster, 0.0) for name in names)

    def _owner(self, block: str) -> str:
        return self.board.claims.get(block, "")

    def _begun(self, progress: Progress) -> list[str]:
        waits = (UnitState.WAITING, UnitState.READY)
        return sorted(
            name
            for name in self.mine
            if any(progress.states[key] not in waits for key in self.blocks[name].units)
        )

    def _tell(self, progress: Progress) -> None:
        """What has ended in this cluster's blocks; in one that it lost, whoever has it now finds the results."""
        ended = [
            key
            for block in self.blocks.values()
            if block.id in self.mine
            for key in block.units
            if key not in self.told and progress.states[key] in ENDED
        ]
        failed = {
            key: progress.reasons.get(key) or Failure(failure_class=FailureClass.INTERNAL, error="not known")
            for key in ended
            if progress.states[key] is not UnitState.DONE
        }
        self.board.tell([key for key in ended if key not in failed], failed)
        self.told.update(ended)

    def _forget(self, progress: Progress) -> None:
        """Blocks without anything left to do."""
        for name in [
            name
            for name, block in self.blocks.items()
            if all(progress.states[key] in ENDED for key in block.units)
        ]:
            self.told.difference_update(self.blocks[name].units)
            del self.blocks[name]
            self.mine.discard(name)

    def _state(
        self, progress: Progress, capacity: Mapping[str, int], state: str, at: float
    ) -> dict[str, Any]:
        slots = sum(capacity.values())
        begun = self._begun(progress)
        load = self._sum(self._left(progress, {}, slots, begun), begun) if slots else 0.0
        return {
            "state": state,
            "slots": slots,
            "load": load,
            "begun": begun,
            "updated_at": at,
            "eta_seconds": progress.seconds_left(slots) if slots else None,
            "units": {each.value: progress.counts[each] for each in UnitState},
            "claimed": len(self.mine),
            "pools": {
                name: {"slots": capacity.get(name, 0), "running": progress.used_slots[name]}
                for name in self.pools[self.cluster]
            },
        }

    def _see_whether_stuck(
        self, progress: Progress, peers: Mapping[str, Peer], slots: int, at: float
    ) -> None:
        """Blocks are left, nothing runs here, and no cluster that lives has the pools for them."""
        living = {peer.cluster for peer in peers.values() if peer.slots} | (
            {self.cluster} if slots else set()
        )
        hopeless = [block for block in self.blocks.values() if living.isdisjoint(block.seconds)]
        if progress.running or not hopeless or len(hopeless) < len(self.blocks):
            self.stuck_since = None
            return
        absent = ", ".join(sorted({name for block in hopeless for name in block.seconds} - living)) or "none"
        units = sum(len(block.units) for block in hopeless)
        words = f"{units} units are left for clusters that do not take part: {absent}"
        self._wait_for(progress, at, FailureClass.ENVIRONMENT, words)

    def _wait_for(self, progress: Progress, at: float, kind: FailureClass, words: str) -> None:
        if self.stuck_since is None:
            self.stuck_since = at
        limit = max(PATIENCE, MISSED * self.board.heartbeat_seconds)
        if at - self.stuck_since >= limit and progress.stop is None:
            progress.stop = Stop(reason=f"{words} (waited {limit:.0f} s)", failure_class=kind)
