"""One suite for every ObjectStore: what a store promises, on a directory, on a mock and on a real S3 server."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import NotFound, StoreError
from orchestrator.spec import StoreSpec
from orchestrator.stores.opening import open_store

WEIRD_KEYS = (
    "a",
    "a.b",
    "a/b.c/d",
    "with space/and  two",
    "plus+and&and=and%and#and?",
    "%2F/%41",
    "quote'\"`",
    "<xml>&amp;</xml>",
    "tilde~/dash-/under_",
    "dots..inside/...three/.hidden",
    "back\\slash",
    "colon:semi;comma,",
    "brackets[0]{1}(2)",
    "ümläut/日本語/😀",
    "results/prune/ab/" + "ab" * 32 + ".arrow",
    "x" * 255,
    "/".join(["y" * 100] * 5),
)
BAD_KEYS = (
    "",
    "/",
    "/absolute",
    "trailing/",
    "two//slashes",
    ".",
    "..",
    "../up",
    "a/../b",
    "a/./b",
    "nul\0",
    "new\nline",
    "tab\t",
    "\x7f",
    "lone\ud800surrogate",
    "x" * 256,
    "/".join(["z" * 200] * 6),
    ".prunefleet-lock",
    "a/.prunefleet-0123",
)


ATOMIC = pytest.mark.parametrize(
    "store_spec", ["local", pytest.param("ceph", marks=pytest.mark.s3)], indirect=True
)
"""Not the mock: it looks and then writes, and two threads of it may look at the same moment."""


def test_what_was_put_is_what_is_got(store: Any) -> None:
    for data in (b"", b"x", bytes(range(256)) * 1000):
        store.put("some/key", data)
        assert store.get("some/key") == data


@pytest.mark.parametrize("key", WEIRD_KEYS, ids=lambda key: ascii(key)[:24])
def test_a_weird_key_is_just_a_key(store: Any, key: str) -> None:
    assert store.put_if_absent(key, b"first")
    assert store.get(key) == b"first"
    assert [found.key for found in store.list("")] == [key]
    assert [found.key for found in store.list(key)] == [key]
    etag = store.stat(key).etag
    assert store.swap(key, b"second", etag)
    assert store.get(key) == b"second"
    store.delete(key)
    assert store.stat(key) is None


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: ascii(key)[:24])
def test_a_bad_key_is_refused_by_every_call(store: Any, tmp_path: Path, key: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    calls: tuple[Callable[[], Any], ...] = (
        lambda: store.get(key),
        lambda: store.put(key, b""),
        lambda: store.put_if_absent(key, b""),
        lambda: store.swap(key, b"", None),
        lambda: store.swap(key, b"", "etag"),
        lambda: store.stat(key),
        lambda: store.delete(key),
        lambda: store.upload(file, key),
        lambda: store.download(key, tmp_path / "other"),
    )
    for call in calls:
        with pytest.raises(StoreError, match="cannot be a key"):
            call()
    assert list(store.list("")) == []


def test_nothing_is_there_before_it_is_written(store: Any, tmp_path: Path) -> None:
    assert store.stat("missing") is None
    assert list(store.list("")) == []
    assert list(store.list("missing/")) == []
    store.delete("missing")
    assert store.swap("missing", b"", "0123") is None
    with pytest.raises(NotFound, match="missing"):
        store.get("missing")
    with pytest.raises(NotFound, match="missing"):
        store.download("missing", tmp_path / "file")
    assert list(tmp_path.glob("*file*")) == []


def test_a_missing_object_under_an_object_is_missing_too(store: Any) -> None:
    store.put("a", b"1")
    assert store.stat("a/b") is None
    store.delete("a/b")
    with pytest.raises(NotFound):
        store.get("a/b")


def test_the_beginning_of_a_key_is_no_object(store: Any) -> None:
    store.put("a/b", b"1")
    assert store.stat("a") is None
    store.delete("a")
    with pytest.raises(NotFound):
        store.get("a")
    assert store.get("a/b") == b"1"


def test_the_first_to_create_stays(store: Any) -> None:
    assert store.put_if_absent("key", b"first") is True
    assert store.put_if_absent("key", b"second") is False
    assert store.put_if_absent("key", b"first") is False
    assert store.get("key") == b"first"
    store.delete("key")
    assert store.put_if_absent("key", b"third") is True


def test_a_swap_needs_the_etag_of_what_is_there(store: Any) -> None:
    first = store.swap("lease", b"1", None)
    assert first
    assert store.swap("lease", b"x", None) is None
    assert store.stat("lease").etag == first
    second = store.swap("lease", b"2", first)
    assert second
    assert second != first
    assert store.swap("lease", b"x", first) is None
    with pytest.raises(StoreError, match="empty etag"):
        store.swap("lease", b"x", "")
    assert store.get("lease") == b"2"
    store.put("lease", b"3")
    assert store.swap("lease", b"x", second) is None
    store.delete("lease")
    assert store.swap("lease", b"x", second) is None
    assert store.stat("lease") is None


def test_what_is_too_large_to_swap_is_refused(store: Any) -> None:
    with pytest.raises(StoreError, match="too many to swap"):
        store.swap("lease", b"x" * ((1 << 20) + 1), None)


def test_a_stat_tells_size_and_time(store: Any) -> None:
    store.put("key", b"12345")
    found = store.stat("key")
    assert (found.key, found.bytes) == ("key", 5)
    assert found.modified > 1_600_000_000
    listed = next(iter(store.list("")))
    assert (listed.key, listed.bytes) == ("key", 5)
    assert abs(listed.modified - found.modified) < 2


def test_a_list_is_complete_and_in_the_order_of_the_keys_bytes(store: Any) -> None:
    keys = [
        "a",
        "a-b",
        "a.b",
        "aa/x",
        "a0/x",
        "b/a",
        "b/a-",
        "b/ä",
        "b/ｚ",
        "b/😀",
        "b/a0",
        "c d",
        "B",
        "_",
        "é/é",
    ]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    expected = sorted(keys, key=str.encode)
    assert [found.key for found in store.list("")] == expected
    assert [found.key for found in store.list("b/a")] == [key for key in expected if key.startswith("b/a")]
    assert [found.key for found in store.list("b/")] == [key for key in expected if key.startswith("b/")]
    assert [found.key for found in store.list("é")] == ["é/é"]


@pytest.mark.parametrize("prefix", ["/", "../", "a//", "a/../", "\0"])
def test_a_prefix_that_begins_no_key_is_refused(store: Any, prefix: str) -> None:
    with pytest.raises(StoreError, match="prefix"):
        list(store.list(prefix))


def test_folders_are_what_follows_up_to_the_next_slash_once_each_in_key_order(store: Any) -> None:
    keys = [
        "c",
        "a/1",
        "a/2/3",
        "a-b/1",
        "a/2/4",
        "a.b/x",
        "b/ä/1",
        "b/z/1",
        "b/2",
        "B/1",
        "b/ä/2/3",
        "b z/1",
    ]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))

    def expected(prefix: str) -> list[str]:
        below = (key.removeprefix(prefix) for key in keys if key.startswith(prefix))
        return sorted({rest.partition("/")[0] + "/" for rest in below if "/" in rest}, key=str.encode)

    for prefix in ("", "a/", "a/2/", "b/", "b/ä/", "nowhere/", "a/1/"):
        assert [f"{name}/" for name in store.folders(prefix)] == expected(prefix), prefix


def test_a_folder_is_gone_with_its_last_object(store: Any) -> None:
    store.put("a/b/c/1", b"")
    store.put("a/d/1", b"")
    store.delete("a/b/c/1")
    assert list(store.folders("a/")) == ["d"]


@pytest.mark.parametrize("prefix", ["a", "/", "../", "a//", "\0/"])
def test_what_is_no_folder_has_none_below(store: Any, prefix: str) -> None:
    with pytest.raises(StoreError, match="prefix|folder"):
        list(store.folders(prefix))


def test_more_than_a_page_of_keys_is_listed_once_each(store: Any) -> None:
    keys = [f"many/{number:04}" for number in range(1001)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put(key, b"."), keys))
    store.put("nany", b"")
    assert [found.key for found in store.list("many/")] == keys
    assert [found.key for found in store.list("many/10")] == [
        key for key in keys if key.startswith("many/10")
    ]


def test_a_file_goes_up_and_comes_down(store: Any, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for data in (b"", b"small", bytes(range(256)) * 100_000):
        source.write_bytes(data)
        store.upload(source, "file")
        assert store.stat("file").bytes == len(data)
        store.download("file", target)
        assert target.read_bytes() == data
    store.put("file", b"put")
    store.download("file", target)
    assert target.read_bytes() == b"put"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["source", "target"]


def test_a_missing_file_cannot_go_up(store: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no-such-file"):
        store.upload(tmp_path / "no-such-file", "key")
    assert store.stat("key") is None


def test_a_file_cannot_come_down_where_there_is_no_directory(store: Any, tmp_path: Path) -> None:
    store.put("key", b"1")
    with pytest.raises(StoreError, match="nowhere"):
        store.download("key", tmp_path / "nowhere" / "file")


_UP_AND_DOWN = """
import hashlib, resource, sys
from pathlib import Path
from orchestrator.spec import StoreSpec
from orchestrator.stores.opening import open_store

