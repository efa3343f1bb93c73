"""Pure. The sentences and tables of a report: what happened, what it bought, what took the time."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.reports.cases import STATUSES, Case
from orchestrator.reports.data import ReportData, Row
from orchestrator.reports.gains import Gain, Gains
from orchestrator.wording import NAME_LENGTH, TEXT_LENGTH, change, count, number, percent, plain, size

ADVICE: Mapping[str, str] = {
    "infrastructure": "Nodes or the cluster failed. Run again: finished units are kept.",
    "cluster": "The whole cluster is gone, or the way to it. Start it again, then run again: finished units are kept.",
    "preemption": "Nodes were taken away. Run again, or give the pool nodes that stay.",
    "memory": "Not enough memory. Give the pool more per shard, or match the model to a larger pool.",
    "timeout": "Took longer than allowed. Use a faster pool, or divide sensitivity into more units.",
    "storage": "The store did not answer. Run `prunefleet doctor`, then run again.",
    "environment": "The workers' environment lacks something. Run `prunefleet doctor`.",
    "permission": "The credentials do not allow it. Run `prunefleet doctor`.",
    "poison": "It killed its worker again and again and is quarantined. Check the model before you retry it.",
    "bad_input": "The model or the data is at fault, and trying again cannot help. Mend what the error names.",
    "quarantined": "It failed in a former run by its own fault and is not tried again. Mend what the error names.",
    "upstream": "Not tried, because something it needs failed. Mend that one first.",
    "changed": "It changed after it was planned. Run again: what is there now gets planned.",
    "internal": "A bug in prunefleet. Please report it with the error.",
}


MEASURES: Mapping[str, str] = {
    "taxicab": "the sum of the absolute changes of their probabilities, from 0 to 2",
    "kl": "the mean KL divergence of their predictions, in nats",
    "embedding": "the cosine distance of their embeddings",
    "loss": "the absolute change of their loss a prediction",
}
"""What the distance of an exemplar is."""


def headline(cases: Sequence[Case], data: ReportData) -> str:
    """What happened, in one sentence."""
    if not cases:
        return "No model version is matched by a recipe, so there was nothing to do."
    models = count(len({(case.registry, case.model, case.version) for case in cases}), "model version")
    recipes = count(len({case.recipe for case in cases}), "recipe")
    found = Counter(case.status for case in cases)
    told = [f"{found[status]:,}\u00a0{STATUSES[status][1]}" for status in STATUSES if found[status]]
    listed = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    more = f" {len(data.impossible):,} more could not be planned." if data.impossible else ""
    return f"{models} under {recipes}: {listed}.{more}"


def size_sentence(artifacts: Sequence[Row]) -> str:
    """What compression bought on disk and in parameters, without flattery."""
    known = {
        row.get("digest"): row for row in artifacts if row.get("dense_bytes") and row.get("bytes") is not None
    }
    if not known:
        return ""
    dense, now = (sum(row[column] for row in known.values()) for column in ("dense_bytes", "bytes"))
    counted = [
        row
        for row in known.values()
        if row.get("dense_parameters") and row.get("nonzero_parameters") is not None
    ]
    parameters = sum(row["dense_parameters"] for row in counted)
    nonzero = sum(row["nonzero_parameters"] for row in counted)
    zeros = f"{percent(1 - nonzero / parameters)} of the parameters are gone or zero" if parameters else ""
    if dense - now >= 0.005 * dense:
        rest = f"; {zeros}" if zeros else ""
        return f"Files went from {size(dense)} to {size(now)} ({change(now / dense - 1)}){rest}."
    if now - dense >= 0.005 * dense:
        return f"Files grew from {size(dense)} to {size(now)}, although {zeros or 'they were compressed'}."
    return f"No file became smaller ({size(now)}): {zeros or 'they were pruned'}, but zeros take as much room as any number."


def speed_sentence(cases: Sequence[Case]) -> str:
    """Whether anything became faster, where it was measured, and how many models gained nothing at all."""
    pruned = {case.artifact: case for case in cases if case.gain}
    if not pruned:
        return ""
    timed = sorted(case.speedup for case in pruned.values() if case.speedup is not None)
    told = "Speed was not measured."
    if timed:
        faster = sum((case.speedup_low or 0.0) > 1.0 for case in pruned.values())
        told = (
            f"Median speed-up {number(statistics.median(timed), 3)}× over {count(len(timed), 'measured model')}, "
            f"{faster:,} of them faster beyond the noise."
        )
    without = [case for case in pruned.values() if case.gain is Gain.NONE]
    measured = sum(case.speedup is not None for case in without)
    rest = Gains(models=len(pruned), without=len(without), measured=measured).sentence
    return f"{told} {rest}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTime:
    """What a pool did in this run."""

    pool: str
    units: int
    busy_seconds: float
    longest_seconds: float
    cpu_seconds: float | None
    gpu_seconds: float | None
    against_prediction: float | None
    """Seconds taken over seconds predicted, where both are known."""
    dollars: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the units of one kind cost in this run."""

    name: str
    units: int
    busy_seconds: float
    dollars: float


