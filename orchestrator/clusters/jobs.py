"""Effects. A Ray cluster's Jobs API over HTTP: jobs sent, looked at and stopped, with a token, over TLS that is always checked."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

from orchestrator.addresses import ADVICE, ALLOW_OPEN, is_loopback
from orchestrator.errors import NotPermitted, StoreError, Unreachable, UsageError
from orchestrator.specs.clusters import ClusterSpec

ANSWER_SECONDS = 30.0
MOST_BYTES = 64 * 2**20
OVER = ("SUCCEEDED", "FAILED", "STOPPED")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        """A token goes to the address in the fleet file, and nowhere else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """The way to one cluster's Jobs API."""

    name: str
    address: str
    token: str | None
    opener: urllib.request.OpenerDirector

    @classmethod
    def of(cls, name: str, spec: ClusterSpec, environment: Mapping[str, str]) -> Self:
        """The cluster that a fleet file names. Errors: NotPermitted, UsageError, for a token or a certificate that is not there."""
        try:
            context = ssl.create_default_context(cafile=spec.ca_file)
        except OSError as error:
            raise UsageError(f"clusters.{name}.ca_file: {spec.ca_file} cannot be read: {error}") from error
        opener = urllib.request.build_opener(
            _NoRedirects, urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        return cls(
            name=name,
            address=spec.address.rstrip("/"),
            token=token_of(name, spec, environment),
            opener=opener,
        )

    def check_door(self, environment: Mapping[str, str]) -> None:
        """Errors: NotPermitted, if strangers may run code there, or the token would travel in clear; Unreachable."""
        place = urlsplit(self.address)
        if is_loopback(place.hostname or "") or environment.get(ALLOW_OPEN) == "1":
            return
        if place.scheme != "https":
            raise NotPermitted(
                f"cluster {self.name}: {self.address} is not on this machine, and over http:// its token would travel in "
                f"clear; use https://. {ALLOW_OPEN}=1 uses it all the same, where the network is kept apart"
            )
        if self.answers_strangers():
            raise NotPermitted(
                f"cluster {self.name}: {self.address} answers whoever asks, without a token: whoever reaches it runs code "
                f"on it. {ADVICE}"
            )

    def answers_strangers(self) -> bool:
        """Whether somebody without a token is let in. Errors: Unreachable."""
        status, _ = self._ask("GET", "/api/jobs/", None, token=None)
        return status < 400

    def submit(
        self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> bool:
        """Starts a job under this id; False if there is one already. Nothing secret may be in what is sent: others can read it."""
        body = {
            "entrypoint": entrypoint,
            "submission_id": submission_id,
            "runtime_env": dict(runtime_env),
            "metadata": dict(metadata),
        }
        status, answer = self._ask("POST", "/api/jobs/", json.dumps(body).encode(), token=self.token)
        if status >= 400 and b"already exists" in answer:
            return False
        self._check(status, answer)
        return True

    def status(self, submission_id: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED; empty if there is no such job."""
        status, answer = self._ask(
            "GET", f"/api/jobs/{quote(submission_id, safe='')}", None, token=self.token
        )
        if status == 404:
            return ""
        return str(self._json(status, answer).get("status", ""))

    def logs(self, submission_id: str) -> str:
        """All that the job has printed so far; empty if there is no such job."""
        path = f"/api/jobs/{quote(submission_id, safe='')}/logs"
        status, answer = self._ask("GET", path, None, token=self.token)
        return "" if status == 404 else str(self._json(status, answer).get("logs", ""))

    def stop(self, submission_id: str) -> bool:
        """Ends the job within seconds, whatever it does; False if there is none that runs."""
        path = f"/api/jobs/{quote(submission_id, safe='')}/stop"
        status, answer = self._ask("POST", path, b"", token=self.token)
        return status != 404 and bool(self._json(status, answer).get("stopped"))

    def put_package(self, name: str, data: bytes) -> str:
        """Uploads a zip file, unless it is there; the address by which a job's working_dir names it."""
        path = f"/api/packages/gcs/{quote(name, safe='')}"
        status, answer = self._ask("GET", path, None, token=self.token)
        if status == 404:
            status, answer = self._ask("PUT", path, data, token=self.token)
        self._check(status, answer)
        return f"gcs://{name}"

    def _json(self, status: int, answer: bytes) -> dict[str, Any]:
        self._check(status, answer)
        try:
            value = json.loads(answer)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Unreachable(f"cluster {self.name}: {self.address} does not speak Ray's Jobs API")
        return value

    def _check(self, status: int, answer: bytes) -> None:
        if status in (401, 403):
            told = "set" if self.token else "not set"
            raise NotPermitted(
                f"cluster {self.name}: {self.address} refuses its token (which is {told} here); see clusters.{self.name}.token_env "
                "and token_file"
            )
        if status >= 300:
            words = answer.decode(errors="replace").strip().splitlines()
            raise StoreError(
                f"cluster {self.name}: {self.address} answers {status}: {words[-1][:500] if words else ''}"
            )

    def _ask(self, verb: str, path: str, body: bytes | None, *, token: str | None) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(f"{self.address}{path}", data=body, headers=headers, method=verb)
        try:
            with self.opener.open(request, timeout=ANSWER_SECONDS) as answer:
                return answer.status, answer.read(MOST_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(MOST_BYTES)
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise Unreachable(f"cluster {self.name}: {self.address} does not answer: {reason}") from error


def token_of(name: str, spec: ClusterSpec, environment: Mapping[str, str]) -> str | None:
    """The cluster's token, from where the fleet file or Ray says; None if there is none. Errors: UsageError."""
    if spec.token_env is not None:
        if not environment.get(spec.token_env):
            raise UsageError(f"clusters.{name}.token_env: {spec.token_env} is not set here")
        return environment[spec.token_env].strip()
    if spec.token_file is not None:
        return _token_in(Path(spec.token_file).expanduser(), name)
    if environment.get("RAY_AUTH_TOKEN"):
        return environment["RAY_AUTH_TOKEN"].strip()
    if environment.get("RAY_AUTH_TOKEN_PATH"):
        return _token_in(Path(environment["RAY_AUTH_TOKEN_PATH"]), name)
    usual = Path(os.path.expanduser("~/.ray/auth_token"))
    return _token_in(usual, name) if usual.is_file() else None


def _token_in(path: Path, name: str) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the token of cluster {name}: {path} cannot be read: {error}") from error
    if not token or not token.isprintable():
        raise UsageError(f"the token of cluster {name}: {path} holds none")
    return token
