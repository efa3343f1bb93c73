"""Effects. Plays simulated nights from their seeds, and tells what happened: `python -m orchestrator.simulator --seed 7`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from orchestrator.errors import BrokenInvariant
from orchestrator.simulation.night import play
from orchestrator.simulation.scenes import random_scene

CHUNK = 25  # seeds that a process plays before it reports


def failures(seeds: Sequence[int]) -> dict[int, str]:
    """Seed -> what did not hold, of those nights that broke an invariant."""
    found = {}
    for seed in seeds:
        try:
            play(random_scene(seed))
        except BrokenInvariant as error:
            found[seed] = str(error)
    return found


def failures_on_all_cores(seeds: Sequence[int]) -> dict[int, str]:
    """The same, with the work divided over this machine's cores."""
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    context = multiprocessing.get_context("spawn")
    found: dict[int, str] = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for part in pool.map(failures, chunks):
            found.update(part)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the trace of one seed's night, or which seeds of a range break an invariant; 1 if one does."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.simulator", description=main.__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="play this night and print its trace")
    which.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "END"), help="play these nights")
    asked = parser.parse_args(arguments)
    if asked.seed is None:
        found = failures_on_all_cores(range(*asked.seeds))
        for seed, problem in sorted(found.items()):
            sys.stdout.write(f"{seed}: {problem}\n")
        sys.stdout.write(f"{len(found)} of {len(range(*asked.seeds))} nights broke an invariant\n")
        return 1 if found else 0
    try:
        told = play(random_scene(asked.seed), keeps_lines=True)
    except BrokenInvariant as error:
        sys.stdout.write(f"{error}\n")
        return 1
    sys.stdout.write("\n".join(told.lines))
    sys.stdout.write(
        f"\n{told.results} results and {told.quarantined} quarantined after {told.lives} lives of controllers and "
        f"{told.attempts} attempts in {told.seconds:.0f} virtual seconds; trace {told.digest}\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
