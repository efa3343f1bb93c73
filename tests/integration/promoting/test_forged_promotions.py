"""Ten thousand attempts to move an alias that must not move it."""

from __future__ import annotations

import base64
import copy
import json
import random
from dataclasses import asdict, replace

import pytest
from cases.promotions import DAY, KEYS, NOW, agree, key_of, public

from orchestrator.errors import (
    Damaged,
    GateRefused,
    NotPermitted,
)
from orchestrator.identity import canonical, digest
from orchestrator.promotion import approvals, promoting
from orchestrator.promotion.approvals import Approval
from orchestrator.specs.promotion import SignerSpec

AGREED = {}


def agreed(world, *steps):
    """The world after these moves and one more agreement, worked out once; `steps`: versions moved to, then the agreed one."""
    if steps not in AGREED:
        made, at = world.copied(), NOW
        *moved, last = steps
        first = agree(made, last, at=at) if moved else None
        kept = {key: data for key, data in made.store.objects.items() if key.startswith("proposals/")}
        for version in moved:
            at += 1
            agree(made, version, at=at)
            promoting.promote(made.office(at=at), made.claims[version], "champion", "x")
        if moved:
            for key in [key for key in made.store.objects if key.startswith("proposals/")]:
                made.store.delete(key)
            for key, data in kept.items():
                made.store.put(key, data)
        AGREED[steps] = made, first or agree(made, last, at=at), at
    made, proposal, at = AGREED[steps]
    fresh = made.copied()
    world.store, world.outlet = fresh.store, fresh.outlet
    return proposal, at


def put_json(world, key, value):
    world.store.put(key, value if isinstance(value, bytes) else json.dumps(value).encode())


def objects_of(world, proposal):
    return {
        key: data for key, data in world.store.objects.items() if key.startswith(f"proposals/{proposal.id}/")
    }


def forge_bits(world, chance):
    """An approval whose signature, time, name or proposal has been changed."""
    proposal, _ = agreed(world, "v1")
    key = f"proposals/{proposal.id}/approvals/bob.json"
    value = json.loads(world.store.get(key))
    match chance.randrange(6):
        case 0:
            raw = bytearray(base64.b64decode(value["signature"].split(":")[1]))
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            value["signature"] = "ed25519:" + base64.b64encode(bytes(raw)).decode()
        case 1:
            value["at"] = NOW - chance.uniform(1, DAY)
        case 2:
            value["actor"] = chance.choice(["ann", "cat", "eve", "Bob", "bob ", "bοb", ""])
        case 3:
            value["signature"] = chance.choice(
                ["", "ed25519:", "none:", "ed25519:AAAA", "hmac-sha256:" + value["signature"][8:]]
            )
        case 4:
            value["proposal"] = digest(chance.random())
        case _:
            value["signature"] = chance.choice([None, 1, [], {}, True])
    put_json(world, key, value)
    return world.office("eve"), "v1", "champion"


def forge_names(world, chance):
    """One person's approval under other names and keys."""
    proposal = promoting.propose(world.office("ann"), world.claims["v1"], "champion", "x", key_of("ann"))
    own = json.loads(world.store.get(f"proposals/{proposal.id}/approvals/ann.json"))
    for place, name in enumerate(("bob", "cat", "Ann", "ann\u200b", "eve", "ann2")):
        as_told = Approval(proposal=proposal.id, actor=name, at=NOW)
        value = asdict(
            approvals.signed(as_told, SignerSpec(public_key=public(KEYS["eve"])), {}, key_of("eve"))
        )
        put_json(
            world,
            f"proposals/{proposal.id}/approvals/{place}.json",
            chance.choice([{**own, "actor": name}, value, own]),
        )
    return world.office("eve"), "v1", "champion"


def replay_elsewhere(world, chance):
    """Approvals of one move used for another version, alias, model, fleet or registry, under its id or their own."""
    old, _ = agreed(world, "v1")
    changes = chance.choice([
        {"version": "v2", "artifact_digest": world.claims["v2"].artifact_digest},
        {"version": "v2"}, {"artifact_digest": world.claims["v2"].artifact_digest}, {"fleet": "other"},
        {"registry": "in"}, {"registry_url": "s3://other"}, {"model": "other"}, {"previous_version": "v3"}, {"moves": 7},
        {"verdict_key": digest("other")}, {"recipe": "other"}, {"reason": "other"}, {"proposed_at": NOW + 1},
    ])  # fmt: skip
    new = replace(old, **changes)
    place = chance.choice([old.id, new.id])
    for key, data in objects_of(world, old).items():
        world.store.delete(key)
        value = json.loads(data)
        if key.endswith("proposal.json"):
            value = asdict(new)
        elif chance.random() < 0.5:
            value["proposal"] = new.id
        put_json(world, key.replace(old.id, place), value)
    return world.office("eve"), chance.choice(["v2", new.version]), "champion"


