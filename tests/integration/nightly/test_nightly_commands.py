"""The commands of nights, typed and resident."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from cases.commands import environment
from cases.fleets import half_of_the_zoo

COMMAND = Path(sys.executable).parent / "prunefleet"


def test_the_commands_run_a_night_and_show_its_morning(tmp_path, make_small_fleet, prunefleet):
    fleet = make_small_fleet(models=0, text=half_of_the_zoo(more=['schedule: {at: "00:00"}']))
    (tmp_path / "zoo").mkdir()
    nightly = ("nightly", "fleet.yaml", "--backend", "local", "--json")
    is_due = ("nightly", "fleet.yaml", "--due", "--json")
    assert json.loads(prunefleet(*is_due, check=6).stdout)["duty"] == "run"
    assert "no night yet" in prunefleet("morning", "fleet.yaml", check=2).stderr
    value = json.loads(prunefleet(*nightly, "--trigger", "cron", check=4).stdout)
    assert value["duty"] == "run"
    assert value["morning"]["night"]["trigger"] == "cron"
    assert json.loads(prunefleet(*nightly, check=0).stdout)["duty"] == "done"
    assert json.loads(prunefleet(*is_due, check=0).stdout)["exit_code"] == 0
    assert "First night: 1 newly impossible." in prunefleet("morning", "fleet.yaml", check=0).stdout
    prunefleet("morning", "fleet.yaml", "--to", "m.html", check=0)
    assert "First night" in (tmp_path / "m.html").read_text()
    prunefleet("morning", "fleet.yaml", "--to", "m.pdf", check=2)
    prunefleet("morning", "fleet.yaml", "1999-01-01T0100", check=69)
    fleet.write_text(fleet.read_text().split("schedule:")[0])
    assert "no schedule" in prunefleet("nightly", "fleet.yaml", check=2).stderr
    assert "no schedule" in prunefleet(*is_due, check=2).stderr


def test_a_resident_runs_a_night_waits_for_the_next_and_ends_when_told_to(tmp_path, make_small_fleet):
    make_small_fleet(models=0, text=half_of_the_zoo(more=['schedule: {cron: "0 0 1 * *"}']))
    (tmp_path / "zoo").mkdir()
    process = subprocess.Popen(
        [str(COMMAND), "nightly", "fleet.yaml", "--resident", "--backend", "local"],
        cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True,
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
