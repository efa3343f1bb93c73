"""A store in memory, and a server that hears what a night says."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler

import pytest
from cases.nights import Server

from orchestrator.simulation.store import MemoryStore


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def server():
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.seen.append((self.path, dict(self.headers), body))
            status = self.server.answers.pop(0) if self.server.answers else 204
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", self.server.url.replace("hook", "elsewhere"))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with Server(("127.0.0.1", 0), Answer) as httpd:
        httpd.answers, httpd.seen = [], []
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()
