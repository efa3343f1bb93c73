"""Artifacts, what publishes them and what moves aliases to them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.artifacts import upload_artifact
from orchestrator.domain import ModelVersion
from orchestrator.identity import digest_bytes
from orchestrator.promotion.aliases import move_alias, move_to
from orchestrator.promotion.publishing import publish
from orchestrator.stores.local import LocalStore
from orchestrator.tables.records import read_records

AT = datetime(2026, 3, 1, 2, 30, tzinfo=UTC).timestamp()


def weights(size: int = 4) -> bytes:
    text = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


FILES = {
    "config.json": b'{"architectures": ["TinyForCausalLM"]}',
    "model.safetensors": weights(),
    "prunefleet.json": b'{"amount": 0.5}',
}


def make_artifact(store: LocalStore, tmp_path: Path, amount: int = 0) -> str:
    directory = tmp_path / f"artifact{amount}"
    directory.mkdir()
    for name, data in {**FILES, "prunefleet.json": str(amount).encode()}.items():
        (directory / name).write_bytes(data)
    return upload_artifact(store, directory)[0]


def source(name: str = "org/lm", version: str = "v2") -> ModelVersion:
    return ModelVersion(
        registry="zoo",
        name=name,
        version=version,
        digest=digest_bytes(b"dense"),
        uri="",
        format="safetensors",
        bytes=1,
        parameters=1,
        architecture="TinyForCausalLM",
    )


def make(store, target, artifact, model=None, recipe="half", at=AT):
    return publish(
        store,
        target,
        model=model or source(),
        recipe=recipe,
        artifact_digest=artifact,
        verdict_key="k" * 64,
        at=at,
        actor="ada",
        run_id="run-1",
    )


def move(store, target, publication, alias="candidate"):
    return move_alias(store, target, move_to(publication, registry="out", alias=alias, reason="passed"))


def names(directory: Path) -> set[str]:
    return {name for name in os.listdir(directory) if name != ".prunefleet-lock"}


def records(store) -> list[dict]:
    return read_records(store, "promotions").table.to_pylist()


HOSTILE = [
    "..",
    "../outside",
    "/tmp/outside",
    "a/../../outside",
    "",
    "a\0b",
    "new\nline",
    "\x1b[2J",
    ".hidden",
    "x" * 4096,
    "%2e%2e",
    "a\\b",
]
