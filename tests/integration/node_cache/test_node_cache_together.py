"""The node cache asked by many threads and processes at once, some of which are killed."""

from __future__ import annotations

import fcntl
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cases.node_caches import entries, leftovers, named, put, used_bytes, writes

from orchestrator.node_cache import NodeCache


def test_sixteen_threads_that_ask_at_once_fill_once(root):
    cache = NodeCache(root, 10**6)
    fills = []
    start = threading.Barrier(16)

    def fill(into: Path) -> None:
        fills.append(into)
        writes(5)(into)

    def ask(_: int) -> int:
        start.wait()
        with cache.hold(named("a"), 5, fill) as path:
            return (path / "weights").stat().st_size

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == [5] * 16
    assert len(fills) == 1


def test_eight_processes_that_ask_at_once_fill_once(root, tmp_path, askers):
    log = tmp_path / "fills"
    asking = [askers(root, named("a"), log) for _ in range(8)]
    assert [asker.hears() for asker in asking] == ["ready"] * 8
    for asker in asking:
        asker.goes_on()
    assert [asker.hears() for asker in asking] == ["1000"] * 8
    assert len(log.read_text().split()) == 1
    assert entries(root) == {named("a")}
    assert leftovers(root) == []


def test_who_waits_for_a_filler_that_is_killed_fills_instead(root, tmp_path, askers):
    log = tmp_path / "fills"
    filler = askers(root, named("a"), log, manner="pause")
    assert filler.hears() == "ready"
    filler.goes_on()
    assert filler.hears() == "half"
    waiting = [askers(root, named("a"), log) for _ in range(3)]
    for asker in waiting:
        assert asker.hears() == "ready"
        asker.goes_on()
    assert len(log.read_text().split()) == 1
    assert entries(root) == set()
    assert len(leftovers(root)) == 1
    filler.dies()
    assert [asker.hears() for asker in waiting] == ["1000"] * 3
    assert len(log.read_text().split()) == 2
    assert leftovers(root) == []


def test_what_a_killed_filler_left_is_swept_when_something_else_is_filled(root, tmp_path, askers):
    filler = askers(root, named("a"), tmp_path / "fills", manner="pause")
    filler.hears()
    filler.goes_on()
    assert filler.hears() == "half"
    cache = NodeCache(root, 10**6)
    put(cache, "b", 5)
    assert len(leftovers(root)) == 1, "its owner lives"
    filler.dies()
    put(cache, "c", 5)
    assert leftovers(root) == []
    assert entries(root) == {named("b"), named("c")}


def test_what_a_killed_filler_promised_does_not_count(root, tmp_path, askers):
    filler = askers(root, named("a"), tmp_path / "fills", size=900, manner="pause")
    filler.hears()
    filler.goes_on()
    filler.hears()
    filler.dies()
    cache = NodeCache(root, 1000)
    put(cache, "b", 400)
    put(cache, "c", 400)
    assert entries(root) == {named("b"), named("c")}


def test_what_another_filler_promised_counts(root, tmp_path, askers):
    cache = NodeCache(root, 1000)
    put(cache, "old", 300)
    filler = askers(root, named("a"), tmp_path / "fills", limit=1000, size=600, manner="pause")
    filler.hears()
    filler.goes_on()
    assert filler.hears() == "half"
    put(cache, "b", 300)
    assert entries(root) == {named("b")}
    filler.goes_on()
    assert filler.hears() == "600"
    assert used_bytes(root) == 900


def test_a_half_removed_entry_is_finished_off(root):
    cache = NodeCache(root, 10**6)
    put(cache, "a", 5)
    os.rename(root / named("a"), root / ".trash.0123456789abcdef")
    put(cache, "b", 5)
    assert leftovers(root) == []
    with cache.hold(named("a"), 5, writes(5)):
        pass


def test_threads_that_fill_hold_and_evict_at_random_never_see_half_an_entry(root):
    """Sixteen threads, forty entries, room for ten: the entry a thread holds is whole all the time it holds it."""
    cache = NodeCache(root, 10 * 1000)

    def fill(into: Path) -> None:
        for part in range(4):
            (into / f"part{part}").write_bytes(b"x" * 250)

    def work(seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(40):
            with cache.hold(named(str(generator.randrange(40))), 1000, fill) as path:
                for _ in range(3):
                    assert [(path / f"part{part}").stat().st_size for part in range(4)] == [250] * 4

    with ThreadPoolExecutor(16) as pool:
        for outcome in [pool.submit(work, seed) for seed in range(16)]:
            outcome.result()
    put(cache, "last", 1000)
    assert used_bytes(root) <= 10_000
    assert leftovers(root) == []
    assert len(os.listdir(root / ".locks")) <= len(entries(root))


def openings(path: Path) -> int:
    """How often this process has the file open."""
    inode, found = path.stat().st_ino, 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found += os.stat(f"/proc/self/fd/{descriptor}").st_ino == inode
    return found


def wait_until_opened(path: Path, times: int) -> None:
    """Until it has been open so often for a while: whoever opened it waits for its lock."""
    quiet = 0
    while quiet < 500:
        quiet = quiet + 1 if openings(path) == times else 0


def test_who_waits_for_a_filler_need_not_wait_until_the_filler_is_done_with_the_entry(root):
    cache = NodeCache(root, 1000)
    go_on, together = threading.Event(), threading.Barrier(4)

    def slow(into: Path) -> None:
        assert go_on.wait(60)
        writes(600)(into)

    def ask() -> None:
        with cache.hold(named("a"), 600, slow):
            together.wait(60)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        while not leftovers(root):
            pass
        wait_until_opened(root / ".locks" / f"{named('a')}.fill", 4)
        go_on.set()
        for outcome in asking:
            outcome.result(60)


def test_who_waited_on_a_lock_that_was_removed_waits_on_the_new_one(root):
    """Filling removes its lock file at its end, so a waiter may come to have the lock of a file that is gone."""
    cache = NodeCache(root, 1000)
    path = root / ".locks" / f"{named('a')}.fill"
    gone = root / "gone"
    fills = []
    inside, go_on = threading.Event(), threading.Event()

    def slow(into: Path) -> None:
        fills.append(into)
        inside.set()
        assert go_on.wait(60)
        writes(600)(into)

    def ask() -> int:
        with cache.hold(named("a"), 600, slow) as entry:
            return (entry / "weights").stat().st_size

    with ThreadPoolExecutor(2) as pool, path.open("wb") as earlier:
        fcntl.flock(earlier, fcntl.LOCK_EX)
        early = pool.submit(ask)
        wait_until_opened(path, 2)
        path.rename(gone)
        late = pool.submit(ask)
        assert inside.wait(60)
        fcntl.flock(earlier, fcntl.LOCK_UN)
        while openings(gone) > 1:
            pass
        go_on.set()
        assert (early.result(60), late.result(60)) == (600, 600)
    assert len(fills) == 1