def costs_by(data: ReportData, column: str) -> list[Cost]:
    """Time and money by a column of `units`, the most first; a unit that serves several recipes counts for its first."""
    prices = _prices(data)
    found = [
        Cost(
            name=plain(name or "unknown", NAME_LENGTH),
            units=len(rows),
            busy_seconds=math.fsum(row["wall_seconds"] for row in rows),
            dollars=_dollars(rows, prices),
        )
        for name, rows in _worked(data, column).items()
    ]
    return sorted(found, key=lambda cost: (-cost.dollars, -cost.busy_seconds, cost.name))


def total_dollars(data: ReportData) -> float:
    """What all units of this run cost together."""
    return math.fsum(cost.dollars for cost in costs_by(data, "pool"))


def _prices(data: ReportData) -> dict[str, float]:
    return {row["pool"]: row["dollars_per_second"] for row in data.pools}


def _dollars(rows: Sequence[Row], prices: Mapping[str, float]) -> float:
    return math.fsum(row["wall_seconds"] * prices.get(row.get("pool") or "", 0.0) for row in rows)


def _worked(data: ReportData, column: str) -> dict[str, list[Row]]:
    """The units that this run did, by a column."""
    run_id = data.run.get("run_id")
    found: dict[str, list[Row]] = defaultdict(list)
    for row in data.units:
        if row.get("run_id") in (None, run_id) and row.get("wall_seconds") is not None:
            found[row.get(column) or ""].append(row)
    return found


def pool_times(data: ReportData) -> list[PoolTime]:
    """Timing by pool, the busiest first; units that other runs did are not counted."""
    prices = _prices(data)
    pools = _worked(data, "pool")
    return sorted(
        (_pool_time(pool, rows, prices) for pool, rows in pools.items()),
        key=lambda p: (-p.busy_seconds, p.pool),
    )


def _pool_time(pool: str, rows: Sequence[Row], prices: Mapping[str, float]) -> PoolTime:
    predicted = [row for row in rows if row.get("predicted_seconds")]
    expected = sum(row["predicted_seconds"] for row in predicted)
    return PoolTime(
        pool=plain(pool or "unknown", NAME_LENGTH),
        units=len(rows),
        busy_seconds=math.fsum(row["wall_seconds"] for row in rows),
        longest_seconds=max(row["wall_seconds"] for row in rows),
        cpu_seconds=_total(rows, "cpu_seconds"),
        gpu_seconds=_total(rows, "gpu_seconds"),
        against_prediction=sum(row["wall_seconds"] for row in predicted) / expected if expected else None,
        dollars=_dollars(rows, prices),
    )


def _total(rows: Sequence[Row], column: str) -> float | None:
    known = [row[column] for row in rows if row.get(column) is not None]
    return math.fsum(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingCount:
    """How often a kind of finding was made, and the first of them."""

    kind: str
    count: int
    subject: str
    message: str


def finding_counts(findings: Sequence[Row]) -> list[FindingCount]:
    """Findings by kind, the most frequent first."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in findings:
        kinds[row.get("kind") or ""].append(row)
    for rows in kinds.values():
        rows.sort(key=lambda row: (str(row.get("subject") or ""), str(row.get("message") or "")))
    counted = [
        FindingCount(
            kind=plain(kind, 48),
            count=len(rows),
            subject=plain(rows[0].get("subject") or "", NAME_LENGTH),
            message=plain(rows[0].get("message") or "", TEXT_LENGTH),
        )
        for kind, rows in kinds.items()
    ]
    return sorted(counted, key=lambda found: (-found.count, found.kind))
