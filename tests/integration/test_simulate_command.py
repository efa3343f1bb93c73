"""`prunefleet simulate`: the plan of a fleet that is there, on a virtual cluster; nothing is written to its store."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app


@pytest.fixture
def run(make_small_fleet):
    fleet = make_small_fleet()

    def run(*arguments):
        done = CliRunner().invoke(app, ["simulate", str(fleet), *arguments])
        assert done.exit_code == 0, done.output
        return done

    run.home = fleet.parent
    return run


def test_the_whole_fleet_is_simulated_and_each_pool_with_one_slot_more(run):
    told = json.loads(run("--json").stdout)
    assert told["units"]["done"] > 0
    assert told["units"]["failed"] == told["units"]["waiting"] == 0
    assert told["makespan_seconds"] >= told["lower_bound_seconds"] > 0
    assert set(told["pools"]) == set(told["one_slot_more"]) == {"cpu", "gpu"}


def test_people_get_a_table(run):
    done = run()
    assert "with one slot more" in done.stdout
    assert "gpu" in done.stdout


def test_nothing_is_computed(run):
    run("--json")
    store = run.home / "store"
    assert not (store / "results").exists()
    assert not (store / "runs").exists()


def test_noise_and_losses_follow_their_seed(run):
    first, again, other = (
        json.loads(run("--json", "--noise", "0.5", "--node-loss-per-hour", "2", "--seed", seed).stdout)
        for seed in ("1", "1", "2")
    )
    assert first == again != other


def test_a_plot_can_be_written(run, tmp_path):
    run("--plot", str(tmp_path / "busy.svg"))
    assert "two-pools, simulated" in "".join(ET.parse(tmp_path / "busy.svg").getroot().itertext())
