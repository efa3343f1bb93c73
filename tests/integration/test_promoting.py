"""Aliases moved by people: only to the bytes that were judged, only as often as agreed; 10,000 attempts that must not."""

from __future__ import annotations

import base64
import copy
import json
import os
import random
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from orchestrator import aliases, approvals, artifacts, listing, promoting, publishing, results
from orchestrator.approvals import Approval
from orchestrator.cli import command_line
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
from orchestrator.identity import canonical, digest
from orchestrator.promoting import Claim, Office
from orchestrator.promotionspec import PromotionSpec, SignerSpec
from orchestrator.registries.opening import open_outlet
from orchestrator.simulation.store import MemoryStore
from orchestrator.spec import load_fleet
from orchestrator.survey import read_fleet, survey

NOW = 1_800_000_000.0
DAY = 86_400.0
ENVIRONMENT = {"CAT_SECRET": "cat's secret"}


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public(key, form="raw"):
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(raw if form == "raw" else der).decode()


KEYS = {name: Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))
        for name in ("ann", "bob", "eve")}  # fmt: skip
RULE = PromotionSpec(
    aliases=("champion",),
    approvals=2,
    signers={
        "ann": SignerSpec(public_key=public(KEYS["ann"])),
        "bob": SignerSpec(public_key=public(KEYS["bob"], "der")),
        "cat": SignerSpec(secret_env="CAT_SECRET"),
    },
    max_age=7 * DAY,
)
UNSIGNED = PromotionSpec(aliases=("champion",), approvals=2)


@dataclass
class Shelf:
    table: dict
    versions: set

    def find(self, label):
        return label if label in self.versions else None

    def has(self, version):
        return version in self.versions

    def aliases(self):
        return dict(self.table)

    def point(self, alias, version, previous):
        self.table[alias] = version


@dataclass
class Outlet:
    """A registry of one model, in memory; its versions' files are real directories."""

    files: dict
    table: dict = field(default_factory=lambda: {"champion": "v0"})
    name: str = "out"
    url: str = "memory:out"

    @contextmanager
    def shelf(self, model, *, make):
        yield Shelf(self.table, set(self.files))

    def aliases(self, model):
        return dict(self.table) if model == "lm" else {}

    @contextmanager
    def opened(self, model, version):
        if version not in self.files:
            raise NoSuchVersion(f"no {version}")
        yield self.files[version]


@dataclass
class World:
    store: MemoryStore
    outlet: Outlet
    claims: dict

    def office(self, actor="ann", at=NOW, rule=RULE):
        return Office(
            store=self.store,
            outlet=self.outlet,
            fleet="demo",
            rule=rule,
            actor=actor,
            at=at,
            environment=ENVIRONMENT,
        )

    def copied(self):
        store = MemoryStore(
            objects=dict(self.store.objects), etags=dict(self.store.etags), modified=dict(self.store.modified)
        )
        return World(store, replace(self.outlet, table=dict(self.outlet.table)), self.claims)

    def records(self):
        return sum(key.startswith("promotions/") for key in self.store.objects)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """Versions v0 to v3 of one model, all judged to pass, and what each is made of."""
    root = tmp_path_factory.mktemp("versions")
    store, files, claims = MemoryStore(), {}, {}
    for number in range(4):
        folder = root / f"v{number}"
        folder.mkdir()
        header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
        (folder / "model.safetensors").write_bytes(
            len(header).to_bytes(8, "little") + header + bytes([number] * 4)
        )
        (folder / "config.json").write_text("{}")
        found, _ = artifacts.upload_artifact(store, folder)
        files[f"v{number}"] = folder
        claims[f"v{number}"] = Claim(
            model="lm", version=f"v{number}", artifact_digest=found, verdict_key=digest(number), verdict="pass",
            recipe="half", source_version="1", source_digest="d" * 64,
        )  # fmt: skip
    return World(store, Outlet(files), claims)


@pytest.fixture
def world(origin):
    return origin.copied()


def agree(world, version, at=NOW, alias="champion", first="ann", second="bob", rule=RULE):
    proposal = promoting.propose(
        world.office(first, at, rule), world.claims[version], alias, "better", key_of(first)
    )
    promoting.approve(world.office(second, at, rule), world.claims[version], alias, key_of(second))
    return proposal


def key_of(name):
    return pem(KEYS[name]) if name in KEYS else None


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
    assert [(r["alias"], r["published_version"]) for r in promoting.history(world.store, "out", "lm")] == [
        ("champion", "v1")
    ]
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
              "registry": "out", "model": "lm", "alias": "champion", "published_version": "v3",
              "previous_version": "v2", "at": "2030-01-01T00:00:00+00:00", "actor": "ann", "reason": "x",
              "artifact_digest": world.claims["v3"].artifact_digest}  # fmt: skip
    world.store.put("promotions/29000101-forged.json", json.dumps(forged).encode())
    with pytest.raises(NotPermitted):
        promoting.rollback(world.office("cat", at=NOW + 9 * DAY), "lm", "champion", "x", to="v3")


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


# Ten thousand attempts


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
        "registry": "out", "model": "lm", "alias": "champion", "published_version": "v1", "previous_version": "v0",
        "at": "2026-11-22T00:00:00.000000+00:00", "actor": "ann, bob", "reason": "approved", "unit_key": "", "run_id": "",
        "version": "", "model_digest": "", "recipe": "", "artifact_digest": world.claims["v1"].artifact_digest,
    }  # fmt: skip
    intent = f"promotions-begun/{digest(['out', 'lm', 'champion'])}.json"
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


def test_without_signers_names_are_taken_as_told_but_one_name_counts_once(world):
    agree(world, "v1", first="ann", second="ann", rule=UNSIGNED)
    with pytest.raises(NotPermitted):
        promoting.promote(world.office(rule=UNSIGNED), world.claims["v1"], "champion", "x")
    promoting.approve(world.office("anyone", rule=UNSIGNED), world.claims["v1"], "champion")
    assert promoting.promote(world.office(rule=UNSIGNED), world.claims["v1"], "champion", "x")


# The commands, on a fleet whose night has published something

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
