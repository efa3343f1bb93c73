"""What the zoo remembers of jobs that are done, and when it does them again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def records(from_examples: Callable[[str], ModuleType]) -> ModuleType:
    return from_examples("records")


@pytest.fixture
def made(records: ModuleType, tmp_path: Path):
    """A zoo with one job of two files, and its record."""
    directory = tmp_path / "models" / "one"
    (directory / "1").mkdir(parents=True)
    (directory / "1" / "config.json").write_text("{}")
    (directory / "1" / "model.safetensors").write_bytes(b"weights")
    record = records.Record(key="k", files=records.digests(tmp_path, directory), scores=[{"value": 0.5}])
    return tmp_path, directory, record


def test_files_are_recorded_relative_to_the_zoo(made):
    _, _, record = made
    assert sorted(record.files) == ["models/one/1/config.json", "models/one/1/model.safetensors"]


def test_a_job_with_its_files_is_intact(records, made):
    zoo, directory, record = made
    assert records.is_intact(zoo, record, "k", directory)


def test_a_job_without_a_record_is_not(records, made):
    zoo, directory, _ = made
    assert not records.is_intact(zoo, None, "k", directory)


def test_other_sources_make_a_job_due(records, made):
    zoo, directory, record = made
    assert not records.is_intact(zoo, record, "other", directory)


def test_one_changed_byte_makes_a_job_due(records, made):
    zoo, directory, record = made
    (directory / "1" / "model.safetensors").write_bytes(b"Weights")
    assert not records.is_intact(zoo, record, "k", directory)


def test_a_missing_file_makes_a_job_due(records, made):
    zoo, directory, record = made
    (directory / "1" / "config.json").unlink()
    assert not records.is_intact(zoo, record, "k", directory)


def test_a_missing_directory_makes_a_job_due(records, made):
    zoo, directory, record = made
    shutil.rmtree(directory)
    assert not records.is_intact(zoo, record, "k", directory)


def test_a_file_too_many_makes_a_job_due(records, made):
    zoo, directory, record = made
    (directory / "1" / "extra.bin").write_bytes(b"")
    assert not records.is_intact(zoo, record, "k", directory)


def test_records_are_read_as_they_were_written(records, made):
    zoo, _, record = made
    records.write_records(zoo, {"one": record})
    assert records.read_records(zoo) == {"one": record}


def test_scores_of_all_jobs_stand_in_one_file_by_name(records, made):
    zoo, _, record = made
    other = records.Record(key="k", files={}, scores=[{"value": 1}, {"value": 2}])
    records.write_records(zoo, {"two": record, "one": other})
    assert json.loads((zoo / "scores.json").read_text()) == [{"value": 1}, {"value": 2}, {"value": 0.5}]


def test_nothing_is_left_beside_the_records(records, made):
    zoo, _, record = made
    records.write_records(zoo, {"one": record})
    assert sorted(path.name for path in zoo.iterdir()) == ["models", "records.json", "scores.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"one": 3}', '{"one": {"key": "k"}}', '{"one": {"a": 1}}']
)
def test_records_that_cannot_be_read_count_as_none(records, tmp_path: Path, text: str):
    (tmp_path / "records.json").write_text(text)
    assert records.read_records(tmp_path) == {}


def test_no_records_are_no_records(records, tmp_path: Path):
    assert records.read_records(tmp_path) == {}


def test_the_key_follows_the_sources(records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sources = Path(records.__file__).parent
    for path in sources.glob("*.py"):
        shutil.copy(path, tmp_path / path.name)
    before = records.source_key()
    monkeypatch.setattr(records, "__file__", str(tmp_path / "records.py"))
    assert records.source_key() == before
    with (tmp_path / "settings.py").open("a") as settings:
        settings.write("# another\n")
    assert records.source_key() != before


def test_the_key_follows_the_libraries(records, monkeypatch: pytest.MonkeyPatch):
    before = records.source_key()
    monkeypatch.setattr(records, "version", lambda name: "0.0.0")
    assert records.source_key() != before