store = open_store(StoreSpec.model_validate_json(sys.argv[1]))
folder = Path(sys.argv[2])
store.put("warm", b"up"); store.get("warm")
(folder / "tiny").write_bytes(b"1"); store.upload(folder / "tiny", "tiny"); store.download("tiny", folder / "tiny")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.upload(folder / "big", "big")
store.download("big", folder / "back")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_big_file_takes_little_memory(store_spec: StoreSpec, tmp_path: Path) -> None:
    block = bytes(range(256)) * 4096
    with (tmp_path / "big").open("wb") as file:
        for number in range(160):
            file.write(number.to_bytes(4, "big") + block[4:])
    done = subprocess.run(
        [sys.executable, "-c", _UP_AND_DOWN, store_spec.model_dump_json(), str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (tmp_path / "big").read_bytes() == (tmp_path / "back").read_bytes()
    assert int(done.stdout) < 96, "MiB, for 160 MiB"


@ATOMIC
def test_one_of_many_threads_creates(store: Any) -> None:
    def race(number: int, key: str, barrier: threading.Barrier) -> bool:
        barrier.wait()
        return bool(store.put_if_absent(key, f"{number}".encode()))

    with ThreadPoolExecutor(8) as pool:
        for round_ in range(50):
            barrier = threading.Barrier(8)
            won = list(pool.map(race, range(8), [f"race/{round_}"] * 8, [barrier] * 8))
            assert won.count(True) == 1, f"round {round_}: {won}"
            assert store.get(f"race/{round_}") == f"{won.index(True)}".encode()


def _create_all(spec: StoreSpec, writer: int, barrier: Any, results: Any) -> None:
    store = open_store(spec)
    barrier.wait()
    results.put((writer, [n for n in range(25) if store.put_if_absent(f"race/{n}", f"{writer}".encode())]))


@ATOMIC
def test_one_of_several_processes_creates(store_spec: StoreSpec, store: Any) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    store.stat("race/0")
    processes = [
        context.Process(target=_create_all, args=(store_spec, n, barrier, results)) for n in range(4)
    ]
    for process in processes:
        process.start()
    won = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    owners = {number: writer for writer, numbers in won.items() for number in numbers}
    assert sum(map(len, won.values())) == len(owners) == 25
    assert all(store.get(f"race/{number}") == f"{writer}".encode() for number, writer in owners.items())


def test_a_register_that_is_swapped_counts_every_success_once(store: Any) -> None:
    assert store.swap("count", b"0", None)

    def add(_: int) -> int:
        won = 0
        while won < 5:
            etag = store.stat("count").etag
            value = int(store.get("count"))
            won += store.swap("count", f"{value + 1}".encode(), etag) is not None
        return won

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(add, range(4))) == 20
    assert store.get("count") == b"20"


def test_a_plain_write_is_never_lost_between_the_look_and_the_replacement_of_a_swap(store: Any) -> None:
    """A swap that wins had the very bytes before it whose etag it named."""
    store.put("register", b"0")
    history: list[str] = []

    def write(_: int) -> None:
        for number in range(20):
            store.put("register", f"put {number}".encode())

    def swap(_: int) -> None:
        for number in range(20):
            seen = store.stat("register").etag
            if store.swap("register", f"swap {number}".encode(), seen):
                history.append(seen)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda work: work(0), (write, swap)))
    assert max(Counter(history).values(), default=0) <= 1


def test_readers_of_an_overwritten_object_see_one_whole_value(store: Any) -> None:
    values = [bytes([n]) * 300_000 for n in range(4)]
    store.put("key", values[0])
    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(lambda: [store.put("key", value) for value in values * 4])
        reading = [pool.submit(lambda: [store.get("key") for _ in range(15)]) for _ in range(2)]
        writing.result()
        assert all(value in values for future in reading for value in future.result())


def test_a_store_goes_through_pickle_and_sees_the_same_objects(store: Any) -> None:
    store.put("key", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.get("key") == b"1"
    assert copy.url == store.url


def test_what_one_wrote_another_sees_at_once(store: Any, open_again: Callable[[], Any]) -> None:
    other = open_again()
    for number in range(20):
        store.put(f"key/{number}", b"1")
        assert [found.key for found in other.list("key/")][-1:]
        assert other.stat(f"key/{number}").bytes == 1
    assert len(list(other.list("key/"))) == 20


def test_the_url_holds_no_credentials(store: Any) -> None:
    assert "secret" not in store.url
    assert "@" not in store.url
    assert "fleetkey" not in store.url
