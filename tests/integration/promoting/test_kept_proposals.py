"""What proposals leave in a store: every damage is named, what may still be carried out or was stays, and the rest goes."""

from __future__ import annotations

import random

import pytest
from cases.promotions import DAY, ENVIRONMENT, NOW, RULE, agree

from orchestrator.care.collection import mark, sweep_away, sweeping
from orchestrator.care.garbage import Kind, Limits
from orchestrator.care.verification import verify
from orchestrator.promotion.promoting import promote, rollback
from orchestrator.spec import Fleet


@pytest.fixture
def fleet(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return Fleet.model_validate({
        "version": 1, "name": "demo", "store": "/nowhere", "registries": {"zoo": {"kind": "directory", "path": "/nowhere/zoo"}},
        "datasets": {"d": {"kind": "text", "path": "d.jsonl"}}, "recipes": {"r": {"evaluate": {"dataset": "d", "metric": "loss"}}},
        "promotion": RULE.model_dump(),
    })  # fmt: skip


@pytest.fixture
def known(world):
    """The world's store, whose artifacts are no longer protected by results; its clock stands at `NOW`."""
    world.store.now = lambda: NOW
    for key in world.store.modified:
        world.store.modified[key] = NOW - 99 * DAY
    return world


def found(world, fleet, days):
    marked = mark(world.store, fleet, Limits(at=NOW + days * DAY))
    return {(one.thing.kind, one.thing.name) for one in marked.doomed}


def artifacts(world, *versions):
    return {(Kind.ARTIFACT, world.claims[version].artifact_digest) for version in versions}


def test_sound_proposals_are_read_whole(known, fleet):
    for number, (first, second) in enumerate([("ann", "bob"), ("bob", "cat")], 1):
        agree(known, f"v{number}", first=first, second=second)
    done = verify(known.store, fleet)
    assert (done.counts["proposal"], done.damages, done.foreign) == (6, [], [])


def test_any_flipped_bit_of_a_proposal_or_an_approval_is_found(known, fleet):
    agree(known, "v1", second="cat")
    draw, store = random.Random(4), known.store
    for key in [key for key in store.objects if key.startswith("proposals/")]:
        whole = store.objects[key]
        for _ in range(60):
            place = draw.randrange(len(whole))
            store.objects[key] = (
                whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :]
            )
            told = [damage.subject for damage in verify(store, fleet).damages]
            assert told == [key] or (not told and not store.objects[key][place : place + 1].strip())
        store.objects[key] = whole


def test_an_approval_in_the_place_of_another_is_named(known, fleet):
    one, other = agree(known, "v1"), agree(known, "v2")
    key = f"proposals/{one.id}/approvals/ann.json"
    known.store.put(key, known.store.get(f"proposals/{other.id}/approvals/ann.json"))
    (damage,) = verify(known.store, fleet).damages
    assert (damage.kind, damage.subject) == ("proposal", key)
    assert "promote --propose" in damage.advice


def test_what_is_no_proposal_is_foreign(known):
    known.store.put("proposals/hello/proposal.json", b"{}")
    done = verify(known.store)
    assert (done.foreign, done.damages) == (["proposals/hello/proposal.json"], [])


def test_the_artifact_of_a_proposal_stays_as_long_as_the_proposal(known, fleet):
    agree(known, "v1")
    assert found(known, fleet, 1) == artifacts(known, "v0", "v2", "v3")
    assert found(known, fleet, 6.9) == artifacts(known, "v0", "v2", "v3")


def test_a_proposal_that_nobody_carried_out_goes_when_it_counts_no_more(known, fleet):
    proposal = agree(known, "v1")
    assert (Kind.PROPOSAL, proposal.id) in found(known, fleet, 8)
    assert (Kind.PROPOSAL, proposal.id) not in found(known, fleet.model_copy(update={"name": "other"}), 8)
    assert (Kind.PROPOSAL, proposal.id) not in found(known, None, 8)
    assert any("no proposal is removed" in line for line in mark(known.store, None, Limits(at=NOW)).held_back)


def test_a_proposal_that_was_carried_out_stays_for_ever_so_that_one_can_roll_back_to_it(known, fleet):
    for number in (1, 2):
        agree(known, f"v{number}", NOW + number)
        promote(known.office(at=NOW + number), known.claims[f"v{number}"], "champion", "better")
    assert found(known, fleet, 400) == artifacts(known, "v0", "v3")
    with sweeping(known.store) as right:
        sweep_away(right, mark(known.store, fleet, Limits(at=NOW + 400 * DAY)))
    assert rollback(known.office(), "lm", "champion", "worse")["published_version"] == "v1"
    assert verify(known.store, fleet).damages == []


def test_approvals_whose_proposal_is_gone_go(known, fleet):
    proposal = agree(known, "v1")
    known.store.delete(f"proposals/{proposal.id}/proposal.json")
    assert (Kind.PROPOSAL, proposal.id) in found(known, fleet, 8)


def test_a_proposal_that_cannot_be_read_keeps_every_artifact(known, fleet):
    proposal = agree(known, "v1")
    known.store.put(f"proposals/{proposal.id}/proposal.json", b"{")
    assert not any(kind is Kind.ARTIFACT for kind, _ in found(known, fleet, 1))
