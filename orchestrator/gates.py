"""Pure. The quality gate: what a comparison with the dense model allows to be published.

BLOCK where the observed drop is beyond its limit on a slice that can be judged; INCONCLUSIVE where a slice
cannot be judged (the findings say why); PASS otherwise. The whole is a slice like any other, named `all`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.comparison import ALL, Comparison, Row, compare, group, pair
from orchestrator.domain import Judgement
from orchestrator.statistics import samples_needed, samples_needed_without_flips
from tasks.contract import Finding

ROUNDING = 1e-12  # a drop that exceeds its limit by less is a rounding of the same number
OVERALL = "overall"
"""The gate of the one row that sums a verdict up."""

_SEVERITY = {Judgement.BLOCK: 0, Judgement.INCONCLUSIVE: 1, Judgement.PASS: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """How much worse is too much: points of accuracy, F1 or agreement, or relative increase of loss, error or perplexity."""

    max_drop: float | None = None
    max_slice_drop: float | None = None
    confidence: float = 0.95
    min_samples: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Rows for the tables of the same names, without identity columns."""

    evaluations: tuple[dict[str, Any], ...]
    """The whole first, then the slices, worst first."""
    verdicts: tuple[dict[str, Any], ...]
    """The `overall` row first, then one row a gate and slice, worst first."""
    findings: tuple[Finding, ...]
    """Why something could not be judged, and other things a person should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one gate says of one slice."""

    judgement: Judgement
    gate: str
    slice: str
    observed: float | None
    limit: float | None
    p_value: float | None = None
    samples_needed: int | None = None

    def row(self) -> dict[str, Any]:
        """For the table `verdicts`."""
        return {
            "verdict": self.judgement.value,
            "gate": self.gate,
            "slice": self.slice,
            "observed": self.observed,
            "limit": self.limit,
            "p_value": self.p_value,
            "samples_needed": self.samples_needed,
        }


def judge(
    dense: Sequence[Row],
    pruned: Sequence[Row],
    *,
    dataset: str,
    metric: str,
    slices: Sequence[str],
    gates: Gates | None,
    seed: int,
    default_slices: Sequence[str] = (),
) -> Judged:
    """Outcomes of a dense model and its compressed child -> what changed, by slice, and the verdict.

    Without gates it only measures: one `overall` row without a limit, `pass` if the whole could be measured.
    """
    rules = gates or Gates()
    pairs = pair(dense, pruned)
    if isinstance(pairs, Finding):
        return Judged(evaluations=(), verdicts=(_summary((), None).row(),), findings=(pairs,))
    groups, findings = group(pairs, slices, default_slices, rules.min_samples)
    comparisons = sorted(
        (
            compare(pairs, name, index, metric=metric, confidence=rules.confidence, seed=seed)
            for name, index in groups.items()
        ),
        key=_worst_first,
    )
    problems = [comparison.problem for comparison in comparisons if comparison.problem]
    if gates is None:
        verdicts: tuple[Verdict, ...] = ()
        told: tuple[Finding, ...] = (_UNGATED,)
    else:
        verdicts, told = by_point_estimate(comparisons, gates, missing=[f.subject for f in findings])
    whole = comparisons[0]
    summary = _summary(verdicts, whole if gates is None else None)
    return Judged(
        evaluations=tuple(_evaluation(comparison, dataset, metric) for comparison in comparisons),
        verdicts=(summary.row(), *(verdict.row() for verdict in verdicts)),
        findings=(*findings, *problems, *told),
    )


def by_point_estimate(
    comparisons: Sequence[Comparison], gates: Gates, *, missing: Sequence[str]
) -> tuple[tuple[Verdict, ...], tuple[Finding, ...]]:
    """Each gate on each of its slices, by the observed drop; worst first. `missing` are absent columns."""
    whole = next(comparison for comparison in comparisons if comparison.slice == ALL)
    verdicts, findings = [], []
    for comparison in comparisons:
        gate = "max_drop" if comparison.slice == ALL else "max_slice_drop"
        limit = gates.max_drop if comparison.slice == ALL else gates.max_slice_drop
        if limit is None:
            continue
        verdicts.append(_verdict(comparison, gate, limit, gates, whole))
        if comparison.problem is None and comparison.samples < gates.min_samples:
            findings.append(_too_few(comparison, gates.min_samples))
    if gates.max_slice_drop is not None:
        verdicts += [_unjudged("max_slice_drop", column, gates.max_slice_drop) for column in missing]
        if not missing and all(comparison.slice == ALL for comparison in comparisons):
            verdicts.append(_unjudged("max_slice_drop", "", gates.max_slice_drop))
            findings.append(_NO_SLICES)
    return tuple(sorted(verdicts, key=_severest_first)), tuple(findings)


