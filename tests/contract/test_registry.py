"""What every registry does, whatever it is made of. A new registry adds one maker to `MAKERS`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from servers.tiny_files import model, tensors

from orchestrator.domain import ModelVersion
from orchestrator.errors import ModelChanged, RegistryError
from orchestrator.identity import digest_bytes, digest_files
from orchestrator.ports import Registry
from orchestrator.registries.directory import DirectoryRegistry

Files = Mapping[str, bytes]


@dataclass
class Place:
    """A registry that can be written to: `put` makes or replaces a version, `remove` takes it away."""

    registry: Registry
    root: Path

    def put(self, name: str, version: str, files: Files) -> None:
        directory = self.root / name / version
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            path.unlink()
        for file, data in files.items():
            (directory / file).write_bytes(data)

    def remove(self, name: str, version: str) -> None:
        for path in (self.root / name / version).iterdir():
            path.unlink()
        (self.root / name / version).rmdir()

    def scan(self) -> list[ModelVersion]:
        return list(self.registry.scan())

    def one(self) -> ModelVersion:
        (model,) = self.scan()
        return model


def directory(tmp_path: Path) -> Place:
    (tmp_path / "registry").mkdir()
    return Place(DirectoryRegistry("zoo", tmp_path / "registry"), tmp_path / "registry")


MAKERS = {"directory": directory}


@pytest.fixture(params=sorted(MAKERS))
def place(request, tmp_path):
    return MAKERS[request.param](tmp_path)


@pytest.fixture
def into(tmp_path):
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def digest_of(files: Files) -> str:
    return digest_files({name: digest_bytes(data) for name, data in files.items()})


def test_an_empty_registry_has_no_versions(place):
    assert place.scan() == []


def test_a_version_is_described_by_its_own_bytes(place):
    files = model()
    place.put("lm", "v1", files)
    found = place.one()
    assert (found.registry, found.name, found.version) == ("zoo", "lm", "v1")
    assert found.id == "zoo/lm@v1"
    assert found.digest == digest_of(files)
    assert found.architecture == "TinyForCausalLM"
    assert found.format == "safetensors"
    assert found.bytes == len(files["model.safetensors"])
    assert found.parameters == 17
    assert found.problem == ""
    assert dict(found.tags) == {}
    assert found.uri


def test_versions_come_in_the_order_in_which_people_count(place):
    for version in ("v10", "v2", "v1", "v1.10", "v1.9"):
        place.put("lm", version, model())
    place.put("another", "v1", model())
    place.put("lm10", "v1", model())
    place.put("lm9", "v1", model())
    order = [found.id for found in place.scan()]
    assert order == [
        "zoo/another@v1",
        "zoo/lm@v1",
        "zoo/lm@v1.9",
        "zoo/lm@v1.10",
        "zoo/lm@v2",
        "zoo/lm@v10",
        "zoo/lm9@v1",
        "zoo/lm10@v1",
    ]
    assert [found.id for found in place.scan()] == order


def test_equal_bytes_have_equal_digests_wherever_they_are(place):
    place.put("a", "v1", model())
    place.put("b", "v7", model())
    first, second = place.scan()
    assert first.digest == second.digest


@pytest.mark.parametrize(
    "change",
    [
        {"config.json": json.dumps({"architectures": ["Other"]}).encode()},
        {"model.safetensors": tensors(a=(4, 3), b=(6,))},
        {"model.safetensors": model()["model.safetensors"][:-1] + b"\1"},
        {"tokenizer.json": b"{}"},
        {"generation_config.json": b"{}"},
        {"vocab.txt": b"a"},
        {"merges.txt": b"a b"},
        {"special_tokens_map.json": b"{}"},
        {"preprocessor_config.json": b"{}"},
        {"LICENSE": b"do what you want"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_how_the_model_computes_is_in_its_digest(place, change):
    place.put("lm", "v1", model())
    before = place.one().digest
    place.put("lm", "v1", {**model(), **change})
    assert place.one().digest != before


@pytest.mark.parametrize(
    "name", ["README.md", ".gitattributes", "aliases.json", "training_log.csv", "modeling.py"]
)
def test_what_is_written_about_a_model_is_not_in_its_digest(place, into, name):
    place.put("lm", "v1", model())
    before = place.one()
    place.put("lm", "v1", {**model(), name: b"changed"})
    assert place.one().digest == before.digest
    place.registry.fetch(before, into)
    assert not (into / name).exists()


def test_a_model_in_shards_is_one_version(place):
    shards = {
        "model-00001-of-00002.safetensors": tensors(a=(4, 3)),
        "model-00002-of-00002.safetensors": tensors(b=(5,)),
    }
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    files = {"config.json": model()["config.json"], "model.safetensors.index.json": index, **shards}
    place.put("lm", "v1", files)
    found = place.one()
    assert found.problem == ""
    assert found.parameters == 17
    assert found.bytes == sum(map(len, shards.values()))
    assert found.digest == digest_of(files)


def test_weights_that_the_model_does_not_name_are_left_alone(place, into):
    files = model()
    place.put(
        "lm", "v1", {**files, "consolidated.safetensors": tensors(a=(40, 3)), "pytorch_model.bin": b"pickle"}
    )
    found = place.one()
    assert found.digest == digest_of(files)
    assert found.bytes == len(files["model.safetensors"])
    place.registry.fetch(found, into)
    assert {path.name for path in into.iterdir()} == set(files)


def test_a_sentence_encoder_right_below_the_registry_is_one_version_with_its_modules(tmp_path, into):
    zoo = directory(tmp_path)
    files = model(**{"modules.json": b"[]", "1_Pooling/config.json": b"{}"})
    for path, data in files.items():
        (zoo.root / "encoder" / path).parent.mkdir(parents=True, exist_ok=True)
        (zoo.root / "encoder" / path).write_bytes(data)
    found = zoo.one()
    assert (found.id, found.problem, found.digest) == ("zoo/encoder@main", "", digest_of(files))
    zoo.registry.fetch(found, into)
    assert (into / "1_Pooling" / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize("folder", ["1_Pooling", "1_Pooling/config.json"])
def test_a_link_among_the_modules_is_followed_nowhere(tmp_path, into, folder):
    zoo = directory(tmp_path)
    zoo.put("encoder", "v1", model(**{"modules.json": b"[]"}))
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.json").write_bytes(b"secret")
    link = zoo.root / "encoder" / "v1" / folder
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "secret" / ("config.json" if "/" in folder else ""))
    found = zoo.one()
    if found.problem:
        assert "a symbolic link, which is never followed" in found.problem
    else:
        zoo.registry.fetch(found, into)
        assert not (into / "1_Pooling").exists()


def test_what_prunefleet_made_is_tagged(place):
    place.put("lm", "v1", model(**{"prunefleet.json": b"{}"}))
    assert dict(place.one().tags) == {"prunefleet": "artifact"}


def broken() -> dict[str, tuple[dict[str, bytes], str]]:
    good, weights = model(), model()["model.safetensors"]
    config = good["config.json"]
    index = json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}).encode()
    escaping = json.dumps({"weight_map": {"a": "../../secret.safetensors"}}).encode()
    return {
        "no config": ({"model.safetensors": weights}, "config.json"),
        "no weights": ({"config.json": config}, "no weights"),
        "pickled weights": ({"config.json": config, "pytorch_model.bin": b"\x80\x02"}, "pickled"),
        "only pickled weights": ({"pytorch_model.bin": b"\x80\x02"}, "pickled"),
        "gguf": ({"config.json": config, "model.gguf": b"GGUF"}, "GGUF"),
        "program that is no archive": ({"config.json": config, "model.pt2": b"PK\x03\x04"}, "no zip archive"),
        "program of another name": (
            {"config.json": config, "net.pt2": b"PK\x03\x04"},
            "Name the file model.pt2",
        ),
        "empty weights": ({**good, "model.safetensors": b""}, "empty"),
        "lfs pointer": (
            {**good, "model.safetensors": b"version https://git-lfs.github.com/spec/v1\n"},
            "git lfs pull",
        ),
        "lfs config": (
            {**good, "config.json": b"version https://git-lfs.github.com/spec/v1\n"},
            "git lfs pull",
        ),
        "web page": ({**good, "model.safetensors": b"<!DOCTYPE html><html>404"}, "web page"),
        "cut short": ({**good, "model.safetensors": weights[:-3]}, "ends before its data"),
        "long header": ({**good, "model.safetensors": b"\xff" * 64}, "header"),
        "missing shard": ({"config.json": config, "model.safetensors.index.json": index}, "not there"),
        "escaping shard": ({"config.json": config, "model.safetensors.index.json": escaping}, "plain name"),
        "config is not JSON": ({**good, "config.json": b"{"}, "not JSON"),
        "config is a list": ({**good, "config.json": b"[]"}, "not an object"),
        "config is deep": ({**good, "config.json": b'{"a":' * 50_000 + b"1" + b"}" * 50_000}, "nested"),
        "config is large": ({**good, "config.json": b'{"a": "' + b"x" * 5_000_000 + b'"}'}, "long"),
        "config without architecture": ({**good, "config.json": b"{}"}, "architectures"),
        "architecture is no text": ({**good, "config.json": b'{"architectures": [7]}'}, "architectures"),
        "architecture has escapes": (
            {**good, "config.json": b'{"architectures": ["\\u001b[31m"]}'},
            "architectures",
        ),
    }


@pytest.mark.parametrize("case", broken())
def test_a_broken_version_is_reported_with_its_problem_and_without_a_digest(place, case):
    files, words = broken()[case]
    place.put("bad", "v1", files)
    place.put("good", "v1", model())
    bad, good = place.scan()
    assert bad.id == "zoo/bad@v1"
    assert words in bad.problem
    assert bad.digest == ""
    assert bad.problem.isprintable()
    assert good.problem == ""


def test_a_broken_version_keeps_the_architecture_that_its_config_names(place):
    place.put("bad", "v1", {**model(), "model.safetensors": b""})
    assert place.one().architecture == "TinyForCausalLM"


def test_fetch_copies_exactly_what_the_digest_covers(place, into):
    files = model(**{"tokenizer.json": b'{"x": 1}'})
    place.put("lm", "v1", files)
    found = place.one()
    place.registry.fetch(found, into)
    assert {path.name: path.read_bytes() for path in into.iterdir()} == files
    assert all(path.stat().st_nlink == 1 for path in into.iterdir()), "a hard link would follow the source"


def test_what_was_fetched_does_not_change_with_the_source(place, into):
    files = model()
    place.put("lm", "v1", files)
    place.registry.fetch(place.one(), into)
    place.put("lm", "v1", {**files, "config.json": b"changed"})
    assert (into / "config.json").read_bytes() == files["config.json"]


def test_a_version_that_changed_since_it_was_planned_is_refused_with_both_digests(place, into):
    place.put("lm", "v1", model())
    planned = place.one()
    place.put("lm", "v1", model("OtherForCausalLM"))
    with pytest.raises(ModelChanged) as caught:
        place.registry.fetch(planned, into)
    assert planned.digest in str(caught.value)
    assert place.one().digest in str(caught.value)


@pytest.mark.parametrize(
    "files",
    [
        {**model(), "model.safetensors": model()["model.safetensors"][:-1]},
        {**model(), "model.safetensors": b""},
        {"config.json": model()["config.json"]},
        {"model.safetensors": model()["model.safetensors"]},
        {"README.md": b"moved"},
    ],
    ids=["truncated", "emptied", "weights gone", "config gone", "all gone"],
)
def test_a_version_that_broke_since_it_was_planned_has_changed(place, into, files):
    place.put("lm", "v1", model())
    planned = place.one()
    place.put("lm", "v1", files)
    with pytest.raises(ModelChanged, match=planned.digest):
        place.registry.fetch(planned, into)


def test_a_version_that_is_gone_has_changed(place, into):
    place.put("lm", "v1", model())
    planned = place.one()
    place.remove("lm", "v1")
    with pytest.raises(ModelChanged, match="no longer there"):
        place.registry.fetch(planned, into)


@pytest.mark.parametrize(
    "name", ["..", "../other", "a/../b", "/etc", "lm/../../x", "", ".hidden", "a\0b", "a\nb", "\x1b[2J"]
)
@pytest.mark.parametrize("field", ["name", "version"])
def test_a_version_whose_name_is_a_trick_is_not_fetched(place, into, name, field):
    place.put("lm", "v1", model())
    with pytest.raises(RegistryError) as caught:
        place.registry.fetch(replace(place.one(), **{field: name}), into)
    assert str(caught.value).isprintable()
    assert list(into.iterdir()) == []
