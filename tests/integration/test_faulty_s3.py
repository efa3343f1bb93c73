"""A real S3 server behind a network that refuses, breaks off, cuts and flips: nothing is lost, doubled or believed.

`pytest -m soak -s tests/integration/test_faulty_s3.py` runs 10,000 units and prints the figures.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from servers.ceph import S3Server
from servers.fault_proxy import FAULTS, FaultProxy, Rates

from orchestrator import folding, results, schemas
from orchestrator.artifacts import download_artifact, upload_artifact
from orchestrator.domain import FailureClass
from orchestrator.errors import Damaged, NotPermitted, PrunefleetError, StoreError, Unreachable
from orchestrator.folding import fold
from orchestrator.retry import POLICY
from orchestrator.spec import StoreSpec
from orchestrator.stores.local import LocalStore
from orchestrator.stores.s3 import S3Store
from orchestrator.tables import read_table

pytestmark = pytest.mark.s3

BAD_NIGHT = Rates(
    slow_down=0.2, cut=0.01, flip_answer=0.001, flip_request=0.001, reset_before=0.01, reset_after=0.01,
    error_after=0.005, delay=0.05, delay_seconds=0.02,
)  # fmt: skip
WORSE = replace(BAD_NIGHT, cut=0.05, flip_answer=0.05, flip_request=0.05)
AMBIGUOUS = Rates(slow_down=0.1, reset_before=0.05, reset_after=0.15, error_after=0.1)
THREADS = 16

Offered = dict[str, tuple[str, bytes]]
"""Unit key -> its task and the bytes of its result."""


@dataclass(frozen=True)
class Place:
    """One bucket, seen through the network and from behind it."""

    store: S3Store
    behind: S3Store


@pytest.fixture(scope="module")
def proxy(ceph: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy.serve(ceph.endpoint, seed=7) as server:
        yield server


@pytest.fixture
def place(ceph: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name, value in ceph.environment.items():
        monkeypatch.setenv(name, value)
    proxy.reset()
    url = f"s3://{ceph.make_bucket()}/prefix"
    specs = [StoreSpec(url=url, endpoint=endpoint) for endpoint in (proxy.endpoint, ceph.endpoint)]
    yield Place(*map(S3Store, specs))
    proxy.reset()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever pauses between two requests does so for a tenth of the time."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 10))


@pytest.fixture
def offer(
    provenance: Callable[..., dict[str, Any]], tables_of: Callable[[int], tuple[str, Any]]
) -> Callable[[int], Offered]:
    """The results of the first units."""

    def make(count: int) -> Offered:
        offered = {}
        for number in range(count):
            task, tables = tables_of(number)
            made = provenance(number, task)
            offered[made["unit_key"]] = task, results.encode(task, tables, made)
        return offered

    return make


def persist(act: Callable[[], Any], tries: int = POLICY[FailureClass.STORAGE].tries) -> tuple[Any, int]:
    """What it gives at last, as often as a unit that the store failed is tried; and how often it was."""
    for count in range(1, tries):
        try:
            return act(), count
        except (StoreError, Unreachable):
            continue
    return act(), tries


def work(store: S3Store, key: str, task: str, data: bytes) -> int:
    """What a worker asks of the store for one unit: is it done, make it real, read it again. The tries that it took."""

    def unit() -> None:
        if store.stat(results.result_key(task, key)) is None:
            results.commit(store, task, key, data)
        assert results.read(store, task, key).content_sha256 == results.decode(data).content_sha256

    return persist(unit)[1]


def run_units(store: S3Store, offered: Offered) -> Counter[int]:
    """All units, many at once; how many took how many tries."""
    with ThreadPoolExecutor(THREADS) as pool:
        return Counter(pool.map(lambda item: work(store, item[0], *item[1]), offered.items()))


def check_stored(behind: S3Store, offered: Offered) -> None:
    """Every object once, with exactly the bytes that were offered."""
    there = [found.key for found in behind.list("results/")]
    assert sorted(there) == sorted(results.result_key(task, key) for key, (task, _) in offered.items())
    with ThreadPoolExecutor(THREADS) as pool:
        stored = pool.map(lambda item: behind.get(results.result_key(item[1][0], item[0])), offered.items())
        assert all(got == data for got, (_, data) in zip(stored, offered.values(), strict=True))


def requests_without_faults(place: Place, proxy: FaultProxy, offered: Offered) -> float:
    """Requests that a unit takes on a good night."""
    proxy.reset()
    assert run_units(place.store, offered) == {1: len(offered)}
    check_stored(place.behind, offered)
    return proxy.counts["requests"] / len(offered)


def test_a_good_night_passes_through_unchanged(
    place: Place, proxy: FaultProxy, offer: Callable[[int], Offered]
) -> None:
    assert requests_without_faults(place, proxy, offer(12)) == 3
    assert not set(proxy.counts) & set(FAULTS)


def test_every_unit_of_a_bad_night_finishes_and_nothing_corrupt_is_believed(
    place: Place, proxy: FaultProxy, offer: Callable[[int], Offered]
) -> None:
    proxy.reset(replace(BAD_NIGHT, flip_answer=0.01, flip_request=0.01))
    offered = offer(400)
    assert run_units(place.store, offered) == {1: 400}, (
        "no unit is tried again, for the store itself persists"
    )
    counts = proxy.counts
    assert set(FAULTS) - {"error"} <= set(counts), "every fault came"
    assert counts["requests"] <= 2 * 3 * 400
    check_stored(place.behind, offered)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_units_of_a_bad_night(
    place: Place, proxy: FaultProxy, offer: Callable[[int], Offered]
) -> None:
    offered = offer(10_000)
    began = time.monotonic()
    proxy.reset(BAD_NIGHT)
    tries = run_units(place.store, offered)
    counts, seconds = proxy.counts, time.monotonic() - began
    check_stored(place.behind, offered)
    amplification = counts["requests"] / (3 * len(offered))
    print(
        f"\n{len(offered)} units in {seconds:.0f} s; tries: {dict(tries)}; {amplification:.3f}x requests; {counts}"
    )
    assert set(tries) <= {1, 2}
    assert amplification <= 2


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_same", [False, True], ids=["other bytes", "same bytes"])
def test_of_racers_whose_answers_are_lost_exactly_one_is_told_that_it_won(
    place: Place, proxy: FaultProxy, is_same: bool
) -> None:
    proxy.reset(AMBIGUOUS)

    def race(number: int) -> bool:
        key, racer = divmod(number, 4)
        data = b"the same" if is_same else f"racer {racer}".encode()
        return bool(persist(lambda: place.store.put_if_absent(f"race/{key}", data))[0])

    with ThreadPoolExecutor(THREADS) as pool:
        won = list(pool.map(race, range(4 * 60)))
    for key in range(60):
        answers = won[4 * key : 4 * key + 4]
        assert answers.count(True) == 1, f"key {key}: {answers}"
        stored = place.behind.get(f"race/{key}")
        assert stored == (b"the same" if is_same else f"racer {answers.index(True)}".encode())
    assert proxy.counts["reset_after"] > 20


@pytest.mark.usefixtures("short_pauses")
def test_no_swap_is_told_to_have_won_that_did_not(place: Place, proxy: FaultProxy) -> None:
    """Each value names its writer; whoever was told that it won stands in the chain of values, once."""
    first = place.behind.swap("register", b"start", None)
    assert first
    proxy.reset(AMBIGUOUS)

    def add(writer: int) -> list[str]:
        won = []
        for number in range(8):
            etag = persist(lambda: place.store.stat("register"))[0].etag
            before = persist(lambda: place.store.get("register"))[0].decode()
            name = f"{writer}.{number}"
            try:
                new = place.store.swap("register", f"{before},{name}".encode(), etag)
            except (StoreError, Unreachable):
                continue
            won += [name] if new else []
        return won

    with ThreadPoolExecutor(4) as pool:
        won = [name for names in pool.map(add, range(4)) for name in names]
    chain = place.behind.get("register").decode().split(",")
    assert set(won) <= set(chain)
    assert len(chain) == len(set(chain))
    assert len(won) >= 8


@pytest.mark.usefixtures("short_pauses")
def test_a_listing_that_lies_hides_what_is_done_and_invents_nothing_that_is_wanted(
    place: Place, proxy: FaultProxy, offer: Callable[[int], Offered]
) -> None:
    """Nothing protects a listing over plain HTTP: what is left out is looked up again, what is invented nobody wants."""
    offered = offer(40)
    done = dict(list(offered.items())[:20])
    run_units(place.behind, done)
    proxy.reset(Rates(flip_answer=0.8, cut=0.2, only="GET .*list-type"))
    seen = Counter[str]()
    for _ in range(40):
        try:
            found = {
                stat.key.rpartition("/")[2].removesuffix(".arrow") for stat in place.store.list("results/")
            }
        except (StoreError, Unreachable):
            seen["refused"] += 1
        else:
            assert found & offered.keys() <= done.keys()
            seen["whole" if found == done.keys() else "changed"] += 1
    assert min(seen["refused"], seen["whole"], seen["changed"]) > 0, seen


def make_artifact(directory: Path, megabytes: tuple[int, ...]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "empty.txt").touch()
    generator = random.Random(0)
    for number, size in enumerate(megabytes):
        (directory / f"model-{number}.safetensors").write_bytes(generator.randbytes((size << 20) + number))
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.usefixtures("short_pauses")
def test_artifacts_go_up_in_parts_and_come_down_equal_or_not_at_all(
    place: Place, proxy: FaultProxy, tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "artifact", (1, 17, 40))
    proxy.reset(WORSE)
    (digest, _), _ = persist(lambda: upload_artifact(place.store, artifact))
    assert proxy.counts["flip_request"] > 0
    for number in range(3):
        proxy.reset(WORSE)
        for attempt in range(POLICY[FailureClass.STORAGE].tries):
            into = tmp_path / f"{number}-{attempt}"
            into.mkdir()
            try:
                download_artifact(place.store, digest, into)
            except (Damaged, StoreError, Unreachable):
                assert contents(into).items() <= contents(artifact).items(), "no file that is not whole"
                continue
            break
        assert contents(into) == contents(artifact)
    (tmp_path / "behind").mkdir()
    download_artifact(place.behind, digest, tmp_path / "behind")
    assert contents(tmp_path / "behind") == contents(artifact)


UPLOADS = {
    "begun, and the answer lost": Rates(reset_after=1, times=1, only="POST .*[?]uploads"),
    "begun, and the answer flipped": Rates(flip_answer=1, times=1, only="POST .*[?]uploads"),
    "a part refused": Rates(slow_down=1, times=5, only="PUT .*partNumber=2"),
    "parts flipped on the way": Rates(flip_request=1, times=4, only="PUT .*partNumber"),
    "a part sent, and the answer lost": Rates(reset_after=1, times=3, only="PUT .*partNumber=1"),
    "completed, and the answer lost": Rates(reset_after=1, times=1, only="POST .*uploadId"),
    "completed, and the answer lost many times": Rates(reset_after=1, times=4, only="POST .*uploadId"),
    "completed, and an error told": Rates(error_after=1, times=2, only="POST .*uploadId"),
    "completed, and the answer flipped": Rates(flip_answer=1, times=1, only="POST .*uploadId"),
    "completed by a flipped request": Rates(flip_request=1, times=1, only="POST .*uploadId"),
}


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("moment", UPLOADS)
def test_an_upload_in_parts_survives_one_fault_at_each_moment(
    place: Place, proxy: FaultProxy, tmp_path: Path, moment: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(random.Random(1).randbytes(17 << 20))
    proxy.reset(UPLOADS[moment])
    place.store.upload(file, "file")
    assert sum(proxy.counts.get(fault, 0) for fault in FAULTS) == UPLOADS[moment].times
    assert place.behind.get("file") == file.read_bytes()


DOWNLOADS = {
    "cut": Rates(cut=1, times=2, only="GET"),
    "flipped": Rates(flip_answer=1, times=1, only="GET"),
    "refused": Rates(slow_down=1, times=5, only="GET"),
    "reset": Rates(reset_after=1, times=5),
}


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("fault", DOWNLOADS)
def test_a_download_is_repeated_until_it_is_whole(
    place: Place, proxy: FaultProxy, tmp_path: Path, fault: str
) -> None:
    data = random.Random(1).randbytes(20 << 20)
    place.behind.put("file", data)
    proxy.reset(DOWNLOADS[fault])
    place.store.download("file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize(
    ("rates", "error"),
    [(Rates(cut=1, only="GET"), Unreachable), (Rates(flip_answer=1, only="GET"), Damaged)],
    ids=["cut", "flipped"],
)
def test_what_is_never_whole_is_an_error_of_ours_and_leaves_no_file(
    place: Place, proxy: FaultProxy, tmp_path: Path, rates: Rates, error: type[PrunefleetError]
) -> None:
    place.behind.put("file", b"x" * (20 << 20))
    proxy.reset(rates)
    with pytest.raises(error, match="file"):
        place.store.download("file", tmp_path / "file")
    with pytest.raises(error, match="file"):
        place.store.get("file")
    assert list(tmp_path.iterdir()) == []


def rows(store: Any) -> dict[str, list[Any]]:
    """Every folded table's rows, in an order of their own."""
    tables = {name: read_table(store, name) for name in schemas.FOLDED}
    return {name: sorted(table.to_table().to_pylist(), key=repr) for name, table in tables.items()}


