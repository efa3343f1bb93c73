"""Pure. The morning report as a self-contained HTML page, as Markdown, and as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache

from jinja2 import Environment

from orchestrator import wording
from orchestrator.reports.cases import STATUSES
from orchestrator.reports.morning import TITLES, Kind, Morning
from orchestrator.reports.pages import inline, templates

MOST_ITEMS = 50
"""Of each kind of change; the JSON holds all."""

_CHIPS = {Kind.BLOCKED: "block", Kind.FAILED: "failed", Kind.IMPOSSIBLE: "impossible",
          Kind.INCONCLUSIVE: "inconclusive", Kind.MISSED: "failed", Kind.MOVED: "measured", Kind.PASSED: "pass",
          Kind.MENDED: "done", Kind.NEW: "waiting", Kind.GONE: "done"}  # fmt: skip


def pages(morning: Morning) -> dict[str, str]:
    """The three forms by file name."""
    return {
        "report.html": render_html(morning),
        "report.md": render_markdown(morning),
        "report.json": json.dumps(morning.to_json(), indent=1, ensure_ascii=False) + "\n",
    }


def render_html(morning: Morning) -> str:
    """One page without scripts or outside resources; foreign text in it is inert."""
    sheet, digest = inline("report.css")
    return (
        _environment()
        .get_template("morning.html.j2")
        .render(**_values(morning), style=sheet, style_hash=digest)
    )


def render_markdown(morning: Morning) -> str:
    """The same, short; foreign names stand in code spans."""
    return _environment().get_template("morning.md.j2").render(**_values(morning))


def _values(morning: Morning) -> dict[str, object]:
    groups = [(kind, TITLES[kind], morning.of(kind)) for kind in Kind if morning.of(kind)]
    return {"morning": morning, "night": morning.night, "groups": groups}


@cache
def _environment() -> Environment:
    environment = templates()
    environment.filters["moment"] = _moment
    environment.globals |= {
        "STATUSES": STATUSES,
        "CHIPS": _CHIPS,
        "MOST_ITEMS": MOST_ITEMS,
    }
    return environment


def _moment(seconds: float) -> str:
    return wording.moment(datetime.fromtimestamp(seconds, UTC)) if seconds else wording.MISSING
