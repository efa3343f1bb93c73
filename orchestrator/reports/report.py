"""Pure. Rows of a run -> one self-contained HTML page, and a Markdown summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment
from markupsafe import Markup

from orchestrator import wording
from orchestrator.domain import FailureClass
from orchestrator.reports.cases import STATUSES, Case, cases_of, worsening
from orchestrator.reports.charts import share_bar
from orchestrator.reports.data import ReportData
from orchestrator.reports.drawings import (
    Figure,
    amount_figure,
    best_trades,
    quality_figures,
    sensitivity_figures,
    slice_figure,
)
from orchestrator.reports.pages import inline, templates
from orchestrator.reports.rundiff import Differences, Turn, differences
from orchestrator.reports.svg import mark
from orchestrator.reports.timeline import task_keys, timeline
from orchestrator.reports.view import (
    ADVICE,
    MEASURES,
    costs_by,
    finding_counts,
    headline,
    pool_times,
    size_sentence,
    speed_sentence,
    total_dollars,
)

__all__ = ["ReportData", "render_html", "render_markdown"]

MOST_SECTIONS = 16
"""Model versions with a section of their own, the most urgent first; the table holds all of them."""
MOST_REFUSED = 50
MOST_ROWS = 100  # of the table before it is folded
MOST_LINES = 20  # of a list in the summary
TURNS: Mapping[Turn, tuple[str, str]] = {
    Turn.WORSE: ("block", "▼"),
    Turn.BETTER: ("pass", "▲"),
    Turn.NEW: ("measured", "+"),
    Turn.GONE: ("waiting", "−"),
}
"""The colour and sign of each way in which a case is not as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One model version in detail."""

    anchor: str
    title: str
    cases: Sequence[Case]
    sensitivity: Sequence[Figure]
    details: Sequence[tuple[Case, Figure | None]]
    amounts: Figure | None


def render_html(data: ReportData) -> str:
    """One page without outside resources; foreign text in it is inert, and its style and its one script have hashes."""
    cases = cases_of(data)
    sections = _sections(cases)
    anchors = {case.index: section.anchor for section in sections for case in section.cases}
    shapes = {recipe: index for index, recipe in enumerate(sorted({case.recipe for case in cases}))}
    sheet, style_hash = inline("report.css")
    script, script_hash = inline("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            run=data.run,
            headline=headline(cases, data),
            size=size_sentence(data.artifacts),
            speed=speed_sentence(cases),
            tiles=_tiles(cases, data),
            bar=_status_bar(cases),
            refused=[case for case in cases if case.status in ("block", "inconclusive")],
            roots=[row for row in data.failures if row.get("class") != FailureClass.UPSTREAM],
            data=data,
            cases=cases,
            anchors=anchors,
            recipes_at=shapes,
            shapes=[(recipe, mark(index, 8, 8, 5.5, "mark key")) for recipe, index in shapes.items()],
            scatters=quality_figures(cases, shapes),
            best=best_trades(cases),
            since=_since(cases, data),
            sections=sections,
            models=len({(case.registry, case.model, case.version) for case in cases}),
            findings=finding_counts(data.findings),
            pools=pool_times(data),
            recipes=costs_by(data, "recipe"),
            dollars=total_dollars(data),
            timeline=timeline(data.units, data.run.get("started_at"), data.run.get("finished_at")),
            tasks=task_keys(),
            style=sheet,
            style_hash=style_hash,
            script=script,
            script_hash=script_hash,
        )
    )


def render_markdown(data: ReportData) -> str:
    """A short summary, regressions first; foreign names stand in code spans."""
    cases = cases_of(data)
    return (
        _environment()
        .get_template("report.md.j2")
        .render(
            run=data.run,
            headline=headline(cases, data),
            size=size_sentence(data.artifacts),
            speed=speed_sentence(cases),
            refused=[case for case in cases if case.status in ("block", "inconclusive")],
            cases=cases,
            data=data,
            since=_since(cases, data),
            findings=finding_counts(data.findings),
        )
    )


@cache
def _environment() -> Environment:
    environment = templates()
    environment.filters |= {
        "finite": math.isfinite,
        "number": wording.number,
        "percent": wording.percent,
        "change": wording.change,
        "size": wording.size,
    }
    environment.globals |= {
        "TURNS": TURNS,
        "worsening": worsening,
        "STATUSES": STATUSES,
        "ADVICE": ADVICE,
        "MEASURES": MEASURES,
        "TITLE": wording.TITLE_LENGTH,
        "MOST_REFUSED": MOST_REFUSED,
        "MOST_ROWS": MOST_ROWS,
        "MOST_LINES": MOST_LINES,
    }
    return environment


def _since(cases: Sequence[Case], data: ReportData) -> Differences | None:
    """What changed since the run before; None where there was none."""
    return differences(data.before, cases) if data.run.get("compared_with") else None


def _sections(cases: Sequence[Case]) -> list[Section]:
    """Details of the model versions that come first in the order of urgency."""
    models: dict[tuple[str, str, str], list[Case]] = {}
    for case in cases:
        models.setdefault((case.registry, case.model, case.version), []).append(case)
    return [_section(index, own) for index, own in enumerate(list(models.values())[:MOST_SECTIONS], start=1)]


def _section(index: int, cases: Sequence[Case]) -> Section:
    rows = {
        tuple(row.get(key) for key in ("unit_key", "layer", "pattern", "amount")): row
        for case in cases
        for row in case.sensitivity
    }
    return Section(
        anchor=f"model-{index}",
        title=cases[0].id,
        cases=cases,
        sensitivity=sensitivity_figures(rows.values()),
        details=[(case, slice_figure(case)) for case in cases],
        amounts=amount_figure(cases),
    )


def _tiles(cases: Sequence[Case], data: ReportData) -> list[tuple[str, str, int, str]]:
    """Status, sign, number and word of each way in which cases ended; passed and blocked even if they are none."""
    tiles = []
    for status, (sign, word) in STATUSES.items():
        number = sum(case.status == status for case in cases)
        if status == "impossible":
            number += len(data.impossible)
        if number or status in ("pass", "block"):
            tiles.append((status, sign, number, word))
    return tiles


def _status_bar(cases: Sequence[Case]) -> Markup | None:
    parts = [
        (status, word, sum(case.status == status for case in cases)) for status, (_, word) in STATUSES.items()
    ]
    told = ", ".join(f"{number:,} {word}" for _, word, number in parts if number)
    return share_bar(parts, label=told) if cases else None
