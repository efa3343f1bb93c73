"""Values that the tests of the pure core are made of."""

from __future__ import annotations

from functools import cache
from pathlib import PurePosixPath

import pytest

from orchestrator.domain import Catalog, ModelVersion, Pool
from orchestrator.planning import DataFile, build_plan
from orchestrator.schedule.costs import Costs
from orchestrator.spec import load_fleet

FLEET = """
version: 1
name: demo
store: ./out
registries:
  zoo: {kind: directory, path: ./zoo}
  out: {kind: directory, path: ./published}
datasets:
  manual: {kind: text, path: manual.jsonl, slice_by: topic}
recipes:
  half:
    match: {architecture: "*ForCausalLM"}
    sensitivity: {dataset: manual, split: calibration, units: 2}
    prune: {criterion: wanda, amount: 0.5, allocation: sensitivity}
    evaluate: {dataset: manual, split: test, metric: perplexity}
    gates: {max_drop: 0.1}
    publish: {registry: out, alias: candidate}
  two-four:
    match: {architecture: "*ForCausalLM"}
    prune: {criterion: magnitude, pattern: 2:4}
    evaluate: {dataset: manual, split: test, metric: perplexity}
    gates: {max_drop: 0.1}
pools:
  cpu: {cpus: 2}
"""


@pytest.fixture
def fleet_text():
    return FLEET


@pytest.fixture(scope="session")
def make_fleet():
    @cache
    def make(text=FLEET):
        return load_fleet(text, "fleet.yaml", PurePosixPath("/home"))

    return make


@pytest.fixture
def make_model():
    def make(name="tiny", version="1", digest=None, **changes):
        values = {
            "registry": "zoo",
            "name": name,
            "version": version,
            "digest": digest or f"digest of {name} {version}",
            "uri": f"/zoo/{name}/{version}",
            "format": "safetensors",
            "bytes": 400_000,
            "parameters": 100_000,
            "architecture": "LlamaForCausalLM",
        }
        return ModelVersion(**{**values, **changes})

    return make


@pytest.fixture
def data():
    return {"manual": DataFile(path="/home/manual.jsonl", digest="d" * 64, bytes=1_000)}


@pytest.fixture
def make_plan(make_fleet, make_model, data):
    def make(models=None, completed=(), quarantined=None, text=FLEET, data_files=None):
        versions = tuple([make_model()] if models is None else models)
        return build_plan(
            make_fleet(text),
            Catalog(versions=versions),
            frozenset(completed),
            data if data_files is None else data_files,
            quarantined or {},
        )

    return make


@pytest.fixture
def make_pool():
    def make(name="cpu", cpus=2.0, gpus=0.0, memory_bytes=None, **changes):
        values = {
            "name": name,
            "cpus": cpus,
            "gpus": gpus,
            "memory_bytes": memory_bytes,
            "cpus_per_shard": 1.0 if cpus else 0.0,
            "gpus_per_shard": 1.0 if gpus else 0.0,
            "label_selector": {},
            "price_per_hour": 0.0,
        }
        return Pool(**{**values, **changes})

    return make


@pytest.fixture
def costs():
    return Costs()
