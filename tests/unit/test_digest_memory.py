"""What is remembered of files, under which identity, and what happens to a memory that cannot be trusted."""

from __future__ import annotations

import json

import pytest

from orchestrator.registries.memory import (
    FORMAT,
    DigestMemory,
    FileIdentity,
    Summary,
    dump_memory,
    load_memory,
)

AT = 1_000_000.0
OLD = int((AT - 100) * 1e9)
FILE = FileIdentity(10, OLD, OLD, 7)
SUMMARY = Summary(digest="d" * 64, architecture="A", bytes=10, parameters=3, format="safetensors")


def again(memory: DigestMemory, at: float = AT + 86_400) -> DigestMemory:
    """The next night's memory, through the store."""
    loaded, problem = load_memory(dump_memory(memory), at)
    assert problem == ""
    return loaded


def remembered(files: dict[str, FileIdentity], at: float = AT) -> DigestMemory:
    memory = DigestMemory(at)
    memory.remember("m/v1", files, dict.fromkeys(files, "a" * 64), SUMMARY)
    return again(memory)


def test_a_version_whose_files_are_the_same_is_known_without_reading():
    assert remembered({"model.safetensors": FILE}).summary("m/v1", {"model.safetensors": FILE}) == SUMMARY


def test_another_version_with_the_same_files_is_not_known():
    assert remembered({"model.safetensors": FILE}).summary("m/v2", {"model.safetensors": FILE}) is None


@pytest.mark.parametrize("field", FileIdentity._fields)
def test_any_part_of_the_identity_that_differs_makes_it_unknown(field):
    memory = remembered({"model.safetensors": FILE})
    other = FILE._replace(**{field: getattr(FILE, field) + 1})
    assert memory.summary("m/v1", {"model.safetensors": other}) is None
    assert memory.sha256("m/v1", "model.safetensors", other) is None


@pytest.mark.parametrize(
    "files", [{}, {"a": FILE}, {"a": FILE, "b": FILE, "c": FILE}, {"a": FILE, "c": FILE}]
)
def test_another_set_of_files_makes_a_version_unknown(files):
    assert remembered({"a": FILE, "b": FILE}).summary("m/v1", files) is None


def test_one_changed_file_leaves_the_digests_of_the_others():
    memory = remembered({"a": FILE, "b": FILE})
    changed = {"a": FILE, "b": FILE._replace(bytes=11)}
    assert memory.summary("m/v1", changed) is None
    assert memory.sha256("m/v1", "a", FILE) == "a" * 64
    assert memory.sha256("m/v1", "b", changed["b"]) is None


def test_a_file_without_a_digest_counts_for_the_set_and_has_none():
    memory = DigestMemory(AT)
    memory.remember("m/v1", {"a": FILE, "beside.safetensors": FILE}, {"a": "a" * 64}, SUMMARY)
    memory = again(memory)
    assert memory.summary("m/v1", {"a": FILE, "beside.safetensors": FILE}) == SUMMARY
    assert memory.sha256("m/v1", "beside.safetensors", FILE) is None


@pytest.mark.parametrize(
    ("modified", "changed", "is_remembered"),
    [
        (AT - 100, AT - 100, True),
        (AT - 2.5, AT - 2.5, True),
        (AT - 1.5, AT - 1.5, False),
        (AT, AT, False),
        (AT + 1, AT + 1, False),
        (AT - 100, AT - 1, False),
        (AT - 100, AT + 50, False),
        (AT - 1, AT - 100, False),
        (AT + 10**9, AT - 100, True),
        (0, AT - 100, True),
    ],
)
def test_a_file_touched_within_two_seconds_of_the_scan_is_not_remembered(modified, changed, is_remembered):
    """A modification time in the far future is somebody's setting; the time of change cannot be set."""
    file = FileIdentity(10, int(modified * 1e9), int(changed * 1e9), 7)
    memory = remembered({"a": file, "b": FILE})
    assert (memory.summary("m/v1", {"a": file, "b": FILE}) is not None) == is_remembered
    assert (memory.sha256("m/v1", "a", file) is not None) == is_remembered
    assert memory.sha256("m/v1", "b", FILE) == "a" * 64


def test_what_was_known_is_still_known_on_the_third_night():
    second = remembered({"a": FILE})
    assert second.summary("m/v1", {"a": FILE}) == SUMMARY
    assert again(second).summary("m/v1", {"a": FILE}) == SUMMARY


def test_a_version_that_was_not_seen_is_forgotten():
    second = remembered({"a": FILE})
    assert again(second).summary("m/v1", {"a": FILE}) is None


def test_a_night_without_changes_stores_the_same_bytes():
    first = remembered({"b": FILE, "a": FILE})
    data = json.dumps({"format": FORMAT, "versions": first.before}, separators=(",", ":")).encode()
    first.summary("m/v1", {"a": FILE, "b": FILE})
    assert dump_memory(first) == data


def test_without_a_memory_everything_is_unknown_and_nothing_is_wrong():
    memory, problem = load_memory(None, AT)
    assert problem == ""
    assert memory.summary("m/v1", {"a": FILE}) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"format": 1}',
        b'{"format": 1, "versions": []}',
        b'{"format": 0, "versions": {}}',
        b'{"format": 999, "versions": {}}',
        b'{"versions": {}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_memory_is_ignored_with_the_reason(data):
    memory, problem = load_memory(data, AT)
    assert problem
    assert memory.summary("m/v1", {"a": FILE}) is None


GOOD = {"files": {"a": [*FILE, "a" * 64]}, "summary": ["d" * 64, "A", 10, 3, "safetensors"]}


def test_the_entry_that_the_next_test_damages_is_good():
    memory = DigestMemory(AT, {"m/v1": GOOD})
    assert memory.summary("m/v1", {"a": FILE}) == SUMMARY


@pytest.mark.parametrize(
    "entry",
    [
        None,
        7,
        [],
        {},
        {**GOOD, "files": None},
        {**GOOD, "files": []},
        {**GOOD, "files": {"a": None}},
        {**GOOD, "files": {"a": 7}},
        {**GOOD, "files": {"a": []}},
        {**GOOD, "files": {"a": "text!"}},
        {**GOOD, "files": {"a": [*FILE]}},
        {**GOOD, "files": {"a": [*FILE, None]}},
        {**GOOD, "files": {"a": [*FILE, "a" * 64, "more"]}},
        {**GOOD, "files": {"a": [[], {}, None, "x", "a" * 64]}},
        {**GOOD, "summary": None},
        {**GOOD, "summary": []},
        {**GOOD, "summary": ["", "A", 10, 3]},
        {**GOOD, "summary": ["d" * 64, "A", 10]},
        {**GOOD, "summary": ["d" * 64, "A", "10", 3]},
        {**GOOD, "summary": ["d" * 64, None, 10, 3]},
        {**GOOD, "summary": "text"},
    ],
)
def test_a_damaged_entry_is_unknown_and_does_no_harm(entry):
    memory = DigestMemory(AT, {"m/v1": entry})
    assert memory.summary("m/v1", {"a": FILE}) is None
    assert memory.sha256("m/v1", "a", FILE) in (None, "a" * 64)
