"""An MLflow server that means harm: nothing is opened outside, nobody else is connected to."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hostile import ADDRESSES, NAMES, mutants
from servers.answering import server_of
from servers.watching import watched

from orchestrator.errors import NotPermitted, RegistryError, Unreachable
from orchestrator.registries.mlflow_server import MlflowServer, artifact_path
from orchestrator.registries.opening import open_registry
from orchestrator.specs.registries import MlflowRegistrySpec, Select

SERVER = "http://127.0.0.1:5000"
SOURCES = [*ADDRESSES, *["mlflow-artifacts:/1/a/b"] * 4]


def test_only_what_the_server_itself_serves_has_a_path():
    assert artifact_path("mlflow-artifacts:/1/abc/artifacts/model", SERVER) == "1/abc/artifacts/model"
    assert artifact_path("mlflow-artifacts://127.0.0.1:5000/1/abc", SERVER) == "1/abc"
    assert artifact_path(f"{SERVER}/api/2.0/mlflow-artifacts/artifacts/1/abc", SERVER) == "1/abc"
    for location in ADDRESSES:
        with pytest.raises(RegistryError) as caught:
            artifact_path(location, SERVER)
        assert str(caught.value).isprintable()


def tried(step: Callable[[], Any]) -> tuple[Any, str]:
    """What a step gives, or why it was refused."""
    try:
        return step(), ""
    except RegistryError as error:
        return None, str(error)


def test_whatever_is_accepted_lies_below_the_artifact_store():
    accepted = 0
    for location in mutants(SOURCES, 10_000):
        path, problem = tried(lambda location=location: artifact_path(location, SERVER))
        assert problem.isprintable()
        if path is None:
            continue
        accepted += 1
        parts = path.split("/")
        assert all(part and not part.startswith(".") and "\\" not in part for part in parts)
        assert os.path.normpath(path) == path
    assert accepted > 50


def test_ten_thousand_hostile_versions_open_nothing_outside_and_connect_to_nobody_else():
    draw, page = random.Random(5), 1000
    locations = list(mutants(SOURCES, 10_000))

    def version(number: int) -> dict[str, Any]:
        name = draw.choice(NAMES) if number % 2 else f"m{number}"
        return {
            "name": name,
            "version": str(number),
            "source": locations[number],
            "status": "READY",
            "creation_timestamp": number,
        }

    versions = [version(number) for number in range(10_000)]

    def answer(path: str, query: dict[str, str]) -> Any:
        if path.endswith("/model-versions/search"):
            start = int(query.get("page_token", 0))
            more = {"next_page_token": str(start + page)} if start + page < len(versions) else {}
            return {"model_versions": versions[start : start + page], **more}
        if path.endswith("/get-download-uri"):
            return {"artifact_uri": locations[int(query["version"])]}
        return (404, {})

    with server_of(answer) as uri, watched() as seen:
        found = list(open_registry("bad", MlflowRegistrySpec(kind="mlflow", uri=uri)).scan())
    assert len(found) > 9_000
    assert all(one.problem and one.digest == "" for one in found)
    assert all(one.problem.isprintable() and one.name.isprintable() for one in found)
    assert seen.stays_here(uri)


def test_a_redirect_of_the_server_is_not_followed():
    away = {"Location": "http://169.254.169.254/latest"}
    with server_of(lambda *_: (302, away)) as uri, pytest.raises(RegistryError, match="redirects"):
        MlflowServer(uri).get("registered-models/search")


def test_a_file_that_never_ends_is_cut_off_where_it_was_listed_to_end(tmp_path):
    with server_of(lambda *_: b"x" * 100_000) as uri, pytest.raises(RegistryError, match="longer than"):
        MlflowServer(uri).download("1/a", tmp_path / "file", 1000)


def test_a_list_without_an_end_is_left():
    same = {"model_versions": [], "next_page_token": "again"}
    with server_of(lambda *_: same) as uri, pytest.raises(RegistryError, match="no end"):
        list(open_registry("bad", MlflowRegistrySpec(kind="mlflow", uri=uri)).scan())


def test_pages_that_shift_under_the_scan_give_each_version_once():
    rows = [
        {"name": "m", "version": str(number), "source": "file:///x", "status": "FAILED"}
        for number in range(1, 8)
    ]

    def answer(path: str, query: dict[str, str]) -> Any:
        start = int(query.get("page_token", 0))
        if start == 3:
            rows.insert(
                0, {"name": "a", "version": "1", "source": "file:///x", "status": "FAILED"}
            )  # everything slides
        more = {"next_page_token": str(start + 3)} if start + 3 < len(rows) else {}
        return {"model_versions": rows[start : start + 3], **more}

    with server_of(answer) as uri:
        found = [one.id for one in open_registry("r", MlflowRegistrySpec(kind="mlflow", uri=uri)).scan()]
    assert found == [f"r/m@{number}" for number in range(1, 8)]


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b"{", b'{"model_versions": 7}', b'{"model_versions": [7, null, "x"]}']
)
def test_nonsense_is_an_error_or_nothing_and_never_a_crash(answer):
    with server_of(lambda *_: answer) as uri:
        spec = MlflowRegistrySpec(kind="mlflow", uri=uri)
        found, problem = tried(lambda: list(open_registry("bad", spec).scan()))
    assert problem.isprintable()
    assert not found


def test_a_server_that_is_not_there_is_unreachable():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unreachable, match="does not answer"):
            MlflowServer(uri).get("registered-models/search")


def test_credentials_come_from_the_environment_and_are_never_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-9f2")
    with server_of(lambda *_: (401, {})) as uri, pytest.raises(NotPermitted) as caught:
        MlflowServer(uri).get("registered-models/search")
    assert "canary-9f2" not in str(caught.value)
    assert "MLFLOW_TRACKING_TOKEN" in str(caught.value)


def test_what_is_selected_by_alias_in_mlflow_is_pinned_when_its_alias_is_read():
    one = {"name": "m", "version": "3", "source": "file:///x", "status": "READY"}
    models = [
        {"name": "m", "aliases": [{"alias": "champion", "version": "3"}, {"alias": "old", "version": "1"}]}
    ]

    def answer(path: str, query: dict[str, str]) -> Any:
        if path.endswith("registered-models/search"):
            return {"registered_models": models}
        if path.endswith("model-versions/get") and query["version"] == "3":
            return {"model_version": one}
        return (404, {})

    with server_of(answer) as uri:
        spec = MlflowRegistrySpec(kind="mlflow", uri=uri, select=Select(alias="champ*"))
        (found,) = open_registry("r", spec).scan()
    assert found.id == "r/m@3"
    assert "artifact store" in found.problem
