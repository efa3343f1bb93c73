"""Samples of several shapes, for what is said of means."""

from __future__ import annotations

KINDS = ("normal", "right", "left", "few values")


def drawn(kind, samples, rng):
    """So many values of a kind, of which the mean lies somewhat above 0."""
    match kind:
        case "normal":
            return rng.normal(0.2, 1, samples)
        case "right":
            return rng.lognormal(0, 1, samples) - 1.2
        case "left":
            return 1.9 - rng.lognormal(0, 1, samples)
        case "few values":
            return rng.choice([-1.0, 0.0, 0.0, 0.0, 1.0, 1.0], samples)
