"""What a report says of the run before: worse, better, new, gone, or nothing."""

from __future__ import annotations

import pytest

from orchestrator.reports.cases import Case, Change
from orchestrator.reports.rundiff import COLUMNS, Turn, differences, figures_of


def part(name, value):
    return Change(slice=name, samples=50, value=value, low=None, high=None, limit=None, verdict="")


def speed(value):
    return {"speedup": value, "speedup_low": value - 0.1, "speedup_high": value + 0.1}


def case(index=0, model="m", version="1", recipe="half", status="pass", harm=0.02, worst=0.05, **more):
    changes = (part("all", harm), part("topic=law", worst))
    told = {"metric": "accuracy", "falls": True, "bytes": 1000, **speed(1.0), **more}
    return Case(
        index=index, registry="zoo", model=model, version=version, recipe=recipe, status=status, changes=changes, **told
    )  # fmt: skip


def compared(before, now):
    return differences(figures_of(before), now)


def only(before, now):
    (item,) = compared(before, now).items
    return item


def test_a_run_like_the_last_one_has_no_differences():
    cases = [case(), case(recipe="other")]
    found = compared(cases, cases)
    assert (found.items, found.same) == ((), 2)
    assert found.sentence == "Nothing changed: 2 as before."


@pytest.mark.parametrize(
    ("changes", "turn", "told"),
    [
        ({"status": "block"}, Turn.WORSE, "passed → blocked"),
        ({"harm": 0.06}, Turn.WORSE, "accuracy −2.0 pt → −6.0 pt over all"),
        ({"harm": 0.01}, Turn.BETTER, "accuracy −2.0 pt → −1.0 pt over all"),
        ({"worst": 0.2}, Turn.WORSE, "accuracy −5.0 pt → −20.0 pt in the worst slice"),
        ({"bytes": 800}, Turn.BETTER, "files 1.0 kB → 800 B"),
        (speed(0.7), Turn.WORSE, "speed 1.00× → 0.700×"),
    ],
)
def test_one_figure_that_moved_is_told_and_says_whether_it_is_worse(changes, turn, told):
    item = only([case()], [case(**changes)])
    assert (item.turn, item.told) == (turn, told)


@pytest.mark.parametrize("changes", [{"harm": 0.0205}, {"bytes": 1005}, speed(1.15), {"speedup_low": None}])
def test_what_is_too_small_to_matter_is_as_before(changes):
    assert compared([case()], [case(**changes)]).items == ()


def test_the_weightiest_of_several_moves_decides_and_all_are_told():
    item = only([case(status="block", bytes=500)], [case(status="pass", harm=0.03, bytes=1000)])
    assert item.turn is Turn.BETTER
    assert item.told == "blocked → passed; accuracy −2.0 pt → −3.0 pt over all; files 500 B → 1.0 kB"


def test_a_metric_that_rises_with_harm_is_told_as_it_moves():
    loss = {"metric": "loss", "falls": False}
    assert only([case(**loss)], [case(harm=0.04, **loss)]).told == "loss +2.0 % → +4.0 % over all"


def test_another_metric_is_not_compared():
    assert compared([case()], [case(harm=0.4, worst=0.5, metric="f1")]).items == ()


def test_ways_of_having_no_result_are_not_ranked_among_each_other():
    assert compared([case(status="failed")], [case(status="impossible")]).items == ()


def test_a_new_version_is_compared_with_the_latest_that_there_was():
    before = [case(version="9", harm=0.5), case(version="10")]
    found = compared(before, [*before, case(version="11", harm=0.06)])
    assert [(item.turn, item.told) for item in found.items] == [
        (Turn.WORSE, "version 10 before; accuracy −2.0 pt → −6.0 pt over all")
    ]
    assert found.same == 2


def test_a_new_version_that_replaces_one_leaves_nothing_gone():
    item = only([case(version="1")], [case(version="2")])
    assert (item.turn, item.told) == (Turn.NEW, "version 1 before; as it was")


def test_what_came_and_what_went_is_told_the_worse_first():
    before = [case(model="old", status="block"), case(model="kept"), case(model="bad")]
    now = [case(0, model="bad", status="block"), case(1, model="fresh"), case(2, model="kept")]
    found = compared(before, now)
    assert [(item.turn.value, item.subject, item.index) for item in found.items] == [
        ("worse", "zoo/bad@1", 0),
        ("new", "zoo/fresh@1", 1),
        ("gone", "zoo/old@1", None),
    ]
    assert found.sentence == "1 worse, 1 new, 1 gone, 1 as before."
    assert [item.told for item in found.of(Turn.GONE)] == ["blocked"]


def test_a_case_without_a_result_has_figures_too():
    empty = Case(index=0, registry="zoo", model="m", version="1", recipe="r", status="waiting")
    (figures,) = figures_of([empty])
    assert set(figures) == set(COLUMNS)
    assert only([], [empty]).told == "waiting"
    assert only([empty], [case(recipe="r")]).turn is Turn.BETTER


def test_names_of_the_last_run_are_made_plain():
    item = only([case(model="\u202ebad\n")], [])
    assert item.subject == "zoo/\\u202ebad @1"
