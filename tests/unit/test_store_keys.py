"""Which texts are keys."""

from __future__ import annotations

import os.path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError, StoreError
from orchestrator.spec import StoreSpec
from orchestrator.stores.keys import check_key, check_prefix, check_swapped, problem_of
from orchestrator.stores.local import LocalStore
from orchestrator.stores.opening import open_store


@settings(max_examples=500)
@given(st.text(alphabet=st.characters(codec=None), max_size=40))
def test_a_key_never_leaves_the_root_and_never_hides_a_character(text: str) -> None:
    if problem_of(text):
        with pytest.raises(StoreError):
            check_key(text)
        return
    path = os.path.normpath(os.path.join("/root", text))
    assert path == f"/root/{text}"
    assert text.isprintable()
    assert text.encode().decode() == text


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "empty"),
        ("a//b", "''"),
        ("../a", "'..'"),
        ("a/\x00", "printed"),
        ("k" * 256, "255"),
        ("/".join("k" * 100 for _ in range(11)), "1024"),
        ("a/.prunefleet-x/b", "store's own"),
    ],
)
def test_a_refusal_names_what_is_wrong(key: str, reason: str) -> None:
    assert reason in problem_of(key)


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b", "a/b."])
def test_a_prefix_may_be_nothing_or_end_anywhere(prefix: str) -> None:
    assert check_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["/", "//", "a//", "./", "a/.."])
def test_a_prefix_that_begins_no_key_is_refused(prefix: str) -> None:
    with pytest.raises(StoreError):
        check_prefix(prefix)


def test_a_swap_needs_an_etag_or_none() -> None:
    check_swapped("lease", b"x", None)
    check_swapped("lease", b"x", "etag")
    with pytest.raises(StoreError, match="empty etag"):
        check_swapped("lease", b"x", "")


@pytest.mark.parametrize(
    ("url", "root"),
    [("/some/where", "/some/where"), ("file:///some/where", "/some/where"), ("file:///a%20b", "/a b")],
)
def test_a_path_opens_a_local_store(url: str, root: str) -> None:
    store = open_store(StoreSpec(url=url))
    assert isinstance(store, LocalStore)
    assert store.url == root


@pytest.mark.parametrize("prefix", ["", "/", "/prefix", "/prefix/", "/a/b"])
def test_an_s3_url_opens_without_asking_the_network(prefix: str) -> None:
    store = open_store(StoreSpec(url=f"s3://bucket{prefix}"))
    assert store.url == f"s3://bucket{prefix}".rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "gs://bucket",
        "s3://",
        "s3:///key",
        "s3://bucket/a//b",
        "s3://bucket/../x",
        "s3://b/p?q",
        "file://host/a",
    ],
)
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(SpecError, match="store"):
        open_store(StoreSpec(url=url))
