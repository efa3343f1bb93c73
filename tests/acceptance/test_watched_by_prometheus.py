"""Prometheus itself watches a real run and the store behind it, with the rules that are shipped."""

from __future__ import annotations

import json
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from cases.prometheus import SERVER, filled, free_port, panels, process, scraping, until

COMMAND = Path(sys.executable).parent / "prunefleet"


@pytest.fixture(scope="module")
def watched(make_home):
    """A night that Prometheus has watched from its first unit to its last; the home, the server, the run's summary."""
    if SERVER is None:
        pytest.skip("prometheus is not installed (make system)")
    home = make_home()
    run_port, fleet_port = free_port(), free_port()
    jobs = {"prunefleet-run": (run_port, "/metrics"), "prunefleet-exporter": (fleet_port, "/metrics")}
    with ExitStack() as held:
        exporter = (COMMAND, "exporter", "fleet.yaml", "--port", fleet_port, "--every", "1")
        held.enter_context(process(exporter, home.root, "exporter.log", home.all_environment()))
        prometheus = held.enter_context(scraping(home.root, jobs))
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
    assert prometheus.value("last_over_time(prunefleet_run_exit_code[10m])") == 3
    assert prometheus.value("last_over_time(prunefleet_run_end_timestamp_seconds[10m])") > 0


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


NOT_THERE = ("Measured speed over dense", "Since a night was closed")
"""The small fleet times nothing and has no schedule."""


def test_every_panel_has_something_to_show_of_a_real_run(watched):
    _, prometheus, _ = watched
    empty = []
    for board, title, query in panels():
        if "prunefleet_" in query and not prometheus.has_shown(filled(query), minutes=10):
            empty.append((board, title, query))
    assert [one for one in empty if one[1] not in NOT_THERE] == []
