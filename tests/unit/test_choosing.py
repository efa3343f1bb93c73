"""Which of several artifacts that passed gets the alias."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from orchestrator.promotion.publishing import Candidate, choose, published_version


def candidate(version: str = "v1", recipe: str = "r", nonzero: int = 100, drop: float = 0.0) -> Candidate:
    return Candidate(
        version=version, recipe=recipe, artifact_digest=recipe * 64, nonzero_parameters=nonzero, drop=drop
    )


TABLE = {
    "the only one": ([candidate()], 0),
    "the newest source": ([candidate("v2"), candidate("v10"), candidate("v9")], 1),
    "the newest source, even if it is larger and worse": (
        [candidate("v1", nonzero=1, drop=0.0), candidate("v2", nonzero=9, drop=0.9)],
        1,
    ),
    "then the fewest nonzero parameters": (
        [candidate(nonzero=50), candidate(nonzero=40), candidate(nonzero=60)],
        1,
    ),
    "then the fewest nonzero parameters, even if it is worse": (
        [candidate(nonzero=50, drop=0.0), candidate(nonzero=40, drop=0.1)],
        1,
    ),
    "then the smallest drop": ([candidate(drop=0.02), candidate(drop=0.01)], 1),
    "a gain is a negative drop": ([candidate(drop=0.0), candidate(drop=-0.01)], 1),
    "a drop that is no number is the worst": ([candidate(drop=math.nan), candidate(drop=0.5)], 1),
    "then the recipe's name": ([candidate(recipe="b"), candidate(recipe="a"), candidate(recipe="c")], 1),
    "an older source does not compete": (
        [candidate("v1", recipe="a", nonzero=1), candidate("v2", recipe="c"), candidate("v2", recipe="b")],
        2,
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_rule_as_a_table(case):
    candidates, winner = TABLE[case]
    assert choose(candidates) is candidates[winner]


@pytest.mark.parametrize("case", TABLE)
def test_the_order_in_which_they_come_does_not_matter(case):
    candidates, winner = TABLE[case]
    for order in itertools.permutations(candidates):
        assert choose(order) is candidates[winner]


def test_the_winner_of_random_candidates_is_beaten_by_none():
    generator = random.Random(5)
    for _ in range(200):
        candidates = [
            candidate(
                f"v{generator.randint(1, 12)}",
                generator.choice("abc"),
                generator.randint(1, 4),
                generator.random(),
            )
            for _ in range(generator.randint(1, 12))
        ]
        winner = choose(candidates)
        number = int(winner.version[1:])
        assert all(int(other.version[1:]) <= number for other in candidates)
        rivals = [other for other in candidates if other.version == winner.version]
        assert winner.nonzero_parameters == min(other.nonzero_parameters for other in rivals)


def test_a_published_version_says_from_what_it_was_made():
    assert published_version("v2", "lm-half", "0123456789abcdef" * 4) == "v2-lm-half-0123456789ab"
