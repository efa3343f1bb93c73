"""Texts of small fleets."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator import survey


def half_of_the_zoo(*recipe: str, more: Sequence[str] = ()) -> str:
    """A fleet that prunes half of every model of its zoo by magnitude; further lines of the recipe, and of the fleet."""
    lines = (
        "version: 1",
        "name: halves",
        "store: ./store",
        "registries: {zoo: {kind: directory, path: ./zoo}, out: {kind: directory, path: ./out}}",
        "datasets:",
        "  digits: {kind: arrays, path: ./data/arrays.parquet}",
        "recipes:",
        "  half:",
        "    match: {registry: zoo}",
        "    prune: {criterion: magnitude, amount: 0.5}",
        *(f"    {line}" for line in recipe),
        "pools:",
        "  cpu: {cpus: 1}",
        *more,
    )
    return "\n".join(lines) + "\n"


def surveyed_half(home, tiny_model, tiny_data):
    """A fleet of one model in `home`, which is to be halved and judged leniently, surveyed."""
    tiny_model(home / "zoo" / "mlp" / "1", "MLPForClassification")
    tiny_data(home / "data")
    recipe = (
        "evaluate: {dataset: digits, split: test, metric: loss}",
        "gates: {max_drop: 100.0, min_samples: 1}",
    )
    (home / "fleet.yaml").write_text(half_of_the_zoo(*recipe))
    return survey.survey(*survey.read_fleet(home / "fleet.yaml"), 1.0)
