"""Pictures of dashboards: what a panel's JSON and Prometheus's answer become."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest
from cases.prometheus import DASHBOARDS

NAMES = sorted((DASHBOARDS / "grafana").glob("*.json"))


@pytest.fixture(scope="module")
def draw():
    spec = importlib.util.spec_from_file_location("draw", DASHBOARDS / "draw.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["draw"]


def board(*panels):
    placed = [
        {"id": number, "gridPos": {"x": 0, "y": 9 * number, "w": 12, "h": 9}, **panel}
        for number, panel in enumerate(panels)
    ]
    return {"uid": "u", "title": "T", "description": "D", "panels": placed}


def panel(kind="timeseries", unit="short", title="A <b>"):
    return {"type": kind, "title": title, "fieldConfig": {"defaults": {"unit": unit}}}


def tree(draw, told, answers):
    return ElementTree.fromstring(str(draw.board(told, answers, 0.0, 100.0)))


def found(tree, kind):
    return [one for one in tree.iter() if one.tag.endswith("}" + kind)]


def words(tree):
    return [one.text for one in found(tree, "text")]


def test_a_line_stands_at_its_values_and_a_gap_stays_a_gap(draw):
    points = [(0.0, 0.0), (1.0, 10.0), (50.0, 10.0), (51.0, 0.0)]
    drawn = tree(draw, board(panel()), {0: [draw.Series(name="done", points=points)]})
    lines = [
        [tuple(map(float, corner.split(","))) for corner in one.get("points").split()]
        for one in found(drawn, "polyline")
    ]
    (low, high), (other_high, other_low) = ([y for _, y in line] for line in lines)
    assert low == other_low > high == other_high
    assert lines[0][-1][0] < lines[1][0][0]
    assert {"done", "A <b>"} <= set(words(drawn))


def test_a_stat_shows_the_last_value_of_each_series_in_its_unit(draw):
    series = [draw.Series(name=name, points=[(0.0, 9.0), (90.0, value)]) for name, value in (("a", 61.0), ("b", 5.0))]  # fmt: skip
    told = words(tree(draw, board(panel("stat", "s")), {0: series}))
    assert "1 min 1 s" in told
    assert "5.0 s" in told


def test_a_panel_without_data_says_so(draw):
    assert "no data in this run" in words(tree(draw, board(panel()), {0: []}))


def test_answers_become_named_lines_without_what_is_no_number(draw):
    result = [
        {"metric": {"pool": "cpu"}, "values": [[1, "NaN"], [2, "0.5"]]},
        {"metric": {}, "values": [[1, "+Inf"]]},
    ]
    [series] = draw.series_of(result, "{{pool}} used")
    assert (series.name, series.points) == ("cpu used", [(2.0, 0.5)])


def test_a_picture_says_that_it_is_not_grafanas(draw):
    told = words(tree(draw, board(panel()), {0: []}))
    assert any("Grafana itself looks otherwise" in one for one in told)


@pytest.fixture
def prometheus():
    """A port that answers every range with one series; what it was asked."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            query = parse_qs(urlsplit(self.path).query)
            asked.append(query)
            values = [[float(query["start"][0]) + second, str(second)] for second in range(20)]
            body = json.dumps({"data": {"result": [{"metric": {}, "values": values}]}}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_shipped_dashboard_can_be_drawn(draw, prometheus, tmp_path, monkeypatch):
    address, asked = prometheus
    monkeypatch.setattr(
        sys, "argv", ["draw.py", address, str(tmp_path), "--since", "1000", "--until", "1100"]
    )
    draw.main()
    assert sorted(path.stem for path in tmp_path.glob("*.svg")) == [path.stem for path in NAMES]
    assert not [one for one in asked if "$" in one["query"][0]]
    for path in NAMES:
        drawn = ElementTree.parse(tmp_path / f"{path.stem}.svg").getroot()
        panels = json.loads(path.read_text())["panels"]
        assert len([one for one in found(drawn, "rect") if one.get("class") == "card"]) == len(panels)
        assert "no data in this run" not in words(drawn)
