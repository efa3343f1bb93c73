"""Alert and recording rules, by promtool itself, and held against the metrics that exist and the runbooks."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from cases.prometheus import panels, promtool

from orchestrator.watching.metrics import FLEET, RUN

ROOT = Path(__file__).parents[2]
RULES = ROOT / "dashboards" / "rules"
SERIES = {
    name
    for one in (*RUN, *FLEET)
    for name in (
        [one.name] if one.kind != "histogram" else [one.name + end for end in ("_bucket", "_sum", "_count")]
    )
}


def rules(name):
    [group] = yaml.safe_load((RULES / name).read_text())["groups"]
    return group["rules"]


ALERTS = rules("alerts.yaml")
RECORDINGS = rules("recordings.yaml")


def test_promtool_finds_no_fault_in_the_rules():
    done = promtool("check", "rules", "recordings.yaml", "alerts.yaml")
    assert done.returncode == 0, done.stderr
    assert f"SUCCESS: {len(ALERTS)} rules found" in done.stdout


def test_every_alert_fires_and_is_silent_as_promtool_sees_it_and_a_clean_night_fires_none():
    done = promtool("test", "rules", "alerts.test.yaml", "days.test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_no_fault_in_the_example_configuration():
    done = promtool("check", "config", str(ROOT / "dashboards" / "prometheus.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_amtool_finds_no_fault_in_the_example_for_alertmanager():
    tool = shutil.which("amtool")
    if tool is None:
        pytest.skip("amtool is not installed (make system)")
    path = ROOT / "dashboards" / "alertmanager.yaml"
    done = subprocess.run([tool, "check-config", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_recording_is_what_an_alert_or_a_panel_asks_for():
    asked = " ".join([*(alert["expr"] for alert in ALERTS), *(query for *_, query in panels())])
    assert [recording["record"] for recording in RECORDINGS if recording["record"] not in asked] == []


def test_every_alert_is_tested_both_ways():
    tests = [test for page in RULES.glob("*.test.yaml") for test in yaml.safe_load(page.read_text())["tests"]]
    expected = {
        (case["alertname"], bool(case["exp_alerts"]))
        for test in tests
        for case in test.get("alert_rule_test", ())
    }
    assert expected == {(alert["alert"], fires) for alert in ALERTS for fires in (True, False)}


@pytest.mark.parametrize("rule", [*ALERTS, *RECORDINGS], ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_name_in_a_rule_is_exported_or_recorded(rule):
    used = set(re.findall(r"[a-z_]+:[a-z_:0-9]+|prunefleet_[a-z_]+", rule["expr"]))
    assert used
    assert used <= SERIES | {recording["record"] for recording in RECORDINGS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_how_bad_it_is_and_links_its_runbook(alert):
    assert re.fullmatch(r"Prunefleet([A-Z][a-z]+)+", alert["alert"])
    assert alert["labels"]["severity"] in {"info", "warning", "critical"}
    assert alert["annotations"]["summary"].endswith(".")
    page = ROOT / alert["annotations"]["runbook_url"]
    assert page.stem == alert["alert"]
    text = page.read_text()
    assert text.startswith(f"# {alert['alert']}\n")
    for title in ("First look", "Likely causes", "What to do"):
        assert f"\n## {title}\n" in text
    assert f"Severity: {alert['labels']['severity']}." in text


def test_no_runbook_is_left_over():
    pages = {page.stem for page in (ROOT / "docs" / "runbooks").glob("Prunefleet*.md")}
    assert pages == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording["record"])
def test_recordings_are_named_level_metric_operation(recording):
    assert re.fullmatch(r"[a-z_]+:prunefleet_[a-z_]+:[a-z0-9_]+", recording["record"])
