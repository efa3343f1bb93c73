"""Effects. Gathers what a report shows - the tables' rows of a plan's units - and writes the pages beside the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from orchestrator.domain import Chain, Plan, Unit
from orchestrator.errors import Damaged
from orchestrator.ports import ObjectStore
from orchestrator.reports import lastrun
from orchestrator.reports.cases import cases_of
from orchestrator.reports.data import BY_CHAIN
from orchestrator.reports.gains import Gains, count_gains
from orchestrator.reports.report import ReportData, render_html, render_markdown
from orchestrator.reports.rundiff import COLUMNS, figures_of
from orchestrator.schedule.costs import money
from orchestrator.schedule.scheduling import Progress, UnitState
from orchestrator.survey import Survey
from orchestrator.tables.delta import read_table
from orchestrator.tables.records import read_records

SHOWN = (*BY_CHAIN, "units")

Row = dict[str, Any]
Rows = Mapping[str, Sequence[Row]]


def rows_of_plan(store: ObjectStore, plan: Plan) -> Rows:
    """The folded tables' rows of a plan's units, by table. Errors: those of the store."""
    return {name: table_rows(store, name, plan.units) for name in SHOWN}


def verdicts_of(rows: Rows, judged: Collection[str]) -> Counter[str]:
    """How many of these judge units said what."""
    wanted = frozenset(judged)
    overall = (row for row in rows["verdicts"] if row["gate"] == "overall")
    return Counter(row["verdict"] for row in overall if row["unit_key"] in wanted)


def gains_of(rows: Rows, plan: Plan) -> Gains:
    """What the fleet's pruned models gained, those of earlier runs included."""
    pairs = [(chain.prune, chain.latency) for chain in plan.chains if chain.prune]
    return count_gains(pairs, rows["artifacts"], rows["latencies"], rows["findings"])


def table_rows(store: ObjectStore, name: str, wanted: Collection[str], by: str = "unit_key") -> list[Row]:
    """A folded table's rows whose column `by` is wanted; a result that was computed twice has its rows once."""
    import pyarrow.compute as pc

    dataset = read_table(store, name)
    if dataset is None or not wanted:
        return []
    rows: list[Row] = dataset.to_table(filter=pc.field(by).isin(list(wanted))).to_pylist()
    return rows


def write_report(
    survey: Survey,
    run_id: str,
    closed: Mapping[str, Any],
    progress: Progress | None,
    rows: Rows,
    notices: Mapping[str, str],
) -> ReportData:
    """Writes runs/<run>/report.html and report.md, and the figures that the next run is compared with; what they show.

    `rows` are those of `rows_of_plan`, and `notices` findings of the run itself: their kinds, and what they say.
    """
    data = gather(survey, run_id, closed, progress, rows, notices)
    lastrun.keep(survey.store, run_id, lastrun.FIGURES, survey.plan.fleet, figures_of(cases_of(data)))
    survey.store.put(f"runs/{run_id}/report.html", render_html(data).encode())
    survey.store.put(f"runs/{run_id}/report.md", render_markdown(data).encode())
    return data


def gather(
    survey: Survey,
    run_id: str,
    closed: Mapping[str, Any],
    progress: Progress | None,
    rows: Rows,
    notices: Mapping[str, str],
) -> ReportData:
    """Everything the report shows, from the store and the run's last state."""
    plan = survey.plan
    overall = {row["unit_key"]: row["verdict"] for row in rows["verdicts"] if row["gate"] == "overall"}
    done = set(plan.done) | (
        {k for k, s in progress.states.items() if s is UnitState.DONE} if progress else set()
    )
    strange = read_records(survey.store, "findings").table.to_pylist()
    compared_with, before, problem = _before(survey, run_id)
    own = [_finding(kind, f"run {run_id}", message) for kind, message in notices.items()]
    return ReportData(
        run={
            **closed,
            **{name: _moment(closed[name]) for name in ("started_at", "finished_at")},
            "compared_with": compared_with,
        },
        chains=[
            _chain_row(survey, chain, done, overall.get(chain.judge, ""), progress) for chain in plan.chains
        ],
        sensitivity=rows["sensitivity"],
        layers=rows["layers"],
        artifacts=rows["artifacts"],
        evaluations=rows["evaluations"],
        latencies=rows["latencies"],
        verdicts=rows["verdicts"],
        exemplars=rows["exemplars"],
        findings=[
            *rows["findings"],
            *(row for row in strange if row["unit_key"] in plan.units),
            *problem,
            *own,
        ],
        units=[row for row in rows["units"] if row["run_id"] == run_id],
        failures=_failures(plan, progress),
        impossible=[
            {"subject": item.subject, "recipe": item.recipe, "reason": item.reason}
            for item in plan.impossible
        ],
        publications=_standing(survey),
        pools=[{"pool": name, "dollars_per_second": money(1.0, pool)} for name, pool in survey.pools.items()],
        before=before,
    )


def _before(survey: Survey, run_id: str) -> tuple[str, list[Row], list[Row]]:
    """The id and figures of the fleet's last run, and a finding where they cannot be read."""
    try:
        run, figures = lastrun.last(survey.store, lastrun.FIGURES, COLUMNS, survey.plan.fleet, before=run_id)
        return run, [*figures], []
    except Damaged as error:
        return "", [], [_finding("no_comparison", "the last run", str(error))]


def _finding(kind: str, subject: str, message: str) -> Row:
    return {"kind": kind, "subject": subject, "message": message, "unit_key": ""}


def _chain_row(survey: Survey, chain: Chain, done: set[str], verdict: str, progress: Progress | None) -> Row:
    gates = survey.fleet.recipes[chain.recipe].gates
    return {
        "registry": chain.model.registry,
        "model": chain.model.name,
        "version": chain.model.version,
        "recipe": chain.recipe,
        "state": _chain_state(survey, chain, done, progress),
        "verdict": verdict,
        "units": chain.units,
        "confidence": gates.confidence if gates else 0.95,
    }


def _chain_state(survey: Survey, chain: Chain, done: set[str], progress: Progress | None) -> str:
    if done.issuperset(chain.units):
        return "done"
    states = {progress.states.get(key) for key in chain.units} if progress else set()
    if states & {UnitState.FAILED, UnitState.QUARANTINED}:
        return "failed"
    if any(key in survey.plan.quarantined or key in survey.placement.misfits for key in chain.units):
        return "impossible"
    return "waiting"


def _standing(survey: Survey) -> list[Row]:
    """The alias moves that this plan's verdicts led to, of this run and of earlier ones, where no later move undid them."""
    last: dict[tuple[str, str, str], Row] = {}
    for row in read_records(survey.store, "promotions").table.to_pylist():
        last[row["registry_url"], row["model"], row["alias"]] = row
    return [row for row in last.values() if row["unit_key"] in survey.plan.units]


def _failures(plan: Plan, progress: Progress | None) -> list[Row]:
    found = [{"subject": _subject(plan.units[key]), "recipe": plan.units[key].recipe, "class": "quarantined", "error": why}
             for key, why in plan.quarantined.items()]  # fmt: skip
    if progress is None:
        return found
    for key, failure in progress.reasons.items():
        if progress.states[key] in (UnitState.FAILED, UnitState.QUARANTINED):
            unit = plan.units[key]
            found.append(
                {
                    "subject": _subject(unit),
                    "recipe": unit.recipe,
                    "class": failure.failure_class.value,
                    "error": failure.error,
                }
            )
    return found


def _subject(unit: Unit) -> str:
    return f"{unit.model.id} {unit.task.value}"


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
