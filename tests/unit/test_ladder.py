"""Pure. How little has to be cut for a latency: against trying every rung, and what is said where sizes surprise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.amounts.ladder import MOST_TIMINGS, STEPS, findings_of, ladder, least_that_will_do
from tasks.measuring.timing import Speed, Spread

ANY = Spread(median=1.0, low=1.0, high=1.0)


def speed(ratio: float, width: float = 0.0) -> Speed:
    """That of a model which takes `ratio` of the dense one's time, give or take `width`."""
    return Speed(dense=ANY, pruned=ANY, speedup=1 / ratio, low=1 / (ratio + width), high=1 / (ratio - width))


sizes = st.lists(st.integers(1, 60), min_size=1, max_size=4)


@given(sizes, st.integers(1, 16))
def test_rungs_are_the_smallest_factors_of_all_sizes_that_there_are(counts: list[int], multiple: int) -> None:
    def sizes_at(factor: float) -> tuple[int, ...]:
        return tuple(-(-(count - int(count * factor * 0.9)) // multiple) for count in counts)

    rungs = ladder(sizes_at)
    every = {sizes_at(step / STEPS): step / STEPS for step in range(STEPS, 0, -1)}
    every.pop(sizes_at(0.0), None)
    assert rungs == tuple(sorted(every.values()))


@given(st.data(), st.integers(1, STEPS))
def test_where_latency_falls_the_least_cut_is_found_with_few_timings(data: st.DataObject, count: int) -> None:
    ratios = sorted(data.draw(st.lists(st.floats(0.05, 1.5), min_size=count, max_size=count)), reverse=True)
    rungs = [(index + 1) / count for index in range(count)]
    limit = data.draw(st.floats(0.05, 1.5))
    asked: list[float] = []

    def time(factor: float) -> Speed:
        asked.append(factor)
        return speed(ratios[rungs.index(factor)])

    found = least_that_will_do(rungs, limit, time)
    assert found
    enough = [rung for rung in rungs if 1 / speed(ratios[rungs.index(rung)]).speedup <= limit]
    assert found.is_met == bool(enough)
    assert found.chosen.factor == (enough[0] if enough else rungs[-1])
    assert len(asked) == len(set(asked)) <= MOST_TIMINGS
    assert [timed.factor for timed in found.timed] == asked


@given(st.lists(st.floats(0.05, 1.5), min_size=1, max_size=STEPS), st.floats(0.05, 1.5))
def test_where_it_does_not_fall_what_is_chosen_was_measured_to_be_fast_enough_or_a_finding_says_not(
    ratios: list[float], limit: float
) -> None:
    rungs = [(index + 1) / len(ratios) for index in range(len(ratios))]
    found = least_that_will_do(rungs, limit, lambda factor: speed(ratios[rungs.index(factor)]))
    assert found
    kinds = [finding.kind for finding in findings_of(found)]
    assert (found.chosen.ratio <= limit) == ("budget_missed" not in kinds)
    assert found.chosen in found.timed
    below = [timed for timed in found.timed if timed.factor < found.chosen.factor]
    assert all(timed.ratio > limit for timed in below)


def test_most_rungs_take_as_many_timings_as_are_allowed_and_no_more() -> None:
    rungs = [(index + 1) / STEPS for index in range(STEPS)]
    assert len(least_that_will_do(rungs, 2.0, lambda factor: speed(1.0)).timed) == MOST_TIMINGS


def test_a_missed_budget_says_how_far_it_is_missed_and_keeps_the_most_that_may_go() -> None:
    found = least_that_will_do([0.25, 0.5, 1.0], 0.7, lambda factor: speed(0.8, width=0.04))
    assert (found.chosen.factor, len(found.timed)) == (1.0, 1)
    (finding,) = findings_of(found)
    assert (finding.kind, finding.subject) == ("budget_missed", "latency")
    assert "0.800" in finding.message
    assert "0.760 to 0.840" in finding.message
    assert "0.7 was the most" in finding.message


def test_a_smaller_model_that_is_slower_is_told_where_the_intervals_are_apart() -> None:
    ratios = {0.25: 0.6, 0.5: 0.65, 1.0: 0.62}
    found = least_that_will_do([*ratios], 0.7, lambda factor: speed(ratios[factor], width=0.01))
    (finding,) = findings_of(found)
    assert (finding.kind, finding.subject) == ("slower_when_smaller", "latency")
    assert "0.5 of what cut allows" in finding.message
    assert "0.25 of it (0.600)" in finding.message
    doubtful = least_that_will_do([*ratios], 0.7, lambda factor: speed(ratios[factor], width=0.04))
    assert list(findings_of(doubtful)) == []


def test_a_smaller_model_that_is_slower_than_the_dense_one_is_told() -> None:
    found = least_that_will_do([1.0], 1.0, lambda factor: speed(1.2, width=0.1))
    assert [finding.kind for finding in findings_of(found)] == ["budget_missed", "slower_when_smaller"]


def test_nothing_to_cut_is_nothing_to_time() -> None:
    assert ladder(lambda factor: 7) == ()
    with pytest.raises(ValueError, match="nothing can be cut"):
        least_that_will_do([], 0.5, lambda factor: speed(1.0))


@given(st.data(), st.integers(1, STEPS))
def test_of_the_rungs_that_run_the_least_that_is_fast_enough_is_found_else_the_largest(
    data: st.DataObject, count: int
) -> None:
    ratios = sorted(data.draw(st.lists(st.floats(0.05, 1.5), min_size=count, max_size=count)), reverse=True)
    rungs = [(index + 1) / count for index in range(count)]
    running, limit = data.draw(st.integers(0, count)), data.draw(st.floats(0.05, 1.5))

    def time(factor: float) -> Speed | None:
        index = rungs.index(factor)
        return speed(ratios[index]) if index < running else None

    found = least_that_will_do(rungs, limit, time)
    assert (found is None) == (running == 0)
    if found is None:
        return
    enough = [rung for rung in rungs[:running] if 1 / speed(ratios[rungs.index(rung)]).speedup <= limit]
    assert len(found.timed) + len(found.broken) <= MOST_TIMINGS
    assert found.chosen.factor == (enough[0] if found.is_met else rungs[running - 1])
    assert found.is_met == bool(enough)
    assert ("does_not_run" in [finding.kind for finding in findings_of(found)]) == (running < count)
