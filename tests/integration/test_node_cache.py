"""The node cache with real files, threads and processes, some of which are killed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.errors import BrokenInvariant, Damaged
from orchestrator.identity import digest_bytes, digest_files
from orchestrator.node_cache import NodeCache
from tasks.contract import BadInput

SCRIPT = """
import os, sys
from pathlib import Path
from orchestrator.node_cache import NodeCache

root, digest, limit, size, log, manner = sys.argv[1:]
cache = NodeCache(Path(root), int(limit))

def say(word):
    print(word, flush=True)

def fill(into):
    with open(log, "a") as stream:
        stream.write(f"{os.getpid()}\\n")
    (into / "weights").write_bytes(b"x" * (int(size) // 2))
    if manner == "pause":
        say("half")
        sys.stdin.readline()
    with (into / "weights").open("ab") as stream:
        stream.write(b"x" * (int(size) - int(size) // 2))

say("ready")
sys.stdin.readline()
with cache.hold(digest, int(size), fill) as path:
    say(str((path / "weights").stat().st_size))
    sys.stdin.readline()
    say(str((path / "weights").stat().st_size))
"""


class Asker:
    """A process that asks the cache for one entry, step by step."""

    def __init__(
        self, root: Path, digest: str, log: Path, *, limit: int = 10**9, size: int = 1000, manner: str = "go"
    ):
        arguments = [sys.executable, "-c", SCRIPT, str(root), digest, str(limit), str(size), str(log), manner]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )

    def hears(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def goes_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def dies(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def askers(tmp_path):
    started = []

    def ask(*arguments, **options):
        started.append(Asker(*arguments, **options))
        return started[-1]

    yield ask
    for asker in started:
        asker.process.kill()
        asker.process.communicate()


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "cache"
    yield path
    for parent, _, _ in os.walk(path):
        os.chmod(parent, 0o755)


def named(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def writes(size: int, name: str = "weights"):
    def fill(into: Path) -> None:
        (into / name).write_bytes(b"x" * size)

    return fill


def never(into: Path) -> None:
    raise AssertionError(f"{into} was to be filled although it is there")


def entries(root: Path) -> set[str]:
    return {name for name in os.listdir(root) if not name.startswith(".")}


def leftovers(root: Path) -> list[str]:
    return [name for name in os.listdir(root) if name.startswith((".fill", ".trash"))]


def put(cache: NodeCache, name: str, size: int) -> str:
    """Fills an entry, and waits until the file system's clock has moved on, so that uses have an order."""
    digest = named(name)
    with cache.hold(digest, size, writes(size)):
        pass
    _tick(cache._root)
    return digest


def _tick(root: Path) -> None:
    clock = root / ".clock"
    clock.touch()
    before = clock.stat().st_mtime_ns
    while clock.stat().st_mtime_ns == before:
        os.utime(clock)


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
    assert cache.used_bytes() == 900


def test_a_half_removed_entry_is_finished_off(root):
    cache = NodeCache(root, 10**6)
    put(cache, "a", 5)
    os.rename(root / named("a"), root / ".trash.0123456789abcdef")
    put(cache, "b", 5)
    assert leftovers(root) == []
    with cache.hold(named("a"), 5, writes(5)):
        pass


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
        _tick(root)
        put(cache, "b", 400)
    _tick(root)
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
        assert cache.used_bytes() == 1600
    put(cache, "c", 100)
    assert cache.used_bytes() <= 1000


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
    assert cache.used_bytes() <= 10_000
    assert leftovers(root) == []
    assert len(os.listdir(root / ".locks")) <= len(entries(root))


def test_a_model_is_verified_by_the_digest_of_its_files(root):
    files = {"config.json": b"{}", "model.safetensors": b"weights", "sub/x.txt": b"x"}
    digest = digest_files({name: digest_bytes(data) for name, data in files.items()})

    def fill(into: Path) -> None:
        for name, data in files.items():
            (into / name).parent.mkdir(exist_ok=True)
            (into / name).write_bytes(data)

    cache = NodeCache(root, 10**6)
    with cache.hold(digest, 10, fill):
        cache.verify(digest)


def test_a_data_file_is_verified_by_its_own_digest(root):
    digest = digest_bytes(b"x" * 5)
    cache = NodeCache(root, 10**6)
    with cache.hold(digest, 5, writes(5, "manual.jsonl")) as path:
        cache.verify(digest)
        assert [p.name for p in path.iterdir()] == ["manual.jsonl"]


def test_an_entry_changed_behind_our_back_is_found_removed_and_filled_again(root):
    digest = digest_bytes(b"x" * 5)
    cache = NodeCache(root, 10**6)
    with cache.hold(digest, 5, writes(5)) as path:
        os.chmod(path / "weights", 0o644)
        (path / "weights").write_bytes(b"xxxxy")
        with pytest.raises(Damaged, match="Stop its users"):
            cache.verify(digest)
    with pytest.raises(Damaged, match="will be fetched again"):
        cache.verify(digest)
    assert entries(root) == set()
    with cache.hold(digest, 5, writes(5)):
        cache.verify(digest)


@pytest.mark.parametrize("harm", ["added", "missing", "flipped"])
def test_every_way_of_changing_an_entry_is_found(root, harm):
    digest = digest_files({"a": digest_bytes(b"x"), "b": digest_bytes(b"y")})
    cache = NodeCache(root, 10**6)

    def fill(into: Path) -> None:
        (into / "a").write_bytes(b"x")
        (into / "b").write_bytes(b"y")

    with cache.hold(digest, 2, fill) as path:
        pass
    os.chmod(path, 0o755)
    os.chmod(path / "b", 0o644)
    match harm:
        case "added":
            (path / "c").write_bytes(b"")
        case "missing":
            (path / "b").unlink()
        case "flipped":
            (path / "b").write_bytes(b"z")
    with pytest.raises(Damaged):
        cache.verify(digest)


def test_the_cache_directory_may_be_wiped_between_uses(root):
    cache = NodeCache(root, 1000)
    put(cache, "a", 10)
    os.chmod(root / named("a"), 0o755)
    shutil.rmtree(root / named("a"))
    with cache.hold(named("a"), 10, writes(10)) as path:
        assert (path / "weights").exists()


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


def test_an_entry_larger_than_was_promised_and_than_the_limit_is_let_in_alone(root):
    cache = NodeCache(root, 1000)
    put(cache, "a", 300)
    with cache.hold(named("liar"), 1, writes(5000)) as path:
        assert (path / "weights").stat().st_size == 5000
    assert entries(root) == {named("liar")}


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
