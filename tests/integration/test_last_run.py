"""What a run leaves for the next one to be compared with, in a real directory."""

from __future__ import annotations

import gzip
import json

import pytest
from cases.reports import night

from orchestrator import lastrun
from orchestrator.errors import Damaged
from orchestrator.reportcases import cases_of
from orchestrator.rundiff import differences, figures_of
from orchestrator.stores.local import LocalStore

A, B, C = (f"20261120T01000{i}Z-aaaaaa" for i in range(3))


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


@pytest.fixture(scope="module")
def cases():
    return cases_of(night(models=2, recipes=2, blocks=1))


def test_the_last_run_of_the_same_fleet_comes_back_whole(store, cases):
    lastrun.keep(store, A, "demo", figures_of(cases))
    lastrun.keep(store, B, "another", [])
    run, figures = lastrun.last(store, C, "demo")
    assert run == A
    assert figures == figures_of(cases)
    assert differences(figures, cases).items == ()


def test_only_runs_before_it_count(store, cases):
    lastrun.keep(store, B, "demo", figures_of(cases))
    assert lastrun.last(store, A, "demo") == ("", [])
    assert lastrun.last(store, B, "demo") == ("", [])


def test_runs_that_left_no_figures_are_passed_over(store):
    lastrun.keep(store, A, "demo", [])
    store.put(f"runs/{B}/status.json", b"{}")
    assert lastrun.last(store, C, "demo") == (A, [])


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", gzip.compress(b"[]"), gzip.compress(b'{"fleet": "demo", "cases": [{}]}')]
)
def test_figures_that_cannot_be_read_are_named(store, content):
    store.put(f"runs/{A}/{lastrun.NAME}", content)
    with pytest.raises(Damaged, match=f"runs/{A}/{lastrun.NAME}.*remove it"):
        lastrun.last(store, B, "demo")


def test_the_same_figures_are_the_same_bytes_and_small(store, cases):
    for run in (A, B):
        lastrun.keep(store, run, "demo", figures_of(cases))
    one, other = (store.get(f"runs/{run}/{lastrun.NAME}") for run in (A, B))
    assert one == other
    assert len(one) < 2_000
    assert len(json.loads(gzip.decompress(one))["cases"]) == 4
