"""The work of measuring a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cases.naive_grids import GRID, dataset_of

from tasks.contract import Work


@pytest.fixture
def measure(tmp_path, tiny_model, tiny_data) -> Callable[..., Work]:
    """Architecture and params -> the work of measuring its tiny model."""

    def make(
        architecture: str,
        dtype: str = "float32",
        config: Mapping[str, Any] | None = None,
        part: int = 0,
        parts: int = 1,
        **params: Any,
    ) -> Work:
        files = tiny_data(tmp_path / "data")
        model = tiny_model(tmp_path / f"{architecture}-{dtype}", architecture, dtype=dtype, config=config)
        defaults = {
            "criterion": "magnitude",
            "pattern": "unstructured",
            "scope": "tensor",
            "skip": [],
            "grid": GRID,
            "metric": "loss",
        }
        return Work(
            model=model,
            params={**defaults, **params},
            datasets={"calibration": dataset_of(files, architecture)},
            part=part,
            parts=parts,
        )

    return make
