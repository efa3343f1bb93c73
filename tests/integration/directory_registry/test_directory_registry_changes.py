"""A directory of models that changes while it is read, and is read only once."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from cases.model_directories import make, scan, weights

from orchestrator.domain import ModelVersion
from orchestrator.errors import BrokenInvariant, ModelChanged, RegistryError
from orchestrator.registries.directory import DirectoryRegistry
from orchestrator.registries.memory import dump_memory, load_memory


def test_a_file_that_changes_while_it_is_hashed_is_reported_and_not_believed(tmp_path):
    make(tmp_path / "lm" / "v1")
    path = tmp_path / "lm" / "v1" / "model.safetensors"
    stop = threading.Event()

    def keep_writing() -> None:
        size = 4
        while not stop.is_set():
            size = size % 1000 + 1
            path.write_bytes(weights(size))

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        found = [model for _ in range(200) for model in scan(tmp_path)]
    finally:
        stop.set()
        writer.join()
    assert len(found) == 200
    assert all(model.problem or model.digest for model in found)
    (settled,) = scan(tmp_path)
    assert settled.problem == ""


def test_versions_that_appear_vanish_and_turn_into_links_do_not_crash_a_scan(tmp_path):
    root, outside = tmp_path / "zoo", make(tmp_path / "outside" / "secret", 999)
    for number in range(20):
        make(root / f"m{number}" / "v1")
    stop = threading.Event()

    def disturb() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 1) % 20
            place = root / f"m{number}"
            shutil.rmtree(place)
            place.symlink_to(outside.parent)
            place.unlink()
            make(place / "v1")

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        found = [model for _ in range(60) for model in scan(root)]
    finally:
        stop.set()
        disturber.join()
    assert len(found) > 60
    assert all(model.problem or (model.digest and model.parameters == 4) for model in found)
    assert not [model for model in found if model.parameters == 999]


def test_a_fetch_beside_a_writer_gives_what_was_planned_or_says_that_it_changed(tmp_path):
    root = tmp_path / "zoo"
    make(root / "lm" / "v1", 100_000)
    (planned,) = scan(root)
    path, good = root / "lm" / "v1" / "model.safetensors", weights(100_000)
    stop = threading.Event()

    def keep_writing() -> None:
        while not stop.is_set():
            os.truncate(path, 50_000)
            path.write_bytes(b"\1" * 200_000)
            path.unlink()
            path.symlink_to("/etc/passwd")
            path.unlink()
            path.write_bytes(good)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    outcomes = {"fetched": 0, "changed": 0}
    try:
        for number in range(150):
            into = tmp_path / f"into{number}"
            into.mkdir()
            try:
                DirectoryRegistry("zoo", root).fetch(planned, into)
            except ModelChanged:
                outcomes["changed"] += 1
            else:
                outcomes["fetched"] += 1
                assert (into / "model.safetensors").read_bytes() == good
    finally:
        stop.set()
        writer.join()
    assert sum(outcomes.values()) == 150
    assert outcomes["changed"] > 0


def test_a_version_swapped_for_a_link_to_equal_bytes_is_still_refused(tmp_path):
    root = tmp_path / "zoo"
    make(root / "lm" / "v1")
    (planned,) = scan(root)
    shutil.move(root / "lm", tmp_path / "moved")
    (root / "lm").symlink_to(tmp_path / "moved")
    (tmp_path / "into").mkdir()
    with pytest.raises(ModelChanged):
        DirectoryRegistry("zoo", root).fetch(planned, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


def test_a_registry_that_is_gone_is_not_a_model_that_changed(tmp_path):
    root = tmp_path / "zoo"
    make(root / "lm" / "v1")
    (planned,) = scan(root)
    shutil.move(root, tmp_path / "elsewhere")
    (tmp_path / "into").mkdir()
    with pytest.raises(RegistryError) as caught:
        DirectoryRegistry("zoo", root).fetch(planned, tmp_path / "into")
    assert not isinstance(caught.value, ModelChanged)


def test_fetch_wants_an_empty_directory(tmp_path):
    make(tmp_path / "zoo" / "lm" / "v1")
    (planned,) = scan(tmp_path / "zoo")
    make(tmp_path / "into")
    with pytest.raises(BrokenInvariant, match="not empty"):
        DirectoryRegistry("zoo", tmp_path / "zoo").fetch(planned, tmp_path / "into")


def test_a_scan_that_is_given_up_leaves_nothing_open(tmp_path):
    for number in range(100):
        make(tmp_path / f"m{number}" / "v1")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        scanning = DirectoryRegistry("zoo", tmp_path).scan()
        next(scanning)
        scanning.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def later(root: Path) -> float:
    """A moment at which nothing in the registry counts as just written."""
    return max(path.stat().st_ctime for path in root.rglob("*")) + 60


def night(root: Path, stored: bytes | None, at: float) -> tuple[list[ModelVersion], bytes]:
    memory, problem = load_memory(stored, at)
    assert problem == ""
    return scan(root, memory), dump_memory(memory)


def test_a_quiet_night_opens_no_file_at_all(tmp_path, openings):
    for number in range(20):
        make(tmp_path / f"m{number}" / "v1")
    openings.clear()
    first, stored = night(tmp_path, None, later(tmp_path))
    assert openings.count("model.safetensors") == 40, "each once for its header and once for its digest"
    openings.clear()
    second, again = night(tmp_path, stored, later(tmp_path) + 86_400)
    assert second == first
    assert again == stored
    assert [name for name in openings if "." in name] == []


def test_only_what_changed_is_read(tmp_path, openings):
    for number in range(5):
        make(tmp_path / f"m{number}" / "v1")
    _, stored = night(tmp_path, None, later(tmp_path))
    make(tmp_path / "m3" / "v1", 8)
    make(tmp_path / "new" / "v1")
    openings.clear()
    found, _ = night(tmp_path, stored, later(tmp_path))
    assert openings.count("model.safetensors") == 4
    assert [model.parameters for model in found] == [4, 4, 4, 8, 4, 4]


def test_of_a_changed_version_only_the_changed_file_is_hashed(tmp_path, openings):
    make(tmp_path / "lm" / "v1")
    _, stored = night(tmp_path, None, later(tmp_path))
    (tmp_path / "lm" / "v1" / "config.json").write_text('{"architectures": ["New"]}')
    openings.clear()
    (found,), _ = night(tmp_path, stored, later(tmp_path))
    assert found.architecture == "New"
    assert openings.count("model.safetensors") == 1, "its header only"
    assert found.digest == scan(tmp_path)[0].digest


def test_a_rewrite_with_the_same_size_and_time_is_noticed(tmp_path):
    directory = make(tmp_path / "lm" / "v1")
    (first,), stored = night(tmp_path, None, later(tmp_path))
    path = directory / "model.safetensors"
    times = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\1")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (second,), _ = night(tmp_path, stored, later(tmp_path))
    assert second.digest != first.digest


def test_a_file_replaced_by_another_of_the_same_size_and_time_is_noticed(tmp_path):
    directory = make(tmp_path / "lm" / "v1")
    path = directory / "model.safetensors"
    os.utime(path, (1, 1))
    (first,), stored = night(tmp_path, None, later(tmp_path))
    other = directory / "other"
    other.write_bytes(path.read_bytes()[:-1] + b"\1")
    os.utime(other, (1, 1))
    other.rename(path)
    (second,), _ = night(tmp_path, stored, later(tmp_path))
    assert second.digest != first.digest


def test_what_was_written_just_now_is_read_again_the_next_time(tmp_path, openings):
    make(tmp_path / "lm" / "v1")
    _, stored = night(tmp_path, None, later(tmp_path) - 60)
    openings.clear()
    night(tmp_path, stored, later(tmp_path))
    assert openings.count("model.safetensors") == 2


def test_a_broken_version_is_looked_at_every_night(tmp_path):
    make(tmp_path / "lm" / "v1")
    (tmp_path / "lm" / "v1" / "model.safetensors").write_bytes(b"")
    found, stored = night(tmp_path, None, later(tmp_path))
    assert found[0].problem
    found, _ = night(tmp_path, stored, later(tmp_path))
    assert found[0].problem


def test_a_shard_that_vanishes_is_noticed_although_the_rest_is_remembered(tmp_path):
    directory = make(tmp_path / "lm" / "v1")
    (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    found, stored = night(tmp_path, None, later(tmp_path))
    assert found[0].problem == ""
    (directory / "model-00001-of-00001.safetensors").unlink()
    found, _ = night(tmp_path, stored, later(tmp_path))
    assert "not there" in found[0].problem
