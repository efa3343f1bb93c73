"""What may go and what has to stay, as a table and for every store that hypothesis thinks of."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.care.garbage import DAY, SHORTEST, Facts, Kind, Limits, Thing, garbage, held_back, is_old

NOW = 1_800_000_000.0
LIMITS = Limits(at=NOW, older_than=7 * DAY)


def thing(kind, name="n", days=30.0, modified=None):
    at = NOW - days * DAY if modified is None else modified
    return Thing(kind=kind, name=name, keys=(name,), bytes=10, modified=at)


def facts(*things, **changes):
    empty = Facts(
        things=things, artifacts=frozenset(), unreadable=(), done=frozenset(), data=frozenset(), is_running=False,
        runs=frozenset(), nights=frozenset(), proposals=frozenset(),
    )  # fmt: skip
    return replace(empty, **changes)


N = frozenset({"n"})


@pytest.mark.parametrize(
    ("kind", "changes", "goes"),
    [
        (Kind.ARTIFACT, {}, True),
        (Kind.ARTIFACT, {"artifacts": N}, False),
        (Kind.ARTIFACT, {"unreadable": ("results/prune/…",)}, False),
        (Kind.HALF_ARTIFACT, {}, True),
        (Kind.HALF_ARTIFACT, {"artifacts": N}, False),
        (Kind.HALF_ARTIFACT, {"unreadable": ("x",)}, False),
        (Kind.DATASET, {}, True),
        (Kind.DATASET, {"data": N}, False),
        (Kind.DATASET, {"data": None}, False),
        (Kind.DATASET, {"is_running": True}, False),
        (Kind.DATASET, {"unreadable": ("x",)}, True),
        (Kind.QUARANTINE, {}, False),
        (Kind.QUARANTINE, {"done": N}, True),
        (Kind.PROBE, {}, True),
        (Kind.ASIDE, {}, True),
        (Kind.UPLOAD, {}, True),
        (Kind.RUN, {}, False),
        (Kind.NIGHT, {}, False),
        (Kind.HALF_NIGHT, {}, True),
        (Kind.HALF_NIGHT, {"nights": N}, False),
        (Kind.PROPOSAL, {}, True),
        (Kind.PROPOSAL, {"proposals": N}, False),
        (Kind.PROPOSAL, {"proposals": None}, False),
    ],
)
def test_what_may_go(kind, changes, goes):
    found = garbage(facts(thing(kind), **changes), LIMITS)
    assert [doomed.thing.kind for doomed in found] == ([kind] if goes else [])
    assert all(doomed.reason for doomed in found)
    assert garbage(facts(thing(kind, days=6.99), **changes), LIMITS) == ()


@pytest.mark.parametrize(
    ("limit", "changes", "goes"),
    [(20 * DAY, {}, True), (31 * DAY, {}, False), (20 * DAY, {"runs": N}, False)],
)
def test_records_of_runs_go_only_if_asked_and_if_no_publication_names_them(limit, changes, goes):
    found = garbage(facts(thing(Kind.RUN), **changes), replace(LIMITS, runs_older_than=limit))
    assert bool(found) == goes


def test_what_has_no_known_age_stays():
    assert garbage(facts(thing(Kind.PROBE, modified=0.0)), LIMITS) == ()
    assert garbage(facts(thing(Kind.PROBE, modified=-5.0)), LIMITS) == ()


def test_what_is_of_the_future_stays():
    assert garbage(facts(thing(Kind.PROBE, days=-1)), LIMITS) == ()


def test_no_limit_is_so_short_that_an_upload_that_goes_on_is_garbage():
    young = thing(Kind.HALF_ARTIFACT, modified=NOW - SHORTEST + 1)
    assert garbage(facts(young), replace(LIMITS, older_than=0.0)) == ()
    assert garbage(facts(replace(young, modified=NOW - SHORTEST)), replace(LIMITS, older_than=0.0))


def test_why_whole_kinds_stay_is_told():
    assert list(held_back(facts())) == []
    assert list(held_back(facts(thing(Kind.DATASET)))) == []
    (told,) = held_back(facts(thing(Kind.DATASET), data=None))
    assert "only a fleet file" in told
    (told,) = held_back(facts(thing(Kind.DATASET), is_running=True))
    assert "a run is going on" in told
    (told,) = held_back(facts(unreadable=("a", "b", "c", "d")))
    assert "4 objects" in told
    assert "(a, b, c)" in told
    assert "verify" in told


NAMES = st.sampled_from(["a", "b", "c"])
THINGS = st.builds(
    thing, st.sampled_from(list(Kind)), NAMES, st.floats(min_value=-10, max_value=100, allow_nan=False)
)
SETS = st.frozensets(NAMES)
FACTS = st.builds(
    Facts, things=st.lists(THINGS, max_size=12).map(tuple), artifacts=SETS, unreadable=st.lists(NAMES, max_size=1).map(tuple),
    done=SETS, data=st.none() | SETS, is_running=st.booleans(), runs=SETS, nights=SETS, proposals=st.none() | SETS,
)  # fmt: skip
LIMITS_DRAWN = st.builds(
    Limits, at=st.just(NOW), older_than=st.floats(min_value=0, max_value=40 * DAY),
    runs_older_than=st.none() | st.floats(min_value=0, max_value=40 * DAY),
)  # fmt: skip


@given(FACTS, LIMITS_DRAWN)
def test_nothing_that_is_needed_or_young_ever_goes(found, limits):
    for doomed in garbage(found, limits):
        gone = doomed.thing
        assert gone in found.things
        assert doomed.reason
        age = limits.at - gone.modified
        assert age >= SHORTEST
        assert age >= (limits.runs_older_than if gone.kind in (Kind.RUN, Kind.NIGHT) else limits.older_than)
        match gone.kind:
            case Kind.ARTIFACT | Kind.HALF_ARTIFACT:
                assert gone.name not in found.artifacts
                assert not found.unreadable
            case Kind.DATASET:
                assert found.data is not None
                assert gone.name not in found.data
                assert not found.is_running
            case Kind.QUARANTINE:
                assert gone.name in found.done
            case Kind.RUN:
                assert limits.runs_older_than is not None
                assert gone.name not in found.runs
            case Kind.NIGHT | Kind.HALF_NIGHT:
                assert gone.name not in found.nights
            case Kind.PROPOSAL:
                assert found.proposals is not None
                assert gone.name not in found.proposals


@given(FACTS, LIMITS_DRAWN, st.floats(min_value=0, max_value=40 * DAY))
def test_a_higher_limit_never_removes_more(found, limits, more):
    higher = replace(limits, older_than=limits.older_than + more)
    gone = [doomed.thing for doomed in garbage(found, limits)]
    assert all(doomed.thing in gone for doomed in garbage(found, higher))


@given(FACTS, LIMITS_DRAWN, NAMES)
def test_one_more_pointer_never_removes_more(found, limits, name):
    pointed = replace(found, artifacts=found.artifacts | {name}, runs=found.runs | {name})
    gone = [doomed.thing for doomed in garbage(found, limits)]
    assert all(doomed.thing in gone for doomed in garbage(pointed, limits))


@given(FACTS, LIMITS_DRAWN)
def test_what_is_garbage_stays_garbage_when_the_rest_is_gone(found, limits):
    gone = garbage(found, limits)
    alone = replace(found, things=tuple(doomed.thing for doomed in gone))
    assert garbage(alone, limits) == gone
    assert all(is_old(doomed.thing, limits) for doomed in gone)
