"""Pure. What the gate tells people beside its verdicts: why it cannot tell, how much more it needs, what is odd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.domain import Judgement
from orchestrator.gate.comparison import Comparison
from orchestrator.gate.pairing import ALL
from orchestrator.gate.statistics import fewest_flips
from tasks.contract import Finding

MOST_TOLD = 20
"""Slices of which it is told one by one why they are inconclusive, worst first; all of them are in the verdicts."""


class Rules(Protocol):
    """What of the gates is spoken of."""

    @property
    def max_drop(self) -> float | None: ...
    @property
    def max_slice_drop(self) -> float | None: ...
    @property
    def min_samples(self) -> int: ...


def told(
    comparisons: Sequence[Comparison],
    verdicts: Mapping[str, Mapping[str, Any]],
    gates: Rules,
    alpha: float,
    cluster: str | None,
) -> Iterator[Finding]:
    """Findings about the comparisons that have a verdict, by slice."""
    for gate, limit in (("max_drop", gates.max_drop), ("max_slice_drop", gates.max_slice_drop)):
        if limit == 0:
            yield Finding(kind="zero_margin", subject=gate, message=_ZERO_MARGIN)
    if comparisons[0].problem is None and comparisons[0].changed == 0:
        message = f"Not one of the {comparisons[0].samples} examples has another result: pruning changed nothing they show."
        yield Finding(kind="no_change", subject=ALL, message=message)
    unclear = [
        c
        for c in comparisons
        if c.problem is None
        and c.slice in verdicts
        and verdicts[c.slice]["verdict"] == Judgement.INCONCLUSIVE.value
    ]
    what = "examples" if cluster is None else f"clusters by {cluster}"
    tests = sum(row["p_value"] is not None for row in verdicts.values())
    for comparison in unclear[:MOST_TOLD]:
        row = verdicts[comparison.slice]
        if comparison.units < gates.min_samples:
            yield _too_few(comparison, gates.min_samples, row["samples_needed"], what)
        else:
            yield _cannot_tell(comparison, row, what, fewest_flips(max(1, tests), alpha))
    if len(unclear) > MOST_TOLD:
        message = f"{len(unclear) - MOST_TOLD} more slices cannot be judged; the table verdicts has what each needs."
        yield Finding(kind="cannot_tell", subject=ALL, message=message)


def _too_few(comparison: Comparison, least: int, needed: int | None, what: str) -> Finding:
    more = f" It needs {_more(comparison, needed, what)}." if needed else ""
    message = (
        f"{comparison.units} of {least} {what} that min_samples asks for.{more} Add some or merge slices."
    )
    return Finding(kind="too_few_samples", subject=comparison.slice, message=message)


def _cannot_tell(comparison: Comparison, row: Mapping[str, Any], what: str, fewest: int) -> Finding:
    changed, needed = comparison.changed or 0, row["samples_needed"]
    has = f"{comparison.units:,} {what}, of which {changed:,} changed,"
    if row["limit"] == 0:
        message = f"{has} cannot show a drop of nothing; see zero_margin."
    elif needed is None:
        message = f"{has} are too few to tell."
    else:
        blind = (
            f" With fewer than {fewest} changed ones no harm can be shown either." if changed < fewest else ""
        )
        message = f"{has} are too few to tell: it needs {_more(comparison, needed, what)}.{blind}"
    return Finding(kind="cannot_tell", subject=comparison.slice, message=message)


def _more(comparison: Comparison, needed: int | None, what: str) -> str:
    return f"at least {(needed or 0) - comparison.units:,} more {what}"


_ZERO_MARGIN = (
    "A limit of 0 cannot be passed: however many examples agree, the upper bound of the drop stays above 0. "
    "Set the smallest drop that would matter, such as 0.01."
)
UNGATED = Finding(
    kind="ungated", subject=ALL, message="The recipe has no gates: the change was measured and not judged."
)
NO_SLICES = Finding(
    kind="no_slices",
    subject="max_slice_drop",
    message="The gate is about slices, but the evaluation names no slice column. Set evaluate.slices.",
)
