"""Effects. Speaks MLflow's REST interface with one server and nobody else: no redirect, no artifact elsewhere is followed."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import urllib3

from orchestrator.errors import Failing, NoSuchVersion, NotPermitted, RegistryError, Unreachable
from orchestrator.names import problem_of_path, shown

PAGE = 1000
MAX_ANSWER_BYTES = 256 << 20
_API = "/api/2.0/mlflow/"
_FILES = "/api/2.0/mlflow-artifacts/artifacts"
_BLOCK = 1 << 20
_TIMEOUT = urllib3.Timeout(connect=10, read=120)
_RETRY = urllib3.Retry(
    total=4,
    redirect=False,
    status_forcelist=(429, 502, 503, 504),
    backoff_factor=0.3,
    raise_on_status=False,
    raise_on_redirect=False,
)


class MlflowServer:
    """One server; credentials come from the environment at each request and are never shown."""

    def __init__(self, uri: str):
        self.uri = uri
        self._made: tuple[int, urllib3.PoolManager] | None = None

    def get(self, what: str, **query: str | list[str]) -> dict[str, Any]:
        """What the server answers to a question. Errors: NoSuchVersion (404), NotPermitted, Unreachable, RegistryError."""
        pairs = [(key, one) for key, value in query.items() for one in _listed(value)]
        return self._json("GET", _API + what, fields=pairs)

    def post(self, what: str, method: str = "POST", **body: Any) -> dict[str, Any]:
        """What the server answers to an order; it is sent once where it may have been carried out."""
        return self._json(method, _API + what, json=body)

    def pages(self, what: str, **query: str | list[str]) -> Iterator[dict[str, Any]]:
        """Every page of a search. Errors: RegistryError, if the server goes round in circles."""
        token, seen = "", set[str]()
        while True:
            asked = {**query, "max_results": str(PAGE), **({"page_token": token} if token else {})}
            page = self.get(what, **asked)
            yield page
            token = str(page.get("next_page_token") or "")
            if not token:
                return
            if token in seen:
                raise RegistryError(f"{self.uri} repeats a page of {what}; its list has no end")
            seen.add(token)

    def folder(self, path: str) -> list[Mapping[str, Any]]:
        """Files and folders directly below a path of the artifact store."""
        files = self._json("GET", _FILES, fields=[("path", path)]).get("files", [])
        return [one for one in files if isinstance(one, dict)] if isinstance(files, list) else []

    def download(self, path: str, into: Path, limit: int) -> None:
        """Writes an artifact into a new file, never more than `limit` bytes. Errors: NoSuchVersion, RegistryError."""
        answer = self._ask("GET", f"{_FILES}/{quote(path)}", preload_content=False)
        try:
            self._check(answer, path)
            count = 0
            with into.open("xb") as file:
                for block in answer.stream(_BLOCK):
                    count += len(block)
                    if count > limit:
                        raise RegistryError(f"{shown(path)} in {self.uri} is longer than it was listed")
                    file.write(block)
        except urllib3.exceptions.HTTPError as error:
            raise Failing(f"{self.uri} broke off while {shown(path)} was read") from error
        finally:
            answer.release_conn()

    def upload(self, path: str, source: Path) -> None:
        """Puts a file of any size into the artifact store, with bounded memory."""
        with source.open("rb") as file:
            headers = {"Content-Length": str(source.stat().st_size)}
            answer = self._ask("PUT", f"{_FILES}/{quote(path)}", body=file, headers=headers)
        self._check(answer, path)

    def _json(self, method: str, path: str, **sent: Any) -> dict[str, Any]:
        answer = self._ask(method, path, preload_content=False, **sent)
        try:
            data = answer.read(MAX_ANSWER_BYTES, decode_content=True)
        except urllib3.exceptions.HTTPError as error:
            raise Failing(f"{self.uri} broke off its answer") from error
        finally:
            answer.release_conn()
        self._check(answer, path, data)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RegistryError(f"{self.uri} answers {path} with no JSON; is it an MLflow server?") from error
        if not isinstance(value, dict):
            raise RegistryError(f"{self.uri} answers {path} with something else than an object")
        return value

    def _ask(self, method: str, path: str, **sent: Any) -> urllib3.BaseHTTPResponse:
        headers = {**authorization(), **sent.pop("headers", {})}
        try:
            return self._pool().request(
                method, self.uri + path, redirect=False, headers=headers, timeout=_TIMEOUT, **sent
            )
        except urllib3.exceptions.HTTPError as error:
            reason = type(getattr(error, "reason", None) or error).__name__
            raise Unreachable(f"{self.uri} does not answer ({reason})") from error

    def _check(self, answer: urllib3.BaseHTTPResponse, path: str, data: bytes = b"") -> None:
        status = answer.status
        if status < 300:
            return
        said = _message(data)
        if status in (401, 403):
            raise NotPermitted(
                f"{self.uri} refuses {shown(path)} ({status}){said}; set MLFLOW_TRACKING_TOKEN, or "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        if status == 404:
            raise NoSuchVersion(f"{shown(path)} is not in {self.uri}{said}")
        if status < 400:
            raise RegistryError(f"{self.uri} redirects {shown(path)}; redirects are never followed")
        if status >= 500 and status != 501:
            raise Failing(f"{self.uri} fails at {shown(path)} ({status}){said}")
        raise RegistryError(f"{self.uri} refuses {shown(path)} ({status}){said}")

    def _pool(self) -> urllib3.PoolManager:
        if self._made is None or self._made[0] != os.getpid():
            self._made = (os.getpid(), urllib3.PoolManager(retries=_RETRY, maxsize=16))
        return self._made[1]


def artifact_path(location: str, server: str) -> str:
    """The path in the server's own artifact store that a version's location names.

    Errors: RegistryError, for whatever is elsewhere: another scheme, host, user, query, or a path that climbs.
    """
    told = shown(location)
    own = urlsplit(server)
    try:
        parts = urlsplit(location)
        is_own = parts.netloc in ("", own.netloc) and not parts.query and not parts.fragment
    except ValueError as error:
        raise RegistryError(f"its files are said to be at {told!r}, which is no URL") from error
    path = parts.path
    if parts.scheme in ("http", "https") and location.startswith(f"{server}{_FILES}/"):
        path = location.removeprefix(f"{server}{_FILES}")
    elif parts.scheme != "mlflow-artifacts" or not is_own:
        raise RegistryError(
            f"its files are said to be at {told!r}, not in the server's own artifact store; only what the server itself "
            "serves is read: log the model again with the server's --serve-artifacts"
        )
    path = path.removeprefix("/")
    if why := problem_of_path(path):
        raise RegistryError(f"its files are said to be at {told!r}: {why}")
    return path


def authorization() -> dict[str, str]:
    """The header that the environment's credentials make; empty without any."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _message(data: bytes) -> str:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    said = value.get("message") if isinstance(value, dict) else None
    return f": {shown(said)}" if isinstance(said, str) and said else ""
