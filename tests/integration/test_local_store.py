"""The local store where disks are full, links mislead and writers die."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import NotFound, NotPermitted, StoreError
from orchestrator.stores.local import LocalStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root)


def failing(code: int) -> Callable[..., Any]:
    def fail(*arguments: Any, **named: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


def test_opening_and_looking_make_nothing(store: LocalStore, root: Path) -> None:
    assert list(store.list("results/")) == []
    assert store.stat("a") is None
    store.delete("a")
    assert not root.exists()


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        (errno.ENOSPC, StoreError, "disk is full"),
        (errno.EDQUOT, StoreError, "quota"),
        (errno.EROFS, NotPermitted, "who may write"),
        (errno.EACCES, NotPermitted, "who may write"),
        (errno.EIO, StoreError, "Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace", "link"])
def test_a_failed_write_is_told_with_its_place_and_leaves_nothing(
    store: LocalStore,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
    kind: type[Exception],
    advice: str,
) -> None:
    if call == "link" and code == errno.EACCES:
        kind, advice = StoreError, "hard links"
    store.put("old", b"old")
    monkeypatch.setattr(os, call, failing(code))
    write = store.put_if_absent if call == "link" else store.put
    with pytest.raises(kind, match=advice) as raised:
        write("old" if call != "link" else "new", b"new")
    assert str(root) in str(raised.value)
    monkeypatch.undo()
    assert store.get("old") == b"old"
    assert sorted(path.name for path in root.iterdir()) == [".prunefleet-lock", "old"]


def test_a_failed_download_leaves_nothing(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("key", b"data")
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "file").write_bytes(b"before")
    monkeypatch.setattr(os, "replace", failing(errno.ENOSPC))
    with pytest.raises(StoreError, match="disk is full"):
        store.download("key", tmp_path / "down" / "file")
    assert [path.read_bytes() for path in (tmp_path / "down").iterdir()] == [b"before"]


def test_no_link_leads_out_of_the_store(store: LocalStore, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.put("a/b", b"1")
    (root / "out").symlink_to(outside)
    (root / "a" / "file").symlink_to(outside / "secret")
    (root / "dangling").symlink_to(tmp_path / "nowhere")
    assert [found.key for found in store.list("")] == ["a/b"]
    for key in ("out/secret", "out/new"):
        with pytest.raises(StoreError, match="symbolic link"):
            store.get(key)
        with pytest.raises(StoreError, match="symbolic link"):
            store.put(key, b"x")
        with pytest.raises(StoreError, match="symbolic link"):
            store.delete(key)
    with pytest.raises(StoreError, match="symbolic link"):
        list(store.list("out/"))
    with pytest.raises(StoreError, match="symbolic link"):
        store.get("a/file")
    assert store.put_if_absent("dangling", b"x") is False
    store.put("a/file", b"mine")
    assert store.get("a/file") == b"mine"
    assert (outside / "secret").read_bytes() == b"secret"
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = LocalStore(tmp_path / "store")
    store.put("key", b"1")
    assert (tmp_path / "disk" / "key").read_bytes() == b"1"


def test_what_is_no_file_is_no_object_and_blocks_nobody(store: LocalStore, root: Path) -> None:
    store.put("key", b"1")
    os.mkfifo(root / "pipe")
    assert [found.key for found in store.list("")] == ["key"]
    with pytest.raises(NotFound, match="regular file"):
        store.get("pipe")
    assert store.stat("pipe") is None


def test_a_key_under_an_object_says_why_it_cannot_be(store: LocalStore) -> None:
    store.put("a", b"1")
    with pytest.raises(StoreError, match="cannot"):
        store.put("a/b", b"2")
    store.put("c/d", b"1")
    with pytest.raises(StoreError, match="cannot hold both"):
        store.put("c", b"2")


def test_foreign_names_are_left_out_of_the_list(store: LocalStore, root: Path) -> None:
    store.put("key", b"1")
    (root / "new\nline").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe")).write_bytes(b"")
    (root / "bad\x01dir").mkdir()
    (root / "bad\x01dir" / "file").write_bytes(b"")
    assert [found.key for found in store.list("")] == ["key"]


_ENDLESS = """
import sys
from pathlib import Path
from orchestrator.stores.local import LocalStore

store = LocalStore(Path(sys.argv[1]))
print("on my way", flush=True)
number = 0
while True:
    store.put("key", bytes([number % 256]) * 2_000_000)
    store.put_if_absent(f"many/{number}", bytes([number % 256]) * 100_000)
    number += 1
"""


@pytest.mark.parametrize("round_", range(4))
def test_a_writer_that_is_killed_leaves_whole_objects_and_only_its_own_litter(
    store: LocalStore, root: Path, round_: int
) -> None:
    with subprocess.Popen([sys.executable, "-c", _ENDLESS, str(root)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.15 + 0.07 * round_)
        writer.send_signal(signal.SIGKILL)
    found = {item.key: store.get(item.key) for item in store.list("")}
    assert all(len(set(data)) <= 1 for data in found.values())
    assert {len(data) for key, data in found.items() if key != "key"} <= {100_000}
    assert len(found.get("key", b"")) in (0, 2_000_000)
    litter = list(store.leftovers(time.time() + 1))
    assert len(litter) <= 1
    assert list(store.leftovers(time.time() - 60)) == []
    assert all(path.name.startswith(".prunefleet-") for path in litter)


def test_files_have_the_users_mode_and_not_a_private_one(store: LocalStore, root: Path) -> None:
    old = os.umask(0o022)
    try:
        store.put("key", b"1")
        store.put_if_absent("other", b"1")
    finally:
        os.umask(old)
    assert {stat.S_IMODE((root / name).stat().st_mode) for name in ("key", "other")} == {0o644}


def test_every_write_reaches_the_disk_before_its_name(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "replace", "link")}

    def noting(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            target = arguments[0]
            is_directory = name == "fsync" and stat.S_ISDIR(os.fstat(target).st_mode)
            calls.append("fsync directory" if is_directory else name)
            return real[name](*arguments, **named)

        return call

    store.put("a/warm", b"")
    for name in real:
        monkeypatch.setattr(os, name, noting(name))
    store.put("a/key", b"1")
    store.put_if_absent("a/other", b"1")
    assert calls == ["fsync", "replace", "fsync directory", "fsync", "link", "fsync directory"]


def test_the_etag_of_a_large_object_is_cheap_and_changes_with_it(store: LocalStore) -> None:
    store.put("large", b"1" * (2 << 20))
    first = store.stat("large")
    store.put("large", b"2" * (2 << 20))
    second = store.stat("large")
    assert first is not None
    assert second is not None
    assert first.etag != second.etag
    assert "-" in first.etag


def test_a_swap_that_looks_while_another_is_about_to_write_waits_for_it(tmp_path, monkeypatch):
    store = LocalStore(tmp_path)
    first = store.swap("a", b"0", None)
    inside, stat = threading.Event(), LocalStore.stat

    def slow_stat(self, key):
        found = stat(self, key)
        if threading.current_thread().name == "slow":
            inside.set()
            time.sleep(0.5)
        return found

    monkeypatch.setattr(LocalStore, "stat", slow_stat)
    won = {}
    slow = threading.Thread(target=lambda: won.update(slow=store.swap("a", b"1", first)), name="slow")
    slow.start()
    assert inside.wait(10)
    won["quick"] = store.swap("a", b"2", first)
    slow.join()
    assert won["slow"] is not None
    assert won["quick"] is None
    assert store.get("a") == b"1"
