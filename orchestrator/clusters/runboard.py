"""Effects. What the clusters of one run tell each other through the store: that they live, what they claim, what has ended.

Only the store's clock counts: a cluster lives as long as its own object is young beside the one that was just written. A
claim is its owner's as long as that lives, and saves time alone: results are put once, whoever computes them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain import Failure, FailureClass
from orchestrator.errors import NotFound, NotSupported
from orchestrator.inflight import mapped
from orchestrator.ports import ObjectStore, Stat

HEARTBEAT_SECONDS = 10.0
MISSED = 5
"""So many heartbeats missed, and a cluster counts as lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What a cluster's controller said last."""

    cluster: str
    owner: str
    """One life of that controller: `cluster.token`."""
    state: str
    """`running` or `ended`."""
    slots: int
    load: float
    """Seconds that it is still busy with what it has begun."""
    begun: frozenset[str]
    """Blocks of which something has started; whatever else it claims may be taken over."""
    told: Mapping[str, Any]
    """Everything that its object says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How units ended elsewhere."""

    done: tuple[str, ...]
    failed: Mapping[str, Failure]


@dataclass(slots=True)
class Board:
    """One cluster's view of a run in the store."""

    store: ObjectStore
    run_id: str
    cluster: str
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    owner: str = ""
    claims: dict[str, str] = field(default_factory=dict)
    """Block -> who claimed it, as of the last look."""
    read: set[str] = field(default_factory=set)
    """Pages of ended units that were taken in."""
    pages: int = 0
    seen: dict[str, tuple[Stat, dict[str, Any]]] = field(default_factory=dict)
    """Key -> its line in the listing, and the content last read."""
    threads: int = 8
    has_spoken: bool = False

    def __post_init__(self) -> None:
        self.owner = self.owner or f"{self.cluster}.{secrets.token_hex(3)}"

    def beat(self, told: Mapping[str, Any]) -> None:
        """Says that this cluster lives, and how it stands."""
        body = {"cluster": self.cluster, "owner": self.owner, **told}
        self.store.put(state_key(self.run_id, self.cluster), json.dumps(body).encode())
        self.has_spoken = True

    def peers(self) -> tuple[Peer, ...]:
        """The other clusters' controllers that live and have not ended, by the store's clock; call it after `beat`."""
        stats = list(self.store.list(_clusters(self.run_id)))
        now = max((stat.modified for stat in stats), default=0.0)
        young = [
            stat
            for stat in stats
            if now - stat.modified <= MISSED * self.heartbeat_seconds
            and stat.key != state_key(self.run_id, self.cluster)
        ]
        found = (peer_of(value) for _, value in self._news(young))
        return tuple(peer for peer in found if peer is not None and peer.state == "running")

    def is_ousted(self) -> bool:
        """Whether another life of this cluster's controller has taken its place; what stood there before it spoke is no other."""
        if not self.has_spoken:
            return False
        told = self._read_one(state_key(self.run_id, self.cluster))
        return bool(told) and told.get("owner") != self.owner

    def look(self) -> None:
        """Learns who claims what."""
        prefix = f"runs/{self.run_id}/claims/"
        self.claims = {
            key.removeprefix(prefix).removesuffix(".json"): str(value.get("owner", ""))
            for key, value in self._news(list(self.store.list(prefix)))
        }

    def claim(self, block: str) -> bool:
        """Claims a block that nobody living has claimed, or takes it from who has not begun it; False if another was first."""
        key = f"runs/{self.run_id}/claims/{block}.json"
        body = json.dumps({"owner": self.owner}).encode()
        known = self.claims.get(block)
        won = self._take_over(key, body, known) if known is not None else self.store.put_if_absent(key, body)
        if won:
            self.claims[block] = self.owner
        return won

    def _take_over(self, key: str, body: bytes, owner: str) -> bool:
        there = self.store.stat(key)
        if there is None or self._read_one(key).get("owner") != owner:
            # a listing need not show a change: within one tick of its clock all lines are alike
            self.seen.pop(key, None)
            return False
        try:
            return self.store.swap(key, body, there.etag) is not None
        except NotSupported:  # then two may compute the same, and one result stays
            self.store.put(key, body)
            return True

    def tell(self, done: Collection[str], failed: Mapping[str, Failure]) -> None:
        """Lets the others know how units ended here."""
        if not done and not failed:
            return
        body = {
            "done": sorted(done),
            "failed": {key: [why.failure_class.value, why.error] for key, why in failed.items()},
        }
        key = f"{_ended(self.run_id)}{self.owner}/{self.pages:08d}.json"
        self.pages += 1
        self.store.put(key, json.dumps(body).encode())

    def heard(self) -> Iterator[Ended]:
        """What others told since the last time."""
        own = f"{_ended(self.run_id)}{self.owner}/"
        new = [
            stat.key
            for stat in self.store.list(_ended(self.run_id))
            if stat.key not in self.read and not stat.key.startswith(own)
        ]
        for key, value in zip(new, self._read(new), strict=True):
            self.read.add(key)
            yield _ended_of(value)

    def asked_to_stop(self) -> str:
        """Why to start nothing more; empty if nobody asked."""
        for key in (stop_key(self.run_id), stop_key(self.run_id, self.cluster)):
            if self.store.stat(key) is not None:
                return str(self._read_one(key).get("reason") or "asked to stop")
        return ""

    def _news(self, stats: Sequence[Stat]) -> list[tuple[str, dict[str, Any]]]:
        """Each object's content; only what has changed is read."""
        changed = [stat for stat in stats if stat.key not in self.seen or self.seen[stat.key][0] != stat]
        for stat, value in zip(changed, self._read([stat.key for stat in changed]), strict=True):
            self.seen[stat.key] = (stat, value)
        return [(stat.key, self.seen[stat.key][1]) for stat in stats]

    def _read(self, keys: Sequence[str]) -> Iterable[dict[str, Any]]:
        return mapped(self._read_one, keys, self.threads) if self.threads > 1 else map(self._read_one, keys)

    def _read_one(self, key: str) -> dict[str, Any]:
        return read_object(self.store, key)


