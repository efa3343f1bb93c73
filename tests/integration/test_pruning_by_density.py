"""Allocations that measure no loss, end to end: the model's budget is met exactly, by every criterion."""

from __future__ import annotations

import pytest

from tasks import pruning
from tasks.contract import BadInput, Dataset, Work
from tasks.masks.patterns import pruned_count


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("allocation", ["erk", "owl"])
def test_the_budget_is_met_exactly_and_layers_differ(tmp_path, tiny_model, tiny_data, criterion, allocation):
    data = Dataset(path=tiny_data(tmp_path / "d")["text"], kind="text", split="calibration")
    params = {"criterion": criterion, "pattern": "unstructured", "scope": "tensor", "amount": 0.6}
    params |= {"allocation": allocation, "max_amount": 0.95, "skip": []}
    (tmp_path / "out").mkdir()
    model = tiny_model(tmp_path / "m")
    product = pruning.run(
        Work(model=model, params=params, datasets={"calibration": data}, output=tmp_path / "out")
    )
    rows = product.tables["layers"]
    total = sum(row["parameters"] for row in rows)
    assert sum(row["pruned_parameters"] for row in rows) == pruned_count(0.6, total)
    assert len({row["amount"] for row in rows}) > 1
    assert max(row["amount"] for row in rows) <= 0.95 + 1e-9
    if allocation == "owl":
        for block in ("model.layers.0.", "model.layers.1."):
            inside = [row for row in rows if row["layer"].startswith(block)]
            asked = [row["amount_asked"] for row in inside]
            assert len(inside) == 7
            assert max(asked) - min(asked) <= 1 / min(row["parameters"] for row in inside)


def test_owl_without_calibration_data_is_refused(tmp_path, tiny_model):
    params = {"criterion": "magnitude", "pattern": "unstructured", "amount": 0.5, "allocation": "owl"}
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput, match="no calibration data"):
        pruning.run(Work(model=tiny_model(tmp_path / "m"), params=params, output=tmp_path / "out"))
