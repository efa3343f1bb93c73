"""A real Prometheus on the loopback, with the rules that are shipped, that tests and pictures ask."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

DASHBOARDS = Path(__file__).resolve().parent.parent.parent / "dashboards"
RULES = [str(DASHBOARDS / "rules" / name) for name in ("recordings.yaml", "alerts.yaml")]
SERVER = shutil.which("prometheus")
LONG = 120.0


def promtool(*arguments):
    """What promtool says, beside the rules; skips where it is not there."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (make system)")
    return subprocess.run(
        [tool, *arguments], cwd=DASHBOARDS / "rules", capture_output=True, text=True, timeout=120
    )


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def process(arguments, folder, log, environment=None):
    """A process that is stopped at the end, with what it said in a file."""
    with (folder / log).open("wb") as out:
        started = subprocess.Popen(
            [str(argument) for argument in arguments],
            cwd=folder, env=environment, stdout=out, stderr=out,
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

    def ask(self, query):
        """The series that a query gives now, as (labels, value); none while the server is not there."""
        result = self._result("query", {"query": query})
        return [(one["metric"], float(one["value"][1])) for one in result]

    def has_shown(self, query, minutes):
        """Whether a query has had an answer at any second of the last minutes."""
        now = time.time()
        return bool(
            self._result("query_range", {"query": query, "start": now - 60 * minutes, "end": now, "step": 1})
        )

    def _result(self, kind, asked):
        text = urllib.parse.urlencode(asked)
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/api/v1/{kind}?{text}", timeout=10
            ) as answer:
                return json.load(answer)["data"]["result"]
        except OSError:
            return []

    def value(self, query):
        found = self.ask(query)
        return found[0][1] if found else None


@contextmanager
def scraping(folder, jobs):
    """A server that scrapes every second: job name -> port and path."""
    port = free_port()
    scraped = [
        {"job_name": name, "metrics_path": path, "static_configs": [{"targets": [f"127.0.0.1:{at}"]}]}
        for name, (at, path) in jobs.items()
    ]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": RULES,
        "scrape_configs": scraped,
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    arguments = (
        SERVER, "--config.file=prometheus.yaml", "--storage.tsdb.path=tsdb",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    )  # fmt: skip
    with process(arguments, folder, "prometheus.log"):
        yield Prometheus(port)


def panels():
    """(dashboard, title, query) of every panel."""
    for path in sorted((DASHBOARDS / "grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            [target] = panel["targets"]
            yield path.stem, panel["title"], target["expr"]


def filled(query, window="1m"):
    """A panel's query where every variable is All."""
    return re.sub(r"\$(fleet|recipe|pool|job|instance)\b", ".*", query).replace("$__rate_interval", window)
