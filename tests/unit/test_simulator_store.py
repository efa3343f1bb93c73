"""The store in memory: strict without flaws, wrong in exactly one way with each, and struck where weather says so."""

from __future__ import annotations

import pytest

from orchestrator.errors import NotFound, NotPermitted, StoreError, Unreachable
from orchestrator.simulation.store import FRESH_SECONDS, Crashed, Flaw, MemoryStore, View
from orchestrator.simulation.weather import Site, Strike


@pytest.fixture
def store():
    return MemoryStore()


def view_of(store, strikes=(), pause=lambda: None, is_alive=lambda: True):
    """A view whose n-th effect meets the n-th strike; and the sites that it has seen."""
    sites, left = [], list(strikes)

    def strike(site):
        sites.append(site)
        return left.pop(0) if left else None

    return View(store=store, actor="me", strikes=strike, pause=pause, is_alive=is_alive), sites


def test_what_was_put_is_read(store, tmp_path):
    store.put("a/b", b"one")
    assert store.get("a/b") == b"one"
    assert store.stat("a/b").bytes == 3
    (tmp_path / "file").write_bytes(b"two")
    store.upload(tmp_path / "file", "a/c")
    store.download("a/c", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"two"
    assert [stat.key for stat in store.list("a/")] == ["a/b", "a/c"]
    assert list(store.folders("")) == ["a"]
    assert list(store.folders("a/")) == []
    store.delete("a/b")
    store.delete("a/b")
    assert store.stat("a/b") is None
    with pytest.raises(NotFound):
        store.get("a/b")


def test_creating_wins_once(store):
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.get("a") == b"first"


def test_a_swap_needs_the_etag_that_is_there(store):
    first = store.swap("a", b"1", None)
    assert store.swap("a", b"x", None) is None
    second = store.swap("a", b"2", first)
    assert second != first
    assert store.swap("a", b"3", first) is None
    assert store.get("a") == b"2"


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a\nb"])
def test_foreign_keys_are_refused(store, key):
    with pytest.raises(StoreError):
        store.put(key, b"")


def test_every_write_is_told():
    told = []
    store = MemoryStore(written=lambda *seen: told.append(seen))
    store.put("a", b"1")
    store.put("a", b"2")
    store.put_if_absent("a", b"3")
    assert told == [("a", None, b"1"), ("a", b"1", b"2")]


@pytest.mark.parametrize("flaw", list(Flaw))
def test_each_flaw_shows_and_the_strict_store_does_not_have_it(flaw):
    now = [0.0]

    def shows(store):
        store.put("b", b"old")
        store.put("b", b"new")
        store.put("a", bytes(10_000))
        match flaw:
            case Flaw.IGNORES_IF_NONE_MATCH:
                return store.put_if_absent("a", b"again")
            case Flaw.IGNORES_IF_MATCH:
                return store.swap("b", b"again", "not its etag") is not None
            case Flaw.LISTS_LATE:
                return list(store.list("")) == []
            case Flaw.READS_OLD:
                return store.get("b") == b"old"
            case Flaw.CUTS_LONG_OBJECTS:
                return len(store.get("a")) < 10_000
            case Flaw.FORGETS_DELETES:
                store.delete("a")
                return store.stat("a") is not None
            case Flaw.LISTS_UNSORTED:
                return [stat.key for stat in store.list("")] == ["b", "a"]

    assert shows(MemoryStore(now=lambda: now[0], flaws={flaw}))
    assert not shows(MemoryStore(now=lambda: now[0]))


def test_a_late_listing_catches_up():
    now = [0.0]
    store = MemoryStore(now=lambda: now[0], flaws={Flaw.LISTS_LATE})
    store.put("a", b"")
    assert not list(store.list("a"))
    now[0] = FRESH_SECONDS + 1
    assert list(store.list("a"))


def test_every_call_is_an_effect(store, tmp_path):
    view, sites = view_of(store)
    (tmp_path / "file").write_bytes(b"x")
    view.put("a", b"1")
    view.put_if_absent("b", b"2")
    view.swap("c", b"3", None)
    view.upload(tmp_path / "file", "d")
    view.download("d", tmp_path / "copy")
    view.get("a")
    view.stat("a")
    list(view.list(""))
    list(view.folders(""))
    view.delete("a")
    verbs = ["put", "put_if_absent", "swap", "upload", "download", "get", "stat", "list", "list", "delete"]
    assert [site.verb for site in sites] == verbs
    assert sites[0] == Site("me", "put", "a")
    assert view.url == store.url


@pytest.mark.parametrize(
    ("strike", "error", "is_applied"),
    [
        (Strike.CRASH_BEFORE, Crashed, False),
        (Strike.CRASH_AFTER, Crashed, True),
        (Strike.AMBIGUOUS, Unreachable, True),
        (Strike.LOST, Unreachable, False),
        (Strike.REFUSED, StoreError, False),
        (Strike.DENIED, NotPermitted, False),
    ],
)
def test_a_strike_says_what_became_of_the_effect_and_what_the_actor_hears(store, strike, error, is_applied):
    view, _ = view_of(store, [strike])
    with pytest.raises(error):
        view.put_if_absent("a", b"1")
    assert (store.stat("a") is not None) == is_applied


def test_an_actor_that_pauses_finds_what_others_did_meanwhile(store):
    view, _ = view_of(store, [Strike.PAUSE], pause=lambda: store.put("a", b"theirs"))
    assert view.put_if_absent("a", b"mine") is False


def test_an_actor_that_dies_in_its_pause_does_nothing_more(store):
    view, _ = view_of(store, [Strike.PAUSE], is_alive=lambda: False)
    with pytest.raises(Crashed):
        view.put("a", b"1")
    assert store.stat("a") is None


def test_a_torn_read_gets_a_part_and_the_next_one_all(store, tmp_path):
    store.put("a", b"12345678")
    view, _ = view_of(store, [Strike.GARBLED, None, Strike.GARBLED])
    assert view.get("a") == b"1234"
    assert view.get("a") == b"12345678"
    view.download("a", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"1234567"


def test_a_stale_listing_knows_the_old_only():
    now = [0.0]
    store = MemoryStore(now=lambda: now[0])
    store.put("old", b"")
    now[0] = FRESH_SECONDS + 1
    store.put("new", b"")
    view, _ = view_of(store, [Strike.STALE])
    assert [stat.key for stat in view.list("")] == ["old"]
    assert [stat.key for stat in view.list("")] == ["new", "old"]
