"""The room of the node cache: what goes first, what never goes, and what a full disk says."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from cases.node_caches import entries, leftovers, named, never, put, tick, used_bytes, writes

from orchestrator.node_cache import NodeCache


def test_the_least_recently_used_goes_first(root):
    cache = NodeCache(root, 1000)
    put(cache, "a", 400)
    put(cache, "b", 400)
    with cache.hold(named("a"), 400, never):
        pass
    put(cache, "c", 400)
    assert entries(root) == {named("a"), named("c")}


def test_use_counts_from_its_end(root):
    cache = NodeCache(root, 1000)
    with cache.hold(named("a"), 400, writes(400)):
        tick(root)
        put(cache, "b", 400)
    tick(root)
    put(cache, "c", 400)
    assert entries(root) == {named("a"), named("c")}


def test_no_more_is_removed_than_is_needed(root):
    cache = NodeCache(root, 1000)
    for name in "abcde":
        put(cache, name, 200)
    put(cache, "f", 300)
    assert entries(root) == {named(name) for name in "cdef"}


def test_what_is_held_is_never_removed_even_if_the_limit_is_exceeded(root):
    cache = NodeCache(root, 1000)
    with cache.hold(named("a"), 800, writes(800)) as path:
        put(cache, "b", 800)
        assert (path / "weights").stat().st_size == 800
        assert used_bytes(root) == 1600
    put(cache, "c", 100)
    assert used_bytes(root) <= 1000


def test_what_another_process_holds_is_never_removed(root, tmp_path, askers):
    holder = askers(root, named("a"), tmp_path / "fills", limit=1000, size=800)
    holder.hears()
    holder.goes_on()
    assert holder.hears() == "800"
    cache = NodeCache(root, 1000)
    put(cache, "b", 800)
    assert entries(root) == {named("a"), named("b")}
    holder.goes_on()
    assert holder.hears() == "800"
    holder.process.wait()
    put(cache, "c", 1000)
    assert entries(root) == {named("c")}


def test_a_holder_that_is_killed_holds_no_more(root, tmp_path, askers):
    holder = askers(root, named("a"), tmp_path / "fills", limit=1000, size=800)
    holder.hears()
    holder.goes_on()
    assert holder.hears() == "800"
    holder.dies()
    put(NodeCache(root, 1000), "b", 800)
    assert entries(root) == {named("b")}


def test_an_entry_larger_than_the_limit_is_let_in_alone(root):
    cache = NodeCache(root, 1000)
    put(cache, "a", 300)
    put(cache, "b", 300)
    put(cache, "huge", 5000)
    assert entries(root) == {named("huge")}
    put(cache, "c", 300)
    assert entries(root) == {named("c")}


def test_the_limit_counts_real_bytes_and_not_what_was_promised(root):
    cache = NodeCache(root, 1000)
    put(cache, "a", 400)
    with cache.hold(named("liar"), 1, writes(900)):
        assert entries(root) == {named("liar")}
    with cache.hold(named("modest"), 900, writes(50)):
        pass
    put(cache, "b", 900)
    assert entries(root) == {named("modest"), named("b")}


def test_a_full_disk_is_named_with_what_is_missing_and_what_to_do(root):
    cache = NodeCache(root, 2**62)
    put(cache, "a", 10)
    missing = r"needs \d+ bytes .* free.* larger disk"
    with pytest.raises(OSError, match=missing) as caught, cache.hold(named("b"), 2**60, never):
        pass
    assert caught.value.errno == errno.ENOSPC
    assert leftovers(root) == []


def test_a_disk_that_fills_up_while_filling_is_named_too(root):
    cache = NodeCache(root, 10**6)
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")

    def fill(into: Path) -> None:
        with open("/dev/full", "wb", buffering=0) as stream:
            stream.write(b"x")

    with pytest.raises(OSError, match="give it a larger disk") as caught, cache.hold(named("a"), 1, fill):
        pass
    assert caught.value.errno == errno.ENOSPC
    assert leftovers(root) == []


def test_other_errors_of_the_file_system_are_passed_on_as_they_are(root):
    def fill(into: Path) -> None:
        raise OSError(errno.EIO, "the disk is dying")

    with pytest.raises(OSError, match="the disk is dying"), NodeCache(root, 10**6).hold(named("a"), 1, fill):
        pass


def test_an_entry_larger_than_was_promised_and_than_the_limit_is_let_in_alone(root):
    cache = NodeCache(root, 1000)
    put(cache, "a", 300)
    with cache.hold(named("liar"), 1, writes(5000)) as path:
        assert (path / "weights").stat().st_size == 5000
    assert entries(root) == {named("liar")}
