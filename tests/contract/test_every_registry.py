"""What registries of every kind do, in and out: a directory, a bucket (mocked and real), an MLflow server, a Hub's stand-in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cases.registry_places import MAKERS, Place, digest_of, name
from servers.tiny_files import model, tensors

from orchestrator.artifacts import upload_artifact
from orchestrator.domain import ModelVersion
from orchestrator.errors import (
    AliasMoved,
    Damaged,
    ModelChanged,
    NoSuchVersion,
    RegistryError,
)
from orchestrator.identity import digest_bytes
from orchestrator.promotion.aliases import move_alias, move_to, read_aliases
from orchestrator.promotion.publishing import publish
from orchestrator.registries.memory import DigestMemory, dump_memory, load_memory
from orchestrator.specs.registries import Select
from orchestrator.stores.local import LocalStore
from orchestrator.tables.records import read_records
from tasks.contract import BadInput
from tasks.files.configs import read_config


@pytest.fixture(
    params=[pytest.param(kind, marks=[pytest.mark.s3] if kind in ("s3", "ceph") else []) for kind in MAKERS]
)
def place(request, tmp_path) -> Iterator[Place]:
    return MAKERS[request.param](tmp_path, request)


@pytest.fixture
def into(tmp_path):
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def test_a_version_is_described_by_its_own_bytes(place):
    files = model()
    version = place.put(name(place, "lm"), "v1", files)
    (found,) = place.scan()
    assert (found.registry, found.name, found.version) == (
        "zoo",
        place.model_name(name(place, "lm")),
        version,
    )
    assert (found.digest, found.architecture, found.format) == (
        digest_of(files),
        "TinyForCausalLM",
        "safetensors",
    )
    assert (found.bytes, found.parameters, found.problem) == (len(files["model.safetensors"]), 17, "")
    assert found.uri


def test_versions_come_in_the_same_order_each_time_and_each_once(place):
    made = [
        place.put(name(place, "lm"), f"v{number}", model(**{"vocab.txt": b"%d" % number}))
        for number in range(12)
    ]
    order = [found.version for found in place.scan()]
    assert sorted(order) == sorted(made)
    assert order == made
    assert [found.version for found in place.scan()] == order


def test_fetch_copies_exactly_what_the_digest_covers(place, into):
    files = model(**{"tokenizer.json": b'{"x": 1}'})
    place.put(
        name(place, "lm"), "v1", {**files, "README.md": b"about", "consolidated.safetensors": tensors(z=(9,))}
    )
    (found,) = place.scan()
    assert found.digest == digest_of(files)
    place.registry().fetch(found, into)
    assert {path.name: path.read_bytes() for path in into.iterdir()} == files


def test_a_model_in_shards_is_one_version(place, into):
    shards = {
        "model-00001-of-00002.safetensors": tensors(a=(4, 3)),
        "model-00002-of-00002.safetensors": tensors(b=(5,)),
    }
    index = json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    )
    files = {"config.json": model()["config.json"], "model.safetensors.index.json": index.encode(), **shards}
    place.put(name(place, "lm"), "v1", files)
    (found,) = place.scan()
    assert (found.problem, found.parameters, found.digest) == ("", 17, digest_of(files))
    place.registry().fetch(found, into)
    assert {path.name for path in into.iterdir()} == set(files)


ENCODER = {
    "modules.json": b"[]",
    "sentence_bert_config.json": b"{}",
    "config_sentence_transformers.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "2_Dense/config.json": b"{}",
    "2_Dense/model.safetensors": tensors(linear=(2, 2)),
}
NOT_OF_IT = {
    "2_Dense/pytorch_model.bin": b"pickle",
    "2_Dense/code.py": b"raise SystemExit",
    "onnx/config.json": b"{}",
    "onnx/model.onnx": b"onnx",
}


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_the_modules_of_a_sentence_encoder_are_a_part_of_it_and_no_versions(place, into):
    files = model(**ENCODER)
    version = place.put(name(place, "encoder"), "v1", {**files, **NOT_OF_IT})
    (found,) = place.scan()
    assert (found.version, found.problem, found.parameters) == (version, "", 17)
    assert found.digest == digest_of(files)
    place.registry().fetch(found, into)
    assert contents(into) == files


def test_without_a_list_of_modules_a_folder_is_none_of_the_models(place, into):
    files = model()
    place.put(name(place, "lm"), "v1", {**files, "1_Pooling/config.json": b"{}"})
    found = next(one for one in place.scan() if not one.problem)
    assert found.digest == digest_of(files)
    place.registry().fetch(found, into)
    assert contents(into) == files


def test_a_module_that_changes_makes_another_model(place):
    files = model(**ENCODER)
    place.put(name(place, "encoder"), "v1", files)
    place.put(name(place, "encoder"), "v2", {**files, "1_Pooling/config.json": b'{"pooling_mode": "cls"}'})
    first, second = place.scan()
    assert first.digest != second.digest


def test_keys_of_a_config_that_reach_outside_arrive_nowhere_and_code_is_not_even_fetched(place, into):
    reaching = {
        "auto_map": {"AutoModel": "modeling_evil.Evil"}, "trust_remote_code": True, "_attn_implementation": "someone/kernel",
        "attn_implementation": "someone/kernel", "use_kernels": True, "kernel_config": {"x": "someone/kernel"},
    }  # fmt: skip
    config = {"architectures": ["TinyForCausalLM"], "model_type": "tiny", "hidden_size": 4}
    hostile = json.dumps({**config, **reaching, "text_config": reaching}).encode()
    code = {
        "modeling_evil.py": b"raise SystemExit",
        "kernel.so": b"\x7fELF",
        "tokenizer.py": b"raise SystemExit",
    }
    place.put(name(place, "lm"), "v1", {**model(), "config.json": hostile, **code})
    (found,) = place.scan()
    assert found.problem == ""
    place.registry().fetch(found, into)
    assert {path.name for path in into.iterdir()} == set(model())
    read = read_config(into, tensors=2)
    assert read.values == {"model_type": "tiny", "hidden_size": 4, "text_config": {}}
    assert {finding.kind for finding in read.findings} == {"ignored_config_key"}
    assert {finding.subject for finding in read.findings} == {
        *reaching,
        *(f"text_config.{key}" for key in reaching),
    }


def test_a_version_that_is_compressed_already_is_refused_where_it_is_loaded(place, into):
    config = {"architectures": ["TinyForCausalLM"], "sparsity_config": {"format": "evil.py:run"}}
    place.put(name(place, "lm"), "v1", {**model(), "config.json": json.dumps(config).encode()})
    (found,) = place.scan()
    place.registry().fetch(found, into)
    with pytest.raises(BadInput, match="already quantized or compressed"):
        read_config(into, tensors=2)


BROKEN: dict[str, tuple[Callable[[], dict[str, bytes]], str]] = {
    "no config": (lambda: {"model.safetensors": model()["model.safetensors"]}, "config.json"),
    "pickled": (lambda: {"config.json": model()["config.json"], "pytorch_model.bin": b"\x80\x02"}, "pickled"),
    "cut short": (lambda: {**model(), "model.safetensors": model()["model.safetensors"][:-3]}, "ends before"),
    "lfs pointer": (lambda: {**model(), "model.safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, "git lfs"),
    "escaping": (
        lambda: {
            "config.json": model()["config.json"],
            "model.safetensors.index.json": b'{"weight_map": {"a": "../../x.safetensors"}}',
        },
        "plain name",
    ),
    "two models": (
        lambda: {**model(), "model.safetensors.index.json": b'{"weight_map": {"a": "model.safetensors"}}'},
        "lies beside it",
    ),
}  # fmt: skip


def test_broken_versions_say_what_is_wrong_and_stop_nobody(place):
    for number, (files, _) in enumerate(BROKEN.values()):
        place.put(name(place, f"bad{number}"), "v1", files())
    place.put(name(place, "good"), "v1", model())
    *bad, good = place.scan()
    assert (good.problem, good.digest) == ("", digest_of(model()))
    for found, (_, words) in zip(bad, BROKEN.values(), strict=True):
        assert words in found.problem
        assert found.digest == ""
        assert found.problem.isprintable()


def test_a_version_that_is_gone_has_changed(place, into):
    version = place.put(name(place, "lm"), "v1", model())
    (planned,) = place.scan()
    place.remove(name(place, "lm"), version)
    with pytest.raises(ModelChanged, match="no longer there"):
        place.registry().fetch(planned, into)


def test_a_version_deleted_while_it_is_scanned_stops_nobody(place):
    made = [place.put(name(place, f"m{number}"), "v1", model()) for number in range(3)]
    scanning = (one for one in place.registry().scan() if one.name.startswith(place.prefix))
    first = next(scanning)
    place.remove(name(place, "m2"), made[2])
    rest = list(scanning)
    assert first.problem == ""
    assert all(one.digest or one.problem for one in rest)
    assert {place.model_name(name(place, "m1"))} <= {one.name for one in rest}
    assert len(place.scan()) == 2


def test_what_is_remembered_is_not_read_again(place, monkeypatch):
    for number in range(3):
        place.put(name(place, f"m{number}"), "v1", model())
    place.put(name(place, "bad"), "v1", {"config.json": model()["config.json"]})
    memory = DigestMemory(at=4e9)
    first = place.scan(memory)
    again, problem = load_memory(dump_memory(memory), 5e9)
    assert problem == ""
    if place.spec.kind != "directory":
        from orchestrator.registries import remote

        monkeypatch.setattr(remote, "_read_model", lambda *_, **__: pytest.fail("something was read"))
    assert place.scan(again) == first
    assert dump_memory(again) == dump_memory(memory)


@pytest.mark.parametrize("place", ["s3", "ceph", "mlflow", "huggingface"], indirect=True)
def test_only_what_is_selected_is_found(place):
    for one in ("alpha", "beta"):
        place.put(name(place, one), "v1", model())
    wanted = place.model_name(name(place, "al*"))
    (found,) = place.registry(select=Select(name=wanted)).scan()
    assert found.name == place.model_name(name(place, "alpha"))
    assert list(place.registry(select=Select(name=wanted, tags={"stage": "prod"})).scan()) == []


TRICKS = [
    "..",
    "../other",
    "a/../b",
    "/etc",
    "",
    ".hidden",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "%2e%2e",
    "a\\b",
    "x" * 4096,
]


def test_a_name_that_is_a_trick_is_not_fetched(place, into):
    registry = place.registry()
    for wrong in TRICKS:
        for field in ("name", "version"):
            with pytest.raises(RegistryError) as caught:
                registry.fetch(replace(SOURCE, **{field: wrong}), into)
            assert str(caught.value).isprintable()
    assert list(into.iterdir()) == []


SOURCE = ModelVersion(
    registry="zoo", name="org/lm", version="v2", digest=digest_bytes(b"dense"), uri="", format="safetensors", bytes=1,
    parameters=1, architecture="TinyForCausalLM",
)  # fmt: skip


def artifact(
    store: LocalStore, tmp_path: Path, number: int = 0, more: Mapping[str, bytes] | None = None
) -> str:
    made = tmp_path / f"artifact{number}"
    made.mkdir()
    files = {"prunefleet.json": b'{"n": %d}' % number, "LICENSE": b"free", **(more or {})}
    for path, data in model(**files).items():
        (made / path).parent.mkdir(exist_ok=True)
        (made / path).write_bytes(data)
    return upload_artifact(store, made)[0]


def make(place: Place, store: LocalStore, digest: str, at: float = 1e9, **changes: Any):
    source = replace(
        SOURCE, **{"name": name(place, "org/lm") if place.spec.kind != "huggingface" else "org/lm", **changes}
    )
    return publish(
        store, place.outlet(), model=source, recipe="half", artifact_digest=digest, verdict_key="k" * 64, at=at,
        actor="ada", run_id="run-1",
    )  # fmt: skip


def move(place: Place, store: LocalStore, publication: Any, alias: str = "candidate"):
    return move_alias(
        store, place.outlet(), move_to(publication, registry="out", alias=alias, reason="passed")
    )


def aliases(place: Place, publication: Any) -> Mapping[str, str]:
    found = read_aliases(place.outlet(), publication.model.name)
    return {alias: version for alias, version in found.items() if not alias.startswith("v2-half-")}


@pytest.mark.parametrize("more", [{}, ENCODER], ids=["plain", "with modules"])
def test_what_is_published_is_found_sound_and_is_the_artifact(place, store, tmp_path, into, more):
    digest = artifact(store, tmp_path, more=more)
    publication = make(place, store, digest)
    assert publication.is_new
    (found,) = [one for one in place.scan() if one.version == publication.version]
    assert (found.problem, found.digest, found.tags["prunefleet"]) == ("", digest, "artifact")
    place.registry().fetch(found, into)
    assert {path for path in contents(into) if "/" in path} == {path for path in more if "/" in path}


def test_publishing_again_makes_nothing(place, store, tmp_path):
    digest = artifact(store, tmp_path)
    first, second = make(place, store, digest), make(place, store, digest)
    assert (second.version, second.is_new) == (first.version, False)


def test_two_artifacts_are_two_versions_and_the_alias_moves_with_a_record(place, store, tmp_path):
    first = make(place, store, artifact(store, tmp_path, 1))
    second = make(place, store, artifact(store, tmp_path, 2), at=1e9 + 60)
    assert first.version != second.version
    assert move(place, store, first)["previous_version"] is None
    assert move(place, store, second)["previous_version"] == first.version
    assert aliases(place, second) == {"candidate": second.version}
    assert move(place, store, second) is None
    rows = read_records(store, "promotions").table.to_pylist()
    assert [row["published_version"] for row in rows] == [first.version, second.version]


@pytest.mark.parametrize("place", ["s3", "ceph", "mlflow", "huggingface"], indirect=True)
def test_an_alias_that_others_moved_is_not_overwritten(place, store, tmp_path):
    first = make(place, store, artifact(store, tmp_path, 1))
    second = make(place, store, artifact(store, tmp_path, 2))
    move(place, store, first)
    with (
        place.outlet().shelf(first.model.name, make=False) as shelf,
        pytest.raises(AliasMoved, match="history"),
    ):
        shelf.point("candidate", second.version, None)
    assert aliases(place, first) == {"candidate": first.version}


def test_an_alias_does_not_move_to_what_is_not_there(place, store, tmp_path):
    publication = make(place, store, artifact(store, tmp_path))
    with pytest.raises(NoSuchVersion):
        move(place, store, replace(publication, version="999"))
    assert aliases(place, publication) == {}


def test_a_model_that_is_not_there_has_no_aliases_and_none_can_be_moved(place, store, tmp_path):
    publication = replace(
        make(place, store, artifact(store, tmp_path)), model=replace(SOURCE, name="org/other")
    )
    assert read_aliases(place.outlet(), "org/other") == {}
    with pytest.raises(RegistryError):
        move(place, store, publication)


def test_a_version_can_be_opened_as_it_was_published(place, store, tmp_path):
    digest = artifact(store, tmp_path)
    publication = make(place, store, digest)
    with place.outlet().opened(publication.model.name, publication.version) as directory:
        added = place.outlet().adds
        assert {path.name for path in directory.iterdir()} == {
            *model(),
            "prunefleet.json",
            "LICENSE",
            *added,
        }
    with pytest.raises(RegistryError), place.outlet().opened(publication.model.name, "404"):
        pass


@pytest.mark.parametrize("place", ["directory", "s3", "ceph", "mlflow"], indirect=True)
def test_publishers_at_once_make_one_version(place, store, tmp_path):
    digest = artifact(store, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: make(place, store, digest), range(4)))
    assert len({publication.version for publication in made}) == 1
    assert len(place.scan()) == 1


@pytest.mark.parametrize("place", ["directory", "s3", "ceph"], indirect=True)
def test_a_damaged_version_of_that_name_is_named_and_not_touched(place, store, tmp_path):
    digest = artifact(store, tmp_path)
    publication = make(place, store, digest)
    place.put("org/lm", publication.version, {"config.json": b"{}"})
    with pytest.raises(Damaged, match="Remove that version"):
        make(place, store, digest)


def test_a_model_with_a_hostile_name_is_not_published(place, store, tmp_path):
    digest = artifact(store, tmp_path)
    for wrong in TRICKS:
        with pytest.raises(RegistryError) as caught:
            make(place, store, digest, name=wrong)
        assert str(caught.value).isprintable()
    assert place.scan() == []


def test_it_can_be_told_whether_one_may_write(place):
    assert "can be" in place.outlet().probe() or "may write" in place.outlet().probe()
    assert place.scan() == []
