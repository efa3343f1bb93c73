"""A user's own criterion: an installed package offers it, a fleet names it, and it prunes."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from safetensors.torch import load_file

from orchestrator.errors import SpecError
from orchestrator.offered import OWN_CRITERIA, known_criterion
from orchestrator.spec import load_fleet
from tasks import pruning
from tasks.contract import BadInput, Dataset, Work
from tasks.cutting.worths import BY_LOSS
from tasks.masks.criteria import CRITERIA

SOURCE = """
from tasks.masks.criteria import Criterion
backwards = Criterion(score=lambda weight, seen: 1 / (1 + weight.float().abs()))
loudest = Criterion(score=lambda weight, seen: weight.float().abs() / (1 + seen.norms), needs=frozenset({"norms"}))
wrong = 3
"""

FLEET = """
version: 1
name: x
store: ./out
registries: {{zoo: {{kind: directory, path: ./zoo}}}}
datasets: {{d: {{kind: text, path: d.jsonl}}}}
recipes:
  half:
    prune: {{criterion: {criterion}, amount: 0.5, dataset: d}}
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package that offers criteria, installed for as long as a test runs."""
    (tmp_path / "their_criteria.py").write_text(SOURCE)
    info = tmp_path / "their_criteria-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-criteria\nVersion: 1.0\n")
    points = "".join(f"{name} = their_criteria:{name}\n" for name in ("backwards", "loudest", "wrong"))
    (info / "entry_points.txt").write_text(f"[prunefleet.criteria]\n{points}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "their_criteria", raising=False)


def prune(tmp_path, tiny_model, tiny_data, criterion, **params):
    data = Dataset(path=tiny_data(tmp_path / "data")["text"], kind="text", split="calibration", samples=4)
    (tmp_path / "out").mkdir()
    model = tiny_model(tmp_path / "model")
    params = {"criterion": criterion, **params}
    product = pruning.run(
        Work(model=model, params=params, datasets={"calibration": data}, output=tmp_path / "out")
    )
    return product, load_file(model / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")


def test_the_names_that_a_fleet_may_use_are_those_that_the_tasks_know():
    assert set(OWN_CRITERIA) == {*CRITERIA, BY_LOSS}


def test_a_fleet_may_name_a_criterion_that_is_installed_and_no_other(installed):
    fleet = load_fleet(FLEET.format(criterion="backwards"), "f.yaml", PurePosixPath("/"))
    assert fleet.recipes["half"].prune.criterion == "backwards"
    assert fleet.recipes["half"].prune.needs_data
    with pytest.raises(SpecError, match=r"f.yaml:9: .*criterion.*'backwards'.*prunefleet.criteria"):
        load_fleet(FLEET.format(criterion="forwards"), "f.yaml", PurePosixPath("/"))
    for name in OWN_CRITERIA:
        assert known_criterion(name) == name


def test_it_decides_what_goes(installed, tmp_path, tiny_model, tiny_data):
    mask = {"pattern": "unstructured", "scope": "tensor", "amount": 0.5, "skip": []}
    _, before, after = prune(tmp_path, tiny_model, tiny_data, "backwards", **mask)
    name = "model.layers.0.mlp.up_proj.weight"
    old, new = before[name].abs().flatten(), after[name].flatten()
    assert old[new != 0].max() <= old[new == 0].min(), "the largest go"


def test_it_is_given_what_it_asks_for_and_scores_whole_units_too(installed, tmp_path, tiny_model, tiny_data):
    product, before, after = prune(tmp_path, tiny_model, tiny_data, "loudest", cut={"width": 0.5})
    name = "model.layers.0.mlp.up_proj.weight"
    assert after[name].shape[0] == before[name].shape[0] // 2
    assert all(row["reconstruction_error"] > 0 for row in product.tables["layers"])


def test_what_is_no_criterion_is_refused_by_its_entry_point(installed, tmp_path, tiny_model, tiny_data):
    mask = {"pattern": "unstructured", "scope": "tensor", "amount": 0.5, "skip": []}
    with pytest.raises(BadInput, match="entry point wrong of prunefleet.criteria is a int"):
        prune(tmp_path, tiny_model, tiny_data, "wrong", **mask)
