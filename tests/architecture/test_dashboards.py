"""Dashboards are what their code makes, keep the rules of Grafana's linter, and ask for nothing that does not exist."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from orchestrator.watching.metrics import FLEET, RUN

ROOT = Path(__file__).resolve().parent.parent.parent / "dashboards"
FILES = sorted((ROOT / "grafana").glob("*.json"))
BOARDS = {path.name: json.loads(path.read_text()) for path in FILES}
PANELS = [(name, panel) for name, board in BOARDS.items() for panel in board["panels"]]
IDS = [f"{name}-{panel['title']}" for name, panel in PANELS]
OURS = {
    name
    for one in (*RUN, *FLEET)
    for name in (
        [one.name] if one.kind != "histogram" else [f"{one.name}_{end}" for end in ("bucket", "sum", "count")]
    )
}
RAYS = {
    "ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_mem_total", "ray_node_gpus_utilization",
    "ray_node_gram_used", "ray_node_disk_utilization_percentage", "ray_node_network_received",
    "ray_memory_manager_worker_eviction_total",
}  # fmt: skip
"""Of Ray's own endpoint, as its documentation lists them."""


RECORDED = {
    rule["record"]
    for group in yaml.safe_load((ROOT / "rules" / "recordings.yaml").read_text())["groups"]
    for rule in group["rules"]
}


def labels_of(name):
    for one in (*RUN, *FLEET):
        if name == one.name or (one.kind == "histogram" and name.startswith(f"{one.name}_")):
            return {*one.labels, "le", "instance", "job"}
    return None


def queries(panel):
    return [target["expr"] for target in panel["targets"]]


def test_the_files_are_what_the_code_makes(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    spec = importlib.util.spec_from_file_location("generate", ROOT / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert {path.name: path.read_text() for path in FILES} == generate.written(), "run `make dashboards`"


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_can_be_found_and_not_be_changed_by_accident(name):
    board = BOARDS[name]
    assert f"{board['uid']}.json" == name
    assert board["title"].startswith("prunefleet / ")
    assert len(board["description"]) > 20
    assert board["editable"] is False
    assert board["tags"] == ["prunefleet"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    first = board["templating"]["list"][0]
    assert (first["type"], first["name"], first["query"]) == ("datasource", "datasource", "prometheus")
    *queried, docs = board["templating"]["list"][1:]
    assert (docs["type"], docs["name"]) == ("textbox", "docs")
    for variable in queried:
        assert variable["datasource"]["uid"] == "${datasource}"
        metric = re.search(r"label_values\((\w+), (\w+)\)", variable["query"])
        assert metric
        assert metric[1] in OURS | RAYS
        assert metric[2] in (labels_of(metric[1]) or {"instance"})


def test_titles_uids_and_panels_are_told_apart():
    assert len(BOARDS) == 7
    assert (
        len({board["uid"] for board in BOARDS.values()})
        == len({board["title"] for board in BOARDS.values()})
        == 7
    )
    for board in BOARDS.values():
        titles = [panel["title"] for panel in board["panels"]]
        assert len(set(titles)) == len(titles) >= 5


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=IDS)
def test_a_panel_keeps_the_rules(name, panel):
    assert panel["title"]
    assert panel["description"].endswith((".", "%"))
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["type"] in ("stat", "timeseries")
    for query in queries(panel):
        for window in re.findall(r"\[([^\]]+)\]", query):
            assert window == "$__rate_interval"
        for function in re.findall(r"(?:rate|increase)\((\w+?)(?:_bucket)?[{\[]", query):
            assert function.endswith(("_total", "_seconds", "_received"))
        known = {variable["name"] for variable in BOARDS[name]["templating"]["list"]}
        assert set(re.findall(r"\$(\w+)", query)) - {"__rate_interval"} <= known


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=IDS)
def test_every_metric_and_label_of_a_query_exists(name, panel):
    for query in queries(panel):
        for recorded in RECORDED & set(re.findall(r"[\w:]+", query)):
            query = query.replace(recorded, "")
        named = set(re.findall(r"\b(prunefleet_\w+|ray_\w+|ALERTS)\b", query))
        assert named
        assert named <= OURS | RAYS | {"ALERTS"}
        for metric, selected in re.findall(r"\b(prunefleet_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\"", selected)) <= labels_of(metric)
        grouped = {word for group in re.findall(r"by \(([^)]*)\)", query) for word in group.split(", ")}
        for metric in named & OURS:
            assert grouped <= labels_of(metric)
        for label in re.findall(r"\{\{(\w+)\}\}", panel["targets"][0]["legendFormat"]):
            assert label in grouped


def test_every_query_is_one_that_prometheus_reads(tmp_path):
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (make system)")
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(query for _, panel in PANELS for query in queries(panel))
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [tool, "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


RUNBOOKS = {path.stem for path in (ROOT.parent / "docs" / "runbooks").glob("*.md")}


def test_every_dashboard_leads_on_to_others_that_exist_and_keeps_time_and_variables():
    uids = {board["uid"] for board in BOARDS.values()}
    reached = set()
    for board in BOARDS.values():
        *further, everything = board["links"]
        assert everything["tags"] == ["prunefleet"]
        targets = {link["url"].removeprefix("/d/") for link in further}
        assert targets
        assert targets <= uids - {board["uid"]}
        assert all(link["keepTime"] and link["includeVars"] for link in further)
        reached |= targets
    assert reached == uids


@pytest.mark.parametrize(
    "path",
    [("fleet", "night", "run", "pools", "nodes"), ("fleet", "quality"), ("run", "quality")],
    ids="-".join,
)
def test_one_drills_down_from_the_fleet_to_a_run_and_its_machines(path):
    for here, there in pairwise(path):
        links = BOARDS[f"prunefleet-{here}.json"]["links"]
        assert f"/d/prunefleet-{there}" in [link.get("url") for link in links]


def test_panels_that_an_alert_watches_link_its_runbook():
    linked = {}
    for name, panel in PANELS:
        for link in panel.get("links", []):
            place = re.fullmatch(r"\$\{docs\}/docs/runbooks/(\w+)\.md", link["url"])
            assert place, link
            linked[name, panel["title"]] = place[1]
    assert set(linked.values()) <= RUNBOOKS
    assert len(set(linked.values())) > 15


def test_each_alert_that_fires_is_a_line_that_opens_its_own_runbook():
    [panel] = [panel for _, panel in PANELS if panel["title"] == "Alerts that fire"]
    [link] = panel["fieldConfig"]["defaults"]["links"]
    assert link["url"] == "${docs}/docs/runbooks/${__field.labels.alertname}.md"


def test_kubernetes_gets_every_dashboard():
    [made] = yaml.safe_load((ROOT / "kustomization.yaml").read_text())["configMapGenerator"]
    assert made["options"]["labels"] == {"grafana_dashboard": "1"}
    assert made["files"] == [f"grafana/{name}" for name in BOARDS]
