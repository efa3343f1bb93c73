"""The dashboard of Ray's nodes, asked of a Prometheus that scrapes what Ray exports: its names, labels and units.

Ray's endpoint is stood in for, since neither a GPU nor a worker killed for memory can be had here; the names and labels
are taken from Ray's own table of gauges, so that a Ray that renames one fails here.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cases.prometheus import SERVER, filled, panels, scraping, until

pytestmark = pytest.mark.skipif(SERVER is None, reason="prometheus is not installed (make system)")

GAUGES = {
    "node_cpu_utilization": 62.0,
    "node_mem_used": 6e9,
    "node_mem_total": 8e9,
    "node_gpus_utilization": 97.0,
    "node_gram_used": 41_000.0,
    "node_disk_utilization_percentage": 40.0,
    "node_network_received": 5e6,
}
"""Of one node; of the GPU ones, of each of its two GPUs. The last one grows by as much with every scrape."""
PER_GPU = {"node_gpus_utilization", "node_gram_used"}
EVICTIONS = "ray_memory_manager_worker_eviction_total"
COMMON = {"SessionName": "session_1", "Version": "2.60.0", "ip": "192.0.2.7", "IsHeadNode": "false", "RayNodeType": "worker"}  # fmt: skip


def exposition(scrapes):
    """What Ray's agent on a node says the n-th time that it is asked."""
    lines = []
    for name, value in GAUGES.items():
        value *= scrapes if name == "node_network_received" else 1
        parts = (
            [{"GpuIndex": str(gpu), "GpuDeviceName": "H100"} for gpu in range(2)] if name in PER_GPU else [{}]
        )
        for part in parts:
            labels = ",".join(f'{key}="{text}"' for key, text in {**COMMON, **part}.items())
            lines.append(f"ray_{name}{{{labels}}} {value}")
    lines.append(f'{EVICTIONS}{{Name="run_shard",Type="MemoryManager.TaskEviction.Total"}} {scrapes}')
    return "\n".join([*lines, 'prunefleet_units{state="running"} 3', ""]).encode()


@contextmanager
def node():
    """A port where such an agent answers."""
    asked = iter(range(1, 1_000_000))

    class Agent(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(exposition(next(asked)))

        def log_message(self, *_):
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Title of each panel of the dashboard -> its series, once a rate can be told."""
    asked = {title: filled(query) for board, title, query in panels() if board == "prunefleet-nodes"}
    with (
        node() as port,
        scraping(tmp_path_factory.mktemp("prometheus"), {"ray": (port, "/metrics")}) as server,
    ):
        until(lambda: server.ask("rate(ray_node_network_received[1m]) > 0"), "a rate")
        yield {title: server.ask(query) for title, query in asked.items()}


def test_every_panel_has_data(answers):
    assert len(answers) == 8
    assert {title for title, series in answers.items() if not series} == set()


def test_panels_show_what_ray_measured_in_the_unit_that_they_name(answers):
    values = {title: series[0][1] for title, series in answers.items()}
    assert values["CPU"] == 62.0
    assert values["Memory"] == 0.75
    assert values["GPU"] == 97.0
    assert values["GPU memory"] == 82_000.0
    assert values["Disk"] == 40.0
    assert values["Units that work"] == 3.0
    assert values["Network"] > 0
    assert values["Workers killed for memory"] > 0


def test_there_is_one_line_a_node_however_many_gpus_it_has(answers):
    assert {title: len(series) for title, series in answers.items()} == dict.fromkeys(answers, 1)


@pytest.mark.parametrize("name", GAUGES)
def test_ray_still_exports_it_under_this_name(name):
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    assert METRICS_GAUGES[name].name == name
