"""Pure. Dashboards from plain descriptions: what a panel asks, in which unit, and what it is for; the rest is the same for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLink,
    DashboardLinkType,
    DataSourceRef,
    VariableRefresh,
)

SOURCE = "${datasource}"
WIDTH = 24
STAT_HEIGHT, SERIES_HEIGHT = 5, 9
REFRESH = "30s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One question to Prometheus, and how its answer is shown."""

    title: str
    description: str
    """What it shows, and what to do about a bad value."""
    query: str
    unit: str
    """Of Grafana: s, bytes, percentunit, currencyUSD, short, …"""
    legend: str = ""
    """A template of labels; nothing shows one number."""
    width: int = 12
    is_stat: bool = False
    alert: str = ""
    """The alert that watches the same, whose runbook the panel links."""
    has_alerts: bool = False
    """Whether each series is an alert, and links its own runbook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A dashboard: one page that answers one kind of question."""

    uid: str
    title: str
    description: str
    panels: Sequence[Panel]
    variables: Sequence[tuple[str, str]] = ()
    """Name and the query that lists its values."""
    since: str = "now-24h"
    leads_to: Sequence[tuple[str, str]] = ()
    """Title and uid of the dashboards where one looks next."""


def build(board: Board) -> dashboard.Dashboard:
    """The dashboard as Grafana's own builder makes it."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["prunefleet"])
        .timezone("browser")
        .refresh(REFRESH)
        .time(board.since, "now")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus").regex("")
        )
    )
    for name, query in board.variables:
        made = made.with_variable(
            dashboard.QueryVariable(name)
            .label(name.capitalize())
            .datasource(_source())
            .query(query)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .multi(True)
            .all_value(".*")
        )
    made = made.with_variable(
        dashboard.TextBoxVariable("docs")
        .label("Docs at")
        .description("The address below which docs/runbooks is served.")
        .default_value("")
    )
    for title, uid in board.leads_to:
        made = made.link(_link(title).type(DashboardLinkType.LINK).url(f"/d/{uid}").include_vars(True))
    made = made.link(_link("All of prunefleet").type(DashboardLinkType.DASHBOARDS).tags(["prunefleet"]))
    for number, panel in enumerate(board.panels, start=1):
        made = made.with_panel((_stat(panel) if panel.is_stat else _series(panel)).id(number))
    return made


def _link(title: str) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(title).keep_time(True).icon("dashboard")


def _runbook(alert: str) -> dashboard.DashboardLink:
    """The link to what to do where a value is bad enough for an alert."""
    made = dashboard.DashboardLink("Runbook").type(DashboardLinkType.LINK).target_blank(True)
    return made.url(f"${{docs}}/docs/runbooks/{alert}.md")


def _links(panel: Panel) -> list[Builder[DashboardLink]]:
    return [_runbook(panel.alert)] if panel.alert else []


def _source() -> DataSourceRef:
    return DataSourceRef(type_val="prometheus", uid=SOURCE)


def _target(panel: Panel) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(panel.query).legend_format(panel.legend or panel.title).ref_id("A")


def _series(panel: Panel) -> timeseries.Panel:
    made = timeseries.Panel().title(panel.title).description(panel.description).unit(panel.unit)
    return (
        made.datasource(_source())
        .height(SERIES_HEIGHT)
        .span(panel.width)
        .min(0)
        .line_width(1)
        .fill_opacity(10)
        .links(_links(panel))
        .data_links([_runbook("${__field.labels.alertname}")] if panel.has_alerts else [])
        .with_target(_target(panel))
    )


def _stat(panel: Panel) -> stat.Panel:
    made = stat.Panel().title(panel.title).description(panel.description).unit(panel.unit)
    made = made.datasource(_source()).height(STAT_HEIGHT).span(panel.width)
    return made.links(_links(panel)).with_target(_target(panel))