TABLE_NIGHTS = {
    "bad night": replace(BAD_NIGHT, flip_answer=0, cut=0.02, flip_request=0.01),
    "ambiguous": Rates(slow_down=0.02, reset_before=0.03, reset_after=0.06, error_after=0.05),
}
"""No flipped answer: a Delta log carries no digest, so that over plain HTTP nothing would find it."""


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("night", TABLE_NIGHTS)
def test_tables_folded_through_a_bad_network_are_exact(
    place: Place,
    proxy: FaultProxy,
    local_store: LocalStore,
    offer: Callable[[int], Offered],
    monkeypatch: pytest.MonkeyPatch,
    night: str,
) -> None:
    monkeypatch.setattr(folding, "BATCH_UNITS", 6)
    offered = offer(16)
    for store in (place.behind, local_store):
        for key, (task, data) in offered.items():
            results.commit(store, task, key, data)
    fold(local_store)
    proxy.reset(TABLE_NIGHTS[night])
    folded, tries = persist(lambda: fold(place.store))
    assert tries <= 2
    assert folded.skipped == ()
    assert {"reset_after", "slow_down"} <= set(proxy.counts)
    assert rows(place.behind) == rows(local_store)


@pytest.mark.parametrize("status", [403, 400])
def test_expired_credentials_are_not_permitted_and_told_at_once(
    place: Place, proxy: FaultProxy, tmp_path: Path, offer: Callable[[int], Offered], status: int
) -> None:
    """AWS answers 400 to some and 403 to others."""
    for key, (task, data) in offer(2).items():
        results.commit(place.store, task, key, data)
    fold(place.store)
    (tmp_path / "small").write_bytes(b"1")
    (tmp_path / "large").write_bytes(bytes(17 << 20))
    proxy.refusal = status
    store, began = place.store, time.monotonic()
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.get("key"),
        lambda: store.put("key", b""),
        lambda: store.put_if_absent("key", b""),
        lambda: store.swap("key", b"", "etag"),
        lambda: store.stat("key"),
        lambda: list(store.list("")),
        lambda: store.delete("key"),
        lambda: store.upload(tmp_path / "small", "small"),
        lambda: store.upload(tmp_path / "large", "large"),
        lambda: store.download("key", tmp_path / "down"),
        lambda: fold(store),
        lambda: read_table(store, "units"),
    )
    for call in calls:
        with pytest.raises(NotPermitted, match="expired|credentials|until when") as told:
            call()
        assert str(told.value).isprintable()
    assert time.monotonic() - began < 20, "nothing that cannot pass is repeated"


