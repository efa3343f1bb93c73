"""The commands that move aliases, on a fleet whose night has published something."""

from __future__ import annotations

import json

from cases.fleets import half_of_the_zoo
from cases.promotions import NOW

from orchestrator.promotion import aliases, publishing
from orchestrator.registries.opening import open_outlet
from orchestrator.survey import read_fleet, survey
from orchestrator.tables import listing, results

FLEET = half_of_the_zoo(
    "evaluate: {dataset: digits, split: test, metric: loss}",
    "gates: {max_drop: 100.0, min_samples: 2}",
    "publish: {registry: out, alias: candidate}",
    more=["promotion: {aliases: [champion], approvals: 2}"],
)


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
    move = aliases.move_to(
        published, registry="out", alias="candidate", reason="passed", fleet=survey.fleet.name
    )
    aliases.move_alias(survey.store, outlet, move)


def read_survey(path):
    spec, text = read_fleet(path)
    return survey(spec, text, NOW)


def test_the_commands_promote_roll_back_and_tell_the_history(
    tmp_path, make_small_fleet, prunefleet, keep_pruned
):
    make_small_fleet(models=1, text=FLEET)
    champion = ("promote", "fleet.yaml", "mlp0", "candidate", "--alias", "champion")
    prunefleet(*champion, "--reason", "x", check=69)
    publish_by_hand(tmp_path / "fleet.yaml", keep_pruned)
    prunefleet(*champion, "--reason", "x", "--actor", "ann", check=77)
    told = prunefleet(*champion, "--propose", "--reason", "smaller", "--actor", "ann", check=0)
    assert "not moved yet" in told.stderr
    row = json.loads(prunefleet(*champion, "--approve", "--actor", "bob", "--json", check=0).stdout)["row"]
    assert (row["actor"], row["previous_version"]) == ("ann, bob", None)
    there = json.loads((tmp_path / "out/mlp0/aliases.json").read_text())
    assert there["champion"] == there["candidate"]
    prunefleet("promote", "fleet.yaml", "mlp0", "candidate", "--alias", "beta", "--reason", "y", check=0)
    rows = json.loads(prunefleet("history", "fleet.yaml", "mlp0", "--json", check=0).stdout)
    assert [row["alias"] for row in rows] == ["candidate", "champion", "beta"]
    prunefleet("rollback", "fleet.yaml", "mlp0", "--alias", "beta", "--reason", "no", check=2)
    told = prunefleet("promote", "fleet.yaml", "mlp0", "9", "--alias", "beta", "--reason", "y", check=2)
    assert "judged are 1-half-" in told.stderr
    assert "ann, bob" in prunefleet("history", "fleet.yaml", check=0).stdout
