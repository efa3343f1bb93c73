"""Effects. Tells people of a night: a signed webhook, or any service of Apprise; a message that fails is recorded, no more."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from orchestrator.errors import PrunefleetError
from orchestrator.reports.morning import TITLES, Kind, Morning, Night
from orchestrator.specs.nights import NotifySpec, problem_of_webhook
from orchestrator.wording import plain

TIMEOUT_SECONDS = 10.0
TRIES = 3
MOST_LINES = 10
TIMESTAMP_HEADER, SIGNATURE_HEADER, DELIVERY_HEADER = (
    "X-Prunefleet-Timestamp",
    "X-Prunefleet-Signature",
    "X-Prunefleet-Delivery",
)


class NotTold(PrunefleetError):
    """A message could not be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is sent of a night."""

    delivery: str
    """Names the message: the same one sent twice has the same name."""
    title: str
    lines: tuple[str, ...]
    body: Mapping[str, Any]
    """For programs."""


def message_of(morning: Morning, report: str) -> Message:
    """The headline and the first changes, worst first; every foreign text is one visible line."""
    night = morning.night
    lines = [
        f"{TITLES[item.kind]}: {plain(item.subject, 160)}{f' ({plain(item.detail, 200)})' if item.detail else ''}"
        for item in morning.changes[:MOST_LINES]
    ]
    left = len(morning.changes) - MOST_LINES
    lines += [f"and {left} more"] if left > 0 else []
    lines += [plain(notice) for notice in night.notices]
    counts = {kind.value: len(morning.of(kind)) for kind in Kind}
    body = {
        "type": "prunefleet.night",
        "schema": 1,
        "delivery": f"{night.fleet}/{night.slot}",
        "fleet": night.fleet,
        "slot": night.slot,
        "run_id": night.run_id,
        "headline": morning.headline,
        "outcome": night.outcome,
        "exit_code": night.exit_code,
        "changes": counts,
        "carried_over": night.carried_over,
        "lines": lines,
        "report": report,
    }
    title = f"prunefleet {night.fleet}, night {night.slot}: {morning.headline}"
    return Message(delivery=str(body["delivery"]), title=title, lines=(*lines, report), body=body)


def message_of_failure(night: Night, why: str) -> Message:
    """That a night could not be run and will be tried again: a message of its own, beside the morning's that follows."""
    headline = "it could not be run, and is tried again"
    body = {
        "type": "prunefleet.night",
        "schema": 1,
        "delivery": f"{night.fleet}/{night.slot}-open",
        "fleet": night.fleet,
        "slot": night.slot,
        "run_id": night.run_id,
        "headline": headline,
        "outcome": night.outcome,
        "exit_code": night.exit_code,
        "changes": {},
        "carried_over": night.carried_over,
        "lines": [plain(why)],
        "report": "",
    }
    title = f"prunefleet {night.fleet}, night {night.slot}: {headline}"
    return Message(delivery=str(body["delivery"]), title=title, lines=(plain(why),), body=body)


def is_wanted(spec: NotifySpec, morning: Morning) -> bool:
    """Whether this notification is for such a night."""
    match spec.when:
        case "always":
            return True
        case "problems":
            return morning.is_problem
        case _:
            return morning.is_problem or not morning.is_quiet


def send(spec: NotifySpec, message: Message, environment: Mapping[str, str], at: float) -> None:
    """Sends it. Errors: NotTold, with the reason and no secret."""
    url = spec.url if spec.url is not None else environment.get(spec.url_env or "")
    if not url:
        raise NotTold(f"the environment variable {spec.url_env} is not set")
    if spec.kind == "apprise":
        _send_by_apprise(url, message)
        return
    if problem := problem_of_webhook(url):
        raise NotTold(f"the URL of this notification cannot be used: {problem}")
    secret = environment.get(spec.secret_env) if spec.secret_env else None
    if spec.secret_env and not secret:
        raise NotTold(
            f"the environment variable {spec.secret_env} is not set, so the message cannot be signed"
        )
    body = json.dumps(dict(message.body), ensure_ascii=False).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "prunefleet",
        DELIVERY_HEADER: message.delivery,
        TIMESTAMP_HEADER: str(int(at)),
    }
    if secret:
        headers[SIGNATURE_HEADER] = signature(secret, int(at), body)
    _post(url, body, headers)


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """`v1=` and the HMAC-SHA256 over `<timestamp>.<body>`: who checks it refuses old timestamps and equal deliveries."""
    signed = f"{timestamp}.".encode() + body
    return f"v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """One POST, tried again where the other side does not answer or is at fault; redirects are not followed."""
    why = ""
    for _ in range(TRIES):
        try:
            status = _post_once(url, body, headers)
        except (OSError, http.client.HTTPException) as error:
            why = f"no answer ({type(error).__name__})"
            continue
        if 200 <= status < 300:
            return
        why = f"it answered {status}" + (", a redirect, which is not followed" if 300 <= status < 400 else "")
        if status < 500 and status != 429:
            break
    raise NotTold(f"the webhook at {urlsplit(url).hostname} did not take the message: {why}")


def _post_once(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    parts = urlsplit(url)
    host = parts.hostname or ""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT_SECONDS, context=context)
    else:
        _check_loopback(host)
        connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("POST", path, body, dict(headers))
        return connection.getresponse().status
    finally:
        connection.close()


def _check_loopback(host: str) -> None:
    """A name of this machine must lead to this machine."""
    import ipaddress

    found = {item[4][0] for item in socket.getaddrinfo(host, None)}
    if not all(ipaddress.ip_address(address).is_loopback for address in found):
        raise NotTold(f"{host} is not this machine; messages go over https")


def _send_by_apprise(url: str, message: Message) -> None:
    try:
        import apprise
    except ImportError:
        raise NotTold("Apprise is not installed; `pip install 'prunefleet[notify]'` does") from None
    service = apprise.Apprise()
    if not service.add(url):
        raise NotTold("Apprise knows no service for the URL of this notification")
    if not service.notify(title=message.title, body="\n".join(message.lines)):
        raise NotTold("the service did not take the message")
