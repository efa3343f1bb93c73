"""Effects. Speaks the Hub's HTTP interface with one Hub: bounded answers, and redirects only to where they may lead."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import getproxies

from orchestrator.addresses import is_public
from orchestrator.errors import (
    Failing,
    NoSuchVersion,
    NotPermitted,
    PrunefleetError,
    RegistryError,
    Unreachable,
)
from orchestrator.names import shown

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAX_REDIRECTS = 4
MAX_URL_CHARACTERS = 8192
MAX_ANSWER_BYTES = 64 << 20
_BLOCK = 1 << 20
_TIMEOUT = 120.0  # seconds without a byte

Asked = TypeVar("Asked")


class HubServer:
    """One Hub. HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are read from the environment."""

    def __init__(self, endpoint: str | None):
        self._endpoint = endpoint
        self._api: HfApi | None = None

    @property
    def api(self) -> HfApi:
        """The Hub's own client, which writes; it goes wherever the Hub sends it."""
        if self._api is None:
            from huggingface_hub import HfApi

            self._api = HfApi(endpoint=self._endpoint)
        return self._api

    @property
    def url(self) -> str:
        """The Hub's address."""
        return str(self.api.endpoint)

    def get(self, path: str, what: str) -> dict[str, Any]:
        """The object that a path of the interface answers. Errors: those of `opened`."""
        return self._value(f"{self.url}/api/{path}", what, dict)[0]

    def pages(self, path: str, what: str) -> Iterator[list[Any]]:
        """Every page of a list. Errors: RegistryError, if the Hub sends elsewhere for the next, or round in circles."""
        url, seen = f"{self.url}/api/{path}", set[str]()
        while url:
            seen.add(url)
            page, following = self._value(url, what, list)
            yield page
            if following and not self._is_own(following):
                raise RegistryError(f"{self.url} sends to {shown(following)} for more of {shown(what)}")
            if following in seen:
                raise RegistryError(f"{self.url} repeats a page of {shown(what)}; its list has no end")
            url = following

    @contextmanager
    def file(
        self, repository: str, commit: str, path: str, headers: Mapping[str, str]
    ) -> Iterator[Iterator[bytes]]:
        """The bytes of a file of a commit, in blocks."""
        url = f"{self.url}/{repository}/resolve/{commit}/{quote(path)}"
        with self.opened(url, f"{path} of {repository} at {commit}", headers) as answer:
            yield answer.iter_raw(_BLOCK)

    @contextmanager
    def opened(self, url: str, what: str, headers: Mapping[str, str]) -> Iterator[Any]:
        """The answer to a request; redirects are followed only as `landing` says, elsewhere without the token.

        Errors: NoSuchVersion, NotPermitted, Unreachable, RegistryError.
        """
        for _ in range(MAX_REDIRECTS):
            with self._answered(url, what, headers) as answer:
                if 300 <= answer.status_code < 400:
                    url = urljoin(url, answer.headers.get("location", ""))
                elif answer.status_code >= 400:
                    raise self.meant(answer.status_code, what, answer.headers.get("x-error-code", ""))
                else:
                    yield answer
                    return
        raise RegistryError(f"{self.url} redirects {shown(what)} again and again")

    def asked(self, ask: Callable[[], Asked], what: str) -> Asked:
        """What the Hub answers its own client. Errors: NoSuchVersion, NotPermitted, Unreachable, RegistryError."""
        from huggingface_hub import errors

        try:
            return ask()
        except errors.OfflineModeIsEnabled as error:
            raise Unreachable(
                f"{self.url} is not asked for {shown(what)}, for HF_HUB_OFFLINE is set; name a `cache` to read that"
            ) from error
        except errors.HfHubHTTPError as error:
            raise self.meant(error.response.status_code if error.response is not None else 0, what) from error
        except (errors.HFValidationError, ValueError) as error:
            raise RegistryError(f"{self.url}: {shown(what)}: {shown(str(error))}") from error
        except (_transport_error(), OSError) as error:
            raise Unreachable(f"{self.url} does not answer ({type(error).__name__})") from error

    def meant(self, status: int, what: str, code: str = "") -> PrunefleetError:
        """The error that an answer of this status is."""
        if code == "GatedRepo":
            return NotPermitted(f"{shown(what)} is gated at {self.url}: accept its terms, and set HF_TOKEN")
        if status in (401, 403):
            return NotPermitted(f"{self.url} does not show {shown(what)} ({status}); set HF_TOKEN")
        if status == 404:
            return NoSuchVersion(f"{shown(what)} is not at {self.url}")
        if status == 429 or status >= 500 or not status:
            return Failing(f"{self.url} fails at {shown(what)} ({status})")
        return RegistryError(f"{self.url} refuses {shown(what)} ({status})")

    @contextmanager
    def _answered(self, url: str, what: str, headers: Mapping[str, str]) -> Iterator[Any]:
        """One answer, from the very address that was checked. Errors: RegistryError, Unreachable."""
        from huggingface_hub import get_session, get_token

        place = landing(url, self.url)
        if place.problem:
            raise RegistryError(f"{self.url} redirects {shown(what)} to {shown(url)}: {place.problem}")
        token = get_token() if self._is_own(url) else None
        sent = {"Accept-Encoding": "identity", **headers, **place.headers}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        stream = get_session().stream(
            "GET",
            place.url,
            headers=sent,
            follow_redirects=False,
            timeout=_TIMEOUT,
            extensions=place.extensions,
        )
        answer = self.asked(stream.__enter__, what)
        try:
            yield answer
        except _transport_error() as error:
            raise Failing(f"{self.url} broke off while {shown(what)} was read") from error
        finally:
            stream.__exit__(None, None, None)

    def _value(self, url: str, what: str, kind: type[Asked]) -> tuple[Asked, str]:
        """A JSON value of this kind, and the address of its next page."""
        data = bytearray()
        with self.opened(url, what, {}) as answer:
            for block in answer.iter_raw(_BLOCK):
                data += block
                if len(data) > MAX_ANSWER_BYTES:
                    raise RegistryError(
                        f"{self.url} answers more than {MAX_ANSWER_BYTES} bytes for {shown(what)}"
                    )
            following = str(answer.links.get("next", {}).get("url", ""))
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RegistryError(f"{self.url} answers no JSON for {shown(what)}; is it a Hub?") from error
        if not isinstance(value, kind):
            raise RegistryError(f"{self.url} answers {shown(what)} with a {type(value).__name__}")
        return value, urljoin(url, following) if following else ""

    def _is_own(self, url: str) -> bool:
        return origin(url) == origin(self.url)


