"""Names and addresses from a registry that means harm: nothing is opened outside, nobody else is connected to."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError
from servers.tiny_files import model

from orchestrator.errors import NotPermitted, RegistryError, Unreachable
from orchestrator.registries.hub import HubSource, may_not_follow
from orchestrator.registries.mlflow_server import MlflowServer, artifact_path
from orchestrator.registries.opening import open_registry
from orchestrator.registryspec import HuggingFaceRegistrySpec, MlflowRegistrySpec, S3RegistrySpec, Select

ELSEWHERE = [
    "file:///etc/passwd", "file:/etc/passwd", "/etc/passwd", "../../etc/passwd", "s3://bucket/model", "gs://bucket/x",
    "http://169.254.169.254/latest/meta-data/", "http://2852039166/", "http://0xa9fea9fe/", "http://[::ffff:169.254.169.254]/",
    "gopher://127.0.0.1:11211/_stats", "ftp://127.0.0.1/x", "dbfs:/x", "hdfs://host/x", "runs:/abc/model", "models:/other/1",
    "mlflow-artifacts://evil.example/1/x", "mlflow-artifacts://user:pw@127.0.0.1:5000/1/x", "mlflow-artifacts:/../../etc",
    "mlflow-artifacts:/1/%2e%2e/%2e%2e/etc", "mlflow-artifacts:/1/..%2f..%2fetc", "mlflow-artifacts:/1/a?x=1",
    "mlflow-artifacts:/1/a#b", "mlflow-artifacts:/1//a", "mlflow-artifacts:/", "mlflow-artifacts:", "", "mlflow-artifacts:/1/.hidden",
    "mlflow-artifacts:/1/a\\..\\b", "mlflow-artifacts:/1/a\0b", "mlflow-artifacts:/1/\u2024\u2024/x", "MLFLOW-ARTIFACTS://evil/x",
    "http://127.0.0.1:5000@evil.example/api/2.0/mlflow-artifacts/artifacts/1/x", "http://[", "mlflow-artifacts://[/x",
    "http://127.0.0.1:5000/api/2.0/mlflow-artifacts/artifacts/../../secret", "https://127.0.0.1:5000/x", "javascript:alert(1)",
]  # fmt: skip
SERVER = "http://127.0.0.1:5000"


def test_only_what_the_server_itself_serves_has_a_path():
    assert artifact_path("mlflow-artifacts:/1/abc/artifacts/model", SERVER) == "1/abc/artifacts/model"
    assert artifact_path("mlflow-artifacts://127.0.0.1:5000/1/abc", SERVER) == "1/abc"
    assert artifact_path(f"{SERVER}/api/2.0/mlflow-artifacts/artifacts/1/abc", SERVER) == "1/abc"
    for location in ELSEWHERE:
        with pytest.raises(RegistryError) as caught:
            artifact_path(location, SERVER)
        assert str(caught.value).isprintable()


def mutants(number: int) -> Iterator[str]:
    draw = random.Random(11)
    bits = [
        "..",
        "/",
        "//",
        "%2e",
        "%2f",
        "\\",
        "\0",
        "@",
        ":",
        "#",
        "?",
        "[",
        "]",
        "\u2024",
        "\uff0f",
        "a",
        "1",
        "evil.example",
        "~",
        " ",
    ]
    for _ in range(number):
        location = list(draw.choice([*ELSEWHERE, *["mlflow-artifacts:/1/a/b"] * 4]))
        for _ in range(draw.randint(1, 3)):
            location.insert(draw.randint(0, len(location)), draw.choice(bits))
        yield "".join(location)


def tried(step: Callable[[], Any]) -> tuple[Any, str]:
    """What a step gives, or why it was refused."""
    try:
        return step(), ""
    except RegistryError as error:
        return None, str(error)


def test_whatever_is_accepted_lies_below_the_artifact_store():
    accepted = 0
    for location in mutants(10_000):
        path, problem = tried(lambda location=location: artifact_path(location, SERVER))
        assert problem.isprintable()
        if path is None:
            continue
        accepted += 1
        parts = path.split("/")
        assert all(part and not part.startswith(".") and "\\" not in part for part in parts)
        assert os.path.normpath(path) == path
    assert accepted > 50


# 10,000 versions of one hostile server


@contextmanager
def server_of(answer: Callable[[str, dict[str, str]], Any]) -> Iterator[str]:
    """Serves what `answer(path, query)` gives: a value as JSON, bytes, or (status, headers)."""

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            return

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            found = answer(url.path, {key: one[0] for key, one in parse_qs(url.query).items()})
            status, headers, data = (*found, b"") if isinstance(found, tuple) else (200, {}, found)
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_WATCHED: list[tuple[str, Any]] = []
_IS_WATCHING = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _IS_WATCHING and event in (
        "open",
        "socket.connect",
        "socket.getaddrinfo",
        "subprocess.Popen",
        "os.mkdir",
    ):
        _WATCHED.append((event, arguments))


@pytest.fixture(scope="module")
def watching():
    """Everything that this process opens and connects to while the block lasts."""
    sys.addaudithook(_watch)

    @contextmanager
    def watch() -> Iterator[list[tuple[str, Any]]]:
        global _IS_WATCHING
        _WATCHED.clear()
        _IS_WATCHING = True
        try:
            yield _WATCHED
        finally:
            _IS_WATCHING = False

    return watch


NAMES = [
    "../../etc",
    "/etc",
    "..",
    ".ssh",
    "a/../b",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "%2e%2e",
    "a\\b",
    "x" * 600,
    "\u202egnp",
    " a",
]


def test_ten_thousand_hostile_versions_open_nothing_outside_and_connect_to_nobody_else(watching, tmp_path):
    draw, page = random.Random(5), 1000
    locations = list(mutants(10_000))

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

    with server_of(answer) as uri, watching() as seen:
        found = list(open_registry("bad", MlflowRegistrySpec(kind="mlflow", uri=uri)).scan())
        events = list(seen)
    assert all(one.problem and one.digest == "" for one in found)
    assert all(one.problem.isprintable() and one.name.isprintable() for one in found)
    port = int(uri.rsplit(":", 1)[1])
    assert {arguments[1] for event, arguments in events if event == "socket.connect"} == {("127.0.0.1", port)}
    opened = {
        str(arguments[0]) for event, arguments in events if event == "open" and "w" in str(arguments[1])
    }
    assert all("prunefleet-scratch" in path for path in opened)
    assert not [event for event, _ in events if event == "subprocess.Popen"]


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


@pytest.mark.parametrize(
    "make",
    [
        lambda: MlflowRegistrySpec(kind="mlflow", uri="http://ada:pw@host:5000"),
        lambda: MlflowRegistrySpec(kind="mlflow", uri="http://host:5000/?token=x"),
        lambda: MlflowRegistrySpec(kind="mlflow", uri="file:///mlruns"),
        lambda: MlflowRegistrySpec(kind="mlflow", uri="sqlite:///x.db"),
        lambda: S3RegistrySpec(kind="s3", url="s3://key:secret@bucket/models"),
        lambda: S3RegistrySpec(kind="s3", url="https://bucket/models"),
        lambda: S3RegistrySpec(kind="s3", url="s3://bucket/models", endpoint="http://key:secret@host"),
        lambda: HuggingFaceRegistrySpec(kind="huggingface", owner="org", endpoint="https://token@hub"),
        lambda: HuggingFaceRegistrySpec(kind="huggingface"),
        lambda: HuggingFaceRegistrySpec(kind="huggingface", cache="/x", owner="org"),
    ],
)
def test_a_spec_with_credentials_or_with_no_server_is_refused(make):
    with pytest.raises(ValidationError):
        make()


# The Hub


@pytest.mark.parametrize(
    "location",
    ["http://169.254.169.254/x", "https://127.0.0.1/x", "https://[::1]/x", "https://10.0.0.1/x", "https://2852039166/x",
     "https://[::ffff:169.254.169.254]/x", "file:///etc/passwd", "https://user@hub.test/x", "https:///x", "http://[", "ftp://x/y"],
)  # fmt: skip
def test_a_redirect_of_the_hub_to_a_private_place_is_not_followed(location):
    assert may_not_follow(location, "https://hub.test")


def test_a_redirect_of_the_hub_itself_is_followed_and_one_elsewhere_is_a_problem_of_the_version(hub):
    commit = hub.repository("org/lm").commit(model())
    spec = HuggingFaceRegistrySpec(kind="huggingface", repositories=("org/lm",), endpoint=hub.endpoint)
    hub.redirect["config.json"] = "http://169.254.169.254/latest/meta-data"
    (found,) = open_registry("zoo", spec).scan()
    assert "redirects" in found.problem
    hub.redirect["config.json"] = f"{hub.endpoint}/org/lm/resolve/{commit}/other.json"
    hub.repository("org/lm").commits[commit]["other.json"] = model()["config.json"]
    (found,) = open_registry("zoo", spec).scan()
    assert found.problem == ""


def test_the_token_does_not_appear_where_the_hub_refuses(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary_77")
    source = HubSource(HuggingFaceRegistrySpec(kind="huggingface", owner="org", endpoint=hub.endpoint))
    with pytest.raises(NotPermitted) as caught:
        source.asked(source.api.whoami, "the owner")
    assert "hf_canary_77" not in f"{caught.value!r}{caught.value}"


def test_a_repository_that_is_gone_is_named_and_stops_nobody(hub):
    hub.repository("org/lm").commit(model())
    spec = HuggingFaceRegistrySpec(
        kind="huggingface", repositories=("org/gone", "org/lm", "../x"), endpoint=hub.endpoint
    )
    gone, sound, trick = open_registry("zoo", spec).scan()
    assert "no such repository" in gone.problem
    assert sound.problem == ""
    assert "cannot be used" in trick.problem


def test_a_tag_that_moves_while_it_is_scanned_leaves_the_commit_that_was_read(hub, tmp_path):
    repository = hub.repository("org/lm")
    first = repository.commit(model())
    spec = HuggingFaceRegistrySpec(kind="huggingface", repositories=("org/lm",), endpoint=hub.endpoint)
    registry = open_registry("zoo", spec)
    (planned,) = registry.scan()
    second = repository.commit(model("OtherForCausalLM"))
    registry.fetch(planned, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["TinyForCausalLM"]
    assert planned.version == first
    (now,) = registry.scan()
    assert now.version == second


def test_a_commit_that_others_overtook_is_made_again_on_theirs(hub):
    from orchestrator.registries.hub_outlet import HubOutlet

    spec = HuggingFaceRegistrySpec(kind="huggingface", owner="org", endpoint=hub.endpoint)
    outlet = HubOutlet("out", spec)
    with outlet.shelf("org/lm", make=True) as shelf:
        hub.before_commit = lambda: hub.repository("org/lm").commit({"theirs.txt": b"x"}, message="theirs")
        made = shelf.place(
            "v1-half-abc", lambda into: (into / "config.json").write_text("{}"), {"model": "org/base"}
        )
    repository = hub.repository("org/lm")
    assert repository.messages[-2:] == ["theirs", "prunefleet: v1-half-abc"]
    assert repository.tags == {"v1-half-abc": made}
    card = repository.commits[made]["README.md"].decode()
    assert 'base_model: "org/base"' in card


def test_offline_mode_asks_nobody_and_says_so(hub, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    spec = HuggingFaceRegistrySpec(kind="huggingface", repositories=("org/lm",), endpoint=hub.endpoint)
    before = len(hub.asked)
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE"):
        list(open_registry("zoo", spec).scan())
    assert len(hub.asked) == before


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
