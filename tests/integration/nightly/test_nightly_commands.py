"""The commands of nights, typed and resident."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.cli import command_line

COMMAND = Path(sys.executable).parent / "prunefleet"


FLEET = """
version: 1
name: nights
store: ./store
registries: {zoo: {kind: directory, path: ./zoo}}
datasets:
  digits: {kind: arrays, path: ./data/arrays.parquet}
recipes:
  half:
    match: {registry: zoo}
    prune: {criterion: magnitude, amount: 0.5}
pools:
  cpu: {cpus: 1}
schedule: {cron: "* * * * *"}
"""


@contextmanager
def environment_of(tmp_path):
    yield {**os.environ, "NO_COLOR": "1", "COLUMNS": "300", "XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Types a command in this process: every further one would load everything anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def typed(*arguments):
        monkeypatch.setattr(sys, "argv", ["prunefleet", *arguments])
        return command_line()

    return typed


def test_the_commands_run_a_night_and_show_its_morning(tmp_path, make_small_fleet, call, capsys):
    fleet = make_small_fleet(models=0, text=FLEET.replace('{cron: "* * * * *"}', '{at: "00:00"}'))
    (tmp_path / "zoo").mkdir()
    assert call("morning", "fleet.yaml") == 2
    assert "no night yet" in capsys.readouterr().err
    assert call("nightly", "fleet.yaml", "--backend", "local", "--json", "--trigger", "cron") == 4
    value = json.loads(capsys.readouterr().out)
    assert value["duty"] == "run"
    assert value["morning"]["night"]["trigger"] == "cron"
    assert call("nightly", "fleet.yaml", "--backend", "local", "--json") == 0
    assert json.loads(capsys.readouterr().out)["duty"] == "done"
    assert call("morning", "fleet.yaml") == 0
    assert "First night: 1 newly impossible." in capsys.readouterr().out
    assert call("morning", "fleet.yaml", "--to", "m.html") == 0
    assert "First night" in (tmp_path / "m.html").read_text()
    assert call("morning", "fleet.yaml", "--to", "m.pdf") == 2
    assert call("morning", "fleet.yaml", "1999-01-01T0100") == 69
    fleet.write_text(fleet.read_text().split("schedule:")[0])
    assert call("nightly", "fleet.yaml") == 2
    assert "no schedule" in capsys.readouterr().err


def test_a_resident_runs_a_night_waits_for_the_next_and_ends_when_told_to(tmp_path, make_small_fleet):
    make_small_fleet(models=0, text=FLEET.replace('{cron: "* * * * *"}', '{cron: "0 0 1 * *"}'))
    (tmp_path / "zoo").mkdir()
    with environment_of(tmp_path) as environment:
        process = subprocess.Popen(
            [str(COMMAND), "nightly", "fleet.yaml", "--resident", "--backend", "local"],
            cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if "the next night is slot" in line:
                    break
            assert any("morning report: First night" in line for line in lines), lines
            process.terminate()
            assert process.wait(timeout=120) == 0
        finally:
            process.kill()
            process.stderr.close()
