"""Pure. Which addresses are this machine's, and which are public; whether a cluster's may be used without a token."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from orchestrator.errors import NotPermitted

AUTH_MODE = "RAY_AUTH_MODE"
ALLOW_OPEN = "PRUNEFLEET_UNSAFE_OPEN_CLUSTER"
"""An environment variable; `1` lets an open cluster be used that is kept apart by other means, such as a network policy."""
NO_HOST = ("auto", "local")
"""What Ray takes for an address and what is not one: the cluster that it finds here, and one that it starts here."""
HEAD_PORT = 6379
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""Behind these lie the addresses of version 4 that their last 32 bits are (RFC 6052)."""
_TRANSLATED_LOCALLY = ipaddress.ip_network("64:ff9b:1::/48")  # RFC 8215; Python 3.11 takes them for public
ADVICE = (
    "Start the cluster with RAY_AUTH_MODE=token and its token in ~/.ray/auth_token (mode 0600), and set the same here; "
    "a cluster for this machine alone starts with RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 "
    "`ray start --head --node-ip-address 127.0.0.1`"
)


def host_of(address: str) -> str:
    """The host of `host`, `host:port`, `[v6]:port` or `ray://host:port`."""
    place = address.partition("://")[2] or address
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place if place.count(":") > 1 else place.partition(":")[0]


def place_of(address: str) -> tuple[str, int]:
    """The host and the port of an address; the port of Ray's head where none is given."""
    host, port = host_of(address), address.rpartition(":")[2]
    is_port = port.isdigit() and len(port) <= 5 and not address.endswith(host)
    return host, int(port) if is_port else HEAD_PORT


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it; a name counts only if it is `localhost`, for others are not ours to judge."""
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower() in ("localhost", "localhost.")
    mapped = getattr(number, "ipv4_mapped", None)
    return (mapped or number).is_loopback


def is_public(address: str) -> bool:
    """Whether a number is one of the public network, and carries none inside that is not."""
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(number, ipaddress.IPv6Address):
        if inner := number.ipv4_mapped or number.sixtofour or _translated(number):
            return is_public(str(inner))
        if number.teredo or number.scope_id or number in _TRANSLATED_LOCALLY:
            return False
    return number.is_global and not number.is_multicast


def _translated(number: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv4Address(int(number) & 0xFFFFFFFF) if number in _TRANSLATED else None


def problem_of_cluster(address: str, environment: Mapping[str, str]) -> str:
    """Why nothing may be sent to the cluster at this address; empty if it may."""
    if address in NO_HOST or is_loopback(host_of(address)) or environment.get(AUTH_MODE) == "token":
        return ""
    return (
        f"the Ray cluster at {address} can be reached from other machines, and {AUTH_MODE} is not `token`: whoever "
        "reaches it runs code on it"
    )


def check_cluster(address: str, environment: Mapping[str, str]) -> None:
    """Errors: NotPermitted, if the cluster is open to others and nobody has said that this is known."""
    problem = problem_of_cluster(address, environment)
    if problem and environment.get(ALLOW_OPEN) != "1":
        raise NotPermitted(
            f"{problem}. {ADVICE}; {ALLOW_OPEN}=1 uses it all the same, where a network policy keeps others away"
        )
