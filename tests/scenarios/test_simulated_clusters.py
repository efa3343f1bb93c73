"""Two clusters that share a night in simulation: as quick as one of their size, and whole when one of them is lost."""

from __future__ import annotations

import random

import pytest

from orchestrator.domain import Catalog
from orchestrator.simulation.night import Scene, play
from orchestrator.simulation.scenes import ANALYSIS, DATA, WHOLE, fleet_of, model_of
from orchestrator.simulation.weather import dice

ONE = "pools: {a: {cpus: 4}, b: {cpus: 4}}"
TWO = f"""{ONE}
clusters:
  ca: {{address: 'http://127.0.0.1:1', pools: [a]}}
  cb: {{address: 'http://127.0.0.1:2', pools: [b]}}
"""


def scene(pools, seed, models=8, **more):
    draw = random.Random(seed)
    versions = tuple(model_of(number, draw.choice((10**7, 4 * 10**7))) for number in range(models))
    return Scene(
        seed=seed, fleet=fleet_of((WHOLE, ANALYSIS), pools), catalog=Catalog(versions=versions), data=DATA, **more
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
def test_two_clusters_take_hardly_longer_than_one_of_their_size_and_compute_hardly_anything_twice(seed):
    one = play(scene(ONE, seed))
    two = play(scene(TWO, seed, controllers=(0.0, 0.0)))
    assert two.left == 0
    assert two.results == one.results
    assert two.computed <= 1.05 * two.results, (
        "what one takes over while the other begins it is computed twice"
    )
    assert two.last_result_at <= 1.2 * one.last_result_at


@pytest.mark.parametrize("cluster", ["ca", "cb"])
def test_a_lost_cluster_costs_nothing(cluster):
    told = play(scene(TWO, 3, models=4, controllers=(0.0, 0.0), lost_clusters={cluster: 40.0}))
    assert told.left == 0, "the calm run afterwards finds nothing to do"
    assert told.computed <= told.results + 4 * 2


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_weather_nothing_is_lost_or_doubled(seed):
    draw = random.Random(seed)
    told = play(
        scene(
            TWO, seed, models=2, controllers=tuple(draw.uniform(0, 60) for _ in range(draw.choice((2, 3, 4)))),
            orphans=draw.random() < 0.5, weather=dice(random.Random(f"weather {seed}"), 8),
        )
    )  # fmt: skip
    assert told.results == play(scene(TWO, seed, models=2)).results
    assert told.quarantined == 0
