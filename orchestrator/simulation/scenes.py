"""Pure. Small nights: fleets, models, units with something wrong with them, controllers and weather, all from a seed."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import PurePosixPath

from orchestrator.domain import Catalog, ModelVersion
from orchestrator.planning import DataFile, build_plan
from orchestrator.simulation.bodies import Nature
from orchestrator.simulation.night import Scene
from orchestrator.simulation.weather import Script, Weather, dice
from orchestrator.spec import Fleet, load_fleet

DATA = {"text": DataFile(path="/data/text.jsonl", digest="d" * 64, bytes=1_000)}
HEAD = """
version: 1
name: simulated
store: /nowhere
registries: {zoo: {kind: directory, path: /zoo}}
datasets: {text: {kind: text, path: /data/text.jsonl}}
recipes:
"""
WHOLE = """
  whole:
    match: {registry: zoo}
    sensitivity: {dataset: text, split: calibration, units: 2}
    prune: {criterion: wanda, amount: 0.5, allocation: sensitivity}
    evaluate: {dataset: text, split: test, metric: perplexity}
"""
QUICK = """
  quick:
    match: {registry: zoo}
    prune: {criterion: magnitude, amount: 0.5}
"""
ANALYSIS = """
  analysis:
    match: {registry: zoo}
    sensitivity: {dataset: text, split: calibration, units: 4}
    prune: {criterion: wanda, amount: 0.3, allocation: sensitivity}
"""
POOLS = (
    "pools: {cpu: {cpus: 2}}",
    "pools: {cpu: {cpus: 5, memory: 40GiB}}",
    "pools: {cpu: {cpus: 2}, gpu: {gpus: 2, cpus: 2}}",
    "pools: {cpu: {cpus: 3}, gpu: {gpus: 1, cpus: 4, memory: 40GiB}, spot: {cpus: 1}}",
)
RECIPES = ((WHOLE,), (QUICK,), (QUICK,), (ANALYSIS,), (ANALYSIS,), (QUICK, ANALYSIS), (ANALYSIS, WHOLE))
SIZES = (10**5, 10**7, 10**9)  # bytes


@functools.cache
def fleet_of(recipes: tuple[str, ...], pools: str) -> Fleet:
    """A fleet of these parts."""
    return load_fleet(HEAD + "".join(recipes) + pools, "fleet.yaml", PurePosixPath("/"))


def model_of(number: int, size: int) -> ModelVersion:
    """A model version of so many bytes."""
    return ModelVersion(
        registry="zoo",
        name=f"m{number}",
        version="1",
        digest=f"{number:064x}",
        uri=f"/zoo/m{number}",
        format="safetensors",
        bytes=size,
        parameters=size // 4,
        architecture="LlamaForCausalLM",
    )


def still_scene(
    *,
    models: int = 1,
    recipes: tuple[str, ...] = (WHOLE,),
    pools: str = POOLS[0],
    natures: Sequence[Nature] = (),
    controllers: tuple[float, ...] = (0.0,),
    weather: Weather | None = None,
    orphans: bool = False,
) -> Scene:
    """A night that is written down; the first units of the plan get the natures, in their order."""
    fleet = fleet_of(recipes, pools)
    catalog = Catalog(versions=tuple(model_of(number, SIZES[0]) for number in range(models)))
    keys = build_plan(fleet, catalog, frozenset(), DATA, {}).todo
    return Scene(
        seed=0,
        fleet=fleet,
        catalog=catalog,
        data=DATA,
        natures=dict(zip(keys, natures, strict=False)),
        controllers=controllers,
        weather=weather or Script(),
        orphans=orphans,
    )


def random_scene(seed: int) -> Scene:
    """A night of 1 to about 30 units under the weather of a seed."""
    rng = random.Random(seed)
    fleet = fleet_of(rng.choice(RECIPES), rng.choice(POOLS))
    catalog = Catalog(
        versions=tuple(model_of(number, rng.choice(SIZES)) for number in range(rng.randint(1, 3)))
    )
    keys = build_plan(fleet, catalog, frozenset(), DATA, {}).todo
    share = rng.choice((0.0, 0.1, 0.3))
    natures = {key: rng.choice(list(Nature)) for key in keys if rng.random() < share}
    nodes = sum(int(pool.cpus) for pool in fleet.pools.values())
    return Scene(
        seed=seed,
        fleet=fleet,
        catalog=catalog,
        data=DATA,
        natures=natures,
        controllers=tuple(sorted(rng.uniform(0, 100) for _ in range(rng.choice((1, 1, 1, 2, 3, 16))))),
        lives=rng.randint(1, 4),
        restart_seconds=rng.choice((0.0, 5.0, 600.0)),
        orphans=rng.random() < 0.5,
        weather=dice(random.Random(f"weather {seed}"), nodes),
    )
