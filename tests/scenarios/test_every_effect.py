"""Every effect on the store of a small night, struck in every way: nothing is lost, doubled or half-written."""

from __future__ import annotations

import itertools
import random

import pytest

from orchestrator.simulation.bodies import Nature
from orchestrator.simulation.night import play
from orchestrator.simulation.scenes import ANALYSIS, QUICK, WHOLE, still_scene
from orchestrator.simulation.weather import Script, Strike

WAYS = (Strike.CRASH_BEFORE, Strike.CRASH_AFTER, Strike.AMBIGUOUS)
SLOTS = 2
PAIRS = 250
SOAK_PAIRS = 10_000


def small(strikes=None, **changes):
    """A chain of one model: analysed, pruned, evaluated and judged, by one controller on two slots."""
    return still_scene(recipes=(WHOLE,), weather=Script(strikes=strikes or {}), **changes)


def crowded(strikes=None):
    """Two models, two recipes, a unit with bad input, and two controllers that start at the same moment."""
    return still_scene(
        models=2, recipes=(WHOLE, QUICK), natures=(Nature.BAD_INPUT,), controllers=(0.0, 0.0),
        weather=Script(strikes=strikes or {}),
    )  # fmt: skip


def kind(site):
    """Who does what in which room of the store."""
    room = "/".join(site.key.split("/")[: 2 if site.key.startswith("results/") else 1])
    return ("worker" if "/" in site.actor else "controller", site.verb, room)


def singles(scene):
    return [(number, way) for number in range(len(play(scene).sites)) for way in WAYS]


def struck_twice(scene_of, count, seed):
    """So many pairs of strikes, drawn from all; the second one may be on an effect that only the first one leads to."""
    rng = random.Random(seed)
    sites = {first: len(play(scene_of(dict([first]))).sites) for first in singles(scene_of())}
    for _ in range(count):
        number, way = rng.choice(list(sites))
        after = sites[number, way] - number - 1
        if after > 0:
            yield {number: way, number + 1 + rng.randrange(after): rng.choice(WAYS)}


def test_the_small_nights_reach_every_kind_of_effect():
    sites = play(crowded()).sites
    quarantined = [
        site.verb == "put_if_absent" and site.key.startswith("quarantine/") for site in sites
    ].index(True)
    again = play(crowded({quarantined: Strike.CRASH_AFTER})).sites
    assert {kind(site) for site in (*play(small()).sites, *sites, *again)} == {
        ("controller", "list", "results/"),
        ("controller", "list", "quarantine"),
        ("controller", "get", "quarantine"),
        ("controller", "put_if_absent", "quarantine"),
        ("controller", "put_if_absent", "runs"),
        *(("controller", verb, "underway") for verb in ("list", "get", "put", "delete")),
        *(("worker", "stat", f"results/{task}") for task in ("sensitivity", "prune", "evaluate", "judge")),
        *(
            ("worker", "put_if_absent", f"results/{task}")
            for task in ("sensitivity", "prune", "evaluate", "judge")
        ),
        *(("worker", "get", f"results/{task}") for task in ("sensitivity", "prune", "evaluate")),
        ("worker", "stat", "artifacts"),
        ("worker", "upload", "artifacts"),
        ("worker", "put", "artifacts"),
        ("worker", "get", "artifacts"),
        ("worker", "download", "artifacts"),
    }


@pytest.mark.parametrize("orphans", [False, True])
def test_one_strike_anywhere_costs_no_more_than_what_was_in_flight(orphans):
    calm = play(small())
    for number, way in singles(small()):
        told = play(small({number: way}, orphans=orphans))
        assert told.results == calm.results, (number, way)
        assert told.computed <= calm.computed + SLOTS, (number, way)


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_one_strike_anywhere_is_harmless_among_two_controllers_and_a_bad_unit(step):
    """Anywhere by `make soak`, and here at one place in four."""
    calm = play(crowded())
    for number, way in [*singles(crowded())][::step]:
        told = play(crowded({number: way}))
        assert (told.results, told.quarantined) == (calm.results, calm.quarantined), (number, way)


def test_hundreds_of_pairs_of_strikes_are_harmless():
    """250 here, 10,000 in each of two scenes by `make soak`."""

    def scene_of(strikes=None):
        return still_scene(recipes=(ANALYSIS,), weather=Script(strikes=strikes or {}))

    calm = play(scene_of())
    for strikes in struck_twice(scene_of, PAIRS, seed=1):
        told = play(scene_of(strikes))
        assert told.results == calm.results, strikes
        assert told.computed <= calm.computed + 2 * SLOTS, strikes


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scene_of", [small, crowded])
def test_ten_thousand_pairs_of_strikes_are_harmless(scene_of):
    calm = play(scene_of())
    for strikes in struck_twice(scene_of, SOAK_PAIRS, seed=2):
        told = play(scene_of(strikes))
        assert (told.results, told.quarantined) == (calm.results, calm.quarantined), strikes


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_pair_of_strikes_on_a_single_unit_is_harmless():
    def scene_of(strikes=None):
        return still_scene(recipes=(QUICK,), weather=Script(strikes=strikes or {}))

    sites = range(2 * len(play(scene_of()).sites))
    for first, second in itertools.combinations(itertools.product(sites, WAYS), 2):
        if first[0] != second[0]:
            assert play(scene_of(dict([first, second]))).results == 1, (first, second)
