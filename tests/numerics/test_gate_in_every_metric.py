"""The gate's promises kept from outcome rows to verdict, in every metric, for examples and for documents of them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from cases.drawn_models import METRICS, verdict_of

MODELS = 60


def verdicts(metric, size, drop, *, documents, models=MODELS, **asked):
    rng = np.random.default_rng([len(metric), size, documents])
    models = models // 5 if metric == "f1" else models
    found = Counter(verdict_of(metric, rng, documents, size, drop, **asked) for _ in range(models))
    return {name: count / models for name, count in found.items()}, models


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("metric", METRICS)
def test_a_model_that_loses_just_its_margin_hardly_ever_passes(metric, size):
    found, models = verdicts(metric, size, 0.1, documents=60)
    assert found.get("pass", 0.0) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / models)


@pytest.mark.parametrize("metric", METRICS)
def test_nor_does_it_where_looks_share_the_error(metric):
    found, _ = verdicts(metric, 1, 0.1, documents=60, look=8)
    assert found.get("pass", 0.0) <= 0.05


@pytest.mark.parametrize("look", [None, 8])
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("metric", METRICS)
def test_a_model_that_loses_far_more_is_blocked(metric, size, look):
    found, _ = verdicts(metric, size, 0.9, documents=60, models=10, margin=0.05, look=look)
    assert found == {"block": 1.0}


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("metric", METRICS)
def test_a_model_that_loses_nothing_passes_where_there_are_examples_enough(metric, size):
    found, _ = verdicts(metric, size, 0.0, documents=400, models=5, margin=0.05)
    assert found == {"pass": 1.0}
