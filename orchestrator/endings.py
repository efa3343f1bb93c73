"""Effects. How a run ended: its outcome, its exit code, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.controller import Signals
from orchestrator.credentials import masked
from orchestrator.domain import FailureClass, Judgement
from orchestrator.errors import NotPermitted, PrunefleetError, Unreachable
from orchestrator.promotion.publication import Published, Unpublished
from orchestrator.reports.data import ReportData
from orchestrator.reports.gains import Gains
from orchestrator.runrecord import RunRecord
from orchestrator.schedule.scheduling import Progress, UnitState
from orchestrator.survey import Survey

EXIT_OK, EXIT_BLOCKED, EXIT_FAILED, EXIT_INCONCLUSIVE = 0, 3, 4, 5
EXIT_UNREACHABLE, EXIT_INTERRUPTED, EXIT_NOT_PERMITTED = 69, 75, 77


class Ending(NamedTuple):
    """How a run ended, in a few words."""

    outcome: str
    exit_code: int
    reason: str
    """Why it stopped, if it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """How a run ended, and what it did."""

    run_id: str
    exit_code: int
    outcome: str
    counts: Mapping[str, int]
    verdicts: Mapping[str, int]
    """Of the judge units finished in this run."""
    findings: Mapping[str, int]
    """Of the units finished in this run, by kind."""
    gains: Gains
    """Of all the fleet's pruned models."""
    published: tuple[Published, ...]
    carried_over: int
    told: ReportData
    """All that its report shows."""
    stop_reason: str = ""
    notices: tuple[str, ...] = ()
    """What a person should know of the run itself, beside its units."""


def summary_of(
    record: RunRecord,
    counts: Mapping[UnitState, int],
    ending: Ending,
    verdicts: Mapping[str, int],
    gains: Gains,
    published: Sequence[Published],
    told: ReportData,
) -> RunSummary:
    """What is told of a run, put together; `counts` are those of the units that this process was about."""
    return RunSummary(
        run_id=record.run_id,
        exit_code=ending.exit_code,
        outcome=ending.outcome,
        counts={state.value: counts.get(state, 0) for state in UnitState},
        verdicts=dict(verdicts),
        findings=dict(record.findings),
        gains=gains,
        published=tuple(published),
        carried_over=counts.get(UnitState.WAITING, 0) + counts.get(UnitState.READY, 0),
        told=told,
        stop_reason=ending.reason,
        notices=tuple(record.notices.values()),
    )


def code_of(unpublished: Sequence[Unpublished]) -> int:
    """That of permission, or of a service that is away, where nothing else is wrong; else something has failed."""
    codes = {type(one.error): one.error.exit_code for one in unpublished}
    return codes.popitem()[1] if codes.keys() in ({NotPermitted}, {Unreachable}) else EXIT_FAILED


def _told(unpublished: Sequence[Unpublished]) -> str:
    first = unpublished[0]
    more = f" and {len(unpublished) - 1} more" if len(unpublished) > 1 else ""
    return masked(f"not published: {first.subject}: {first.error}{more}")


def ending_of(
    survey: Survey,
    progress: Progress | None,
    verdicts: Mapping[str, int],
    signals: Signals,
    unpublished: Sequence[Unpublished],
    unfolded: PrunefleetError | None,
) -> Ending:
    """What could not be done outranks what was refused."""
    stop = progress.stop if progress else None
    if stop and stop.failure_class is FailureClass.PERMISSION:
        return Ending("not permitted", EXIT_NOT_PERMITTED, stop.reason)
    if stop and stop.failure_class is not None:
        return Ending("stopped", EXIT_UNREACHABLE, stop.reason)
    if signals.drain:
        return Ending("interrupted", EXIT_INTERRUPTED, signals.drain)
    failed = progress is not None and (
        progress.counts[UnitState.FAILED] + progress.counts[UnitState.QUARANTINED]
    )
    reason = stop.reason if stop else ""
    if unpublished:
        return Ending(
            "incomplete", code_of(unpublished), "; ".join(filter(None, (reason, _told(unpublished))))
        )
    if failed or survey.plan.impossible or survey.plan.quarantined or survey.placement.misfits:
        return Ending("incomplete", EXIT_FAILED, reason)
    if unfolded:
        return Ending("incomplete", unfolded.exit_code, reason)
    if verdicts.get(Judgement.BLOCK.value):
        return Ending("blocked", EXIT_BLOCKED, reason)
    if verdicts.get(Judgement.INCONCLUSIVE.value):
        return Ending("inconclusive", EXIT_INCONCLUSIVE, reason)
    if progress is None:
        return Ending("nothing to do", EXIT_OK, reason)
    return Ending("carried over" if stop else "done", EXIT_OK, reason)
