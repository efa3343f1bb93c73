"""A world in which four versions passed their gates."""

from __future__ import annotations

import json

import pytest
from cases.promotions import Outlet, World

from orchestrator import artifacts
from orchestrator.identity import digest
from orchestrator.promotion.promoting import Claim
from orchestrator.simulation.store import MemoryStore


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