class Landing(NamedTuple):
    """Where a request goes, or why it goes nowhere."""

    url: str
    headers: Mapping[str, str] = {}
    extensions: Mapping[str, str] = {}
    problem: str = ""


def landing(url: str, hub: str) -> Landing:
    """Where a request for this URL goes: to the Hub itself, or by https to a public host, at an address that was looked at.

    A host's name is asked for once: were it asked for again to connect, it could mean another machine by then. Behind a
    proxy it is the proxy that asks.
    """
    if len(url) > MAX_URL_CHARACTERS or not (url.isascii() and url.isprintable()) or " " in url:
        return Landing(url, problem="it is no URL")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        return Landing(url, problem="it is no URL")
    if parts.username is not None or parts.password is not None:
        return Landing(url, problem="it names a user")
    if origin(url) == origin(hub):
        return Landing(url)
    if parts.scheme != "https" or not host:
        return Landing(url, problem="only https is followed to another host")
    try:
        found = [str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return Landing(url, problem="there is no such host")
    if not all(is_public(address) for address in found):
        return Landing(url, problem="it is not on the public network")
    if "https" in getproxies():
        return Landing(url)
    address = f"[{found[0]}]" if ":" in found[0] else found[0]
    pinned = parts._replace(netloc=f"{address}:{port}", fragment="").geturl()
    return Landing(pinned, {"Host": parts.netloc, "Connection": "close"}, {"sni_hostname": host})


def origin(url: str) -> tuple[str, str]:
    """Scheme, host and port, as they are written."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _transport_error() -> type[Exception]:
    """What the HTTP client raises upon which this huggingface_hub is built."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base
