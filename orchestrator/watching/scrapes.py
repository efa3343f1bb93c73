"""Effects. Serves one prepared text to Prometheus: loopback by default, with TLS, client certificates, a token or a password."""

from __future__ import annotations

import base64
import hmac
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from orchestrator.addresses import is_loopback
from orchestrator.errors import NotPermitted, Unreachable, UsageError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SLOWEST_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Who may scrape, and how it is hidden from others; files, so that no secret is in a command line."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    """Scrapers must show a certificate of this authority."""
    token: Path | None = None
    """A file with one line: a token (sent as Bearer), or user:password (sent as Basic)."""


def serve(
    text: Callable[[], bytes], host: str, port: int, guard: Guard, *, is_open: bool = False
) -> ThreadingHTTPServer:
    """Serves `/metrics` from a thread of its own; `.server_port` is the port, also when 0 asked for a free one.

    Errors: NotPermitted, if others could read it without TLS or a secret and `is_open` does not allow it; UsageError; Unreachable.
    """
    if not is_loopback(host) and not is_open and not (guard.client_ca or guard.token):
        raise NotPermitted(
            f"{host} can be reached from other machines: give --token-file or --client-ca, or --open where a network policy "
            "keeps others away"
        )
    expected = _expected(guard.token)

    class Answer(BaseHTTPRequestHandler):
        timeout = SLOWEST_SECONDS
        server_version, sys_version = "prunefleet", ""

        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "").encode(errors="replace")
            if expected and not any(hmac.compare_digest(given, one) for one in expected):
                self._send(401, b"not permitted\n")
            elif self.path.partition("?")[0] != "/metrics":
                self._send(404, b"see /metrics\n")
            else:
                self._send(200, text())

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(data)))
            if status == 401:
                self.send_header("WWW-Authenticate", 'Bearer realm="prunefleet"')
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Scrapes are not worth a line."""

    context = _context(guard)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def get_request(self) -> Any:
            connection, address = super().get_request()
            connection.settimeout(SLOWEST_SECONDS)
            if context:  # the handshake comes with the first read, in the answering thread
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            return connection, address

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Whoever breaks off, or fails to show a certificate, is no fault of ours."""

    try:
        server = Server((host, port), Answer)
    except (OSError, OverflowError) as error:
        raise Unreachable(f"{host} port {port} cannot be served: {error}") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _expected(file: Path | None) -> tuple[bytes, ...]:
    if file is None:
        return ()
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file: {file} cannot be read: {type(error).__name__}") from error
    if len(secret) < 8:
        raise UsageError(f"--token-file: what {file} holds is shorter than 8 characters, which is no secret")
    basic = b"Basic " + base64.b64encode(secret.encode())
    return (basic,) if ":" in secret else (b"Bearer " + secret.encode(),)


def _context(guard: Guard) -> ssl.SSLContext | None:
    if guard.certificate is None:
        if guard.key or guard.client_ca:
            raise UsageError("--key-file and --client-ca need --certificate-file")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(guard.certificate, guard.key)
        if guard.client_ca:
            context.load_verify_locations(guard.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the certificate, its key or the authority cannot be used: {error}") from error
    return context
