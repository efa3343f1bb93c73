"""Effects. A server on loopback that answers whatever a function says."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


@contextmanager
def server_of(
    answer: Callable[[str, dict[str, str]], Any], *, headers: list[Any] | None = None, tls: Path | None = None
) -> Iterator[str]:
    """Serves what `answer(path, query)` gives: a value as JSON, bytes, or (status, headers) and perhaps bytes.

    `headers` collects those of each request; `tls` is the folder of a certificate.
    """

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits 40 ms for its second half

        def log_message(self, *_: Any) -> None:
            return

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if headers is not None:
                headers.append(self.headers)
            found = answer(url.path, {key: one[0] for key, one in parse_qs(url.query).items()})
            status, sent, data = (*found, b"")[:3] if isinstance(found, tuple) else (200, {}, found)
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            for key, value in {**sent, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_POST = do_GET
        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "ca.crt", tls / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
