"""What commands print with `--json` is what their schemas say: real outputs of a small fleet, and no key beside."""

from __future__ import annotations

import json

import pytest
import typer.main
from cases.commands import typed
from pydantic import TypeAdapter, ValidationError

from orchestrator.cli import app
from orchestrator.outputs import OUTPUTS, schema_of

FLEET = """
version: 1
name: small
store: {store}
schedule: {{at: "01:00"}}
registries:
  zoo: {{kind: directory, path: ./zoo}}
  out: {{kind: directory, path: ./published}}
datasets:
  digits: {{kind: arrays, path: ./data/arrays.parquet}}
recipes:
  half:
    match: {{registry: zoo}}
    prune: {{criterion: magnitude, amount: 0.4}}
    evaluate: {{dataset: digits, split: test, metric: accuracy}}
    gates: {{max_drop: 1.0, min_samples: 1}}
    publish: {{registry: out, alias: candidate}}
pools:
  cpu: {{cpus: 2}}
"""


def fits(command, value):
    """The output, if it is what the command's schema says."""
    TypeAdapter(OUTPUTS[command]).validate_python(value)
    return value


@pytest.fixture(scope="module")
def said(make_home):
    """Types a command with --json in a home where one model was compressed and published; what it said."""
    home = make_home(models={"mlp/1": "mlp"}, text=FLEET)

    def say(command, *arguments, check=0):
        return fits(command, json.loads(typed(home.root, command, *arguments, "--json", check=check).stdout))

    say.fresh = say("plan", "fleet.yaml")
    say.run = say("run", "fleet.yaml", "--backend", "local")
    return say


def test_a_plan_before_and_after_the_first_run(said):
    assert said.fresh["since"] is None
    assert {unit["state"] for unit in said.fresh["units"]} == {"to do"}
    again = said("plan", "fleet.yaml")
    assert again["since"] == {"run_id": said.run["run_id"], "changes": []}


def test_a_run_and_its_status(said):
    assert said.run["outcome"] == "done"
    assert len(said.run["published"]) == 1
    assert said("status")[0]["run_id"] == said.run["run_id"]
    assert said("status", said.run["run_id"])["exit_code"] == 0


def test_rows_and_reasons(said):
    assert said("query", "SELECT count(*) AS units FROM units")[0]["units"] == len(said.fresh["units"])
    explained = said("explain", "fleet.yaml", "mlp")
    assert [one["unit"]["state"] for one in explained] == ["cached"] * len(said.fresh["units"])


def test_moves_of_an_alias(said):
    version = said("history", "fleet.yaml")[0]["published_version"]
    assert said("promote", "fleet.yaml", "mlp", version, "--alias", "champion", "--reason", "best")["moved"]
    assert not said("promote", "fleet.yaml", "mlp", version, "--alias", "champion", "--reason", "best")[
        "moved"
    ]
    assert [row["alias"] for row in said("history", "fleet.yaml")] == ["candidate", "champion"]


def test_care_of_the_store(said):
    assert said("verify")["damages"] == []
    assert said("gc")["garbage"] == []
    assert said("gc", "--yes")["removed"] == []
    assert {check["area"] for check in said("doctor", "fleet.yaml")["checks"]} > {"store", "versions"}


def test_a_simulation_and_a_night(said):
    assert said("simulate", "fleet.yaml")["units"]
    night = said("nightly", "fleet.yaml", "--backend", "local")
    assert said("nightly", "fleet.yaml", "--due")["exit_code"] == 0
    assert night["exit_code"] == 0
    assert said("morning", "fleet.yaml") == night["morning"]


WITH_JSON = {
    name
    for name, command in typer.main.get_command(app).commands.items()
    if any("--json" in parameter.opts for parameter in command.params)
}


def test_every_command_with_json_has_a_schema_and_no_other():
    assert set(OUTPUTS) == WITH_JSON


@pytest.mark.parametrize("command", sorted(OUTPUTS))
def test_the_schema_of_a_command_can_be_printed(tmp_path, command):
    assert json.loads(typed(tmp_path, "schema", command, check=0).stdout) == schema_of(command)


def test_a_command_without_a_schema_is_told_which_have_one(tmp_path):
    done = typed(tmp_path, "schema", "logs", check=2)
    assert "no schema for 'logs'; there is one for doctor, explain" in " ".join(done.stderr.split())


@pytest.mark.parametrize("spoilt", [{"key": 1}, {"run_id": 7}])
def test_a_key_that_is_not_documented_or_of_another_type_does_not_fit(said, spoilt):
    with pytest.raises(ValidationError):
        fits("run", {**said.run, **spoilt})
