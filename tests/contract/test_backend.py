"""What the controller may rely on, whatever runs its attempts."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import bodies
import pytest

from orchestrator.domain import FailureClass, Pool, Shard
from orchestrator.ports import Assignment

POOL = Pool(
    name="cpu", cpus=2, gpus=0, memory_bytes=None, cpus_per_shard=1, gpus_per_shard=0, label_selector={}, price_per_hour=0
)  # fmt: skip


def heed(number, frame):
    """What the controller has installed before it connects."""


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def backend(request):
    pools = {"cpu": POOL}
    before = signal.signal(signal.SIGTERM, heed)
    if request.param == "local":
        from orchestrator.backends.local_backend import LocalBackend

        opened = LocalBackend(pools=pools, body=bodies.act)
    else:
        os.environ["PYTHONPATH"] = str(Path(bodies.__file__).parent)
        from orchestrator.backends.ray_backend import connect

        opened = connect(pools, bodies.act, None)
    yield opened
    opened.close()
    signal.signal(signal.SIGTERM, before)


def assignment(name, **payload):
    shard = Shard(
        id=name, units=(f"{name}-a", f"{name}-b"), pool="cpu", predicted_seconds=1.0, memory_bytes=0
    )
    return Assignment(attempt_id=name, shard=shard, pool=POOL, payload={"keys": shard.units, **payload})


def ended(backend, count=1, seconds=90):
    """The next ends, by attempt."""
    found, deadline = {}, time.monotonic() + seconds
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {sorted(found)} ended"
        found.update({event.attempt_id: event for event in backend.wait(1.0)})
    return found


def test_there_are_as_many_slots_as_the_pool_says(backend):
    assert backend.capacity() == {"cpu": 2}


def test_a_signal_still_reaches_the_one_who_waits_for_it(backend):
    assert signal.getsignal(signal.SIGTERM) is heed


def test_nothing_submitted_nothing_ended(backend):
    assert list(backend.wait(0.0)) == []


def test_a_good_attempt_brings_its_reports(backend):
    backend.submit(assignment("good"))
    event = ended(backend)["good"]
    assert [report.key for report in event.reports] == ["good-a", "good-b"]
    assert event.failure is None
    assert event.wall_seconds > 0
    assert event.node


def test_what_waits_for_a_slot_or_to_be_heard_is_not_at_work(backend, tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        backend.submit(
            assignment(f"holds-{file.name}", do="tell", variable="HOME", file=str(file), waits=True)
        )
    deadline = time.monotonic() + 90
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    backend.submit(assignment("waits"))
    time.sleep(0.5)
    released = time.monotonic()
    for file in files:
        file.unlink()
    events = ended(backend, 3)
    assert 0 <= events["waits"].wall_seconds <= time.monotonic() - released
    assert min(events[f"holds-{file.name}"].wall_seconds for file in files) >= 0.5


def test_several_attempts_end_each_once(backend):
    for number in range(6):
        backend.submit(assignment(f"many{number}"))
    assert sorted(ended(backend, 6)) == [f"many{number}" for number in range(6)]
    assert list(backend.wait(0.2)) == []


def test_a_worker_that_dies_is_suspected_of_poison_and_hurts_nobody_else(backend):
    backend.submit(assignment("dies", do="die"))
    backend.submit(assignment("lives"))
    events = ended(backend, 2)
    assert events["dies"].failure.failure_class is FailureClass.POISON
    assert events["dies"].reports == ()
    assert events["lives"].failure is None


def test_a_body_that_raises_is_an_internal_failure_with_its_words(backend):
    backend.submit(assignment("raises", do="raise"))
    failure = ended(backend)["raises"].failure
    assert failure.failure_class is FailureClass.INTERNAL
    assert "RuntimeError" in failure.error


def test_what_is_asked_to_stop_or_else_killed_ends_with_a_failure(backend, tmp_path):
    begun = tmp_path / "begun"
    backend.submit(assignment("sleeps", do="sleep", file=str(begun)))
    deadline = time.monotonic() + 90
    while not begun.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    backend.cancel("sleeps", force=False)
    events = list(backend.wait(2.0))
    if not events:  # a task that sleeps in C hears nothing of Ray's polite request
        backend.cancel("sleeps", force=True)
        events = list(ended(backend).values())
    (event,) = events
    assert event.failure.failure_class in (FailureClass.TIMEOUT, FailureClass.POISON, FailureClass.INTERNAL)


def test_cancelling_what_is_over_or_unknown_is_no_error(backend):
    backend.cancel("never was", force=True)
    backend.submit(assignment("after"))
    assert "after" in ended(backend)
