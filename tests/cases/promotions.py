"""A registry of one model in memory, the keys of those who may move its aliases, and their rule."""

from __future__ import annotations

import base64
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.errors import (
    NoSuchVersion,
)
from orchestrator.promotion import promoting
from orchestrator.promotion.promoting import Office
from orchestrator.simulation.store import MemoryStore
from orchestrator.specs.promotion import PromotionSpec, SignerSpec

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
    locks: bool = True
    adds: frozenset = frozenset()

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


def agree(world, version, at=NOW, alias="champion", first="ann", second="bob", rule=RULE):
    proposal = promoting.propose(
        world.office(first, at, rule), world.claims[version], alias, "better", key_of(first)
    )
    promoting.approve(world.office(second, at, rule), world.claims[version], alias, key_of(second))
    return proposal


def key_of(name):
    return pem(KEYS[name]) if name in KEYS else None
