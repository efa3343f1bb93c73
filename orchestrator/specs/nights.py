"""Pure. The parts of a fleet file about nights: when they come, how long they may last, and who is told in the morning."""

from __future__ import annotations

import re
from datetime import datetime, time
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from orchestrator.specs.parts import Part

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|m|min|h|d)\Z")
_SCALES = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_SOME_DAY = datetime(2000, 1, 1)
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])\Z", re.ASCII)


def _seconds(value: Any) -> Any:
    """`5h`, `90m` or a number of seconds -> seconds."""
    if isinstance(value, str):
        match = _DURATION.match(value.strip())
        if not match:
            raise ValueError("a duration is a number of seconds or text such as 5h, 90m or 1.5h")
        return float(match[1]) * _SCALES[match[2]]
    return value


def _clock_times(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) else value


def _clock_time(value: str) -> str:
    if not _CLOCK.match(value):
        raise ValueError('a time of day is text such as "01:00"')
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("this is no time zone; write one like Europe/Berlin or UTC") from None
    return value


def _cron(value: str) -> str:
    if len(value.split()) != 5:
        raise ValueError("a cron expression has five fields: minute, hour, day of month, month, day of week")
    try:
        next(CronSim(value, _SOME_DAY))
    except (CronSimError, StopIteration) as error:
        raise ValueError(f"this is no cron expression that ever comes: {error or value}") from None
    return value


def _text(value: Any) -> Any:
    """YAML 1.1 reads an unquoted 01:30 as the number 90; say so rather than guess."""
    if isinstance(value, int):
        raise ValueError('write the time of day in quotes, such as "01:30"')
    return value


Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=31 * 86_400.0)]
Clock = Annotated[str, BeforeValidator(_text), AfterValidator(_clock_time)]
Zone = Annotated[str, AfterValidator(_zone)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,127}$")]
When = Literal["changed", "always", "problems"]


class ScheduleSpec(Part):
    """When `prunefleet nightly` is to run, once per slot whatever triggers it and however often.

    A slot is a time on the wall: one that comes twice when the clocks change counts the first time, one that does not come
    begins when the gap ends.
    """

    at: Annotated[tuple[Clock, ...], BeforeValidator(_clock_times)] = ()
    """A time of day such as "01:00", or several."""
    days: Annotated[tuple[Day, ...], Field(min_length=1)] = DAYS
    """On which days; of the week, in the zone."""
    cron: Annotated[str, AfterValidator(_cron)] | None = None
    """In place of `at` and `days`: five fields, such as "0 1 * * 1-5"."""
    time_zone: Zone = "UTC"
    window: Duration | None = None
    """For how long a night may start work, such as 5h; the default is until the next slot. What runs then may end."""
    budget_hours: Annotated[float, Field(gt=0)] | None = None
    """Start nothing more after so many hours of a night."""
    catch_up: Literal["none", "one"] = "none"
    """What becomes of a slot whose window has passed without a night: nothing, its work is the next night's; or the first
    trigger that comes runs one night, as long as the window is, however many slots were missed."""
    tries: Annotated[int, Field(gt=0, le=100)] = 3
    """How often a slot is tried whose night dies, or fails by its own fault. What something else ended, such as a registry out of
    reach or an interruption, is tried again at every trigger while the window is open."""

    @model_validator(mode="after")
    def _one_way(self) -> ScheduleSpec:
        if bool(self.at) == bool(self.cron):
            raise ValueError('a schedule needs either at, such as "01:00", or cron')
        if self.cron and self.days != DAYS:
            raise ValueError("cron says on which days; leave days out")
        return self

    @property
    def times(self) -> tuple[time, ...]:
        """`at` in ascending order."""
        return tuple(sorted({time.fromisoformat(text) for text in self.at}))


class NotifySpec(Part):
    """Who is told of a night, by a webhook or by any service that Apprise knows. Secrets come from the environment."""

    kind: Literal["webhook", "apprise"] = "webhook"
    url: str | None = None
    """Of a webhook: https, or http on this machine."""
    url_env: Variable | None = None
    """The environment variable that holds the URL, where the URL itself is a secret; needed for `apprise`."""
    secret_env: Variable | None = None
    """The environment variable that holds the secret by which a webhook's messages are signed (HMAC-SHA256)."""
    when: When = "changed"
    """`changed`: not for a night on which nothing happened; `problems`: only if something was refused, failed or was missed."""

    @model_validator(mode="after")
    def _one_address(self) -> NotifySpec:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("a notification needs either url or url_env")
        if self.kind == "apprise" and self.url is not None:
            raise ValueError("the URL of an Apprise service holds its secret; name a variable in url_env")
        if self.kind == "apprise" and self.secret_env is not None:
            raise ValueError("secret_env signs webhooks; Apprise services have their own secrets")
        if self.url is not None and (problem := problem_of_webhook(self.url)):
            raise ValueError(problem)
        return self


def problem_of_webhook(url: str) -> str:
    """Why a message may not be sent to this URL; empty if it may."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "this is no URL"
    if not host or not url.isprintable() or " " in url:
        return "this is no URL with a host"
    if parts.username is not None or parts.password is not None:
        return "credentials do not stand in a URL; sign with secret_env, or name a variable in url_env"
    if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
        return "messages go over https, or http to this machine only"
    return ""
