"""A server that fails at one file, or dies in the middle: what the registries elsewhere make of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cases.registry_places import MAKERS, Place, name
from servers.fault_proxy import FaultProxy, Rates
from servers.tiny_files import model

from orchestrator.errors import Failing, PrunefleetError, RegistryError, StoreError, Unreachable
from orchestrator.registries.memory import DigestMemory
from orchestrator.registries.remote import Offer, RemoteFile, RemoteRegistry
from orchestrator.specs.registries import Select
from orchestrator.stores import s3_connection

ADDRESS = {"s3": "endpoint", "mlflow": "uri", "huggingface": "endpoint"}


@pytest.fixture(
    params=[
        pytest.param("s3", marks=pytest.mark.s3),
        pytest.param("ceph", marks=pytest.mark.s3),
        "mlflow",
        "huggingface",
    ]
)
def failing(request, tmp_path, monkeypatch) -> Iterator[tuple[Place, FaultProxy]]:
    """A place with a sound version, and one with a tokenizer at which its server fails whenever it is asked for."""
    monkeypatch.setattr(s3_connection, "pause_before_repeat", lambda *_, **__: None)
    place = MAKERS[request.param](tmp_path, request)
    place.put(name(place, "bad"), "v1", model(**{"tokenizer.json": b"{}"}))
    place.put(name(place, "good"), "v1", model())
    field = ADDRESS[place.spec.kind]
    with FaultProxy.serve(getattr(place.spec, field)) as proxy:
        place.spec = place.spec.model_copy(update={field: proxy.endpoint})
        proxy.reset(Rates(error=1.0, only=r"tokenizer\.json"))
        yield place, proxy


def test_a_file_at_which_the_server_fails_breaks_its_version_alone_until_it_can_be_read(failing):
    place, proxy = failing
    memory = DigestMemory(at=4e9)
    bad, good = place.scan(memory)
    assert (bad.digest, good.problem) == ("", "")
    assert "tokenizer.json" in bad.problem
    assert "500" in bad.problem or "InternalError" in bad.problem
    proxy.reset()
    assert [one.problem for one in place.scan(memory)] == ["", ""], "what may pass is not remembered"


def test_a_file_at_which_the_server_fails_is_no_change_of_the_model_that_was_planned(failing, tmp_path):
    place, proxy = failing
    proxy.reset()
    planned, _ = place.scan()
    proxy.reset(Rates(error=1.0, only=r"tokenizer\.json"))
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises((Unreachable, RegistryError)) as caught:
        place.registry().fetch(planned, into)
    assert "no longer" not in str(caught.value)


class DyingSource:
    """A Source whose server lists its versions, and never answers again after this error."""

    def __init__(self, error: type[PrunefleetError]):
        self.error = error

    def offers(self) -> Iterator[Offer]:
        for number in range(3):
            yield Offer(
                name=f"m{number}", version="v1", vouched="", uri="", files={"config.json": RemoteFile(2)}
            )

    def offer(self, name: str, version: str) -> Offer:
        raise Unreachable("nobody is there")

    def files(self, offer: Offer) -> dict[str, RemoteFile]:
        return dict(offer.files or {})

    def read(self, offer: Offer, path: str, file: RemoteFile, into: Path) -> None:
        raise self.error("nobody is there")


@pytest.mark.parametrize("error", [Failing, Unreachable, StoreError])
def test_a_server_that_answers_for_nothing_any_more_is_no_fault_of_its_versions(error):
    registry = RemoteRegistry("zoo", DyingSource(error), Select())
    with pytest.raises(Unreachable, match="nobody is there"):
        list(registry.scan())


@pytest.mark.parametrize("failing", ["huggingface"], indirect=True)
def test_a_repository_whose_names_the_hub_fails_to_tell_breaks_alone_but_a_hub_that_shows_none_is_unreachable(
    failing,
):
    place, proxy = failing
    proxy.reset(Rates(error=1.0, only="models/org/bad/refs"))
    bad, good = place.scan()
    assert "500" in bad.problem
    assert (good.name, good.problem) == ("org/good", "")
    proxy.reset(Rates(error=1.0, only="refs"))
    with pytest.raises(Failing):
        place.scan()


@pytest.mark.parametrize("failing", ["huggingface"], indirect=True)
def test_a_named_repository_that_is_not_shown_is_told_although_only_an_alias_of_it_is_wanted(
    failing, request
):
    place, _ = failing
    repository = request.getfixturevalue("hub").repository("org/good")
    repository.tags["champion"] = repository.branches["v1"]
    place.spec = place.spec.model_copy(update={"owner": None, "repositories": ("org/good", "org/typo")})
    good, missing = place.registry(select=Select(alias="champion")).scan()
    assert (good.name, good.problem, missing.name) == ("org/good", "", "org/typo")
    assert "no such repository" in missing.problem
    (only,) = place.registry(select=Select(name="org/g*", alias="champion")).scan()
    assert only.name == "org/good"