def _verdict(comparison: Comparison, gate: str, limit: float, gates: Gates, whole: Comparison) -> Verdict:
    needed = None
    if comparison.samples < gates.min_samples:
        judgement = Judgement.INCONCLUSIVE
        needed = _needed(whole, limit, gates)
    elif comparison.problem is not None or comparison.drop is None:
        judgement = Judgement.INCONCLUSIVE
    else:
        judgement = Judgement.BLOCK if comparison.drop > limit + ROUNDING else Judgement.PASS
    return Verdict(
        judgement=judgement,
        gate=gate,
        slice=comparison.slice,
        observed=comparison.drop,
        limit=limit,
        p_value=comparison.p_value,
        samples_needed=needed,
    )


def _needed(whole: Comparison, limit: float, gates: Gates) -> int:
    """Examples that a slice needs for an answer, were its examples as unsteady as all are."""
    estimates = [gates.min_samples]
    if whole.spread is not None:
        estimates.append(samples_needed(whole.spread, limit, gates.confidence) or 0)
    if whole.flips is not None:
        estimates.append(samples_needed_without_flips(limit, gates.confidence) or 0)
    return max(estimates)


def _summary(verdicts: Sequence[Verdict], measured: Comparison | None) -> Verdict:
    """The one `overall` row: that of the worst verdict, or of a measurement without gates."""
    if verdicts:
        worst = verdicts[0]
        return Verdict(
            judgement=worst.judgement,
            gate=OVERALL,
            slice=worst.slice,
            observed=worst.observed,
            limit=worst.limit,
            p_value=worst.p_value,
            samples_needed=worst.samples_needed,
        )
    if measured is None or measured.drop is None:
        return _unjudged(OVERALL, ALL, None)
    return Verdict(
        judgement=Judgement.PASS,
        gate=OVERALL,
        slice=ALL,
        observed=measured.drop,
        limit=None,
        p_value=measured.p_value,
    )


def _unjudged(gate: str, name: str, limit: float | None) -> Verdict:
    return Verdict(judgement=Judgement.INCONCLUSIVE, gate=gate, slice=name, observed=None, limit=limit)


def _evaluation(comparison: Comparison, dataset: str, metric: str) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "metric": metric,
        "slice": comparison.slice,
        "samples": comparison.samples,
        "dense_value": comparison.dense_value,
        "value": comparison.value,
        "delta": comparison.delta,
        "ci_low": comparison.ci_low,
        "ci_high": comparison.ci_high,
        "flips": comparison.flips,
        "kl_divergence": comparison.kl_divergence,
        "kl_p99": comparison.kl_p99,
        "agreement": comparison.agreement,
        "falls": comparison.falls,
    }


def _worst_first(comparison: Comparison) -> tuple[bool, bool, float, str]:
    drop = comparison.drop
    return comparison.slice != ALL, drop is not None, -(drop or 0.0), comparison.slice


def _severest_first(verdict: Verdict) -> tuple[int, bool, float, str, str]:
    beyond = (verdict.observed or 0.0) - (verdict.limit or 0.0)
    return _SEVERITY[verdict.judgement], verdict.observed is not None, -beyond, verdict.gate, verdict.slice


def _too_few(comparison: Comparison, least: int) -> Finding:
    message = (
        f"{comparison.samples} examples are fewer than min_samples = {least}. Add examples or merge slices."
    )
    return Finding(kind="too_few_samples", subject=comparison.slice, message=message)


_UNGATED = Finding(
    kind="ungated", subject=ALL, message="The recipe has no gates: the change was measured and not judged."
)
_NO_SLICES = Finding(
    kind="no_slices",
    subject="max_slice_drop",
    message="The gate is about slices, but the evaluation names no slice column. Set evaluate.slices.",
)
