"""A bucket that means harm: whatever its keys are called and wherever it sends, nothing is opened outside, nobody else is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest
from hostile import paths
from servers.answering import server_of
from servers.ceph import S3Server
from servers.tiny_files import model
from servers.watching import watched

from orchestrator.errors import RegistryError
from orchestrator.names import problem_of_part, problem_of_path
from orchestrator.ports import Registry
from orchestrator.registries.opening import open_registry
from orchestrator.specs.registries import S3RegistrySpec
from orchestrator.stores import s3_connection

ROOT = "models/"
PAGE = 1000
Answer = Callable[[str, dict[str, str]], Any]


def listing(keys: list[str], start: int, size: int = 40) -> bytes:
    """A page of ListObjectsV2 in which keys are escaped, as clients ask for it."""
    page = keys[start : start + PAGE]
    is_cut = start + PAGE < len(keys)
    rows = "".join(
        f"<Contents><Key>{quote(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;e&quot;</ETag><Size>{len(body_of(key)) or size}</Size></Contents>"
        for key in page
    )
    more = f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>" if is_cut else ""
    return (
        f"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{str(is_cut).lower()}</IsTruncated>"
        f"{more}{rows}</ListBucketResult>"
    ).encode()


def body_of(key: str) -> bytes:
    return model().get(key.rpartition("/")[2], b"")


def bucket_of(keys: list[str]) -> Answer:
    """A bucket that lists these keys and has a model's file wherever one is asked for."""

    def answer(path: str, query: dict[str, str]) -> Any:
        if "list-type" in query:
            return listing(
                [key for key in keys if key.startswith(query.get("prefix", ""))],
                int(query.get("continuation-token", 0)),
            )
        return (200, {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, body_of(path))

    return answer


@pytest.fixture
def asking(monkeypatch):
    """Serves a bucket and opens the registry in it."""
    for name, value in S3Server(endpoint="", key="key", secret="secret").environment.items():
        monkeypatch.setenv(name, value)

    @contextmanager
    def serve(answer: Answer, **sent: Any) -> Iterator[tuple[str, Registry]]:
        with server_of(answer, **sent) as uri:
            yield uri, open_registry("bad", S3RegistrySpec(kind="s3", url="s3://bucket/models", endpoint=uri))

    return serve


def test_ten_thousand_hostile_keys_open_nothing_outside(asking):
    hostile = sorted(paths(5_000))
    keys = [f"{ROOT}{path}/config.json" for path in hostile] + [f"{ROOT}{path}" for path in hostile]
    sound = [f"{ROOT}zz/lm/v1/{name}" for name in model()]
    with asking(bucket_of([*keys, *sound])) as (uri, registry), watched() as seen:
        found = list(registry.scan())
    assert seen.stays_here(uri)
    assert len(found) > 4_000
    assert all(
        one.name.isprintable() and one.version.isprintable() and one.problem.isprintable() for one in found
    )
    taken = [one for one in found if not one.problem]
    assert "bad/zz/lm@v1" in {one.id for one in taken}
    assert not any(problem_of_path(one.name) or problem_of_part(one.version) for one in taken)


def test_what_a_hostile_bucket_offers_is_fetched_to_where_it_belongs_and_nowhere_else(asking, tmp_path):
    into = tmp_path / "into"
    into.mkdir()
    files = [
        *model(),
        "../../x.json",
        "..",
        "a/../../x.json",
        "/etc/passwd",
        "%2e%2e%2fx.json",
        "..\\x.json",
        "tokenizer.json/../../x",
    ]
    keys = [f"{ROOT}lm/v1/{name}" for name in files]
    with asking(bucket_of(keys)) as (uri, registry), watched() as seen:
        (version,) = [one for one in registry.scan() if one.id == "bad/lm@v1"]
        registry.fetch(version, into)
    assert seen.stays_here(uri, into)
    assert {path.name for path in into.iterdir()} == set(model())
    assert [path.name for path in tmp_path.iterdir()] == ["into"]


def test_keys_outside_of_the_prefix_that_was_asked_for_are_refused(asking):
    keys = ["secret/lm/v1/config.json"]
    with asking(lambda *_: listing(keys, 0)) as (_, registry), pytest.raises(RegistryError, match="prefix"):
        list(registry.scan())


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("away", ["http://169.254.169.254/", "http://evil.example/", "file:///etc/passwd"])
def test_a_bucket_that_sends_elsewhere_is_not_followed(asking, status, away):
    body = f"<Error><Code>PermanentRedirect</Code><Endpoint>{escape(away)}</Endpoint></Error>".encode()
    headers = {"Location": away, "x-amz-bucket-region": "evil"}
    with asking(lambda *_: (status, headers, body)) as (uri, registry), watched() as seen:
        with pytest.raises(RegistryError) as caught:
            list(registry.scan())
        assert str(caught.value).isprintable()
    assert seen.stays_here(uri)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"<ListBucketResult>", b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><ListBucketResult>&a;</ListBucketResult>',
     b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "' + b"&a;" * 50 + b'">]><ListBucketResult>&b;</ListBucketResult>'],
)  # fmt: skip
def test_a_listing_that_is_none_is_an_error_and_opens_nothing(asking, body, monkeypatch):
    monkeypatch.setattr(s3_connection, "pause_before_repeat", lambda *_, **__: None)
    with asking(lambda *_: body) as (uri, registry), watched() as seen, pytest.raises(RegistryError):
        list(registry.scan())
    assert seen.stays_here(uri)
