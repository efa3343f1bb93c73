"""Effects. What a Ray cluster is like: who can reach it, whether it asks for a token, and what its nodes give the pools."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from orchestrator.addresses import ADVICE, NO_HOST, host_of, is_loopback, place_of
from orchestrator.domain import Pool
from orchestrator.errors import NotPermitted, Unreachable, UsageError
from orchestrator.probes.checks import Check, State
from orchestrator.wording import count

_SECONDS = 5.0
_QUESTION = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_RUN = "Start it, or correct --address (host:port of the head's GCS, 6379 by default)."


def check_cluster(pools: Mapping[str, Pool], address: str) -> tuple[Check, ...]:
    """Whether it answers, whether strangers may use it, whether its Ray is ours, and which pools have nodes there."""
    if address not in NO_HOST:
        if (silent := answers(address)) is not None:
            return (silent,)
        door = check_door(address, stranger(address), os.environ)
        if door.state in (State.BROKEN, State.DENIED):
            return (door,)
    from orchestrator.backends.ray_backend import look  # loading Ray takes seconds

    try:
        seen = look(pools, address)
    except Unreachable as error:
        return (_told("answers", State.UNREACHABLE, str(error), "Nothing runs on it.", _RUN),)
    except NotPermitted as error:
        return (_told("token", State.BROKEN, str(error), "Whoever reaches it owns your models.", ADVICE),)
    except UsageError as error:
        return (_told("version", State.BROKEN, str(error), "It cannot be joined.", "Use one image for all."),)
    there = f"{count(seen.nodes, 'node')}, head at {seen.gcs_address}"
    return (
        _told("answers", State.OK, there, "", ""),
        check_door(seen.gcs_address, stranger(seen.gcs_address), os.environ),
        _told("version", State.OK, f"Ray {seen.version}, like here", "", ""),
        *(_pool(pool, seen.slots[name]) for name, pool in pools.items()),
    )


def _pool(pool: Pool, slots: int) -> Check:
    name = f"pool {pool.name}"
    wants = ", ".join(f"{key}={value}" for key, value in pool.label_selector.items()) or "no label"
    if slots:
        short = (
            f", of which the fleet uses {pool.slots}" if slots > pool.slots else f" of {pool.slots} promised"
        )
        return _told(name, State.OK, f"{slots} slots{short}", "", "")
    per_shard = f"{pool.cpus_per_shard:g} CPUs and {pool.gpus_per_shard:g} GPUs a shard"
    return _told(
        name,
        State.WARNING,
        f"no node has what it asks for: {wants}, {per_shard}",
        "Its units wait until such a node comes, which an autoscaler may bring; otherwise for ever.",
        "Correct label_selector, or start such nodes.",
    )


def answers(address: str) -> Check | None:
    """None if something listens there."""
    host, port = place_of(address)
    try:
        socket.create_connection((host, port), timeout=_SECONDS).close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return _told(
            "answers", State.UNREACHABLE, f"nothing listens at {host}:{port}: {reason}", "Nothing runs.", _RUN
        )
    return None


def check_door(address: str, answer: str, environment: Mapping[str, str]) -> Check:
    """What it means that a stranger, who has no token, got this answer (a gRPC status)."""
    if answer == "OK":
        seen = f"{address} answers everybody, without a token"
        if is_loopback(host_of(address)):
            return _told("token", State.OK, f"{seen}; it is on this machine's loopback", "", "")
        return _told("token", State.BROKEN, seen, "Whoever reaches it runs code on it.", ADVICE)
    if answer == "UNAUTHENTICATED":
        if environment.get("RAY_AUTH_MODE") == "token":
            return _told("token", State.OK, "it refuses whoever has no token", "", "")
        advice = "Set RAY_AUTH_MODE=token here, with the cluster's token in ~/.ray/auth_token."
        return _told(
            "token", State.DENIED, "it asks for a token, and none is set here", "It cannot be used.", advice
        )
    seen = f"whether it asks for a token cannot be told: a stranger is answered {answer}"
    return _told("token", State.WARNING, seen, "", "With TLS between all nodes this is as it should be.")


def stranger(address: str) -> str:
    """The gRPC status with which the head answers somebody without a token, in capitals."""
    import grpc

    host, port = place_of(address)
    with grpc.insecure_channel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") as channel:
        try:
            channel.unary_unary(_QUESTION)(b"", timeout=_SECONDS)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def _told(name: str, state: State, seen: str, follows: str, advice: str) -> Check:
    return Check(area="cluster", name=name, state=state, seen=seen, follows=follows, advice=advice)
