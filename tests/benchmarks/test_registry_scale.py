"""How long a registry of 100,000 versions takes on a night on which nothing changed, and how much memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

VERSIONS = 100_000
LIMIT_SECONDS = 60.0
LIMIT_BYTES = 2 * 2**30

FLEET = """
version: 1
name: large
store: ./store
registries:
  prod: {kind: mlflow, uri: "URI"}
recipes:
  half:
    match: {registry: prod}
    prune: {criterion: magnitude, amount: 0.5}
"""

SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
COUNT = int(sys.argv[1])
def row(n):
    return {"name": f"m{n // 10:05d}", "version": str(n % 10 + 1), "creation_timestamp": n, "run_id": f"{n:032x}",
            "source": f"mlflow-artifacts:/1/{n:032x}/artifacts/model", "status": "READY", "tags": [{"key": "team", "value": "a"}]}
class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query)
        start = int(query.get("page_token", ["0"])[0]); size = int(query["max_results"][0])
        more = {"next_page_token": str(start + size)} if start + size < COUNT else {}
        data = json.dumps({"model_versions": [row(n) for n in range(start, min(COUNT, start + size))], **more}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(data))); self.end_headers(); self.wfile.write(data)
server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@pytest.mark.benchmark
def test_a_hundred_thousand_versions_are_scanned_and_planned_within_the_limits(
    tmp_path, record_property, capsys
):
    from orchestrator.identity import digest
    from orchestrator.planning import build_plan
    from orchestrator.registries.memory import DigestMemory, Summary, dump_memory
    from orchestrator.scanning import memory_key, scan
    from orchestrator.spec import load_fleet
    from orchestrator.stores.local import LocalStore

    (tmp_path / "server.py").write_text(SERVER)
    server = subprocess.Popen(
        [sys.executable, str(tmp_path / "server.py"), str(VERSIONS)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout
        port = int(server.stdout.readline())
        fleet = load_fleet(
            FLEET.replace("URI", f"http://127.0.0.1:{port}"), "fleet.yaml", Path("/").joinpath("home")
        )
        store, memory = LocalStore(tmp_path / "store"), DigestMemory(at=4e9)
        for number in range(VERSIONS):
            run = f"{number:032x}"
            vouched = digest([f"mlflow-artifacts:/1/{run}/artifacts/model", run, str(number)])
            summary = Summary(
                digest=digest(number),
                architecture="LlamaForCausalLM",
                bytes=10**9,
                parameters=10**8,
                format="safetensors",
            )
            memory.remember_vouched(f"m{number // 10:05d}/{number % 10 + 1}", vouched, (summary, False))
        store.put(memory_key("prod"), dump_memory(memory))
        del memory
        started = time.perf_counter()
        found = scan(fleet, store, 4e9)
        scanned = time.perf_counter() - started
        plan = build_plan(fleet, found.catalog, frozenset(), {}, {})
        seconds = time.perf_counter() - started
    finally:
        server.kill()
        server.wait()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    record_property("seconds", seconds)
    record_property("peak_bytes", peak)
    assert len(found.catalog.versions) == VERSIONS
    assert len(plan.todo) == VERSIONS
    assert not any(version.problem for version in found.catalog.versions)
    with capsys.disabled():
        told: dict[str, Any] = {
            "scan": round(scanned, 1),
            "scan and plan": round(seconds, 1),
            "MiB": peak >> 20,
        }
        print(f" {VERSIONS} versions: {json.dumps(told)} ", end="")
    assert seconds < LIMIT_SECONDS
    assert peak < LIMIT_BYTES
