"""What is wrong with a history of answers, as tables, and against a model that hypothesis drives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.probes.checks import Check, State, exit_code
from orchestrator.probes.histories import (
    Look,
    Register,
    Round,
    Swap,
    number_of,
    numbered,
    problem_of_creation,
    problem_of_listing,
    problem_of_looks,
    problem_of_register,
    problem_of_watching,
    steps_back,
)


def round_(*winners, kept=None, late=False):
    return Round(
        winners=winners, racers=8, kept=winners[0] if kept is None and winners else kept, is_late_winner=late
    )


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([round_(3), round_(0)], ""),
        ([round_(*range(8))] * 20, "8 of 8 racers were told that they created the same key; more than one was in 20 of 20"),
        ([round_(1), round_(1, 2)], "2 of 8 racers were told that they created the same key; more than one was in 1 of 2"),
        ([round_(1), round_()], "none of the racers"),
        ([round_(1, kept=2)], "not the winner's, in 1 of 1"),
        ([Round(winners=(1,), racers=8, kept=None)], "not the winner's"),
        ([round_(1, late=True), round_(1)], "who came when the key was there"),
    ],
)  # fmt: skip
def test_one_racer_creates_a_key(rounds, expected):
    told = problem_of_creation(rounds)
    assert expected in told
    assert bool(told) == bool(expected)


def swap(base, made, began=0.0, ended=1.0):
    return Swap(base=base, made=made, began=began, ended=ended)


def register(*swaps, last="c", count=2):
    return Register(first="a", swaps=swaps, last=last, count=count)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (register(swap("b", "c"), swap("a", "b"), swap("a", None)), ""),
        (register(swap("a", "b", 0, 1), swap("b", "c", 2, 3)), ""),
        (register(swap("a", None), last="a", count=0), "none of 1 swaps won"),
        (register(swap("a", "b"), swap("a", "c"), count=1), "2 of 2 swaps .* replaced 1 states"),
        (register(swap("a", "b"), swap("b", "c"), count=1), "2 increments were acknowledged, and the register counts 1"),
        (register(swap("a", "b"), swap("x", "c")), "only 1 of 2 swaps"),
        (register(swap("a", "b"), swap("b", "c"), last="d"), "only 2 of 2 swaps"),
        (register(swap("a", "b", 2, 3), swap("b", "c", 0, 1)), "replaced before the swap began"),
    ],
)  # fmt: skip
def test_swaps_that_won_are_one_chain(history, expected):
    import re

    told = problem_of_register(history)
    assert re.search(expected, told)
    assert bool(told) == bool(expected)


ACTIONS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=40)


def simulate(actions, *, broken_at=None):
    """A register whose racers read and swap in the order given; one swap may win although its base is old."""
    state, version, held, swaps = "e0", 0, {}, []
    for time, (racer, looks) in enumerate(actions):
        if looks or racer not in held:
            held[racer] = (state, time)
            continue
        base, began = held.pop(racer)
        wins = base == state or len(swaps) == broken_at
        if wins:
            version += 1
            state = f"e{version}"
        swaps.append(swap(base, state if wins else None, began=float(began) + 0.5, ended=float(time)))
    return Register(first="e0", swaps=tuple(swaps), last=state, count=version), swaps


@given(ACTIONS)
def test_a_right_register_is_never_accused(actions):
    history, swaps = simulate(actions)
    if any(one.made for one in swaps):
        assert problem_of_register(history) == ""


@given(ACTIONS, st.integers(0, 20))
def test_a_swap_that_won_against_an_old_state_is_always_found(actions, broken_at):
    _, swaps = simulate(actions)
    wrong, broken = simulate(actions, broken_at=broken_at)
    if broken_at < len(swaps) and swaps[broken_at].made is None and broken[broken_at].made:
        assert problem_of_register(wrong)


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(1, 1), (None, None)], ""),
        (
            [(1, 1), (2, 1)],
            "1 of 2 reads right after a write did not see it (1 of them found an older value)",
        ),
        ([(1, None)], "1 of them found nothing"),
        ([(None, 4)], "1 of them found what had been removed"),
        (
            [(1, None), (None, 4), (3, 2)],
            "1 of them found nothing, 1 of them found what had been removed, 1 of them",
        ),
    ],
)
def test_a_read_sees_the_last_write(looks, expected):
    told = problem_of_looks([Look(expected=want, found=got) for want, got in looks])
    assert expected in told
    assert bool(told) == bool(expected)


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize("number", [0, 7, 12_345_678])
def test_a_numbered_value_is_known_whole_and_no_mix_of_two_is(number, size):
    whole = numbered(number, size)
    assert number_of(whole) == number
    other = numbered(number + 1, size)
    for cut in {1, len(whole) // 2, len(whole) - 1}:
        assert number_of(whole[:cut] + other[cut:]) != number
    assert number_of(b"") is None
    assert number_of(whole[:-1]) is None


@given(st.binary(max_size=64))
def test_no_bytes_make_it_fail(data):
    assert number_of(data) is None or data[:8].isdigit()


def test_mixes_and_steps_back_are_counted():
    readers = [[1, 1, 2, None, 3], [1, 3, 2, 2, 1]]
    assert problem_of_watching(readers) == "1 of 10 reads were a mix of two values, or half of one"
    assert steps_back(readers) == 2
    assert problem_of_watching([[1, 2], []]) == ""


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ([("a", 1), ("b", 2), ("é", 0)], ""),
        ([("a", 1), ("é", 0)], "1 of 3 keys were missing, for example b"),
        ([("a", 1), ("b", 2), ("c", 2), ("é", 0)], "1 keys that are not there were listed, for example c"),
        ([("a", 1), ("b", 2), ("b", 2), ("é", 0)], "1 keys were listed more than once"),
        ([("b", 2), ("a", 1), ("é", 0)], "not in order"),
        ([("a", 1), ("b", 3), ("é", 0)], "1 of 3 sizes were wrong, for example that of b"),
        ([], "3 of 3 keys were missing"),
    ],
)
def test_a_listing_is_complete_in_order_and_true(listed, expected):
    told = problem_of_listing({"a": 1, "b": 2, "é": 0}, listed)
    assert expected in told
    assert bool(told) == bool(expected)


def test_nothing_is_listed_where_nothing_is():
    assert problem_of_listing({}, []) == ""


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], 0),
        ([State.OK, State.WARNING], 0),
        ([State.OK, State.BROKEN], 4),
        ([State.UNSUPPORTED], 4),
        ([State.BROKEN, State.UNREACHABLE], 69),
        ([State.BROKEN, State.UNREACHABLE, State.DENIED], 77),
    ],
)
def test_the_exit_code_is_that_of_the_worst(states, expected):
    assert exit_code(Check(area="store", name="x", state=state, seen="") for state in states) == expected
