"""What a sweep removes from a store and what it leaves, with others at work in the meantime."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import leases
from orchestrator.care import collection
from orchestrator.care.collection import mark, sweep_away, sweeping
from orchestrator.care.garbage import DAY, Kind, Limits
from orchestrator.care.verification import verify
from orchestrator.errors import Interrupted
from orchestrator.spec import Fleet
from orchestrator.stores.local import LocalStore

DATA = b'{"text": "one"}\n'
DATA_DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def root(store):
    return Path(store.url)


@pytest.fixture
def fleet(store, tmp_path):
    (tmp_path / "d.jsonl").write_bytes(DATA)
    return Fleet.model_validate({
        "version": 1, "name": "f", "store": store.url,
        "registries": {"zoo": {"kind": "directory", "path": str(tmp_path / "zoo")}},
        "datasets": {"d": {"kind": "text", "path": str(tmp_path / "d.jsonl")}},
        "recipes": {"r": {"evaluate": {"dataset": "d", "metric": "loss"}}},
    })  # fmt: skip


def age(path, days):
    """Makes a file, or all files below a directory, so many days old."""
    at = time.time() - days * DAY
    for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
        os.utime(one, (at, at))


def limits(**changes):
    return replace(Limits(at=time.time()), **changes)


def marked(store, fleet=None, **changes):
    return mark(store, fleet, limits(**changes))


def names(doomed):
    return sorted((one.thing.kind, one.thing.name) for one in doomed)


def sweep(store, fleet=None, **changes):
    with sweeping(store) as right:
        return sweep_away(right, mark(store, fleet, limits(**changes)))


def test_an_artifact_that_no_result_points_to_goes_when_it_is_old(store, root, keep_pruned):
    key, kept = keep_pruned(store, 1)
    _, lost = keep_pruned(store, 2, with_result=False)
    age(root / "artifacts", 6)
    assert names(marked(store).doomed) == []
    age(root / "artifacts", 8)
    assert names(marked(store).doomed) == [(Kind.ARTIFACT, lost)]
    (doomed,) = marked(store).doomed
    assert doomed.thing.bytes == sum(path.stat().st_size for path in (root / "artifacts" / lost).iterdir())
    swept = sweep(store)
    assert names(swept.removed) == [(Kind.ARTIFACT, lost)]
    assert not (root / "artifacts" / lost).exists()
    assert verify(store).damages == []
    assert store.stat(key)
    assert (root / "artifacts" / kept).is_dir()
    assert names(sweep(store).removed) == []


def test_half_an_upload_goes_and_one_that_a_result_needs_stays(store, root, keep_pruned):
    _, needed = keep_pruned(store, 1)
    store.put(f"artifacts/{'a' * 64}/model.safetensors", b"half")
    store.delete(f"artifacts/{needed}/files.json")
    age(root / "artifacts", 30)
    assert names(sweep(store).removed) == [(Kind.HALF_ARTIFACT, "a" * 64)]
    assert (root / "artifacts" / needed / "model.safetensors").exists()


@pytest.mark.parametrize("place", ["promotions", "promotions-begun"])
def test_an_artifact_that_only_a_publication_points_to_stays(store, root, keep_pruned, place):
    _, digest = keep_pruned(store, 1, with_result=False)
    store.put(f"{place}/x.json", json.dumps({"artifact_digest": digest}).encode())
    age(root, 365)
    assert names(sweep(store).removed) == []
    store.delete(f"{place}/x.json")
    assert names(sweep(store).removed) == [(Kind.ARTIFACT, digest)]


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("results/prune/{:.2}/{}.arrow", b"damaged"),
        ("results/future/{:.2}/{}.arrow", b"of a newer version"),
        ("promotions/x.json", b"no json"),
        ("promotions/x.json", b"[]"),
        ("promotions-begun/x.json", b"\xff"),
    ],
)
def test_while_a_pointer_cannot_be_read_no_artifact_goes(store, root, keep_pruned, key, data):
    keep_pruned(store, 1, with_result=False)
    unit = "ab" * 32
    store.put(key.format(unit, unit), data)
    store.put("doctor/left/x", b"")
    age(root, 365)
    found = marked(store)
    assert names(found.doomed) == [(Kind.PROBE, "left")]
    assert any("no artifact is removed" in line for line in found.held_back)


def test_a_stray_file_among_the_results_does_not_hold_anything_up(store, root, keep_pruned):
    _, digest = keep_pruned(store, 1, with_result=False)
    store.put("results/README", b"hello")
    age(root, 365)
    assert names(marked(store).doomed) == [(Kind.ARTIFACT, digest)]


def test_a_dataset_goes_only_where_a_fleet_says_that_it_is_not_wanted(store, root, fleet, tmp_path):
    old = hashlib.sha256(b"old").hexdigest()
    store.put(f"data/{old}", b"old")
    store.put(f"data/{DATA_DIGEST}", DATA)
    store.put("data/somebody's", b"")
    age(root, 30)
    assert names(marked(store).doomed) == []
    assert any("only a fleet file" in line for line in marked(store).held_back)
    assert names(marked(store, fleet).doomed) == [(Kind.DATASET, old)]
    (tmp_path / "d.jsonl").unlink()
    assert names(marked(store, fleet).doomed) == []


@pytest.mark.parametrize(
    ("status", "days", "goes"),
    [
        ({"state": "running"}, 1, False),
        ({"state": "ended"}, 1, True),
        ({"state": "running"}, 8, True),
        ("no status", 1, False),
    ],
)
def test_while_a_run_goes_on_every_dataset_stays(store, root, fleet, status, days, goes):
    store.put(f"data/{'b' * 64}", b"")
    store.put("runs/r1/status.json", json.dumps(status).encode())
    age(root, 30)
    age(root / "runs", days)
    assert bool(sweep(store, fleet).removed) == goes


def test_a_run_that_begins_between_mark_and_sweep_keeps_its_data(store, root, fleet):
    store.put(f"data/{'b' * 64}", b"")
    age(root, 30)
    found = marked(store, fleet)
    assert len(found.doomed) == 1
    store.put("runs/r1/status.json", b'{"state": "running"}')
    with sweeping(store) as right:
        swept = sweep_away(right, found)
    assert (len(swept.removed), len(swept.spared)) == (0, 1)
    assert store.stat(f"data/{'b' * 64}")


def test_an_artifact_that_is_made_again_between_mark_and_sweep_survives(store, root, keep_pruned):
    _, digest = keep_pruned(store, 1, with_result=False)
    age(root, 30)
    found = marked(store)
    assert names(found.doomed) == [(Kind.ARTIFACT, digest)]
    store.put(f"artifacts/{digest}/files.json", store.get(f"artifacts/{digest}/files.json"))
    with sweeping(store) as right:
        swept = sweep_away(right, found)
    assert names(swept.spared) == [(Kind.ARTIFACT, digest)]
    assert verify(store).damages == []


def test_an_artifact_that_was_uploaded_after_the_listing_is_not_touched(store, root, keep_pruned):
    """Its result comes later still: only its age protects it."""
    keep_pruned(store, 1, with_result=False)
    age(root, 30)
    found = marked(store)
    key, digest = keep_pruned(store, 2)
    with sweeping(store) as right:
        sweep_away(right, found)
    assert store.stat(key)
    assert (root / "artifacts" / digest).is_dir()
    assert verify(store).damages == []


def test_a_result_that_comes_between_the_two_listings_protects_its_artifact(
    store, root, keep_pruned, monkeypatch
):
    key, digest = keep_pruned(store, 1)
    data = store.get(key)
    store.delete(key)
    age(root, 30)
    real = collection.listing.listing

    def late(opened):
        store.put(key, data)
        return real(opened)

    monkeypatch.setattr(collection.listing, "listing", late)
    assert names(marked(store).doomed) == []
    assert (root / "artifacts" / digest).is_dir()


def test_the_quarantine_of_a_unit_that_has_a_result_is_over(store, root, keep_pruned):
    key, _ = keep_pruned(store, 1)
    done, failed = Path(key).stem, "f" * 64
    for unit in (done, failed):
        store.put(f"quarantine/{unit}.json", b"{}")
    age(root, 30)
    assert names(sweep(store).removed) == [(Kind.QUARANTINE, done)]
    assert store.stat(f"quarantine/{failed}.json")


def test_leftovers_of_killed_writers_and_probes_go(store, root):
    store.put("doctor/0123/create/1", b"x")
    store.put("doctor/lease-0123", b"x")
    (root / "runs").mkdir()
    (root / "runs" / ".prunefleet-0123").write_bytes(b"half")
    (root / "runs" / ".prunefleet-young").write_bytes(b"half")
    for path in (root / "doctor", root / "runs" / ".prunefleet-0123"):
        age(path, 8)
    swept = sweep(store)
    assert names(swept.removed) == [
        (Kind.PROBE, "0123"),
        (Kind.PROBE, "lease-0123"),
        (Kind.ASIDE, str(root / "runs" / ".prunefleet-0123")),
    ]
    assert not (root / "doctor" / "0123").exists()
    assert (root / "runs" / ".prunefleet-young").exists()
    assert (root / ".prunefleet-lock").exists()


def test_records_of_runs_go_only_if_asked(store, root):
    store.put("runs/old/status.json", b'{"state": "ended"}')
    store.put("runs/old/attempts/1.json", b"{}")
    store.put("runs/told/closed.json", b"{}")
    store.put("runs/young/status.json", b'{"state": "ended"}')
    store.put("promotions/x.json", json.dumps({"run_id": "told"}).encode())
    age(root, 400)
    age(root / "runs" / "young", 100)
    assert names(sweep(store).removed) == []
    assert names(sweep(store, runs_older_than=365 * DAY).removed) == [(Kind.RUN, "old")]
    assert not (root / "runs" / "old").exists()


def test_what_is_not_ours_is_never_touched(store, root):
    kept = (
        "artifacts/notes/x", "artifacts/loose", "data/name", "quarantine/readme.txt", "leases/night.json",
        "tables/units/x.parquet", "catalog/zoo.json", "publications/x.json", "results/x", "elsewhere/y",
    )  # fmt: skip
    for key in kept:
        store.put(key, b"{}")
    age(root, 4000)
    assert names(sweep(store, older_than=0.0, runs_older_than=0.0).removed) == []
    assert all(store.stat(key) for key in kept)


def test_two_sweeps_never_go_on_at_once(store):
    with sweeping(store) as first:
        assert first.warning == ""
        with pytest.raises(Interrupted, match="is going on"), sweeping(store):
            pass
    with sweeping(store):
        pass
    assert leases.holder(store, "gc").epoch == 2


def test_a_sweep_that_was_taken_over_stops(store, root, keep_pruned):
    keep_pruned(store, 1, with_result=False)
    age(root, 30)
    with sweeping(store) as right:
        found = marked(store)
        right.held = replace(right.held, lease=replace(right.held.lease, expires=time.time()))
        assert leases.acquire(store, "gc", "other", time.time() + 1000, 600.0)
        with pytest.raises(Interrupted, match="took the lease over"):
            sweep_away(right, found)
    assert len(list((root / "artifacts").iterdir())) == 1
    assert leases.holder(store, "gc").owner == "other"


def test_a_long_sweep_renews_its_lease(store, root, keep_pruned):
    keep_pruned(store, 1, with_result=False)
    age(root, 30)
    with sweeping(store) as right:
        right.held = replace(right.held, lease=replace(right.held.lease, expires=time.time() + 1))
        sweep_away(right, marked(store))
        assert leases.holder(store, "gc").expires > time.time() + 500


def test_the_age_goes_by_the_stores_clock(store):
    with sweeping(store) as right:
        assert right.at == store.stat("leases/gc.json").modified


def test_a_store_without_conditions_is_swept_with_a_warning(store, root):
    class Ignoring(LocalStore):
        def swap(self, key, data, etag):
            self.put(key, data)
            return "etag"

    store.put("doctor/left/x", b"")
    age(root, 30)
    with sweeping(Ignoring(root)) as right:
        assert right.warning.startswith("UNSAFE")
        assert names(sweep_away(right, marked(store)).removed) == [(Kind.PROBE, "left")]


def test_what_is_gone_already_is_neither_removed_nor_spared(store, root):
    store.put("doctor/left/x", b"")
    age(root, 30)
    found = marked(store)
    store.delete("doctor/left/x")
    with sweeping(store) as right:
        swept = sweep_away(right, found)
    assert (swept.removed, swept.spared) == ([], [])


def test_marking_changes_nothing(store, root, keep_pruned, fleet):
    keep_pruned(store, 1, with_result=False)
    store.put("doctor/left/x", b"")
    age(root, 30)
    before = {path: path.stat().st_mtime for path in root.rglob("*")}
    assert marked(store, fleet, runs_older_than=DAY).doomed
    assert {path: path.stat().st_mtime for path in root.rglob("*")} == before
