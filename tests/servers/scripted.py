"""Effects. A tiny S3 server on loopback that keeps objects in memory and fails as a test tells it to."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = str | int
"""An HTTP status to answer, with `+` before it if the write takes place all the same; or one of
`reset` (the connection breaks before the write), `+reset` (after it), `cut` (half of a body), `flip` (a wrong byte)."""


class Scripted:
    """Objects by path, the faults to come by method, and every request seen."""

    def __init__(self, server: ThreadingHTTPServer):
        self.objects: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.faults: dict[str, deque[Fault]] = {"PUT": deque(), "GET": deque(), "HEAD": deque()}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"

    def fail(self, method: str, *faults: Fault) -> None:
        """The next requests of this method go so."""
        self.faults[method].extend(faults)

    def count(self, method: str) -> int:
        """How many requests of this method came."""
        return sum(1 for seen, _, _ in self.requests if seen == method)

    @classmethod
    @contextmanager
    def serve(cls) -> Iterator[Scripted]:
        """The server, until the end of the block."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Requests)
        server.daemon_threads = True
        server.scripted = cls(server)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server.scripted  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        fault = str(self._seen())
        if fault == "reset":
            return self._reset()
        with self.script.lock:
            refused = self._refusal()
            if not refused and (not fault or fault.startswith("+")):
                self.script.objects[self.path] = data
                self.script.metadata[self.path] = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower().startswith("x-amz-meta-")
                }
        if fault == "+reset":
            return self._reset()
        status = int(fault.lstrip("+") or refused or 200)
        return self._answer(status, b"", {"ETag": _etag(data)} if status == 200 else {})

    def do_GET(self) -> None:
        fault = str(self._seen())
        data = self.script.objects.get(self.path)
        if fault.isdigit():
            return self._answer(int(fault))
        if data is None:
            return self._answer(404)
        headers = {"ETag": _etag(data), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        headers |= self.script.metadata.get(self.path, {})
        if fault == "flip":
            data = bytes([data[0] ^ 1]) + data[1:]
        return self._answer(200, data, headers, is_cut=fault == "cut")

    do_HEAD = do_GET

    @property
    def script(self) -> Scripted:
        return self.server.scripted  # type: ignore[attr-defined, no-any-return]

    def _seen(self) -> Fault:
        self.script.requests.append((self.command, self.path, dict(self.headers.items())))
        faults = self.script.faults[self.command]
        return faults.popleft() if faults else ""

    def _refusal(self) -> int:
        there = self.script.objects.get(self.path)
        if self.headers.get("If-None-Match") == "*" and there is not None:
            return 412
        wanted = self.headers.get("If-Match")
        return 412 if wanted is not None and (there is None or wanted != _etag(there)) else 0

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, is_cut: bool = False
    ) -> None:
        if status >= 300 and self.command != "HEAD":
            body = f"<Error><Code>{_CODES.get(status, 'InternalError')}</Code><Message>as told</Message></Error>".encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
        if is_cut:
            self.close_connection = True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: tests read `requests`."""


_CODES = {
    403: "AccessDenied",
    404: "NoSuchKey",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    500: "InternalError",
    501: "NotImplemented",
    503: "SlowDown",
}


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
