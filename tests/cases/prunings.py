"""Tiny models, pruned in this process."""

from __future__ import annotations

from pathlib import Path

from tasks.contract import Dataset, Product, Work
from tasks.pruning import run


def prune(model: Path, output: Path, datasets=None, inputs=None, **params) -> Product:
    output.mkdir()
    defaults = {"criterion": "magnitude", "pattern": "unstructured", "scope": "tensor", "amount": 0.5}
    defaults |= {"allocation": "uniform", "max_amount": 0.95, "skip": []}
    if ":" in params.get("pattern", ""):
        defaults |= {"scope": None, "amount": None}
    work = Work(
        model=model,
        params={**defaults, **params},
        datasets=datasets or {},
        inputs=inputs or {},
        output=output,
    )
    return run(work)


def rows(product: Product) -> dict[str, dict]:
    return {row["layer"]: dict(row) for row in product.tables["layers"]}


def kinds(product: Product) -> set[str]:
    return {finding.kind for finding in product.findings}


def calibration(tiny_data, directory: Path, kind: str = "text") -> Dataset:
    paths = tiny_data(directory)
    shape = (64,) if kind == "arrays" else ()
    return Dataset(
        path=paths[kind], kind="arrays" if kind == "arrays" else "text", split="calibration", shape=shape
    )
