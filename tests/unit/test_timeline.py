"""Units at work over time: areas that hold exactly the work done, and drawings that survive hostile rows."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.reports.timeline import MOST_POOLS, STEPS, TASKS, at_work, task_keys, timeline

START = datetime(2026, 3, 1, 1, 0, tzinfo=UTC)


def row(begun, ended, *, pool="cpu", task="prune"):
    return {
        "pool": pool,
        "task": task,
        "started_at": START + timedelta(seconds=begun),
        "finished_at": START + timedelta(seconds=ended),
    }


def drawn(rows, seconds=100.0):
    return timeline(rows, START, START + timedelta(seconds=seconds))


def areas(picture):
    """The `points` of each area."""
    return [
        [tuple(map(float, corner.split(","))) for corner in points.split()]
        for points in re.findall(r'<polygon points="([^"]+)" class="task', picture)
    ]


spans = st.lists(
    st.tuples(st.floats(0, 50), st.floats(0, 50)).map(lambda pair: (min(pair), max(pair))), max_size=20
)


@given(spans, st.integers(1, 30))
def test_the_area_is_the_work_done(found, steps):
    parts = at_work(found, 50.0, steps)
    assert len(parts) == steps
    assert sum(parts) * 50.0 / steps == pytest.approx(sum(stop - start for start, stop in found), abs=1e-6)


@given(spans, st.integers(1, 30))
def test_each_part_is_the_mean_over_its_time(found, steps):
    """Against the definition: the overlap of each span with each part."""
    width = 50.0 / steps
    expected = [
        sum(max(0.0, min(stop, (step + 1) * width) - max(start, step * width)) for start, stop in found)
        / width
        for step in range(steps)
    ]
    assert at_work(found, 50.0, steps) == pytest.approx(expected, abs=1e-6)


def test_nothing_ran_nothing_drawn():
    assert drawn([]) is None
    assert drawn([row(1, 1)]) is None
    assert drawn([{"pool": "cpu", "task": "prune", "started_at": None, "finished_at": None}]) is None
    assert timeline([row(0, 5)], START, None) is None
    assert timeline([row(0, 5)], None, START) is None
    assert timeline([row(0, 5)], START, START) is None


def test_one_area_for_each_task_of_each_pool():
    picture = drawn([row(0, 10), row(10, 30, task="judge"), row(0, 50, pool="gpu"), row(3, 5)])
    assert len(areas(picture)) == 3
    assert "cpu: 2 prune units" in picture
    assert "cpu: 1 judge unit<" in picture
    assert "gpu: 1 prune unit<" in picture


def test_areas_stand_on_each_other_and_never_go_back():
    rows = [row(begun, begun + 20, task=task) for begun, task in enumerate(TASKS)]
    found = areas(drawn(rows))
    assert len(found) == len(TASKS)
    for below, above in itertools.pairwise(found):
        top_of_below = below[: 2 * STEPS]
        bottom_of_above = above[2 * STEPS :][::-1]
        assert top_of_below == bottom_of_above
    for corners in found:
        across = [x for x, _ in corners[: 2 * STEPS]]
        assert across == sorted(across)


def test_the_busiest_pools_are_drawn_and_the_others_counted():
    rows = [row(0, 1 + number, pool=f"pool{number}") for number in range(MOST_POOLS + 3)]
    picture = drawn(rows)
    assert "3 pools with less work not shown" in picture
    assert "pool0" not in picture
    assert f"pool{MOST_POOLS + 2}" in picture


def test_a_clock_that_is_off_ends_at_the_ends_of_the_run():
    [corners] = areas(drawn([row(-1000, 5000)]))
    inside = next(iter(areas(drawn([row(0, 100)]))))
    assert corners == inside


@pytest.mark.parametrize("pool", ["<script>alert(1)</script>", "x" * 5000, '"><svg onload=1>', "\u202e\x00"])
def test_a_pool_of_any_name_is_inert_text(pool):
    picture = drawn([row(0, 10, pool=pool)])
    assert "<script" not in picture
    assert "<svg onload" not in picture
    assert len(picture) < 40_000


def test_an_unknown_task_is_left_out_and_known_ones_have_a_key_each():
    assert drawn([row(0, 10, task="dance")]) is None
    assert [task for task, _ in task_keys()] == list(TASKS)
    assert len({key for _, key in task_keys()}) == len(TASKS)