def test_a_server_that_goes_down_is_unreachable_in_bounded_time_and_welcome_when_it_is_back(
    place: Place, proxy: FaultProxy, tmp_path: Path, offer: Callable[[int], Offered]
) -> None:
    for key, (task, data) in offer(2).items():
        results.commit(place.store, task, key, data)
    fold(place.store)
    (tmp_path / "large").write_bytes(bytes(17 << 20))
    store = place.store
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.get("key"),
        lambda: store.put("key", b""),
        lambda: store.put_if_absent("key", b""),
        lambda: store.swap("key", b"", "etag"),
        lambda: store.stat("key"),
        lambda: list(store.list("")),
        lambda: store.delete("key"),
        lambda: store.upload(tmp_path / "large", "large"),
        lambda: store.download("key", tmp_path / "down"),
        lambda: fold(store),
        lambda: read_table(store, "units"),
    )

    def raised(call: Callable[[], object]) -> tuple[type[BaseException], float]:
        began = time.monotonic()
        with pytest.raises(PrunefleetError) as told:
            call()
        return told.type, time.monotonic() - began

    with proxy.down(), ThreadPoolExecutor(len(calls)) as pool:
        ended = list(pool.map(raised, calls))
    assert {kind for kind, _ in ended} == {Unreachable}
    assert max(seconds for _, seconds in ended) < 60
    assert store.put_if_absent("key", b"1")
    assert fold(store).units == 0
