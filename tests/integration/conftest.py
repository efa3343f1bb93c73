"""A small fleet on two pools, for tests that run it in this process."""

from __future__ import annotations

from functools import partial

import pytest
from cases.commands import typed

FLEET = """
version: 1
name: two-pools
store: ./store
registries: {zoo: {kind: directory, path: ./zoo}}
datasets:
  digits: {kind: arrays, path: ./data/arrays.parquet, slice_by: digit}
recipes:
  half:
    match: {registry: zoo}
    sensitivity: {dataset: digits, split: calibration, grid: [0.5]}
    prune: {criterion: wanda, amount: 0.5, allocation: sensitivity}
    evaluate: {dataset: digits, split: test, metric: loss}
    gates: {max_drop: 100.0, min_samples: 2}
pools:
  cpu: {cpus: 2, label_selector: {prunefleet.io/pool: cpu}}
  gpu: {cpus: 2, gpus: 2, label_selector: {ray.io/accelerator-type: H100}}
"""


@pytest.fixture
def make_small_fleet(tmp_path, tiny_model, tiny_data):
    def make(models=2, text=FLEET):
        for number in range(models):
            tiny_model(tmp_path / "zoo" / f"mlp{number}" / "1", "MLPForClassification", seed=number)
        tiny_data(tmp_path / "data")
        path = tmp_path / "fleet.yaml"
        path.write_text(text)
        return path

    return make


@pytest.fixture
def prunefleet(tmp_path):
    """Types a command in the test's directory: `prunefleet("plan", "fleet.yaml", check=0)` is what it did."""
    return partial(typed, tmp_path)


@pytest.fixture
def keep_pruned(tmp_path):
    """Makes results of prune units with their artifacts: `keep_pruned(store, number)` is (the result's key, the digest)."""
    import hashlib
    import json

    from orchestrator import artifacts
    from orchestrator.tables import listing, results

    def make(store, number=0, size=4, with_result=True):
        folder = tmp_path / f"pruned{number}"
        folder.mkdir()
        header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        weights = len(header).to_bytes(8, "little") + header + bytes([number % 256]) * size
        (folder / "config.json").write_text('{"architectures": ["TinyForCausalLM"]}')
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "prunefleet.json").write_text(f'{{"number": {number}}}')
        digest, total = artifacts.upload_artifact(store, folder)
        unit_key = hashlib.sha256(f"unit {number}".encode()).hexdigest()
        key = listing.result_key("prune", unit_key)
        if with_result:
            provenance = {
                "unit_key": unit_key, "run_id": "r1", "registry": "zoo", "model": "lm", "version": "1",
                "model_digest": "d" * 64, "recipe": "half", "task": "prune",
            }  # fmt: skip
            row = {"uri": f"{store.url}/artifacts/{digest}", "digest": digest, "bytes": total}
            store.put(key, results.encode("prune", {"artifacts": [row], "layers": []}, provenance))
        return key, digest

    return make
