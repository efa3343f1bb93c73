"""Nights under weather: whatever goes wrong, all that can be done is done once, and only the guilty are blamed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.simulation.bodies import HOPELESS, Nature
from orchestrator.simulation.night import play
from orchestrator.simulation.scenes import ANALYSIS, POOLS, QUICK, WHOLE, random_scene, still_scene
from orchestrator.simulation.weather import Fate, Loss, Script, Strike
from orchestrator.simulator import failures_on_all_cores, main

SEEDS = 300
KNOWN = 100
SOAK_SECONDS = float(os.environ.get("PRUNEFLEET_SOAK_SECONDS", "3000"))
FIRST_SOAK_SEED = 1_000_000
PER_ROUND = 2_000


@pytest.mark.timeout(900)
def test_hundreds_of_nights_of_random_weather_hold():
    """Those below `KNOWN` are played where their evils are counted; `make soak` plays thousands more."""
    assert failures_on_all_cores(range(KNOWN, SEEDS)) == {}


@pytest.mark.soak
@pytest.mark.timeout(SOAK_SECONDS + 600)
def test_as_many_nights_as_there_is_time_for_hold(capsys, record_property):
    end, seed = time.monotonic() + SOAK_SECONDS, FIRST_SOAK_SEED
    while time.monotonic() < end:
        assert failures_on_all_cores(range(seed, seed + PER_ROUND)) == {}
        seed += PER_ROUND
    record_property("nights", seed - FIRST_SOAK_SEED)
    with capsys.disabled():
        print(f" {seed - FIRST_SOAK_SEED:,} nights in {SOAK_SECONDS:.0f} s ", end="")


def test_a_night_without_weather_does_everything_once():
    told = play(still_scene(models=2, recipes=(WHOLE, QUICK)))
    assert told.results == told.computed == 2 * (6 + 1)
    assert told.quarantined == 0
    assert told.lives == 2, "the run, and the calm one that finds nothing to do"


@pytest.mark.parametrize("nature", list(Nature))
def test_a_unit_that_is_at_fault_hurts_nobody_else(nature):
    scene = still_scene(models=3, recipes=(WHOLE, QUICK), natures=(nature,))
    told = play(scene)
    lost = 4 if nature in HOPELESS else 0
    assert told.quarantined == (nature in HOPELESS)
    assert told.results == 3 * (6 + 1) - lost, "its own chain, and nothing more"


@pytest.mark.parametrize("nature", sorted(HOPELESS))
def test_what_is_quarantined_is_not_tried_by_the_next_run(nature):
    alone = play(still_scene(recipes=(QUICK,), natures=(nature,)))
    assert alone.quarantined == 1
    assert alone.attempts <= 4


@pytest.mark.parametrize("count", [2, 16])
def test_many_controllers_at_once_agree_on_every_result(count):
    told = play(still_scene(models=2, recipes=(WHOLE,), controllers=(0.0,) * count))
    assert told.results == 2 * 6
    assert told.quarantined == 0


def test_waiting_in_the_queue_of_a_busy_cluster_is_nobodys_fault():
    fates = dict.fromkeys(range(8), Fate.SILENT)
    told = play(still_scene(models=2, controllers=(0.0,) * 16, weather=Script(fates=fates)))
    assert told.quarantined == 0
    assert told.results == 2 * 6


@pytest.mark.parametrize("fate", list(Fate))
def test_a_fate_that_meets_every_other_attempt_is_survived(fate):
    fates = dict.fromkeys(range(0, 40, 2), fate)
    told = play(still_scene(models=2, recipes=(WHOLE, QUICK), weather=Script(fates=fates)))
    assert told.results == 2 * (6 + 1)
    if fate is Fate.MUTE:
        assert told.lives == 2, "who is not heard of by two deadlines waits for the next run"
    else:
        assert told.left == 0, "the run itself brought everything to its end"


@pytest.mark.parametrize("strike", list(Strike))
def test_a_strike_on_every_seventh_effect_is_survived(strike):
    strikes = dict.fromkeys(range(3, 700, 7), strike)
    told = play(
        still_scene(models=2, recipes=(WHOLE, QUICK), controllers=(0.0, 5.0), weather=Script(strikes=strikes))
    )
    assert told.results == 2 * (6 + 1)


def test_half_of_the_nodes_go_at_once_and_do_not_come_back():
    losses = [Loss(0.3, node, 1e6) for node in (0, 2)]
    told = play(still_scene(models=3, recipes=(WHOLE,), pools=POOLS[2], weather=Script(losses=losses)))
    assert told.results == 3 * 6
    assert (told.lives, told.left) == (2, 0), "the run goes on with the rest"


def test_without_any_node_the_run_ends_and_the_next_one_goes_on():
    losses = [Loss(0.1, node, 5_000.0) for node in (0, 1)]
    told = play(still_scene(weather=Script(losses=losses)))
    assert told.results == 6


def test_a_zombie_that_commits_late_changes_nothing():
    told = play(still_scene(recipes=(ANALYSIS,), weather=Script(fates={0: Fate.ZOMBIE, 1: Fate.ZOMBIE})))
    assert told.results == 5
    assert told.quarantined == 0


def test_a_controller_that_stands_still_for_ten_minutes_disturbs_nobody():
    for number in range(24):
        told = play(still_scene(controllers=(0.0, 1.0), weather=Script(strikes={number: Strike.PAUSE})))
        assert told.results == 6


NUMBERS = st.integers(0, 150)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    strikes=st.dictionaries(NUMBERS, st.sampled_from(Strike), max_size=12),
    fates=st.dictionaries(st.integers(0, 30), st.sampled_from(Fate), max_size=8),
    losses=st.lists(
        st.builds(Loss, st.floats(0, 50), st.integers(0, 5), st.sampled_from((10.0, 300.0, 20_000.0))),
        max_size=3,
    ),
    natures=st.lists(st.sampled_from(Nature), max_size=2),
    recipes=st.sampled_from(((WHOLE,), (QUICK,), (ANALYSIS, QUICK))),
    pools=st.sampled_from(POOLS),
    controllers=st.lists(st.sampled_from((0.0, 0.3, 30.0)), min_size=1, max_size=3),
    orphans=st.booleans(),
)
def test_any_list_of_faults_is_survived(
    strikes, fates, losses, natures, recipes, pools, controllers, orphans
):
    """`play` holds every invariant after every step, and then lets a calm run finish."""
    scene = still_scene(
        recipes=recipes,
        pools=pools,
        natures=natures,
        controllers=tuple(controllers),
        weather=Script(strikes=strikes, fates=fates, losses=losses),
        orphans=orphans,
    )
    told = play(scene)
    wanted = play(replace(scene, controllers=(0.0,), weather=Script(), orphans=False))
    assert (told.results, told.quarantined) == (wanted.results, wanted.quarantined)
    assert told.computed >= told.results


@pytest.mark.parametrize("seed", [0, 12, 63])
def test_the_same_seed_is_the_same_night(seed):
    first, second = (play(random_scene(seed), keeps_lines=True) for _ in range(2))
    assert first.lines == second.lines
    assert first == second


def test_the_same_seed_is_the_same_night_in_another_process():
    command = [sys.executable, "-m", "orchestrator.simulator", "--seed", "12"]
    traces = [
        subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": hashes}
        )
        for hashes in ("1", "2")
    ]
    assert traces[0].stdout == traces[1].stdout
    assert play(random_scene(12)).digest in traces[0].stdout


def test_random_weather_knows_every_evil():
    befell = Counter()
    for seed in range(KNOWN):
        befell.update(play(random_scene(seed)).befell)
    wanted = {f"strike: {strike}" for strike in Strike} | {f"fate: {fate}" for fate in Fate}
    assert {evil for evil, count in befell.items() if count >= 3} == wanted


def test_two_seeds_are_two_nights():
    assert play(random_scene(1)).digest != play(random_scene(2)).digest


def test_a_seed_can_be_replayed_from_the_command_line(capsys):
    assert main(["--seed", "3"]) == 0
    told = capsys.readouterr().out
    assert "c0.1: begins" in told
    assert "calm.1: over" in told