def state_key(run_id: str, cluster: str) -> str:
    """Where a cluster of a run says how it stands."""
    return f"{_clusters(run_id)}{cluster}.json"


def stop_key(run_id: str, cluster: str = "") -> str:
    """The object whose presence asks a run's controllers, or one of them, to start nothing more."""
    return f"runs/{run_id}/stop{f'-{cluster}' if cluster else ''}.json"


def ask_to_stop(store: ObjectStore, run_id: str, reason: str, clusters: Sequence[str] = ()) -> None:
    """Asks all of a run's controllers, or those of some clusters, to let what runs end and to start nothing more."""
    for cluster in clusters or ("",):
        store.put(stop_key(run_id, cluster), json.dumps({"reason": reason}).encode())


def lift_stop(store: ObjectStore, run_id: str, clusters: Collection[str], others: Collection[str]) -> None:
    """These clusters of a run may go on; the others stay as they were asked to."""
    if asked := read_object(store, stop_key(run_id)):
        for other in others:
            store.put_if_absent(stop_key(run_id, other), json.dumps(asked).encode())
    store.delete(stop_key(run_id))
    for cluster in clusters:
        store.delete(stop_key(run_id, cluster))


def states(store: ObjectStore, run_id: str) -> list[tuple[dict[str, Any], float]]:
    """What each cluster of a run said last, and how old that is, in seconds of the store's clock beside the youngest one."""
    stats = list(store.list(_clusters(run_id)))
    now = max((stat.modified for stat in stats), default=0.0)
    return [(read_object(store, stat.key), now - stat.modified) for stat in stats]


def read_object(store: ObjectStore, key: str) -> dict[str, Any]:
    """A JSON mapping; empty where there is none any more, or something else."""
    try:
        value = json.loads(store.get(key))
    except (NotFound, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def number_at(told: Any, *path: str) -> int:
    """A whole number within mappings in mappings; 0 where there is none."""
    for name in path:
        told = told.get(name) if isinstance(told, Mapping) else None
    return told if isinstance(told, int) and not isinstance(told, bool) else 0


def peer_of(told: Mapping[str, Any]) -> Peer | None:
    """What a cluster's object says; None if it is none of ours."""
    match told:
        case {
            "cluster": str(cluster),
            "owner": str(owner),
            "state": str(state),
            "slots": int(slots),
            "load": int() | float() as load,
            "begun": list(begun),
        }:
            return Peer(
                cluster=cluster, owner=owner, state=state, slots=slots, load=float(load),
                begun=frozenset(map(str, begun)), told=told,
            )  # fmt: skip
    return None


def _ended_of(value: Mapping[str, Any]) -> Ended:
    match value:
        case {"done": list(done), "failed": dict(failed)}:
            classes = set(FailureClass)
            return Ended(
                done=tuple(map(str, done)),
                failed={
                    str(key): Failure(failure_class=FailureClass(kind), error=str(error))
                    for key, (kind, error) in failed.items()
                    if kind in classes
                },
            )
    return Ended(done=(), failed={})


def _clusters(run_id: str) -> str:
    return f"runs/{run_id}/clusters/"


def _ended(run_id: str) -> str:
    return f"runs/{run_id}/ended/"