def replay_later(world, chance):
    """All that once was right, put back after the alias has moved on and come back, or after it has grown old."""
    moved = chance.choice([("v2", "v0"), ("v1", "v0"), ("v3", "v2", "v0")])
    _, at = agreed(world, *moved, "v1")
    return world.office("eve", at=at + chance.choice([0, 60, 8 * DAY])), "v1", "champion"


def wrong_time(world, chance):
    """Approved long ago, or in the future."""
    agreed(world, "v1")
    return world.office("eve", at=NOW + chance.choice([-DAY, -400, 7 * DAY + 1, 400 * DAY])), "v1", "champion"


def forged_records(world, chance):
    """Intents and records of moves that nobody made."""
    row = {
        "registry": "out", "registry_url": world.outlet.url, "fleet": "demo", "model": "lm", "alias": "champion", "published_version": "v1", "previous_version": "v0",
        "at": "2026-11-22T00:00:00.000000+00:00", "actor": "ann, bob", "reason": "approved", "unit_key": "", "run_id": "",
        "version": "", "model_digest": "", "recipe": "", "artifact_digest": world.claims["v1"].artifact_digest,
    }  # fmt: skip
    intent = f"promotions-begun/{digest([world.outlet.url, 'lm', 'champion'])}.json"
    world.store.put(chance.choice([intent, f"promotions/2026-{digest(row)[:16]}.json"]), canonical(row))
    if chance.random() < 0.5:
        promoting.propose(world.office("ann"), world.claims["v1"], "champion", "x", key_of("ann"))
    return world.office("eve"), "v1", "champion"


def garbage(world, chance):
    """Bytes that are no proposals and no approvals."""
    proposal, _ = agreed(world, "v1")
    junk = chance.choice(
        [b"", b"{", b"[]", b"null", b"1e999", b"[" * 5000, b"\xff\xfe", b'{"proposal": 1}', b'"' * 100]
    )
    value = asdict(proposal)
    value[chance.choice(list(value))] = chance.choice([None, 7, True, [], {}, float("nan"), "", "v1\u202e"])
    where = chance.choice(["proposal.json", "approvals/bob.json", "approvals/ann.json"])
    put_json(world, f"proposals/{proposal.id}/{where}", chance.choice([junk, value]))
    put_json(
        world, f"proposals/{chance.choice(['x', digest(1)])}/proposal.json", chance.choice([junk, value])
    )
    return world.office("eve"), "v1", "champion"


def refused_model(world, chance):
    """Everybody agrees, but the gates do not, or the bytes are others."""
    agreed(world, "v1")
    if chance.random() < 0.5:
        world.claims = {
            **world.claims,
            "v1": replace(world.claims["v1"], verdict=chance.choice(["block", "inconclusive", ""])),
        }
    else:
        world.outlet = replace(world.outlet, files={**world.outlet.files, "v1": world.outlet.files["v3"]})
    return world.office("eve"), "v1", "champion"


ATTACKS = (
    forge_bits, forge_names, replay_elsewhere, replay_later, wrong_time, forged_records, garbage, refused_model,
)  # fmt: skip


def attempts(origin, seeds):
    """Attack -> how often it was tried; each must leave the alias where it was, and write no record."""
    tried = dict.fromkeys((attack.__name__ for attack in ATTACKS), 0)
    for seed in seeds:
        chance = random.Random(seed)
        world = origin.copied()
        attack = chance.choice(ATTACKS)
        office, version, alias = attack(world, chance)
        before, records = copy.deepcopy(world.outlet.table), world.records()
        with pytest.raises((NotPermitted, GateRefused, Damaged)):
            promoting.promote(office, world.claims[version], alias, "please")
        assert world.outlet.table == before, (seed, attack.__name__)
        assert world.records() == records, (seed, attack.__name__)
        tried[attack.__name__] += 1
    return tried


def test_of_forged_or_replayed_attempts_none_moves_an_alias(origin):
    tried = attempts(origin, range(2000))
    assert sum(tried.values()) == 2000
    assert min(tried.values()) > 200


@pytest.mark.soak
def test_of_ten_thousand_attempts_none_moves_an_alias(origin):
    assert sum(attempts(origin, range(2000, 12_000)).values()) == 10_000


def test_without_the_forgery_the_same_steps_move_it(origin):
    """The attempts above fail by what was forged and by nothing else."""
    for _ in range(20):
        world = origin.copied()
        agree(world, "v1")
        assert promoting.promote(world.office("eve"), world.claims["v1"], "champion", "please")
