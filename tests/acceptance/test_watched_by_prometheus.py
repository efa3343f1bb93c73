"""Prometheus itself watches a real run and the store behind it, with the rules that are shipped."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

RULES = Path(__file__).resolve().parent.parent.parent / "dashboards" / "rules"
COMMAND = Path(sys.executable).parent / "prunefleet"
LONG = 120.0


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def process(arguments, home, log):
    """A process that is stopped at the end, with what it said in a file."""
    with (home.root / log).open("wb") as out:
        started = subprocess.Popen(
            [str(argument) for argument in arguments],
            cwd=home.root, env=home.all_environment(), stdout=out, stderr=out,
        )  # fmt: skip
        try:
            yield started
        finally:
            started.terminate()
            started.wait(60)


def until(found, what):
    """The first true answer; waits for it."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        if answer := found():
            return answer
        time.sleep(0.2)
    raise AssertionError(f"{what} did not come within {LONG:.0f} s")


class Prometheus:
    """A running server that is asked over HTTP."""

    def __init__(self, port):
        self.port = port

    def ask(self, query, at=None):
        """The series that a query gives, as (labels, value); none while the server is not there."""
        text = urllib.parse.urlencode({"query": query, **({"time": at} if at else {})})
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/api/v1/query?{text}", timeout=10
            ) as answer:
                result = json.load(answer)["data"]["result"]
        except OSError:
            return []
        return [(one["metric"], float(one["value"][1])) for one in result]

    def value(self, query):
        found = self.ask(query)
        return found[0][1] if found else None


@pytest.fixture(scope="module")
def watched(make_home):
    """A night that Prometheus has watched from its first unit to its last; the home, the server, the run's summary."""
    server = shutil.which("prometheus")
    if server is None:
        pytest.skip("prometheus is not installed (make system)")
    home = make_home()
    run_port, fleet_port, port = (free_port() for _ in range(3))
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES / "recordings.yaml"), str(RULES / "alerts.yaml")],
        "scrape_configs": [
            {"job_name": "prunefleet-run", "static_configs": [{"targets": [f"127.0.0.1:{run_port}"]}]},
            {"job_name": "prunefleet-exporter", "static_configs": [{"targets": [f"127.0.0.1:{fleet_port}"]}]},
        ],
    }
    (home.root / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with ExitStack() as held:
        exporter = (COMMAND, "exporter", "fleet.yaml", "--port", fleet_port, "--every", "1")
        held.enter_context(process(exporter, home, "exporter.log"))
        arguments = (
            server, "--config.file=prometheus.yaml", "--storage.tsdb.path=tsdb",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
        )  # fmt: skip
        held.enter_context(process(arguments, home, "prometheus.log"))
        prometheus = Prometheus(port)
        until(lambda: prometheus.value('up{job="prunefleet-exporter"}'), "the first scrape")
        summary = home.run("--metrics-port", run_port, check=3)
        until(
            lambda: prometheus.value("prunefleet_run_last_completion_timestamp_seconds"),
            "the end of the run, as the exporter tells it",
        )
        yield home, prometheus, summary


def test_the_run_was_scraped_while_it_lived(watched):
    _, prometheus, summary = watched
    assert prometheus.value('max_over_time(up{job="prunefleet-run"}[10m])') == 1
    seen = prometheus.value('max_over_time(prunefleet_units{state="done"}[10m])')
    assert seen is not None
    assert 0 < seen <= summary["units"]["done"]
    [(labels, _)] = prometheus.ask("last_over_time(prunefleet_run_info[10m])")
    assert labels["run_id"] == summary["run_id"]


def test_when_it_is_over_the_exporter_tells_how_it_ended(watched):
    _, prometheus, _ = watched
    assert prometheus.value("prunefleet_run_last_exit_code") == 3
    models = prometheus.ask('prunefleet_models{verdict!=""} > 0')
    assert sorted((labels["recipe"], labels["verdict"], value) for labels, value in models) == [
        ("lm-half", "pass", 1.0),
        ("lm-too-far", "block", 1.0),
        ("mlp-two-four", "pass", 1.0),
    ]


def test_every_recording_has_been_evaluated_without_an_error_and_no_alert_fires(watched):
    _, prometheus, _ = watched
    with urllib.request.urlopen(f"http://127.0.0.1:{prometheus.port}/api/v1/rules", timeout=10) as answer:
        rules = [rule for group in json.load(answer)["data"]["groups"] for rule in group["rules"]]
    assert len(rules) > 20
    assert {
        rule["name"]: rule.get("lastError") for rule in rules if rule["health"] not in ("ok", "unknown")
    } == {}
    assert prometheus.ask('ALERTS{alertstate="firing"}') == []


def panels():
    """(dashboard, title, query) of each panel that asks for metrics of ours."""
    for path in sorted((RULES.parent / "grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            [target] = panel["targets"]
            if "prunefleet_" in target["expr"]:
                yield path.stem, panel["title"], target["expr"]


WITHOUT_LATENCY = ("Measured speed over dense",)
"""The small fleet times nothing."""


def test_every_panel_has_something_to_show_of_a_real_run(watched):
    _, prometheus, _ = watched
    lived = prometheus.value("max_over_time(timestamp(prunefleet_run_info)[10m:1s])")
    empty = []
    for board, title, query in panels():
        asked = re.sub(r"\$(fleet|recipe|pool)\b", ".*", query).replace("$__rate_interval", "1m")
        if not prometheus.ask(asked, at=lived) and not prometheus.ask(asked):
            empty.append((board, title, asked))
    assert [one for one in empty if one[1] not in WITHOUT_LATENCY] == []
