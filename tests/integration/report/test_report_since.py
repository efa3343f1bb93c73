"""What a report says of the run before, of the best trade-offs, and of cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cases.reports import Page, many

from orchestrator.reports.cases import cases_of
from orchestrator.reports.report import MOST_REFUSED, render_html, render_markdown
from orchestrator.reports.rundiff import figures_of

BEFORE = "20261121-0100-aaaa"


def after(data, before):
    """The same night, compared with these figures."""
    return replace(data, run={**data.run, "compared_with": BEFORE}, before=before)


@pytest.fixture(scope="module")
def figures(four):
    return figures_of(cases_of(four))


@pytest.fixture(scope="module")
def changed(four, figures):
    """A night before which one case passed that is blocked now, one was not there, and one was that is gone."""
    first, *others = [row for row in figures if row["status"] != "block"]
    blocked = next(row for row in figures if row["status"] == "block")
    rest = [row for row in others if row is not blocked]
    gone = {**first, "model": "<b>old</b>"}
    known = [row for row in figures if row["status"] == "block" and row is not blocked]
    return after(four, [{**blocked, "status": "pass"}, gone, *rest, *known])


def test_what_changed_leads_the_page_and_the_summary(changed):
    page, text = render_html(changed), render_markdown(changed)
    told = "1 worse, 1 new, 1 gone, 10 as before."
    assert page.index(told) < page.index('id="since"') < page.index('id="refused"')
    assert f"## Since run `{BEFORE}`\n\n{told}\n" in text
    assert text.index("## Since") < text.index("## Refused")
    section = Page(page).words.split("the latest before it.")[1].split("Refused, and why")[0]
    assert section.index("worse") < section.index("new") < section.index("gone")
    assert "passed → blocked" in section


def test_names_of_the_run_before_are_inert(changed):
    assert "<b>old</b>" not in render_html(changed)
    assert "zoo/&lt;b&gt;old&lt;/b&gt;@1" in render_html(changed)


def test_a_quiet_night_says_so_and_lists_nothing(four, figures):
    quiet = after(four, figures)
    assert "Nothing changed: 12 as before." in render_html(quiet)
    assert "Nothing changed: 12 as before." in render_markdown(quiet)
    assert "\n\n\n" not in render_markdown(quiet)


def test_the_first_night_is_compared_with_nothing(four):
    assert "Since" not in Page(render_html(four)).words
    assert "Since" not in render_markdown(four)


def test_of_many_differences_the_weightiest_are_told_and_the_rest_counted(four):
    data = many(four, 20)
    page = render_html(after(data, []))
    section = page.split('id="since"')[1].split("</section>")[0]
    assert section.count("<li>") == MOST_REFUSED
    assert f"And {240 - MOST_REFUSED} more; the table below holds every case." in section


def test_money_is_told_where_pools_have_a_price_and_not_elsewhere(four):
    seconds = {
        pool: sum(row["wall_seconds"] for row in four.units if row["pool"] == pool) for pool in ("cpu", "gpu")
    }
    priced = replace(
        four, pools=[{"pool": "gpu", "dollars_per_second": 0.01}, {"pool": "cpu", "dollars_per_second": 0.0}]
    )
    words = Page(render_html(priced)).words
    assert f"about ${seconds['gpu'] / 100:.2f}" in words
    assert "Time and cost by pool" in words
    assert "$" not in Page(render_html(four)).words


def test_the_time_of_recipes_adds_up_to_that_of_pools(four):
    from orchestrator.reports.view import costs_by

    whole = sum(row["wall_seconds"] for row in four.units)
    for column in ("pool", "recipe", "task"):
        assert sum(cost.busy_seconds for cost in costs_by(four, column)) == pytest.approx(whole)


def test_stars_are_given_to_what_was_not_refused_and_is_beaten_by_nothing(four):
    cases = {case.index: case for case in cases_of(four)}
    page = render_html(four)
    rows = [row for row in page.split("<tr data-status=")[1:] if "data-best" in row.split(">")[0]]
    assert rows
    assert all(row.startswith(('"pass"', '"measured"')) for row in rows)
    passed = [case for case in cases.values() if case.status == "pass"]
    assert len(rows) < len(passed)
