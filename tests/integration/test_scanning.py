"""A fleet's registries become one catalog, with a memory in the store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath

import pytest

from orchestrator.errors import RegistryError
from orchestrator.scanning import memory_key, scan, wanted_registries
from orchestrator.spec import Fleet, load_fleet
from orchestrator.stores.local import LocalStore

AT = 4e9
"""Long after every file of these tests was written."""


def weights() -> bytes:
    text = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4)


def make(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"architectures": ["TinyForCausalLM"]}')
    (directory / "model.safetensors").write_bytes(weights())


def fleet(base: Path, registries: str = "one two", matches: str = "*", publish: str = "") -> Fleet:
    lines = ["version: 1", "name: demo", "store: ./out", "registries:"]
    lines += [f"  {name}: {{kind: directory, path: ./{name}}}" for name in registries.split()]
    lines += ["datasets:", "  data: {kind: text, path: data.jsonl}", "recipes:"]
    for number, match in enumerate(matches.split()):
        lines += [
            f"  r{number}:",
            f'    match: {{registry: "{match}"}}',
            "    prune: {criterion: magnitude, amount: 0.5}",
            "    evaluate: {dataset: data, metric: loss}",
            "    gates: {max_drop: 0.1}",
        ]
        lines += [f"    publish: {{registry: {publish}, alias: candidate}}"] if publish else []
    return load_fleet("\n".join(lines), "fleet.yaml", PurePosixPath(base))


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def test_every_registry_that_a_recipe_matches_is_scanned_in_the_fleets_order(tmp_path, store):
    make(tmp_path / "two" / "b" / "v1")
    make(tmp_path / "one" / "z" / "v1")
    make(tmp_path / "one" / "a" / "v1")
    found = scan(fleet(tmp_path), store, AT)
    assert [model.id for model in found.catalog.versions] == ["one/a@v1", "one/z@v1", "two/b@v1"]
    assert found.impossible == ()
    assert found.warnings == ()


def test_a_registry_that_no_recipe_matches_is_not_looked_at(tmp_path, store):
    make(tmp_path / "one" / "a" / "v1")
    demo = fleet(tmp_path, matches="one")
    assert wanted_registries(demo) == ("one",)
    assert [model.registry for model in scan(demo, store, AT).catalog.versions] == ["one"]
    assert store.stat(memory_key("two")) is None


def test_a_registry_that_is_missing_is_impossible_and_the_others_go_on(tmp_path, store):
    make(tmp_path / "one" / "a" / "v1")
    found = scan(fleet(tmp_path, matches="* two one"), store, AT)
    assert [model.id for model in found.catalog.versions] == ["one/a@v1"]
    (impossible,) = found.impossible
    assert impossible.subject == "registry two"
    assert impossible.recipe == "r0, r1"
    assert str(tmp_path / "two") in impossible.reason


def test_when_no_registry_can_be_read_it_is_an_error_that_names_them_all(tmp_path, store):
    with pytest.raises(RegistryError, match=r"registry one: .*\nregistry two: ") as caught:
        scan(fleet(tmp_path), store, AT)
    assert caught.value.exit_code == 69


def test_a_registry_that_is_only_published_to_may_not_be_there_yet(tmp_path, store):
    make(tmp_path / "one" / "a" / "v1")
    found = scan(fleet(tmp_path, "one out", publish="out"), store, AT)
    assert found.impossible == ()
    assert len(found.catalog.versions) == 1


def test_a_target_that_is_there_and_cannot_be_read_is_a_problem(tmp_path, store):
    make(tmp_path / "one" / "a" / "v1")
    (tmp_path / "out").write_text("a file")
    assert len(scan(fleet(tmp_path, "one out", publish="out"), store, AT).impossible) == 1


def test_what_is_remembered_makes_the_second_scan_equal_and_writes_nothing(tmp_path, store):
    make(tmp_path / "one" / "a" / "v1")
    make(tmp_path / "two" / "b" / "v1")
    first = scan(fleet(tmp_path), store, AT)
    etag = store.stat(memory_key("one"))
    assert scan(fleet(tmp_path), store, AT + 86_400) == first
    assert store.stat(memory_key("one")) == etag


def test_the_memory_is_believed_so_that_weights_are_not_read(tmp_path, store):
    """Shown by a memory that lies: the lie comes back, since nothing was read that could contradict it."""
    make(tmp_path / "one" / "a" / "v1")
    demo = fleet(tmp_path, "one")
    truth = scan(demo, store, AT).catalog.versions[0].digest
    lie = store.get(memory_key("one")).replace(truth.encode(), b"0" * 64)
    store.put(memory_key("one"), lie)
    assert scan(demo, store, AT).catalog.versions[0].digest == "0" * 64


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b'{"format": 1, "versions": 7}', b'{"format": 99, "versions": {}}']
)
def test_a_damaged_memory_is_ignored_with_a_warning_and_rebuilt(tmp_path, store, data):
    make(tmp_path / "one" / "a" / "v1")
    demo = fleet(tmp_path, "one")
    first = scan(demo, store, AT)
    good = store.get(memory_key("one"))
    store.put(memory_key("one"), data)
    second = scan(demo, store, AT)
    assert second.catalog == first.catalog
    assert len(second.warnings) == 1
    assert "catalog/one.json" in second.warnings[0]
    assert store.get(memory_key("one")) == good
    assert scan(demo, store, AT).warnings == ()


def test_a_version_that_is_removed_leaves_the_catalog_and_the_memory(tmp_path, store):
    make(tmp_path / "one" / "a" / "v1")
    make(tmp_path / "one" / "b" / "v1")
    demo = fleet(tmp_path, "one")
    scan(demo, store, AT)
    shutil.rmtree(tmp_path / "one" / "a")
    assert [model.name for model in scan(demo, store, AT).catalog.versions] == ["b"]
    assert b'"a/v1"' not in store.get(memory_key("one"))


def test_broken_versions_are_in_the_catalog(tmp_path, store):
    make(tmp_path / "one" / "a" / "v1")
    (tmp_path / "one" / "a" / "v1" / "model.safetensors").write_bytes(b"")
    (broken,) = scan(fleet(tmp_path, "one"), store, AT).catalog.versions
    assert broken.problem
    assert broken.digest == ""
