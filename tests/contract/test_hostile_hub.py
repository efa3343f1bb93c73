"""A Hub that means harm, or fails: nothing is opened outside, nobody else is connected to, and each trouble has its version."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hostile import ADDRESSES, mutants, paths
from servers.answering import server_of
from servers.certificates import certificate
from servers.tiny_files import model
from servers.watching import watched

from orchestrator.errors import NotPermitted, RegistryError, Unreachable
from orchestrator.registries import hub_server
from orchestrator.registries.hub import HubSource
from orchestrator.registries.hub_server import landing
from orchestrator.registries.opening import open_registry
from orchestrator.specs.registries import HuggingFaceRegistrySpec

PUBLIC = "93.184.216.34"
COMMIT = "ab" * 20


def of(uri: str, *repositories: str, **more: Any) -> HuggingFaceRegistrySpec:
    return HuggingFaceRegistrySpec(kind="huggingface", repositories=repositories, endpoint=uri, **more)


@pytest.fixture
def names(monkeypatch):
    """Host name -> the addresses that it has when it is asked for the first time, the second time and so on."""
    known: dict[str, list[str]] = {}

    def resolved(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        if host not in known:
            try:
                socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
            except OSError:
                raise socket.gaierror(f"nobody knows {host}") from None
            found = host
        else:
            found = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        family = socket.AF_INET6 if ":" in found else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (found, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    return known


# Where a redirect may lead


@pytest.mark.parametrize(
    "location",
    ["http://169.254.169.254/x", "https://127.0.0.1/x", "https://[::1]/x", "https://10.0.0.1/x", "https://2852039166/x",
     "https://[::ffff:169.254.169.254]/x", "file:///etc/passwd", "https://user@hub.test/x", "https:///x", "http://[", "ftp://x/y",
     "https://[64:ff9b::a9fe:a9fe]/x", "https://[2002:7f00:1::]/x", "https://0/x", "https://0x7f.1/x", "https://224.0.1.1/x",
     "https://[fe80::1]/x", "https://[fd00:ec2::254]/x", "https://100.64.0.1/x", "http://hub.test/x", "https://hub.test:8443@127.0.0.1/x",
     "https://hub.test/\u202ex", " https://hub.test/x", "https://hub.test/\r\nHost: x", "https://hub.test/" + "x" * 9000],
)  # fmt: skip
def test_a_redirect_of_the_hub_to_a_private_place_leads_nowhere(location):
    assert landing(location, "https://hub.test").problem


def test_of_ten_thousand_redirects_none_leads_to_another_machine_than_a_public_one_by_https(names):
    names["evil.example"] = [PUBLIC]
    sound = ["https://evil.example/x", "https://hub.test/x"]
    leading = [
        one
        for one in mutants([*ADDRESSES, *sound * 16], 10_000)
        if not landing(one, "https://hub.test").problem
    ]
    for one in leading:
        place = urlsplit(landing(one, "https://hub.test").url)
        assert place.scheme == "https", one
        assert place.netloc == "hub.test" or place.hostname == PUBLIC, one
    assert len(leading) > 100


def test_a_host_that_means_another_machine_when_it_is_asked_for_again_is_not_asked_for_again(names, hub):
    names["files.test"] = [PUBLIC, "127.0.0.1"]
    hub.repository("org/lm").commit(model())
    hub.redirect["config.json"] = "https://files.test/x"
    registry = open_registry("zoo", of(hub.endpoint, "org/lm"))
    with watched() as seen, pytest.raises(Unreachable):
        list(registry.scan())
    port = int(hub.endpoint.rsplit(":", 1)[1])
    assert seen.addresses() == {("127.0.0.1", port), (PUBLIC, 443)}


def test_files_of_another_host_come_from_the_address_that_was_looked_at_with_its_own_certificate_and_no_token(
    names, hub, files_test, monkeypatch
):
    """The one test that takes loopback for a public network."""
    seen, address = files_test
    names["files.test"] = [address[0], "192.0.2.1"]
    names["other.test"] = [address[0]]
    monkeypatch.setattr(hub_server, "is_public", lambda number: number == address[0])
    hub.repository("org/lm").commit(model())
    hub.redirect["config.json"] = f"https://files.test:{address[1]}/config.json"
    (found,) = open_registry("zoo", of(hub.endpoint, "org/lm")).scan()
    assert found.problem == ""
    assert [(one["Host"], "Authorization" in one) for one in seen] == [(f"files.test:{address[1]}", False)]
    hub.redirect["config.json"] = f"https://other.test:{address[1]}/config.json"
    with pytest.raises(Unreachable):
        list(open_registry("zoo", of(hub.endpoint, "org/lm")).scan())


@pytest.fixture
def files_test(tmp_path, monkeypatch) -> Iterator[Any]:
    """A server by TLS whose certificate is for files.test: what it was sent, and where it is."""
    import huggingface_hub

    certificate(tmp_path, "files.test")
    sent: list[Any] = []
    with server_of(lambda *_: model()["config.json"], headers=sent, tls=tmp_path) as uri:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
        huggingface_hub.close_session()
        yield sent, ("127.0.0.1", int(uri.rsplit(":", 1)[1]))
    huggingface_hub.close_session()


# What is listed


def hub_of(siblings: list[Any], refs: Any = None) -> Any:
    """Answers of a Hub with one commit of one repository."""
    branches = {"branches": [{"name": "main", "targetCommit": COMMIT}], "tags": []} if refs is None else refs

    def answer(path: str, _: dict[str, str]) -> Any:
        if path.endswith("/refs"):
            return branches
        if "/revision/" in path:
            return {"id": "org/lm", "sha": COMMIT, "siblings": siblings}
        return model().get(path.rpartition("/")[2], (404, {}))

    return answer


def listed(files: dict[str, bytes]) -> list[Any]:
    return [{"rfilename": path, "size": len(data)} for path, data in files.items()]


def test_ten_thousand_hostile_file_names_open_nothing_outside(tmp_path):
    hostile = [{"rfilename": path, "size": 5} for path in paths(10_000)]
    model_files = [{"rfilename": f"{path}/config.json", "size": 5} for path in paths(200, seed=3)]
    for start in range(0, 10_000, 1000):
        siblings = [*hostile[start : start + 1000], *model_files, *listed(model())]
        with server_of(hub_of(siblings)) as uri, watched() as seen:
            registry = open_registry("zoo", of(uri, "org/lm"))
            (found,) = registry.scan()
            assert found.problem == ""
            registry.fetch(found, new_folder(tmp_path, f"into{start}"))
        assert {one.name for one in (tmp_path / f"into{start}").iterdir()} == set(model())
        assert seen.stays_here(uri, tmp_path)


def new_folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_hostile_branches_and_commits_are_problems_and_are_asked_for_nowhere():
    branches = [
        {"name": path, "targetCommit": COMMIT if number % 3 else path}
        for number, path in enumerate(paths(3000))
    ]
    with server_of(hub_of(listed(model()), {"branches": branches, "tags": []})) as uri, watched() as seen:
        found = list(open_registry("zoo", of(uri, "org/lm", revisions=("*",))).scan())
    sound = [one for one in found if not one.problem]
    assert [one.version for one in sound] == [COMMIT]
    assert len(found) == 1001
    assert all(
        one.name.isprintable() and one.version.isprintable() and one.problem.isprintable() for one in found
    )
    assert seen.stays_here(uri)


@pytest.mark.parametrize(
    ("siblings", "words"),
    [
        ([*listed(model()), {"rfilename": 7, "size": 1}], "rfilename"),
        ([{"rfilename": "config.json", "size": -1}], "no size"),
        ([{"rfilename": "config.json", "size": 2**60}], "no size"),
        ([{"rfilename": "config.json", "size": True}], "no size"),
        (["config.json"], "no list of objects"),
        ({"config.json": 1}, "no list of objects"),
        (None, "no list of objects"),
        ([{"rfilename": "config.json", "size": 2**40}], "too large"),
    ],
)
def test_what_the_hub_lists_wrongly_is_the_problem_of_its_version(siblings, words):
    with server_of(hub_of(siblings)) as uri:
        (found,) = open_registry("zoo", of(uri, "org/lm")).scan()
    assert words in found.problem


@pytest.mark.parametrize(
    "refs", [[], {}, {"branches": 7}, {"branches": [{"name": "main"}], "tags": []}, b"<html>", b"[" * 100_000]
)
def test_refs_that_are_nonsense_are_the_problem_of_their_repository(refs):
    with server_of(hub_of([], refs)) as uri:
        (found,) = open_registry("zoo", of(uri, "org/lm")).scan()
    assert found.problem.isprintable()
    assert found.digest == ""


def test_a_pointer_to_large_files_is_told_from_the_file():
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 999\n"
    files = {**model(), "model.safetensors": pointer}

    def answer(path: str, query: dict[str, str]) -> Any:
        return pointer if path.endswith("/model.safetensors") else hub_of(listed(files))(path, query)

    with server_of(answer) as uri:
        (found,) = open_registry("zoo", of(uri, "org/lm")).scan()
    assert "git lfs" in found.problem


@pytest.mark.parametrize(
    "away", ["http://evil.example/api/models?cursor=2", "https://169.254.169.254/", "file:///etc/passwd"]
)
def test_the_next_page_of_a_list_lies_on_the_same_hub(away):
    answer = (200, {"Link": f'<{away}>; rel="next"'}, b'[{"id": "org/lm"}]')
    with (
        server_of(lambda *_: answer) as uri,
        watched() as seen,
        pytest.raises(RegistryError, match="for more of"),
    ):
        list(open_registry("zoo", of(uri, owner="org")).scan())
    assert seen.stays_here(uri)


def test_a_list_without_an_end_is_left():
    def answer(path: str, _: dict[str, str]) -> Any:
        return (200, {"Link": f'<{path}?cursor=again>; rel="next"'}, b"[]")

    with server_of(answer) as uri, pytest.raises(RegistryError, match="no end"):
        list(open_registry("zoo", of(uri, owner="org")).scan())


@pytest.mark.parametrize("path", ["/api/models/org/lm/refs", f"/api/models/org/lm/revision/{COMMIT}"])
def test_questions_are_redirected_no_further_than_files(path):
    sound = hub_of(listed(model()))

    def answer(asked: str, query: dict[str, str]) -> Any:
        return (307, {"Location": "http://169.254.169.254/latest"}) if asked == path else sound(asked, query)

    with server_of(answer) as uri, watched() as seen:
        (found,) = open_registry("zoo", of(uri, "org/lm")).scan()
    assert "redirects" in found.problem
    assert seen.stays_here(uri)


def test_an_answer_without_an_end_is_cut_off(monkeypatch):
    monkeypatch.setattr(hub_server, "MAX_ANSWER_BYTES", 1000)
    with server_of(lambda *_: b" " * 5000) as uri:
        (found,) = open_registry("zoo", of(uri, "org/lm")).scan()
    assert "more than 1000 bytes" in found.problem


# Redirects, refusals and changes while it is read


def test_a_redirect_of_the_hub_itself_is_followed_and_one_elsewhere_is_a_problem_of_the_version(hub):
    commit = hub.repository("org/lm").commit(model())
    spec = of(hub.endpoint, "org/lm")
    hub.redirect["config.json"] = "http://169.254.169.254/latest/meta-data"
    (found,) = open_registry("zoo", spec).scan()
    assert "redirects" in found.problem
    hub.redirect["config.json"] = f"{hub.endpoint}/org/lm/resolve/{commit}/other.json"
    hub.repository("org/lm").commits[commit]["other.json"] = model()["config.json"]
    (found,) = open_registry("zoo", spec).scan()
    assert found.problem == ""


def test_the_token_does_not_appear_where_the_hub_refuses(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary_77")
    source = HubSource(of(hub.endpoint, owner="org"))
    with pytest.raises(NotPermitted) as caught:
        source.server.asked(source.server.api.whoami, "the owner")
    assert "hf_canary_77" not in f"{caught.value!r}{caught.value}"


@pytest.mark.parametrize("is_known", [True, False], ids=["with a token", "as a stranger"])
def test_a_repository_that_is_gone_is_named_and_stops_nobody(hub, monkeypatch, is_known):
    if not is_known:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.repository("org/lm").commit(model())
    spec = of(hub.endpoint, "org/gone", "org/lm", "../x")
    gone, sound, trick = open_registry("zoo", spec).scan()
    assert "no such repository" in gone.problem
    assert sound.problem == ""
    assert "cannot be used" in trick.problem


def test_where_nothing_is_shown_the_registry_is_not_permitted(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.repository("org/lm").commit(model())
    with pytest.raises(NotPermitted, match="does not show"):
        list(open_registry("zoo", of(hub.endpoint, "org/gone", "org/typo")).scan())


def test_a_tag_that_moves_while_it_is_scanned_leaves_the_commit_that_was_read(hub, tmp_path):
    repository = hub.repository("org/lm")
    first = repository.commit(model())
    spec = of(hub.endpoint, "org/lm")
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

    spec = of(hub.endpoint, owner="org")
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
    spec = of(hub.endpoint, "org/lm")
    before = len(hub.asked)
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE"):
        list(open_registry("zoo", spec).scan())
    assert len(hub.asked) == before
