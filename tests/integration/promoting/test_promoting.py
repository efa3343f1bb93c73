"""Aliases moved by people: only to the bytes that were judged, only as often as agreed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from cases.promotions import DAY, KEYS, NOW, RULE, UNSIGNED, Outlet, agree, key_of, public
from pydantic import ValidationError

from orchestrator.errors import (
    AliasMoved,
    Damaged,
    GateRefused,
    GateUndecided,
    NoSuchVersion,
    NotPermitted,
    SpecError,
    UsageError,
)
from orchestrator.promotion import promoting
from orchestrator.spec import load_fleet
from orchestrator.specs.promotion import PromotionSpec


def test_two_people_move_an_alias_and_one_does_not(world):
    claim = world.claims["v1"]
    proposal = promoting.propose(world.office("ann"), claim, "champion", "smaller", key_of("ann"))
    with pytest.raises(NotPermitted, match=r"needs 2 approvals and has 1 \(ann\)"):
        promoting.promote(world.office("ann"), claim, "champion", "")
    promoting.approve(world.office("cat"), claim, "champion")
    row = promoting.promote(world.office("dan"), claim, "champion", "")
    assert world.outlet.table == {"champion": "v1"}
    assert (row["actor"], row["previous_version"], row["artifact_digest"]) == (
        "ann, cat",
        "v0",
        claim.artifact_digest,
    )
    assert row["reason"] == f"smaller (proposal {proposal.id[:12]}, carried out by dan)"
    assert [
        (r["alias"], r["published_version"]) for r in promoting.history(world.store, world.outlet.url, "lm")
    ] == [("champion", "v1")]
    assert promoting.promote(world.office("dan"), claim, "champion", "") is None, "it points there already"


def test_an_alias_without_a_rule_is_moved_by_one_person_with_a_reason(world):
    row = promoting.promote(world.office("dan"), world.claims["v1"], "candidate", "try it")
    assert (world.outlet.table["candidate"], row["actor"], row["reason"]) == ("v1", "dan", "try it")
    with pytest.raises(UsageError, match="needs no approval"):
        promoting.propose(world.office("ann"), world.claims["v1"], "candidate", "x", key_of("ann"))


def test_nothing_is_promoted_that_its_gates_blocked_or_could_not_tell(world):
    claim = world.claims["v1"]
    for rule in (None, RULE):
        for verdict, error in (("block", GateRefused), ("inconclusive", GateUndecided), ("", GateRefused)):
            with pytest.raises(error):
                promoting.promote(world.office(rule=rule), replace(claim, verdict=verdict), "champion", "x")
    assert GateUndecided.exit_code == 5
    assert world.outlet.table == {"champion": "v0"}
    lenient = replace(claim, verdict="inconclusive", may_be_inconclusive=True)
    assert promoting.promote(world.office(rule=None), lenient, "champion", "the recipe says so")


def test_the_bytes_in_the_registry_must_be_those_that_were_judged(world):
    swapped = replace(world.outlet, files={**world.outlet.files, "v1": world.outlet.files["v2"]})
    agree(world, "v1")
    world.outlet = swapped
    with pytest.raises(Damaged, match="is not the artifact"):
        promoting.promote(world.office(), world.claims["v1"], "champion", "x")
    with pytest.raises(NoSuchVersion):
        promoting.promote(
            world.office(rule=None), replace(world.claims["v1"], version="v9"), "candidate", "x"
        )
    assert world.outlet.table == {"champion": "v0"}


def test_an_approval_dies_with_time_and_with_any_move_even_there_and_back(world):
    agree(world, "v1")
    with pytest.raises(NotPermitted, match="older than max_age"):
        promoting.promote(world.office(at=NOW + 7 * DAY + 1), world.claims["v1"], "champion", "x")
    agree(world, "v2", at=NOW + 1)
    promoting.promote(world.office(at=NOW + 2), world.claims["v2"], "champion", "x")
    agree(world, "v0", at=NOW + 3)
    promoting.promote(world.office(at=NOW + 4), world.claims["v0"], "champion", "x")
    assert world.outlet.table == {"champion": "v0"}, "as it stood when v1 was approved"
    with pytest.raises(NotPermitted, match="has been moved since"):
        promoting.promote(world.office(at=NOW + 5), world.claims["v1"], "champion", "x")


def test_a_rollback_goes_back_to_what_was_approved_and_nowhere_else(world):
    for number, version in enumerate(("v1", "v2")):
        agree(world, version, at=NOW + number)
        promoting.promote(world.office(at=NOW + number), world.claims[version], "champion", "x")
    row = promoting.rollback(world.office("cat", at=NOW + 5), "lm", "champion", "it answers nonsense")
    assert (world.outlet.table["champion"], row["actor"]) == ("v1", "cat")
    assert row["reason"] == "rolled back: it answers nonsense"
    assert row["artifact_digest"] == world.claims["v1"].artifact_digest
    with pytest.raises(NotPermitted, match="never approved to point to v0"):
        promoting.rollback(world.office("cat", at=NOW + 6), "lm", "champion", "further", to="v0")
    with pytest.raises(UsageError, match="never pointed to v3"):
        promoting.rollback(world.office("cat", at=NOW + 6), "lm", "champion", "elsewhere", to="v3")
    assert promoting.rollback(world.office("cat", at=NOW + 9 * DAY), "lm", "champion", "x", to="v2")
    forged = {**dict.fromkeys(("unit_key", "run_id", "version", "model_digest", "recipe"), ""),
              "registry": "out", "registry_url": world.outlet.url, "model": "lm", "alias": "champion", "published_version": "v3",
              "previous_version": "v2", "at": "2030-01-01T00:00:00+00:00", "actor": "ann", "reason": "x",
              "artifact_digest": world.claims["v3"].artifact_digest}  # fmt: skip
    world.store.put("promotions/29000101-forged.json", json.dumps(forged).encode())
    with pytest.raises(NotPermitted):
        promoting.rollback(world.office("cat", at=NOW + 9 * DAY), "lm", "champion", "x", to="v3")


def test_a_second_rollback_goes_further_back_and_not_to_what_was_bad(world):
    for number, version in enumerate(("v1", "v2", "v3")):
        promoting.promote(world.office(rule=None, at=NOW + number), world.claims[version], "champion", "x")
    for number, version in enumerate(("v2", "v1", "v0")):
        promoting.rollback(world.office(rule=None, at=NOW + 10 + number), "lm", "champion", "worse")
        assert world.outlet.table["champion"] == version
    with pytest.raises(UsageError, match="pointed to nothing before v0"):
        promoting.rollback(world.office(rule=None, at=NOW + 20), "lm", "champion", "worse")
    promoting.promote(world.office(rule=None, at=NOW + 30), world.claims["v2"], "champion", "again")
    promoting.rollback(world.office(rule=None, at=NOW + 31), "lm", "champion", "worse")
    assert world.outlet.table["champion"] == "v0"


def test_a_rollback_without_rules_trusts_the_history_and_says_what_it_cannot_know(world):
    with pytest.raises(UsageError, match="nothing to go back to"):
        promoting.rollback(world.office(rule=None), "lm", "champion", "x")
    promoting.promote(world.office(rule=None), world.claims["v1"], "champion", "x")
    world.outlet.table["champion"] = "v3"
    with pytest.raises(UsageError, match="somebody else moved it"):
        promoting.rollback(world.office(rule=None, at=NOW + 1), "lm", "champion", "x")
    world.outlet.table["champion"] = "v1"
    promoting.rollback(world.office(rule=None, at=NOW + 2), "lm", "champion", "x")
    assert world.outlet.table["champion"] == "v0"
    world.outlet.table["fresh"] = "v2"
    promoting.promote(world.office(rule=None, at=NOW + 3), world.claims["v2"], "new", "x")
    with pytest.raises(UsageError, match="pointed to nothing before"):
        promoting.rollback(world.office(rule=None, at=NOW + 4), "lm", "new", "x")


def test_an_alias_that_moves_between_the_look_and_the_move_stays(world):
    class Racing(Outlet):
        def aliases(self, model):
            seen = dict(self.table)
            self.table["champion"] = "v3"
            return seen

    world.outlet = Racing(world.outlet.files)
    with pytest.raises(AliasMoved):
        promoting.promote(world.office(rule=None), world.claims["v1"], "champion", "x")
    assert world.outlet.table == {"champion": "v3"}


def test_only_a_signers_own_key_signs(world):
    claim = world.claims["v1"]
    with pytest.raises(NotPermitted, match="none of the signers"):
        promoting.propose(world.office("eve"), claim, "champion", "x", key_of("eve"))
    with pytest.raises(NotPermitted, match="not that of ann"):
        promoting.propose(world.office("ann"), claim, "champion", "x", key_of("eve"))
    with pytest.raises(UsageError, match="--key"):
        promoting.propose(world.office("ann"), claim, "champion", "x")
    with pytest.raises(UsageError, match="cannot be read"):
        promoting.propose(world.office("ann"), claim, "champion", "x", b"no key")
    with pytest.raises(UsageError, match="CAT_SECRET"):
        promoting.propose(replace(world.office("cat"), environment={}), claim, "champion", "x")
    with pytest.raises(UsageError, match="nobody has proposed"):
        promoting.approve(world.office("ann"), claim, "champion", key_of("ann"))
    assert not any(key.startswith("proposals/") for key in world.store.objects)


@pytest.mark.parametrize(
    "wrong",
    [
        {"aliases": []}, {"aliases": ["a"], "approvals": 0}, {"aliases": ["a"], "signers": {"x": {}}},
        {"aliases": ["a"], "signers": {"x": {"public_key": "AAAA"}, "y": {"secret_env": "Y"}}},
        {"aliases": ["a"], "approvals": 2, "signers": {"x": {"secret_env": "X"}}},
        {"aliases": ["a"], "signers": {"x": {"secret_env": "X"}, "y": {"secret_env": "X"}}},
        {"aliases": ["a"], "signers": {"x": {"public_key": public(KEYS["ann"])},
                                       "y": {"public_key": public(KEYS["ann"], "der")}}},
        {"aliases": ["a"], "signers": {"x": {"public_key": public(KEYS["ann"]), "secret_env": "X"},
                                       "y": {"secret_env": "Y"}}},
    ],
)  # fmt: skip
def test_rules_that_protect_nothing_are_refused(wrong):
    with pytest.raises(ValidationError):
        PromotionSpec.model_validate(wrong)


def test_a_night_may_not_publish_to_an_alias_that_needs_approvals():
    text = """
version: 1
name: demo
store: ./out
registries: {zoo: {kind: directory, path: ./zoo}}
datasets: {d: {kind: text, path: d.jsonl}}
recipes:
  half:
    prune: {criterion: magnitude, amount: 0.5}
    evaluate: {dataset: d, metric: loss}
    gates: {max_drop: 0.1}
    publish: {registry: zoo, alias: champion}
promotion: {aliases: [champion], approvals: 2}
"""
    with pytest.raises(
        SpecError, match=r"fleet.yaml:12: recipes.half.publish.alias: 'champion' needs approvals"
    ):
        load_fleet(text, "fleet.yaml", PurePosixPath("/"))


def test_without_signers_names_are_taken_as_told_but_one_name_counts_once(world):
    agree(world, "v1", first="ann", second="ann", rule=UNSIGNED)
    with pytest.raises(NotPermitted):
        promoting.promote(world.office(rule=UNSIGNED), world.claims["v1"], "champion", "x")
    promoting.approve(world.office("anyone", rule=UNSIGNED), world.claims["v1"], "champion")
    assert promoting.promote(world.office(rule=UNSIGNED), world.claims["v1"], "champion", "x")
