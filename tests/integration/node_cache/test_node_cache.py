"""Entries of the node cache: filled once, read only, of regular files, and verified."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cases.node_caches import entries, leftovers, named, never, put, writes

from orchestrator.errors import BrokenInvariant
from orchestrator.node_cache import NodeCache
from tasks.contract import BadInput


def test_an_entry_is_filled_once_and_then_found(root):
    cache = NodeCache(root, 10**6)
    with cache.hold(named("a"), 5, writes(5)) as path:
        assert path == root / named("a")
        assert (path / "weights").read_bytes() == b"xxxxx"
    with cache.hold(named("a"), 5, never) as path:
        assert (path / "weights").stat().st_size == 5
    assert leftovers(root) == []


def test_another_cache_object_on_the_same_directory_finds_it(root):
    put(NodeCache(root, 10**6), "a", 5)
    with NodeCache(root, 10**6).hold(named("a"), 5, never) as path:
        assert (path / "weights").stat().st_size == 5


def test_subdirectories_are_kept_and_everything_is_read_only(root):
    def fill(into: Path) -> None:
        (into / "deep" / "er").mkdir(parents=True)
        (into / "deep" / "er" / "file").write_text("x")
        os.chmod(into / "deep" / "er" / "file", 0o777)

    with NodeCache(root, 10**6).hold(named("a"), 1, fill) as path:
        modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, path / "deep", path / "deep" / "er")]
        assert modes == [0o555] * 3
        assert stat.S_IMODE((path / "deep" / "er" / "file").stat().st_mode) == 0o444


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody whom permissions bind")
def test_a_process_that_is_not_root_cannot_change_an_entry(root):
    cache = NodeCache(root, 10**6)
    with cache.hold(named("a"), 5, writes(5)) as path:
        attack = f"import os; os.chdir({str(path)!r}); os.setgid(65534); os.setuid(65534); open({{}}, {{}})"
        for name, mode in (("weights", "r+"), ("weights", "w"), ("new", "w")):
            script = attack.format(repr(name), repr(mode))
            outcome = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True)
            assert "PermissionError" in outcome.stderr
        assert (path / "weights").read_bytes() == b"xxxxx"


def test_a_name_that_is_no_digest_is_refused_before_anything_is_touched(root):
    cache = NodeCache(root, 10**6)
    for name in ("../outside", "a", "", "A" * 64, "." * 64, "f" * 63 + "/"):
        with pytest.raises(BrokenInvariant), cache.hold(name, 1, never):
            pass
    assert entries(root) == set()


def test_when_filling_fails_nothing_is_left_and_the_next_one_fills(root):
    cache = NodeCache(root, 10**6)

    def fails(into: Path) -> None:
        (into / "half").write_text("half")
        raise ValueError("the registry went away")

    with pytest.raises(ValueError, match="went away"), cache.hold(named("a"), 5, fails):
        pass
    assert entries(root) == set()
    assert leftovers(root) == []
    with cache.hold(named("a"), 5, writes(5)):
        pass


def test_an_error_inside_the_block_is_passed_on_and_the_entry_stays(root):
    cache = NodeCache(root, 10**6)
    with pytest.raises(ValueError, match="mine"), cache.hold(named("a"), 5, writes(5)):
        raise ValueError("mine")
    with cache.hold(named("a"), 5, never):
        pass


def test_what_is_not_a_regular_file_does_not_get_into_the_cache(root):
    cache = NodeCache(root, 10**6)

    def links(into: Path) -> None:
        (into / "weights").symlink_to("/etc/passwd")

    def pipes(into: Path) -> None:
        os.mkfifo(into / "weights")

    for fill in (links, pipes):
        with pytest.raises(BadInput, match="weights.*regular file"), cache.hold(named("a"), 1, fill):
            pass
    assert entries(root) == set()
    assert leftovers(root) == []


def test_the_cache_directory_may_be_wiped_between_uses(root):
    cache = NodeCache(root, 1000)
    put(cache, "a", 10)
    os.chmod(root / named("a"), 0o755)
    shutil.rmtree(root / named("a"))
    with cache.hold(named("a"), 10, writes(10)) as path:
        assert (path / "weights").exists()
