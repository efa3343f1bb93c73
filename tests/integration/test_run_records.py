"""Runs as `status` sees them, and the set of finished units."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cases.commands import typed

from orchestrator import runs
from orchestrator.errors import Damaged, NotFound, UnknownRun
from orchestrator.stores.local import LocalStore
from orchestrator.tables import listing, results
from orchestrator.tables.records import read_records


def put_status(store: Any, run_id: str, **status: Any) -> None:
    store.put(f"runs/{run_id}/status.json", json.dumps({"run_id": run_id, **status}).encode())


def test_runs_are_listed_newest_first_whatever_they_are_called(any_store: Any) -> None:
    put_status(any_store, "b", started_at=200.0, state="ended")
    put_status(any_store, "a", started_at=300)
    put_status(any_store, "c", started_at=100.0)
    any_store.put("runs/c/attempts/status.json", b"{}")
    any_store.put("runs/d/closed.json", b"{}")
    assert [status["run_id"] for status in runs.list_runs(any_store)] == ["a", "b", "c"]
    assert runs.latest(any_store) == "a"
    assert runs.read_status(any_store, "b") == {"run_id": "b", "started_at": 200.0, "state": "ended"}


def test_a_status_of_another_age_is_read_as_it_is(local_store: LocalStore) -> None:
    put_status(local_store, "old", started_at="2020", units={"done": 1}, novelty=[1])
    assert runs.read_status(local_store, "old")["novelty"] == [1]
    assert runs.list_runs(local_store)[0]["units"] == {"done": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000])
def test_a_status_that_cannot_be_read_hides_no_other(local_store: LocalStore, content: bytes) -> None:
    put_status(local_store, "good", started_at=1.0)
    local_store.put("runs/torn/status.json", content)
    listed = {status["run_id"]: status for status in runs.list_runs(local_store)}
    assert listed["good"]["started_at"] == 1.0
    assert "cannot be read" in listed["torn"]["problem"] or "no mapping" in listed["torn"]["problem"]
    with pytest.raises(Damaged, match="runs/torn/status.json"):
        runs.read_status(local_store, "torn")


def test_an_unknown_run_is_told_with_those_that_are_there(local_store: LocalStore) -> None:
    with pytest.raises(UnknownRun, match="no run yet"):
        runs.read_status(local_store, "x")
    with pytest.raises(UnknownRun, match="no run"):
        runs.latest(local_store)
    put_status(local_store, "2026-11-22-nightly")
    with pytest.raises(UnknownRun, match="did you mean 2026-11-22-nightly"):
        runs.read_status(local_store, "2026-11-21-nightly")
    for run_id in ("../secret", "", "a/b"):
        with pytest.raises(UnknownRun):
            runs.read_status(local_store, run_id)


def test_a_report_is_read_once_it_is_there(local_store: LocalStore) -> None:
    put_status(local_store, "r1")
    with pytest.raises(NotFound, match="when the run ends"):
        runs.read_report(local_store, "r1")
    local_store.put("runs/r1/report.html", b"<html>")
    assert runs.read_report(local_store, "r1") == b"<html>"
    with pytest.raises(UnknownRun):
        runs.read_report(local_store, "r2", "report.md")


def test_what_is_completed_is_what_is_listed(
    any_store: Any, commit_units: Callable[..., None], unit_key: Callable[[int], str]
) -> None:
    assert listing.completed(any_store) == frozenset()
    commit_units(any_store, range(6))
    assert listing.completed(any_store) == {unit_key(number) for number in range(6)}
    foreign = [
        "results/x",
        "results/prune/x.arrow",
        f"results/dance/00/{'0' * 64}.arrow",
        f"results/prune/11/{'0' * 64}.arrow",
    ]
    for key in foreign:
        any_store.put(key, b"")
    found = listing.listing(any_store)
    assert len(found.results) == 6
    assert found.foreign == 4
    assert found.results[unit_key(1)][0] == "prune"
    assert results.read(any_store, "prune", unit_key(1)).provenance["attempt"] == "a1"
    with pytest.raises(NotFound):
        results.read(any_store, "prune", unit_key(99))


def test_a_large_store_is_listed_in_parts_with_the_same_answer(
    any_store: Any, commit_units: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_units(any_store, range(40))
    any_store.put(f"results/prune/00/{'f' * 64}.arrow", b"")
    whole = listing.listing(any_store)
    for first in (1, 7, 41):
        monkeypatch.setattr(listing, "_FIRST_PAGES", first)
        assert listing.listing(any_store) == whole


def test_a_result_that_is_damaged_stops_its_own_commit_with_advice(
    local_store: LocalStore, commit_units: Callable[..., None], unit_key: Callable[[int], str]
) -> None:
    commit_units(local_store, range(1))
    key = listing.result_key("sensitivity", unit_key(0))
    whole = local_store.get(key)
    local_store.put(key, b"torn")
    with pytest.raises(Damaged, match=f"{unit_key(0)}.*delete the object"):
        results.commit(local_store, "sensitivity", unit_key(0), whole)


def test_a_run_is_meant_by_its_id_by_a_beginning_that_no_other_has_or_as_the_latest(
    local_store: LocalStore,
) -> None:
    for at, run_id in enumerate(("20261122T01-aa", "20261123T01-bb", "20261123T01-bbb")):
        put_status(local_store, run_id, started_at=float(at))
    assert runs.named(local_store, "20261122") == "20261122T01-aa"
    assert runs.named(local_store, "20261123T01-bb") == "20261123T01-bb"
    assert runs.named(local_store, "latest") == "20261123T01-bbb"
    with pytest.raises(UnknownRun, match="did you mean 20261123T01-bb, 20261123T01-bbb"):
        runs.named(local_store, "20261123")
    with pytest.raises(UnknownRun):
        runs.named(local_store, "")


def test_a_run_that_nothing_has_begun_yet_is_not_told_as_unknown(local_store: LocalStore) -> None:
    local_store.put("runs/sent/submission.json", b"{}")
    with pytest.raises(UnknownRun, match="run sent in .* has no status yet"):
        runs.read_status(local_store, runs.named(local_store, "sent"))


HUGE = 10**400


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"units": 5}, "units are no counts"),
        ({"units": {"done": None}}, "units are no counts"),
        ({"pools": [3]}, "pools are no counts"),
        ({"pools": {"cpu": {"slots": "2", "running": 1}}}, "pools are no counts"),
        ({"eta_seconds": "soon"}, "eta_seconds are no number"),
        ({"started_at": HUGE, "to_do": HUGE}, ""),
        ({"started_at": float("nan"), "finished_at": float("inf")}, ""),
    ],
)
def test_a_status_that_nobody_here_wrote_is_shown_or_told_and_hides_no_other(tmp_path, odd, why) -> None:
    store = LocalStore(tmp_path)
    put_status(store, "good", started_at=1.0, units={"done": 7})
    put_status(store, "odd", **odd)
    done = typed(tmp_path, "status", "--store", ".", check=0)
    assert "7" in done.stdout
    assert (why in done.stderr) if why else not done.stderr
    typed(tmp_path, "status", "odd", "--store", ".", check=69 if why else 0)


def test_what_a_status_says_does_nothing_to_the_terminal(tmp_path) -> None:
    put_status(LocalStore(tmp_path), "x", fleet="\x1b]0;mine\x07\u202e[red]", outcome="do\rne")
    done = typed(tmp_path, "status", "--store", ".", check=0)
    assert "\\u001b]0;mine\\u0007\\u202e[red]" in done.stdout
    assert not {"\x1b", "\x07", "\r", "\u202e"} & {*done.stdout}


@pytest.mark.parametrize(
    "odd", [{"started_at": HUGE}, {"finished_at": float("inf")}, {"exit_code": float("inf")}]
)
def test_a_record_with_impossible_numbers_is_left_out_of_the_table_and_named(local_store, odd) -> None:
    local_store.put("runs/good/closed.json", json.dumps({"exit_code": 0}).encode())
    local_store.put("runs/odd/closed.json", json.dumps(odd).encode())
    found = read_records(local_store, "runs")
    assert found.table["run_id"].to_pylist() == ["good"]
    assert [why.partition(":")[0] for why in found.skipped] == ["runs/odd/closed.json"]
