"""The virtual cluster: slots, queues, losses, cancels, and what a controller hears of them."""

from __future__ import annotations

import pytest

from orchestrator.domain import FailureClass, Shard, UnitReport, UnitStatus
from orchestrator.ports import Assignment
from orchestrator.simulation.clock import Timeline
from orchestrator.simulation.cluster import Cluster, Connection, Node

SECONDS = 10.0


@pytest.fixture
def pool(make_pool):
    return make_pool(cpus=2.0)


@pytest.fixture
def cluster(pool):
    def body(attempt):
        def end():
            if attempt.lives:
                cluster.report(attempt, [UnitReport(key="u", status=UnitStatus.DONE)])

        cluster.timeline.after(SECONDS, end)

    nodes = [Node(name=f"n{number}", pool=pool.name, slots=1) for number in range(2)]
    cluster = Cluster(timeline=Timeline(), pools={pool.name: pool}, nodes=nodes, body=body)
    return cluster


@pytest.fixture
def send(cluster, pool):
    def send(name, connection):
        shard = Shard(id=name, units=("u",), pool=pool.name, predicted_seconds=SECONDS, memory_bytes=1)
        connection.submit(Assignment(attempt_id=name, shard=shard, pool=pool, payload=None))

    return send


@pytest.fixture
def connection(cluster):
    return Connection(cluster=cluster)


def names(events):
    return [event.attempt_id for event in events]


def test_an_attempt_ends_when_its_time_is_over(cluster, connection, send):
    send("a", connection)
    (event,) = connection.wait(1e9)
    assert (event.attempt_id, event.failure, event.node) == ("a", None, "n0")
    assert event.wall_seconds == cluster.timeline.at == SECONDS
    assert [report.key for report in event.reports] == ["u"]


def test_waiting_takes_no_longer_than_asked(cluster, connection, send):
    send("a", connection)
    assert connection.wait(3.0) == []
    assert cluster.timeline.at == 3.0
    assert names(connection.wait(1e9)) == ["a"]


def test_all_ends_of_one_moment_come_together(connection, send):
    send("a", connection)
    send("b", connection)
    assert names(connection.wait(1e9)) == ["a", "b"]
    assert connection.wait(1.0) == []


def test_more_attempts_than_slots_wait_their_turn_whoever_sent_them(cluster, connection, send):
    other = Connection(cluster=cluster)
    for name in ("a", "b"):
        send(name, other)
    send("c", connection)
    assert names(connection.wait(1e9)) == ["c"]
    assert cluster.timeline.at == 2 * SECONDS
    assert names(other.taken()) == ["a", "b"]


def test_capacity_is_that_of_the_nodes_that_are_up(cluster, connection):
    assert connection.capacity() == {"cpu": 2}
    cluster.lose(cluster.nodes[0], 100.0)
    assert connection.capacity() == {"cpu": 1}
    cluster.timeline.sleep(100.0)
    assert connection.capacity() == {"cpu": 2}


def test_a_lost_node_takes_its_attempts_with_it_and_comes_back_empty(cluster, connection, send):
    for name in ("a", "b", "c"):
        send(name, connection)
    gone = cluster.lose(cluster.nodes[0], 100.0)
    assert [attempt.assignment.attempt_id for attempt in gone] == ["a"]
    assert cluster.lose(cluster.nodes[0], 100.0) == []
    for attempt in gone:
        cluster.disown(attempt, FailureClass.INFRASTRUCTURE, "gone", delay=5.0)
    (event,) = connection.wait(1e9)
    assert (event.attempt_id, event.failure.failure_class) == ("a", FailureClass.INFRASTRUCTURE)
    assert names(connection.wait(1e9)) == ["b"]
    assert names(connection.wait(1e9)) == ["c"]
    assert cluster.timeline.at == 2 * SECONDS, "on the node that was left"


def test_what_computes_heeds_only_force(cluster, connection, send):
    send("a", connection)
    connection.cancel("a", force=False)
    assert connection.wait(1.0) == []
    connection.cancel("a", force=True)
    (event,) = connection.wait(1.0)
    assert event.failure.failure_class is FailureClass.POISON
    send("b", connection)
    assert names(connection.wait(1e9)) == ["b"]


def test_what_waits_is_taken_out_of_the_queue(connection, send):
    for name in ("a", "b", "c"):
        send(name, connection)
    connection.cancel("c", force=False)
    (event,) = connection.wait(1.0)
    assert (event.attempt_id, event.failure.failure_class) == ("c", FailureClass.TIMEOUT)
    assert sorted(names(connection.wait(1e9))) == ["a", "b"]


def test_an_attempt_that_ends_in_silence_can_be_cancelled(cluster, connection, send):
    send("a", connection)
    cluster.stop(connection.attempts["a"])
    assert connection.wait(1e3) == []
    connection.cancel("a", force=False)
    assert names(connection.wait(1.0)) == ["a"]


def test_a_zombie_is_heard_of_twice(cluster, connection, send):
    send("a", connection)
    cluster.disown(connection.attempts["a"], FailureClass.INFRASTRUCTURE, "taken for lost")
    (first,) = connection.wait(1.0)
    (second,) = connection.wait(1e9)
    assert first.failure
    assert not second.failure
    assert second.attempt_id == "a"


def test_who_has_closed_hears_nothing(cluster, connection, send):
    heard = []
    connection.heard = lambda: heard.append(1)
    send("a", connection)
    connection.close()
    cluster.timeline.sleep(100.0)
    assert connection.taken() == []
    assert heard == []


def test_taken_slots_are_remembered(cluster, connection, send):
    for name in ("a", "b", "c"):
        send(name, connection)
    cluster.timeline.sleep(100.0)
    assert cluster.spans == {"cpu": [(0.0, SECONDS), (0.0, SECONDS), (SECONDS, 2 * SECONDS)]}
