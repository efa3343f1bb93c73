"""Every kind of damage in a store is found and named, with what to do; a sound store is read and left as it is."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.care import verification
from orchestrator.care.verification import verify
from orchestrator.domain import ModelVersion
from orchestrator.promotion.aliases import move_alias, move_to
from orchestrator.promotion.publishing import publish
from orchestrator.registries.directory_outlet import DirectoryOutlet
from orchestrator.spec import Fleet
from orchestrator.stores.local import LocalStore
from orchestrator.tables import results

AT = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
DATA = b'{"text": "one"}\n' * 50


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def root(store):
    return Path(store.url)


@pytest.fixture
def target(tmp_path):
    return DirectoryOutlet("out", tmp_path / "out")


@pytest.fixture
def fleet(store, target):
    recipe = {"evaluate": {"dataset": "d", "metric": "loss"}}
    return Fleet.model_validate({
        "version": 1, "name": "f", "store": store.url, "registries": {"out": {"kind": "directory", "path": target.url}},
        "datasets": {"d": {"kind": "text", "path": "d.jsonl"}}, "recipes": {"r": recipe},
    })  # fmt: skip


@pytest.fixture
def kept(store, keep_pruned):
    """A store with two pruned models and a dataset; the results' keys and the artifacts' digests."""
    made = [keep_pruned(store, number, size=1000) for number in range(2)]
    store.put(f"data/{hashlib.sha256(DATA).hexdigest()}", DATA)
    return made


@pytest.fixture
def published(store, kept, target):
    """Both artifacts became versions; the alias points to the second."""
    found = []
    for number, (_, digest) in enumerate(kept):
        model = ModelVersion(
            registry="zoo", name="org/lm", version=f"v{number}", digest="d" * 64, uri="", format="safetensors", bytes=1,
            parameters=1, architecture="TinyForCausalLM",
        )  # fmt: skip
        made = publish(
            store, target, model=model, recipe="half", artifact_digest=digest, verdict_key="e" * 64, at=AT + number,
            actor="me", run_id="r1",
        )  # fmt: skip
        move_alias(store, target, move_to(made, registry="out", alias="best", reason="good", fleet="f"))
        found.append(Path(target.url, "org/lm", made.version))
    return found


def meaning(key, data):
    """What a reader takes from an object: Arrow and JSON have bytes that mean nothing."""
    if key.endswith(".arrow"):
        read = results.decode(data)
        return read.table, read.provenance
    return json.loads(data) if key.endswith(".json") else data


def told(done):
    return [(damage.kind, damage.subject) for damage in done.damages]


def test_a_sound_store_is_read_whole_and_left_as_it_is(store, root, kept, published, fleet):
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    seen = []
    done = verify(store, fleet, lambda progress: seen.append(progress.bytes))
    assert told(done) == []
    assert done.counts == {"result": 2, "artifact": 2, "file": 6, "dataset": 1, "record": 2, "published": 2}
    assert done.foreign == done.unfinished == []
    assert seen == sorted(seen)
    assert done.bytes > 2 * 1000 + len(DATA)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_an_empty_store_is_sound(store, fleet):
    assert told(verify(store, fleet)) == []


def test_any_flipped_bit_that_changes_what_is_read_is_found_and_its_object_named(
    store, root, kept, published, fleet
):
    draw = random.Random(7)
    files = sorted(
        path
        for path in root.rglob("*")
        if path.is_file()
        and path.relative_to(root).parts[0] in ("results", "artifacts", "data", "promotions")
        and not path.name.startswith(".")
    )
    assert len(files) == 2 + 8 + 1 + 2
    for path in files:
        whole = path.read_bytes()
        for _ in range(6):
            place, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            done = verify(store, fleet)
            key = path.relative_to(root).as_posix()
            if not told(done):
                assert meaning(key, path.read_bytes()) == meaning(key, whole), (key, place, bit)
                continue
            assert any(key.startswith(subject) for _, subject in told(done)), (key, place, bit, told(done))
            assert all(damage.problem and damage.advice for damage in done.damages)
        path.write_bytes(whole)
    assert told(verify(store, fleet)) == []


def test_any_cut_is_found(store, root, kept):
    for path in sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")):
        whole = path.read_bytes()
        for size in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            assert told(verify(store)), (path, size)
        path.write_bytes(whole)


def test_a_result_whose_artifact_is_missing_is_named(store, root, kept):
    (key, digest), _ = kept
    shutil.rmtree(root / "artifacts" / digest)
    (damage,) = verify(store).damages
    assert (damage.kind, damage.subject) == ("artifact", f"artifacts/{digest}")
    assert key in damage.problem
    assert key in damage.advice
    assert "next run makes it again" in damage.advice


def test_a_result_whose_artifact_is_not_complete_is_named(store, root, kept):
    (key, digest), _ = kept
    (root / "artifacts" / digest / "files.json").unlink()
    (damage,) = verify(store).damages
    assert "files.json is missing" in damage.problem
    assert key in damage.problem


def test_a_missing_file_and_an_added_one_are_named(store, root, kept):
    (_, digest), _ = kept
    (root / "artifacts" / digest / "config.json").rename(root / "artifacts" / digest / "config.yaml")
    done = verify(store)
    assert told(done) == [("artifact", f"artifacts/{digest}/config.json")]
    assert done.foreign == [f"artifacts/{digest}/config.yaml"]


def test_a_result_under_another_name_is_named(store, root, kept):
    (key, _), (other, _) = kept
    store.put(key, store.get(other))
    (damage,) = verify(store).damages
    assert (damage.kind, damage.subject) == ("result", key)
    assert "it is the result of prune" in damage.problem


def test_a_damaged_result_does_not_hide_the_rest(store, root, kept):
    (key, _), (_, digest) = kept
    store.put(key, b"no Arrow")
    store.put(f"artifacts/{digest}/config.json", b"{}")
    assert told(verify(store)) == [("result", key), ("artifact", f"artifacts/{digest}/config.json")]


def test_what_is_not_ours_is_named_and_no_damage(store, kept):
    names = (
        "results/README", "results/prune/zz/x.arrow", "results/other/ab/" + "ab" * 32 + ".arrow", "artifacts/notes.txt",
        "artifacts/short/file", "data/name",
    )  # fmt: skip
    for name in names:
        store.put(name, b"hello")
    done = verify(store)
    assert told(done) == []
    assert sorted(done.foreign) == sorted(names)


def test_an_upload_that_was_not_completed_is_no_damage(store):
    store.put(f"artifacts/{'a' * 64}/model.safetensors", b"half")
    done = verify(store)
    assert told(done) == []
    assert done.unfinished == [f"artifacts/{'a' * 64}"]


def test_an_artifact_of_no_result_is_checked_too(store, keep_pruned):
    _, digest = keep_pruned(store, 5, with_result=False)
    store.put(f"artifacts/{digest}/config.json", b"{}")
    (damage,) = verify(store).damages
    assert "no result points to it" in damage.advice


def test_a_list_of_files_that_leads_outside_is_refused(store, root, kept):
    (_, digest), _ = kept
    evil = {"files": {"../../../etc/passwd": {"bytes": 1, "sha256": "0" * 64}}}
    store.put(f"artifacts/{digest}/files.json", json.dumps(evil).encode())
    (damage,) = verify(store).damages
    assert damage.subject == f"artifacts/{digest}"


def test_large_files_are_read_through_a_file_and_judged_alike(store, root, keep_pruned, monkeypatch):
    monkeypatch.setattr(verification, "IN_MEMORY", 1000)
    (_, digest) = keep_pruned(store, 9, size=50_000)
    assert told(verify(store)) == []
    path = root / "artifacts" / digest / "model.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    (damage,) = verify(store).damages
    assert "its SHA-256 is" in damage.problem


def test_a_published_version_that_differs_from_its_artifact_is_named(store, fleet, published):
    (published[0] / "model.safetensors").write_bytes(b"changed")
    (published[1] / "extra.txt").write_text("not ours")
    done = verify(store, fleet)
    assert told(done) == [("published", f"out/org/lm@{path.name}") for path in published]
    assert "model.safetensors has SHA-256" in done.damages[0].problem
    assert "extra.txt does not belong there" in done.damages[1].problem


def test_a_version_that_is_gone_matters_only_if_its_alias_was_moved_to_it_last(store, fleet, published):
    shutil.rmtree(published[0])
    assert told(verify(store, fleet)) == []
    shutil.rmtree(published[1])
    (damage,) = verify(store, fleet).damages
    assert "gone" in damage.problem


def test_what_another_fleet_published_elsewhere_under_the_same_names_is_not_looked_for_here(
    store, fleet, published, tmp_path
):
    elsewhere = {"out": {"kind": "directory", "path": str(tmp_path / "elsewhere")}}
    shutil.rmtree(published[1])
    other = Fleet.model_validate(
        {**fleet.model_dump(exclude_unset=True), "name": "g", "registries": elsewhere}
    )
    assert told(verify(store, other)) == []
    same = Fleet.model_validate({**fleet.model_dump(exclude_unset=True), "registries": elsewhere})
    assert told(verify(store, same)) == []


def test_without_a_fleet_nothing_published_is_looked_at(store, published):
    shutil.rmtree(published[1])
    assert told(verify(store)) == []


def test_a_link_in_a_published_version_is_no_version(store, fleet, published, tmp_path):
    (published[0] / "config.json").unlink()
    (published[0] / "config.json").symlink_to(tmp_path / "elsewhere")
    assert ("published", f"out/org/lm@{published[0].name}") in told(verify(store, fleet))


def test_a_record_that_was_changed_is_named_and_not_believed(store, fleet, root, published):
    record = sorted((root / "promotions").iterdir())[0]
    row = json.loads(record.read_bytes())
    record.write_text(json.dumps({**row, "model": "../../etc", "actor": "somebody else"}))
    done = verify(store, fleet)
    assert told(done) == [("record", f"promotions/{record.name}")]


def test_what_vanishes_while_it_is_read_is_no_damage(store, kept):
    class Vanishing(LocalStore):
        def list(self, prefix):
            found = list(super().list(prefix))
            if prefix == "results/":
                self.delete(found[0].key)
            yield from found

    assert told(verify(Vanishing(Path(store.url)))) == []
