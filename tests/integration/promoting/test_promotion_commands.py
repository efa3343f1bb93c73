"""The commands that move aliases, on a fleet whose night has published something."""

from __future__ import annotations

import json
import os
import sys

from cases.promotions import NOW

from orchestrator import aliases, listing, publishing, results
from orchestrator.cli import command_line
from orchestrator.registries.opening import open_outlet
from orchestrator.survey import read_fleet, survey

FLEET = """
version: 1
name: promoted
store: ./store
registries: {zoo: {kind: directory, path: ./zoo}, out: {kind: directory, path: ./out}}
datasets:
  digits: {kind: arrays, path: ./data/arrays.parquet}
recipes:
  half:
    match: {registry: zoo}
    prune: {criterion: magnitude, amount: 0.5}
    evaluate: {dataset: digits, split: test, metric: loss}
    gates: {max_drop: 100.0, min_samples: 2}
    publish: {registry: out, alias: candidate}
pools:
  cpu: {cpus: 1}
promotion: {aliases: [champion], approvals: 2}
"""


def publish_by_hand(path, keep_pruned):
    """What a night leaves of one model that passed, without computing anything."""
    survey = read_survey(path)
    (chain,) = survey.plan.chains
    provenance = {"unit_key": chain.judge, "run_id": "r1", "registry": "zoo", "model": chain.model.name,
                  "version": chain.model.version, "model_digest": chain.model.digest, "recipe": "half"}  # fmt: skip
    _, artifact = keep_pruned(survey.store, with_result=False)
    made = {"artifacts": [{"digest": artifact}], "layers": []}
    verdicts = [{"verdict": "pass", "gate": "overall", "slice": "all"}]
    judged = {"evaluations": [], "verdicts": verdicts, "exemplars": []}
    for task, key, tables in (("prune", chain.prune, made), ("judge", chain.judge, judged)):
        note = {**provenance, "unit_key": key, "task": task}
        survey.store.put(listing.result_key(task, key), results.encode(task, tables, note))
    outlet = open_outlet("out", survey.fleet.registries["out"])
    published = publishing.publish(
        survey.store, outlet, model=chain.model, recipe="half", artifact_digest=artifact, verdict_key=chain.judge, at=1e9,
        actor="night", run_id="r1",
    )  # fmt: skip
    aliases.move_alias(
        survey.store, outlet, aliases.move_to(published, registry="out", alias="candidate", reason="passed")
    )


def read_survey(path):
    spec, text = read_fleet(path)
    return survey(spec, text, NOW)


def test_the_commands_promote_roll_back_and_tell_the_history(
    tmp_path, make_small_fleet, monkeypatch, capsys, keep_pruned
):
    make_small_fleet(models=1, text=FLEET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def typed(*arguments):
        monkeypatch.setattr(sys, "argv", ["prunefleet", *arguments])
        code = command_line()
        return code, capsys.readouterr()

    code, told = typed("promote", "fleet.yaml", "mlp0", "candidate", "--alias", "champion", "--reason", "x")
    assert code == 69, told.err
    publish_by_hand(tmp_path / "fleet.yaml", keep_pruned)
    champion = ("promote", "fleet.yaml", "mlp0", "candidate", "--alias", "champion")
    assert typed(*champion, "--reason", "x", "--actor", "ann")[0] == 77
    code, told = typed(*champion, "--propose", "--reason", "smaller", "--actor", "ann")
    assert (code, "not moved yet" in told.err) == (0, True)
    code, told = typed(*champion, "--approve", "--actor", "bob", "--json")
    row = json.loads(told.out)["row"]
    assert (code, row["actor"], row["previous_version"]) == (0, "ann, bob", None)
    there = json.loads((tmp_path / "out/mlp0/aliases.json").read_text())
    assert there["champion"] == there["candidate"]
    code, told = typed("promote", "fleet.yaml", "mlp0", "candidate", "--alias", "beta", "--reason", "y")
    assert code == 0
    code, told = typed("history", "fleet.yaml", "mlp0", "--json")
    assert [r["alias"] for r in json.loads(told.out)] == ["candidate", "champion", "beta"]
    assert typed("rollback", "fleet.yaml", "mlp0", "--alias", "beta", "--reason", "no")[0] == 2
    code, told = typed("promote", "fleet.yaml", "mlp0", "9", "--alias", "beta", "--reason", "y")
    assert (code, "judged are 1-half-" in told.err) == (2, True)
    code, told = typed("history", "fleet.yaml")
    assert "ann, bob" in told.out
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "cache")
