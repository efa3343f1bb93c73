"""Effects. A stand-in for the Hub's HTTP interface, for no real one runs without huggingface.co.

It answers what the `huggingface_hub` client asks of models: listings, refs, revisions, files with ranges, commits that name
their parent, and tags. Every file of a commit is sent within it; what ends in `.safetensors` is listed as if it were in LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_standin_token_of_the_tests"
Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits in order, and what points to them."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Files, branch: str = "main", message: str = "") -> str:
        parent = self.branches.get(branch, "")
        described = {path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())}
        oid = hashlib.sha1(json.dumps([parent, described, message]).encode()).hexdigest()
        self.commits[oid] = dict(files)
        self.branches[branch] = oid
        self.messages.append(message)
        return oid


@dataclass
class Hub:
    """The stand-in: what it holds and what it was asked."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    role: str = "write"
    page: int = 2
    redirect: dict[str, str] = field(default_factory=dict)
    """File name -> where a request for it is sent."""
    before_commit: Any = None
    """Called once, before the next commit is taken."""

    def repository(self, name: str) -> Repository:
        return self.repositories.setdefault(name, Repository())


@contextmanager
def serve() -> Iterator[Hub]:
    """Runs on a free port of the loopback as long as the block lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answering", (_Answers,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Answers(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_DELETE(self) -> None:
        self._route("DELETE")

    def _route(self, method: str) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), {key: one[0] for key, one in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(f"{method} {path}")
        if path == "/api/whoami-v2":
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._error(401, "Unauthorized")
            return self._json({"name": "tester", "auth": {"accessToken": {"role": self.hub.role}}})
        if method == "GET" and path == "/api/models":
            return self._models(query)
        if method == "POST" and path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if method == "POST" and path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(
            r"/api/models/([^/]+/[^/]+)/(refs|revision|preupload|commit|tag|tree)(?:/(.+))?", path
        ):
            return self._of_repository(method, match[1], match[2], match[3] or "", body)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(match[1], match[2], match[3])
        return self._error(404, "EntryNotFound")

    def _models(self, query: dict[str, str]) -> None:
        names = [name for name in self.hub.repositories if name.startswith(f"{query.get('author')}/")]
        start = int(query.get("cursor", 0))
        page = names[start : start + self.hub.page]
        headers = {}
        if start + self.hub.page < len(names):
            further = (
                f"{self.hub.endpoint}/api/models?author={query['author']}&cursor={start + self.hub.page}"
            )
            headers["Link"] = f'<{further}>; rel="next"'
        self._json([{"id": name, "modelId": name} for name in page], headers)

    def _create(self, order: dict[str, Any]) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._error(401, "Unauthorized")
        name = f"{order.get('organization') or 'tester'}/{order['name']}"
        if name in self.hub.repositories:
            return self._error(409, "RepoExists", {"url": f"{self.hub.endpoint}/{name}"})
        self.hub.repository(name).commit(
            {".gitattributes": b"*.safetensors filter=lfs\n"}, message="initial commit"
        )
        return self._json({"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name})

    def _of_repository(self, method: str, name: str, what: str, rest: str, body: bytes) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:  # to a stranger the Hub does not say whether it is there
            is_known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            return self._error(404, "RepoNotFound") if is_known else self._error(401, "Unauthorized")
        if method != "GET" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._error(401, "Unauthorized")
        if what == "refs":

            def listed(refs: dict[str, str], kind: str) -> list[dict[str, str]]:
                return [
                    {"name": key, "ref": f"refs/{kind}/{key}", "targetCommit": oid}
                    for key, oid in refs.items()
                ]

            return self._json(
                {
                    "branches": listed(repository.branches, "heads"),
                    "tags": listed(repository.tags, "tags"),
                    "converts": [],
                }
            )
        if what == "revision":
            return self._revision(name, repository, rest)
        if what == "preupload":
            files = json.loads(body)["files"]
            return self._json(
                {
                    "files": [
                        {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files
                    ]
                }
            )
        if what == "commit":
            return self._commit(name, repository, rest, body)
        if what == "tag" and method == "POST":
            tag = json.loads(body)["tag"]
            if tag in repository.tags:
                return self._error(409, "TagExists")
            oid = repository.branches.get(rest, rest)
            if oid not in repository.commits:
                return self._error(404, "RevisionNotFound")
            repository.tags[tag] = oid
            return self._json({})
        if what == "tag" and repository.tags.pop(rest, None):
            return self._json({})
        return self._error(404, "RevisionNotFound")

    def _revision(self, name: str, repository: Repository, revision: str) -> None:
        oid = repository.branches.get(revision) or repository.tags.get(revision) or revision
        if oid not in repository.commits:
            return self._error(404, "RevisionNotFound")
        siblings = []
        for path, data in repository.commits[oid].items():
            one: dict[str, Any] = {
                "rfilename": path,
                "size": len(data),
                "blobId": hashlib.sha1(data).hexdigest(),
            }
            if path.endswith(".safetensors"):
                one["lfs"] = {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 134,
                }
            siblings.append(one)
        return self._json({"id": name, "modelId": name, "sha": oid, "siblings": siblings})

    def _commit(self, name: str, repository: Repository, branch: str, body: bytes) -> None:
        before, self.hub.before_commit = self.hub.before_commit, None
        if before:
            before()
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        header = lines[0]["value"]
        parent = header.get("parentCommit")
        if parent is not None and parent != repository.branches.get(branch):
            return self._error(412, "PreconditionFailed")
        files = dict(repository.commits.get(repository.branches.get(branch, ""), {}))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        oid = repository.commit(files, branch, header["summary"])
        return self._json(
            {"commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}", "success": True}
        )

    def _file(self, name: str, revision: str, path: str) -> None:
        if path in self.hub.redirect:
            return self._send(302, b"", {"Location": self.hub.redirect[path]})
        repository = self.hub.repositories.get(name)
        data = repository.commits.get(revision, {}).get(path) if repository else None
        if data is None:
            return self._error(404, "EntryNotFound")
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            return self._send(206, data[int(match[1]) : int(match[2]) + 1], {})
        return self._send(200, data, {})

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _error(self, status: int, code: str, value: dict[str, Any] | None = None) -> None:
        data = json.dumps({"error": code, **(value or {})}).encode()
        self._send(status, data, {"X-Error-Code": code, "Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
