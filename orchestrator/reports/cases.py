"""Pure. One model version under one recipe, as a report tells it: how it ended, what changed, why it was refused."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain import falls_with_harm
from orchestrator.reports.data import BY_CHAIN, ReportData, Row
from orchestrator.reports.gains import Gain, gain_of
from orchestrator.wording import NAME_LENGTH, change, count, milliseconds, number, plain

ALL = "all"
OVERALL = "overall"
DEFAULT = "default "
"""Begins the names of the slices that a recipe did not name."""

STATUSES: Mapping[str, tuple[str, str]] = {
    "block": ("✕", "blocked"),
    "failed": ("!", "failed"),
    "inconclusive": ("?", "inconclusive"),
    "impossible": ("⊘", "impossible"),
    "waiting": ("…", "waiting"),
    "measured": ("≈", "measured only"),
    "pass": ("✓", "passed"),
    "done": ("·", "done"),
}
"""A status's sign and word, most urgent first; the sign says it without colour."""
_URGENCY = {status: index for index, status in enumerate(STATUSES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How much worse one slice became; positive is worse, relative or in points."""

    slice: str
    samples: int
    value: float | None
    low: float | None
    high: float | None
    limit: float | None
    verdict: str
    agreement: float | None = None
    kl_divergence: float | None = None
    kl_p99: float | None = None
    flips: int | None = None

    @property
    def is_default(self) -> bool:
        """Whether the recipe did not name the slice."""
        return self.slice.startswith(DEFAULT)


@dataclass(slots=True, kw_only=True)
class Case:
    """One model version under one recipe, as the report tells it."""

    index: int
    registry: str
    model: str
    version: str
    recipe: str
    status: str
    metric: str = ""
    falls: bool = False
    """Whether the metric falls with harm."""
    dataset: str = ""
    confidence: float = 0.95
    dense_value: float | None = None
    value: float | None = None
    flips: int | None = None
    changes: tuple[Change, ...] = ()
    """The whole first, then the slices, worst first."""
    artifact: str = ""
    """The digest of the pruned model."""
    nonzero: float | None = None
    dense_bytes: int | None = None
    bytes: int | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    timing: str = ""
    """How the speed was measured."""
    gain: Gain | None = None
    """Of a model that was pruned."""
    calibration: str = ""
    """What was predicted of the loss on the calibration data, and what came of it; empty where nothing was."""
    reason: str = ""
    alias: str = ""
    sensitivity: Sequence[Row] = ()
    layers: Sequence[Row] = ()
    recoveries: Sequence[Row] = ()
    """The steps of recovery, in the order in which they were taken."""
    exemplars: Sequence[Row] = ()
    """The examples whose predictions moved most, the farthest first."""
    findings: Sequence[Row] = field(default=())

    @property
    def id(self) -> str:
        """`registry/name@version`, safe to show."""
        return plain(f"{self.registry}/{self.model}@{self.version}", NAME_LENGTH)

    @property
    def full_id(self) -> str:
        """The same at greater length, for titles."""
        return plain(f"{self.registry}/{self.model}@{self.version}")

    @property
    def unit(self) -> str:
        """Of changes: accuracy and fidelity change by points, loss, error and perplexity by percent."""
        return "pt" if self.falls else "%"

    @property
    def moved(self) -> tuple[Change, ...]:
        """The changes of which it is known how many answers or how far the predictions moved."""
        return tuple(
            c
            for c in self.changes
            if not (c.agreement is None and c.kl_divergence is None and c.flips is None)
        )

    @property
    def whole(self) -> Change | None:
        """The change over all examples."""
        return next((c for c in self.changes if c.slice == ALL), None)

    @property
    def worst_slice(self) -> Change | None:
        """The slice that lost most."""
        return next((c for c in self.changes if c.slice != ALL and c.value is not None), None)

    @property
    def relative(self) -> tuple[float, float | None, float | None] | None:
        """Quality lost over all examples relative to the dense value, with its interval; positive is worse."""
        whole = self.whole
        if whole is None or whole.value is None or not math.isfinite(whole.value):
            return None
        scale = 1.0
        if self.falls:
            if not self.dense_value:
                return None
            scale = 1 / self.dense_value
        low, high = (
            None if end is None or not math.isfinite(end) else end * scale for end in (whole.low, whole.high)
        )
        return whole.value * scale, low, high


def cases_of(data: ReportData) -> list[Case]:
    """Every chain as a case, the most urgent and then the most harmed first."""
    tables = {name: _by_unit(getattr(data, name)) for name in BY_CHAIN}
    aliases = {
        (
            row.get("artifact_digest"),
            row.get("recipe"),
        ): f"{row.get('registry') or ''}:{row.get('alias') or ''}"
        for row in data.publications
    }
    cases = []
    for chain in data.chains:
        own = {
            name: [row for key in chain["units"] for row in rows.get(key, ())]
            for name, rows in tables.items()
        }
        cases.append(_case(chain, own, aliases))
    cases.sort(key=_urgency)
    for index, case in enumerate(cases):
        case.index = index
    return cases


def _by_unit(rows: Iterable[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["unit_key"]].append(row)
    return grouped


def _case(chain: Row, own: Mapping[str, Sequence[Row]], aliases: Mapping[tuple[Any, Any], str]) -> Case:
    artifact = own["artifacts"][0] if own["artifacts"] else {}
    whole = next((row for row in own["evaluations"] if row.get("slice") == ALL), {})
    latency = own["latencies"][0] if own["latencies"] else {}
    parameters = artifact.get("dense_parameters")
    nonzero = artifact.get("nonzero_parameters")
    case = Case(
        index=0,
        registry=chain.get("registry") or "",
        model=chain.get("model") or "",
        version=chain.get("version") or "",
        recipe=chain.get("recipe") or "",
        status=_status(chain, own["verdicts"]),
        metric=whole.get("metric") or "",
        falls=falls_with_harm(whole),
        dataset=whole.get("dataset") or "",
        confidence=chain.get("confidence") or 0.95,
        dense_value=whole.get("dense_value"),
        value=whole.get("value"),
        flips=whole.get("flips"),
        changes=_changes(own["evaluations"], own["verdicts"]),
        nonzero=nonzero / parameters if parameters and nonzero is not None else None,
        artifact=artifact.get("digest") or artifact.get("unit_key") or "",
        dense_bytes=artifact.get("dense_bytes"),
        bytes=artifact.get("bytes"),
        speedup=latency.get("speedup"),
        speedup_low=latency.get("speedup_low"),
        speedup_high=latency.get("speedup_high"),
        timing=_timing(latency) if latency else "",
        gain=gain_of(artifact, latency, own["findings"]) if artifact else None,
        calibration=calibration_sentence(artifact),
        alias=aliases.get((artifact.get("digest"), chain.get("recipe")), "") if artifact else "",
        sensitivity=own["sensitivity"],
        layers=own["layers"],
        recoveries=sorted(own["recoveries"], key=_turn),
        exemplars=sorted(
            own["exemplars"], key=lambda row: (-(row.get("distance") or 0.0), row.get("example") or 0)
        ),
        findings=own["findings"],
    )
    case.reason = _reason(case, own["verdicts"])
    return case


def calibration_sentence(artifact: Row) -> str:
    """The predicted rise of the loss on the calibration data beside the measured one; empty where neither is known."""
    predicted, measured, dense = (
        artifact.get(column) for column in ("predicted_increase", "measured_increase", "calibration_loss")
    )
    if predicted is None and measured is None:
        return ""
    told = [f"was predicted to change by {number(predicted, 3)}"] if predicted is not None else []
    told += [f"changed by {number(measured, 3)}"] if measured is not None else []
    of = f" of {number(dense, 4)}" if dense is not None else ""
    return f"The loss{of} on the calibration data {' and '.join(told)}."


_TURNS = ("bias", "batch_norm", "distill")


def _turn(row: Row) -> tuple[int, str]:
    step = str(row.get("step") or "")
    return (_TURNS.index(step) if step in _TURNS else len(_TURNS)), step


def _timing(row: Row) -> str:
    """What was timed, on what, how often, and the middle of either model's passes."""
    sequence = f" × {row.get('sequence'):,} tokens" if row.get("sequence") else ""
    return plain(
        f"{milliseconds(row.get('dense_seconds'))} dense, {milliseconds(row.get('seconds'))} pruned "
        f"(median of {2 * (row.get('repetitions') or 0)} readings each, in turns) for a batch of "
        f"{row.get('batch') or 0:,}{sequence}; {row.get('runtime') or 'unknown runtime'} on {row.get('device') or '?'}"
    )


def _status(chain: Row, verdicts: Sequence[Row]) -> str:
    verdict, state = chain.get("verdict") or "", chain.get("state") or ""
    if verdict == "pass" and not any(row.get("limit") is not None for row in verdicts):
        return "measured"
    if verdict in STATUSES:
        return verdict
    return state if state in STATUSES else "waiting"


def _urgency(case: Case) -> tuple[int, float, str, str]:
    beyond = [c.value - (c.limit or 0.0) for c in case.changes if c.value is not None]
    return _URGENCY[case.status], -max(beyond, default=-math.inf), case.full_id, case.recipe


def _changes(evaluations: Sequence[Row], verdicts: Sequence[Row]) -> tuple[Change, ...]:
    judged = {row.get("slice"): row for row in verdicts if row.get("gate") != OVERALL}
    changes = [_change(row, judged.get(row.get("slice"), {})) for row in evaluations]
    return tuple(sorted(changes, key=lambda c: (c.slice != ALL, c.value is None, -(c.value or 0.0), c.slice)))


def _change(row: Row, verdict: Row) -> Change:
    """Delta and its interval turned so that positive is worse: points, or else relative to the dense value."""
    delta, low, high = (row.get(column) for column in ("delta", "ci_low", "ci_high"))
    if falls_with_harm(row):
        delta, low, high = (None if end is None else -end for end in (delta, high, low))
    else:
        dense = row.get("dense_value")
        delta, low, high = (None if end is None or not dense else end / dense for end in (delta, low, high))
    return Change(
        slice=row.get("slice") or "",
        samples=row.get("samples") or 0,
        value=None if delta is None or math.isnan(delta) else delta,
        low=low,
        high=high,
        limit=verdict.get("limit"),
        verdict=verdict.get("verdict") or "",
        agreement=row.get("agreement"),
        kl_divergence=row.get("kl_divergence"),
        kl_p99=row.get("kl_p99"),
        flips=row.get("flips"),
    )


def worsening(case: Case, value: float | None) -> str:
    """A change as the metric itself moves: accuracy and fidelity fall where loss and perplexity rise."""
    return change(-value if value is not None and case.falls else value, case.unit)


def _reason(case: Case, verdicts: Sequence[Row]) -> str:
    if case.status == "block":
        blocked = [row for row in verdicts if row.get("verdict") == "block" and row.get("gate") != OVERALL]
        blocked.sort(
            key=lambda row: ((row.get("limit") or 0.0) - (row.get("observed") or 0.0), row.get("slice") or "")
        )
        told = [_exceeded(case, row) for row in blocked[:3]]
        more = f" So did {count(len(blocked) - 3, 'more slice')}." if len(blocked) > 3 else ""
        return "; ".join(told) + "." + more if told else "The gate blocked it."
    if case.status == "inconclusive":
        return _why_inconclusive(case, verdicts)
    return ""


def _exceeded(case: Case, row: Row) -> str:
    where = "overall" if row.get("slice") == ALL else f"on {plain(row.get('slice') or '', 48)}"
    p_value = row.get("p_value")
    chance = "" if p_value is None else f", p = {number(p_value, 2)}" if p_value >= 0.001 else ", p < 0.001"
    observed, limit = worsening(case, row.get("observed")), worsening(case, row.get("limit"))
    return f"{case.metric or 'quality'} {observed} {where} (limit {limit}{chance})"


def _why_inconclusive(case: Case, verdicts: Sequence[Row]) -> str:
    unclear = [row for row in verdicts if row.get("verdict") == "inconclusive" and row.get("gate") != OVERALL]
    slices = {row.get("slice") for row in unclear}
    told = []
    for finding in sorted(case.findings, key=lambda row: (str(row.get("kind")), str(row.get("subject")))):
        kind, subject = finding.get("kind"), finding.get("subject")
        if kind in _UNJUDGED and (not slices or subject in slices or kind in _ABOUT_ALL):
            where = "" if subject in (ALL, "") else f"{plain(subject, 48)}: "
            told.append(f"{where}{plain(finding.get('message') or '', 240)}")
    more = f" And {count(len(told) - 2, 'more reason')}." if len(told) > 2 else ""
    return " ".join(told[:2]) + more if told else "The gate could not be evaluated."


_ABOUT_ALL = {"examples_differ", "no_slices", "missing_cluster"}
_UNJUDGED = (
    _ABOUT_ALL
    | {"no_examples", "missing_slice", "too_few_samples", "not_computable", "not_finite"}
    | {
        "missing_cluster",
        "cannot_tell",
    }
)
