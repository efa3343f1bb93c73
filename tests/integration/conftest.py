"""A small fleet on two pools, for tests that run it in this process."""

from __future__ import annotations

import pytest

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
