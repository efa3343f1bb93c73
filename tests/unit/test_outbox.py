"""Records that the store refuses end no run: they are kept, tried again, and told."""

from __future__ import annotations

import json

import pytest
from cases.backends import Wrong

from orchestrator import quarantine
from orchestrator.controller import Controller
from orchestrator.errors import NotPermitted, StoreError, Unreachable
from orchestrator.outbox import CLOSING_TRIES, Outbox
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.scheduling import UnitState
from orchestrator.simulation.clock import Timeline
from orchestrator.simulation.store import MemoryStore


class Refusing(MemoryStore):
    """A store that refuses records under a prefix as often as it is told to."""

    prefix = ""
    times = 0
    why = Unreachable
    asked = 0

    def put_if_absent(self, key, data):
        self.asked += 1
        if key.startswith(self.prefix) and self.times > 0:
            self.times -= 1
            raise self.why("not now, by hunter22hunter22")
        return MemoryStore.put_if_absent(self, key, data)


def run_on(store, make_plan, make_pool):
    """The loop on that store, and what it left; every unit that can start is the model's own fault."""
    clock = Timeline()
    controller = Controller(
        run_id="r1", store=store, backend=Wrong(), clock=clock, payload=lambda order: None
    )
    progress = controller.run(make_plan(), {"cpu": make_pool()}, Costs(), {})
    return controller, progress


@pytest.mark.parametrize("prefix", ["runs/", quarantine.PREFIX])
@pytest.mark.parametrize("why", [Unreachable, StoreError, NotPermitted])
def test_records_that_are_refused_for_a_while_end_no_run_and_arrive(make_plan, make_pool, prefix, why):
    store = Refusing()
    store.prefix, store.times, store.why = prefix, 2, why
    controller, progress = run_on(store, make_plan, make_pool)
    at_fault = {key for key, state in progress.states.items() if state is UnitState.QUARANTINED}
    assert at_fault
    assert set(quarantine.list_units(store)) == at_fault
    written = [json.loads(data)[0]["unit_key"] for key, data in _records(store)]
    assert at_fault == set(written)
    assert controller.outbox.refusals == 2
    assert "2 times; all are there now" in controller.outbox.notice


def _records(store):
    return [(stat.key, store.get(stat.key)) for stat in store.list("runs/r1/attempts/")]


def test_records_that_are_refused_for_ever_end_no_run_and_are_told(make_plan, make_pool, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter22hunter22")
    store = Refusing()
    store.prefix, store.times, store.why = quarantine.PREFIX, 10**9, NotPermitted
    controller, progress = run_on(store, make_plan, make_pool)
    lost = progress.counts[UnitState.QUARANTINED]
    assert quarantine.list_units(store) == []
    assert len(_records(store)) > 0, "one record's refusal keeps no other"
    assert f"{lost} of them are not in the store" in controller.outbox.notice
    assert "hunter22" not in controller.outbox.notice


def test_a_store_that_is_away_is_asked_once_a_round():
    store = Refusing()
    store.times = 10**9
    outbox = Outbox(store)
    for number in range(50):
        outbox.put(f"runs/r1/attempts/{number}.json", b"[]")
    outbox.deliver()
    assert store.asked == 1
    outbox.close()
    assert store.asked == 1 + CLOSING_TRIES
    store.times = 0
    outbox.deliver()
    assert len(store.objects) == 50


def test_the_first_record_stays_whether_it_waits_or_is_there():
    store = MemoryStore()
    outbox = Outbox(store)
    outbox.put("quarantine/a.json", b"first")
    outbox.put("quarantine/a.json", b"second")
    outbox.deliver()
    outbox.put("quarantine/a.json", b"third")
    outbox.deliver()
    assert store.get("quarantine/a.json") == b"first"
    assert outbox.notice == ""
