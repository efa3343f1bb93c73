"""What only a registry in a bucket has to do: a listing in key order, names that are no names, versions half published."""

from __future__ import annotations

import json

import pytest
from servers.tiny_files import model

from orchestrator import scratch
from orchestrator.errors import RegistryError, StoreError
from orchestrator.registries import s3
from orchestrator.registries.opening import open_outlet, open_registry
from orchestrator.registries.s3 import BEGUN, LISTING, S3Source, store_of
from orchestrator.specs.registries import S3RegistrySpec, Select

pytestmark = pytest.mark.s3


@pytest.fixture
def spec(moto, monkeypatch):
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    return S3RegistrySpec(kind="s3", url=f"s3://{moto.make_bucket()}/models", endpoint=moto.endpoint)


@pytest.fixture
def put(spec):
    client, bucket, prefix = store_of(spec).place_of("")

    def send(place, files):
        for path, data in files.items():
            client.put_object(Bucket=bucket, Key=f"{prefix}{place}/{path}", Body=data)

    return send


def scan(spec):
    return list(open_registry("zoo", spec).scan())


def test_order_is_natural_below_a_name_and_a_version_inside_a_version_is_none(spec, put):
    for place in ("lm/v10", "lm/v2", "lm/v2/onnx", "lm/v1.10", "lm/v1.9", "a/b/v1", "alone"):
        put(place, model())
    put("lm/v2/sub", {"notes.txt": b"x"})
    assert [found.id for found in scan(spec)] == [
        "zoo/a/b@v1", "zoo/alone@main", "zoo/lm@v1.9", "zoo/lm@v1.10", "zoo/lm@v2", "zoo/lm@v10",
    ]  # fmt: skip


def test_keys_that_are_no_names_are_told_and_stop_nobody(spec, put):
    for place in ("lm/.hidden", "x\ty/v1", "up/%2e%2e"):
        put(place, model())
    put("good/v1", model())
    *bad, good = sorted(scan(spec), key=lambda one: not one.problem)
    assert good.id == "zoo/good@v1"
    assert len(bad) == 3
    assert all("cannot be used" in one.problem and one.name.isprintable() for one in bad)


def test_a_version_that_is_being_published_is_not_there_until_its_list_is(spec, put):
    put("lm/v1", {**model(), BEGUN: b"{}"})
    assert scan(spec) == []
    put("lm/v1", {LISTING: b"{}"})
    (found,) = scan(spec)
    assert found.problem == ""


def test_publishing_that_was_cut_off_is_done_again_whole(spec, put, tmp_path):
    put("lm/v1-half-abc", {"config.json": b"torn", BEGUN: b"{}"})

    def fill(into):
        for path, data in model().items():
            (into / path).write_bytes(data)

    with open_outlet("out", spec).shelf("lm", make=True) as shelf:
        assert shelf.find("v1-half-abc") is None
        shelf.place("v1-half-abc", fill, {"source": "zoo/lm@v1"})
        assert shelf.find("v1-half-abc") == "v1-half-abc"
    (found,) = scan(spec)
    assert found.problem == ""
    listing = json.loads(store_of(spec).get(f"lm/v1-half-abc/{LISTING}"))
    assert set(listing["files"]) == set(model())


def test_aliases_select_versions(spec, put):
    for version in ("v1", "v2"):
        put(f"lm/{version}", model())
    with open_outlet("out", spec).shelf("lm", make=False) as shelf:
        shelf.point("champion", "v2", None)
    (found,) = open_registry("zoo", spec.model_copy(update={"select": Select(alias="champion")})).scan()
    assert found.version == "v2"


@pytest.mark.parametrize("data", [b"[]", b"{", b'{"a": "../x"}', b'{"a": 7}'])
def test_an_alias_object_that_cannot_be_trusted_is_refused(spec, put, data):
    put("lm", {"aliases.json": data})
    with pytest.raises(RegistryError, match=r"aliases\.json"):
        open_outlet("out", spec).aliases("lm")


def test_two_movers_of_two_aliases_lose_neither(spec, put):
    put("lm/v1", model())
    outlet = open_outlet("out", spec)
    with outlet.shelf("lm", make=False) as one, outlet.shelf("lm", make=False) as other:
        one.point("a", "v1", None)
        other.point("b", "v1", None)
    assert outlet.aliases("lm") == {"a": "v1", "b": "v1"}


def test_of_an_object_that_grew_since_it_was_listed_no_byte_more_is_written(spec, put, tmp_path):
    put("lm/v1", model())
    source = S3Source(spec)
    (offer,) = source.offers()
    put("lm/v1", {"config.json": b" " * 1_000_000})
    with pytest.raises(StoreError, match="listed"):
        source.read(offer, "config.json", offer.files["config.json"], tmp_path / "config.json")
    assert list(tmp_path.iterdir()) == []


def test_what_is_opened_lies_where_a_killed_process_leaves_nothing_for_ever(spec, put):
    put("lm/v1", model())
    with open_outlet("out", spec).opened("lm", "v1") as directory:
        assert directory.name.startswith(scratch.PREFIX)


def test_the_aliases_of_a_model_are_read_once_and_damaged_ones_break_that_model_alone(spec, put, monkeypatch):
    for place in ("bad/v1", "good/v1", "good/v2", "good/v3", "none/v1"):
        put(place, model())
    put("bad", {"aliases.json": b"{"})
    put("good", {"aliases.json": b'{"champion": "v2"}'})
    read: list[str] = []
    original = s3.read_alias_object
    monkeypatch.setattr(
        s3, "read_alias_object", lambda store, name: read.append(name) or original(store, name)
    )
    bad, good = scan(spec.model_copy(update={"select": Select(alias="champion")}))
    assert (good.id, good.problem) == ("zoo/good@v2", "")
    assert bad.id == "zoo/bad@v1"
    assert "aliases.json" in bad.problem
    assert read == ["bad", "good"]


def test_buckets_of_two_servers_that_are_called_alike_are_two_places(spec):
    other = spec.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    ours, theirs, amazons = (
        open_outlet("out", one).url for one in (spec, other, spec.model_copy(update={"endpoint": None}))
    )
    assert len({ours, theirs, amazons}) == 3
    assert amazons == spec.url
