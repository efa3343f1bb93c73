"""Pure. What compression bought: which pruned models became smaller or faster, and which patterns never do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Row = Mapping[str, Any]

BY_RULE = "no_speedup"
"""The finding of a prune unit whose pattern gains nothing in a dense runtime."""


class Gain(StrEnum):
    """What became of a pruned model beside its zeros."""

    SMALLER = "smaller"
    FASTER = "faster"
    BOTH = "smaller and faster"
    NONE = "sparse but neither smaller nor faster"
    UNKNOWN = "no smaller, speed not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """Pruned models of a fleet, counted by what they gained."""

    models: int
    without: int
    """Neither smaller nor faster."""
    measured: int
    """Of those without: by the clock; the others by the rule of their pattern."""

    @property
    def sentence(self) -> str:
        """For people; empty where every model gained something."""
        if not self.without:
            return ""
        how = {0: "by rule, not measured", self.without: "measured"}.get(
            self.measured, f"{self.measured:,} measured, the rest by rule"
        )
        return f"{self.without:,} of {self.models:,} pruned models are sparse but neither smaller nor faster ({how})."


def gain_of(artifact: Row, latency: Row | None, findings: Sequence[Row]) -> Gain:
    """What one artifact gained: bytes as written, speed as measured, or else by the rule of its pattern.

    Faster is what is so with the whole interval of its speed-up.
    """
    before, after = artifact.get("dense_bytes"), artifact.get("bytes")
    smaller = before is not None and after is not None and after < before
    low = latency.get("speedup_low") if latency else None
    if low is not None:
        faster = low > 1.0
    elif smaller:
        return Gain.SMALLER
    elif any(row.get("kind") == BY_RULE for row in findings):
        return Gain.NONE
    else:
        return Gain.UNKNOWN
    if smaller:
        return Gain.BOTH if faster else Gain.SMALLER
    return Gain.FASTER if faster else Gain.NONE


def count_gains(
    pairs: Sequence[tuple[str, str]],
    artifacts: Sequence[Row],
    latencies: Sequence[Row],
    findings: Sequence[Row],
) -> Gains:
    """Every artifact once. `pairs`: keys of the prune unit and of the latency unit (or empty) of each chain."""
    made = {row["unit_key"]: row for row in artifacts}
    timed = {row["unit_key"]: row for row in latencies}
    latency_of = {prune: latency for prune, latency in pairs if prune in made and latency in timed}
    told: dict[str, list[Row]] = {}
    for row in findings:
        told.setdefault(row["unit_key"], []).append(row)
    prunes = {prune for prune, _ in pairs if prune in made}
    without = [
        prune
        for prune in prunes
        if gain_of(made[prune], timed.get(latency_of.get(prune, "")), told.get(prune, ())) is Gain.NONE
    ]
    measured = sum(prune in latency_of for prune in without)
    return Gains(models=len(prunes), without=len(without), measured=measured)


def expectation(pattern: str) -> str:
    """Why a pattern is not expected to make a model faster, and where it may; empty if nothing is known of it."""
    dense = "zeros are stored and multiplied like any number, so files stay as large"
    if pattern == "unstructured":
        return (
            f"no speed-up expected, because {dense} and no GPU runtime skips scattered zeros; "
            "OpenVINO may gain on CPUs with AMX, by its sparse weights decompression rate"
        )
    if pattern == "2:4":
        return (
            f"no speed-up expected in torch, because {dense}; "
            "TensorRT's sparse tensor cores may gain with large batches, vLLM no longer supports 2:4"
        )
    if ":" in pattern:
        return f"no speed-up expected, because {dense} and no runtime has kernels for {pattern}"
    return ""
