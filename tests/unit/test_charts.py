"""Scales, labels and colours of the drawings: what a reader measures off them must be true."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.reports.charts import (
    HEAT_STEPS,
    Amounts,
    Curve,
    Interval,
    amount_bars,
    change_short,
    curves,
    heat_map,
    heat_step,
    intervals,
    number_short,
    share_bar,
)
from orchestrator.reports.drawings import family, natural, short_names
from orchestrator.reports.scatterplot import Point, scatter
from orchestrator.reports.svg import Box, Scale, element, fit, mark, place_label, scale_of, text_width

finite = st.floats(-1e6, 1e6)


def drawn(markup):
    """The drawing as a tree; raises where it is no XML."""
    return ElementTree.fromstring(str(markup))


def test_text_and_attributes_are_escaped():
    made = element("text", "<a>&", x=1.0, class_="\"'><x>")
    assert str(made) == '<text x="1" class="&#34;&#39;&gt;&lt;x&gt;">&lt;a&gt;&amp;</text>'


@given(st.lists(finite, min_size=1, max_size=30))
@example([2e-311, 2e-311, -1.0])
@example([5e-324])
def test_a_scale_holds_every_value_and_zero_in_order(values):
    scale = scale_of(values, 100.0, 0.0)
    pixels = [scale(value) for value in sorted([*values, 0.0])]
    assert pixels == sorted(pixels, reverse=True)
    assert min(pixels) >= -1e-6
    assert max(pixels) <= 100 + 1e-6


@given(st.lists(finite, min_size=1, max_size=30))
@example([2e-311, 2e-311, -1.0])
@example([5e-324])
def test_ticks_are_few_ascending_and_within_the_scale(values):
    scale = scale_of(values, 0.0, 100.0)
    ticks = scale.ticks(6)
    assert 1 <= len(ticks) <= 15
    assert ticks == sorted(set(ticks))
    assert all(scale.low - 1e-9 * abs(scale.low) <= tick <= scale.high * (1 + 1e-9) for tick in ticks)


def test_a_scale_bends_only_where_large_values_would_flatten_the_others():
    assert scale_of([0.1, 0.2, 0.5], 0, 1).bend == 0
    bent = scale_of([0.001, 0.002, 0.001, 5.0], 0.0, 100.0)
    assert bent.bend > 0
    assert bent(0.002) > 5
    assert 0.0 in bent.ticks()


def test_ticks_are_round():
    assert Scale(low=0, high=1, start=0, end=1).ticks(6) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Scale(low=-3, high=7, start=0, end=1).ticks(6) == pytest.approx([-2, 0, 2, 4, 6])


@given(st.text(max_size=60), st.floats(30, 300))
def test_fitted_labels_fit(content, width):
    shown = fit(content, width, 11)
    assert text_width(shown, 11) <= width or len(shown) <= 3


def test_labels_go_where_nothing_else_is():
    within = Box(0, 0, 400, 200)
    free = place_label(100, 100, 60, 12, [], within)
    assert free is not None
    assert free.left > 100
    beside = place_label(100, 100, 60, 12, [free], within)
    assert beside is not None
    assert not beside.meets(free)
    assert place_label(100, 100, 60, 12, [within], within) is None
    assert place_label(5, 5, 500, 12, [], within) is None


def test_there_are_six_shapes_and_then_they_begin_again():
    shapes = [
        re.sub(r"[\d.,-]+", "", str(mark(i, 0, 0, 5, "mark"))) + str(mark(i, 0, 0, 5, "mark"))
        for i in range(7)
    ]
    assert len(set(shapes[:6])) == 6
    assert shapes[6] == shapes[0]


@pytest.mark.parametrize(
    ("value", "step"),
    [(-1.0, 0), (0.0, 0), (math.nan, 0), (1e-9, 0), (0.002, 1), (1.0, 7), (0.9, 7), (0.1, 5), (math.inf, 7)],
)
def test_heat_steps_grow_by_a_factor_up_to_the_greatest(value, step):
    assert heat_step(value, 1.0) == step


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1.0), st.floats(1e-6, 1.0))
def test_more_harm_is_never_a_lower_step(top, one, two):
    low, high = sorted((one * top, two * top))
    assert 0 <= heat_step(low, top) <= heat_step(high, top) < HEAT_STEPS


def test_the_map_has_a_cell_with_its_number_for_every_measurement():
    values = {("a", 0.1): 0.001, ("a", 0.9): 2.0, ("b", 0.1): -0.01}
    tree = drawn(heat_map(["a", "b"], [0.1, 0.9], values, label="map"))
    titles = {title.text for title in tree.iter("title")}
    assert {"a at 10 %: 0.001000", "a at 90 %: 2.000", "b at 10 %: −0.01000"} <= titles
    assert len(list(tree.iter("rect"))) == 3


def interval(label, value, low=None, high=None, status="pass", limit=0.2):
    return Interval(label=label, samples=40, value=value, low=low, high=high, limit=limit, status=status)


def test_slices_stand_where_their_numbers_say_with_their_limit():
    rows = [
        interval("all", 0.1, 0.05, 0.15),
        interval("topic=law", 0.3, 0.2, 0.4, "block"),
        interval("topic=x", None, status="inconclusive"),
    ]
    tree = drawn(intervals(rows, label="slices", unit="%"))
    dot = next(tree.iter("circle"))
    limits = [line for line in tree.iter("line") if line.get("class") == "limit"]
    assert len(limits) == 3
    assert float(dot.get("cx")) < float(limits[0].get("x1"))
    diamond = next(shape for shape in tree.iter("polygon") if "block" in shape.get("class"))
    assert float(diamond.get("points").split()[0].split(",")[0]) > float(limits[0].get("x1"))
    told = " ".join(text.text or "" for text in tree.iter("text"))
    assert "+30.0 % · n = 40" in told
    assert "– · n = 40" in told


def test_bars_are_as_long_as_what_was_measured_and_ticks_where_it_was_asked():
    tree = drawn(
        amount_bars(
            ["a", "b"], [Amounts(title="r", shares={"a": (0.5, 0.4), "b": (1.0, None)})], label="amounts"
        )
    )
    short, long = (float(bar.get("width")) for bar in tree.iter("rect"))
    assert long == pytest.approx(2 * short, abs=0.2)
    (asked,) = [line for line in tree.iter("line") if line.get("class") == "asked"]
    bar = next(tree.iter("rect"))
    assert float(asked.get("x1")) == pytest.approx(float(bar.get("x")) + 0.8 * short, abs=0.2)


def test_curves_name_the_worst_layer_and_show_their_errors():
    lines = [
        Curve(label="first", points=[(0.1, 0.1, 0.05), (0.9, 0.5, 0.1)], depth=0.0),
        Curve(label="last", points=[(0.1, 0.2, None), (0.9, 3.0, None)], depth=1.0),
    ]
    tree = drawn(curves("mlp", lines, (0.1, 0.5, 3.0)))
    assert [text.text for text in tree.iter("text") if text.get("class") == "name"] == ["last"]
    assert [shape.get("class") for shape in tree.iter("polygon")] == ["band"]
    assert {group.get("class") for group in tree.iter("g")} == {"depth0", "depth5"}


def marks(*places):
    return [
        Point(
            label=f"m{i}",
            told=f"m{i} told",
            x=x,
            y=y,
            low=None,
            high=None,
            shape=0,
            status=status,
            is_best=best,
        )
        for i, (x, y, status, best) in enumerate(places)
    ]


def test_the_scatter_plot_tells_all_of_a_mark_in_its_title_and_rings_the_best():
    points = marks((0.5, 0.1, "pass", True), (0.6, 0.2, "pass", False))
    tree = drawn(scatter(points, label="all", x_label="x", y_label="y"))
    titles = {title.text for title in tree.iter("title")}
    assert {"m0 told", "m1 told"} <= titles
    assert [ring.get("class") for ring in tree.iter("circle")].count("best") == 1


def test_the_line_of_the_front_steps_down_to_the_right_and_passes_by_what_was_refused():
    points = marks((0.3, 0.0, "block", False), (0.5, 0.3, "pass", True), (0.8, 0.1, "pass", True))
    tree = drawn(scatter(points, label="all", x_label="x", y_label="y"))
    (line,) = [shape for shape in tree.iter("polyline") if shape.get("class") == "front"]
    corners = [tuple(map(float, corner.split(","))) for corner in line.get("points").split()]
    (x1, y1), (x2, y2), (x3, y3) = corners
    assert x1 < x2 == x3
    assert y1 == y2 < y3


def test_a_mark_slower_than_the_dense_model_is_still_within_the_drawing():
    points = marks((1.4, 0.1, "pass", False), (0.9, 0.2, "pass", False))
    tree = drawn(scatter(points, label="all", x_label="x", y_label="y"))
    centres = [float(mark.get("cx")) for mark in tree.iter("circle")]
    assert max(centres) <= float(tree.get("width"))
    assert len(set(centres)) == 3


def test_the_share_bar_is_divided_as_the_numbers_are():
    tree = drawn(
        share_bar(
            [("pass", "passed", 3), ("block", "blocked", 1), ("failed", "failed", 0)],
            label="3 passed, 1 blocked",
        )
    )
    widths = [float(part.get("width")) for part in tree.iter("rect")]
    assert len(widths) == 2
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.02)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (1.0, "1"),
        (12.0, "12"),
        (0.012, "0.012"),
        (0.00012, "1e−4"),
        (20000.0, "2e4"),
        (-3.0, "−3"),
    ],
)
def test_short_numbers_have_no_needless_digits(value, shown):
    assert number_short(value) == shown


def test_short_changes_have_no_needless_digits():
    assert change_short(0.2) == "+20 %"
    assert change_short(0.025) == "+2.5 %"
    assert change_short(0.0, "pt") == "0 pt"
    assert change_short(10.0) == "+1,000 %"


def test_layers_sort_by_their_numbers():
    names = ["l.10.a", "l.2.b", "l.2.a", "head", "l.1.a"]
    assert sorted(names, key=natural) == ["head", "l.1.a", "l.2.a", "l.2.b", "l.10.a"]


@given(st.lists(st.text(max_size=20), min_size=2, max_size=10))
def test_any_names_can_be_sorted(names):
    assert len(sorted(names, key=natural)) == len(names)


def test_names_lose_what_all_of_them_begin_with():
    assert short_names(["model.layers.0.q", "model.layers.1.q"]) == {
        "model.layers.0.q": "0.q",
        "model.layers.1.q": "1.q",
    }
    assert short_names(["model.a", "head"]) == {"model.a": "model.a", "head": "head"}
    assert short_names(["only.one"]) == {"only.one": "only.one"}
    assert len(set(short_names(["x" * 200 + "a" * 100, "x" * 201 + "a" * 99]).values())) == 2
    assert family("0.mlp.up2") == "*.mlp.up*"
