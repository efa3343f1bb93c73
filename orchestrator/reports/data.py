"""Pure. What a report is made of: rows of the tables, and the chains that tie them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

BY_CHAIN = (
    "sensitivity", "layers", "artifacts", "recoveries", "evaluations", "latencies", "verdicts", "exemplars", "findings",
)  # fmt: skip
"""Tables whose rows belong to a chain by their `unit_key`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything a report shows, as plain rows.

    Rows of tables have the columns of `orchestrator.tables.schemas`; a column that is absent reads as null. Rows belong to
    a chain because their `unit_key` is one of its `units`, not because of their recipe: a unit may serve several
    recipes and carries the name of the first. Order matters only for failures, impossible things and publications,
    which are shown as given.
    """

    run: Row
    """A row of `runs`: run_id, fleet, started_at, finished_at (datetimes, or None while it runs), outcome, exit_code,
    and the numbers of units wanted, done_before, done, failed, impossible."""
    chains: Sequence[Row]
    """One a model version and recipe: registry, model, version, recipe; state (`done`, `failed`, `impossible`, or
    `waiting` for work left to a later run); verdict (`pass`, `block`, `inconclusive`, or empty where nothing was
    judged); units (keys of all its units); confidence (of its gates; 0.95 if absent)."""
    sensitivity: Sequence[Row] = ()
    layers: Sequence[Row] = ()
    artifacts: Sequence[Row] = ()
    recoveries: Sequence[Row] = ()
    evaluations: Sequence[Row] = ()
    latencies: Sequence[Row] = ()
    verdicts: Sequence[Row] = ()
    exemplars: Sequence[Row] = ()
    findings: Sequence[Row] = ()
    units: Sequence[Row] = ()
    """For the timing of pools; those of other runs are left out where `run_id` says so."""
    failures: Sequence[Row] = ()
    """What failed for good in this run: subject (such as `zoo/tiny@1 prune`), recipe, class (a FailureClass, or
    `quarantined`), error."""
    impossible: Sequence[Row] = ()
    """What no unit could be planned for, so that it has no chain: subject, recipe, reason."""
    publications: Sequence[Row] = ()
    """Rows of `promotions` that still stand; `registry` and `model` are those of the published version."""
    pools: Sequence[Row] = ()
    """What a slot of each pool costs: pool, dollars_per_second."""
    before: Sequence[Row] = ()
    """What the fleet's last run left of its cases, as `rundiff.figures_of` tells them; its id is `run["compared_with"]`,
    absent where there was none."""
