"""What a run leaves for the next one to be compared with, in a real directory."""

from __future__ import annotations

import gzip
import json

import pytest
from cases.reports import night

from orchestrator.errors import Damaged
from orchestrator.reports import lastrun
from orchestrator.reports.cases import cases_of
from orchestrator.reports.rundiff import COLUMNS, differences, figures_of
from orchestrator.stores.local import LocalStore

A, B, C = (f"20261120T01000{i}Z-aaaaaa" for i in range(3))


def keep(store, run, fleet, rows):
    lastrun.keep(store, run, lastrun.FIGURES, fleet, rows)


def last(store, before):
    return lastrun.last(store, lastrun.FIGURES, COLUMNS, "demo", before)


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


@pytest.fixture(scope="module")
def cases():
    return cases_of(night(models=2, recipes=2, blocks=1))


def test_the_last_run_of_the_same_fleet_comes_back_whole(store, cases):
    keep(store, A, "demo", figures_of(cases))
    keep(store, B, "another", [])
    run, figures = last(store, C)
    assert run == A
    assert figures == figures_of(cases)
    assert differences(figures, cases).items == ()


def test_only_runs_before_it_count(store, cases):
    keep(store, B, "demo", figures_of(cases))
    assert last(store, A) == ("", [])
    assert last(store, B) == ("", [])


def test_runs_that_left_no_figures_are_passed_over(store):
    keep(store, A, "demo", [])
    store.put(f"runs/{B}/status.json", b"{}")
    assert last(store, C) == (A, [])


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"[]"), gzip.compress(b'{"fleet": "demo", "cases": [{}]}')],
    ids=["empty", "no gzip", "a list", "a case without its figures"],
)
def test_figures_that_cannot_be_read_are_named(store, content):
    store.put(f"runs/{A}/{lastrun.FIGURES}", content)
    with pytest.raises(Damaged, match=f"runs/{A}/{lastrun.FIGURES}.*remove it"):
        last(store, B)


def test_the_same_figures_are_the_same_bytes_and_small(store, cases):
    for run in (A, B):
        keep(store, run, "demo", figures_of(cases))
    one, other = (store.get(f"runs/{run}/{lastrun.FIGURES}") for run in (A, B))
    assert one == other
    assert len(one) < 2_000
    assert len(json.loads(gzip.decompress(one))["cases"]) == 4
