"""A unit's run on a worker, step by step: look, compute, artifact, result; and whose fault it is if one fails."""

from __future__ import annotations

import pytest

from orchestrator import worker
from orchestrator.domain import FailureClass, Pool, Shard, TaskName, UnitStatus
from orchestrator.errors import Damaged, ModelChanged, NotPermitted, RegistryError, Unreachable
from orchestrator.simulation import bodies
from orchestrator.simulation.store import MemoryStore
from orchestrator.spec import StoreSpec
from orchestrator.tables.listing import completed, result_key
from orchestrator.tables.results import decode
from tasks.contract import BadInput, Finding, Product

POOL = Pool(
    name="cpu", cpus=1.0, gpus=0.0, memory_bytes=None, cpus_per_shard=1.0, gpus_per_shard=0.0,
    label_selector={}, price_per_hour=0.0,
)  # fmt: skip


@pytest.fixture
def units(make_plan):
    plan = make_plan()
    (chain, *_) = plan.chains
    return {
        "sensitivity": plan.units[chain.units[0]],
        "prune": plan.units[chain.prune],
        "dense": plan.units[chain.dense],
        "judge": plan.units[chain.judge],
        "all": plan.units,
    }


@pytest.fixture
def place(units, tmp_path):
    order = worker.ShardOrder(
        run_id="r",
        attempt_id="s000001-1",
        limit_seconds=60.0,
        shard=Shard(id="s000001", units=(), pool="cpu", predicted_seconds=1.0, memory_bytes=1),
        pool=POOL,
        units=(),
        need_tasks={key: unit.task.value for key, unit in units["all"].items()},
        predicted_seconds={},
        store=StoreSpec(url="/nowhere"),
        registries={},
        cache_root=str(tmp_path / "cache"),
        cache_bytes=10**6,
    )
    return worker.Place(order=order, store=MemoryStore(), scratch=tmp_path)


def finish(place, unit, compute=bodies.compute):
    return worker.finish(place, unit, 0.0, compute)


def test_a_unit_that_is_done_is_found_without_any_work(place, units):
    unit = units["dense"]
    assert worker.look(place, unit) is None
    assert finish(place, unit).status is UnitStatus.DONE
    for report in (worker.look(place, unit), worker.run_unit(place, unit)):
        assert report.status is UnitStatus.FOUND
        assert report.key == unit.key


def test_the_result_says_where_it_came_from(place, units):
    unit = units["dense"]
    finish(place, unit)
    result = decode(place.store.get(result_key(unit.task, unit.key)))
    assert result.content_sha256 == bodies.expected(unit)
    for name, value in {"run_id": "r", "attempt": "s000001-1", "pool": "cpu", "unit_key": unit.key}.items():
        assert result.provenance[name] == value


def test_two_that_computed_the_same_agree_on_one_result(place, units):
    unit = units["dense"]
    first = finish(place, unit)
    before = dict(place.store.objects)
    second = finish(place, unit)
    assert (first.status, second.status) == (UnitStatus.DONE, UnitStatus.FOUND)
    assert second.findings == ()
    assert place.store.objects == before


def test_two_that_computed_different_rows_leave_a_finding_and_the_first_rows(place, units):
    unit = units["dense"]
    finish(place, unit)
    kept = place.store.get(result_key(unit.task, unit.key))
    report = finish(
        place, unit, lambda *_: Product(tables={"outcomes": [{"example": 0, "loss": 9.0, "tokens": 1}]})
    )
    assert report.status is UnitStatus.FOUND
    assert report.findings == ("nondeterminism",)
    assert place.store.get(result_key(unit.task, unit.key)) == kept
    assert [stat.key for stat in place.store.list("runs/r/nondeterminism/")]


def test_two_clocks_never_agree_and_nobody_is_to_blame(place, make_plan, fleet_text):
    text = fleet_text.replace("metric: perplexity}", "metric: perplexity, latency: true}", 1)
    unit = next(unit for unit in make_plan(text=text).units.values() if unit.task is TaskName.LATENCY)

    def timing(seconds, *findings):
        rows = [{"runtime": "torch", "seconds": seconds}]
        return lambda *_: Product(tables={"latencies": rows}, findings=findings)

    first = finish(place, unit, timing(0.25))
    kept = place.store.get(result_key(unit.task, unit.key))
    slower = Finding(kind="no_gain", subject="torch", message="no faster")
    second = finish(place, unit, timing(0.5, slower))
    assert (first.status, second.status) == (UnitStatus.DONE, UnitStatus.FOUND)
    assert "nondeterminism" not in second.findings
    assert place.store.get(result_key(unit.task, unit.key)) == kept
    assert not [stat.key for stat in place.store.list("runs/r/nondeterminism/")]


def test_the_artifact_is_whole_before_the_result_is_there(place, units):
    unit, writes = units["prune"], []
    for need in unit.needs:
        finish(place, units["all"][need])
    place.store.written = lambda key, before, after: writes.append(
        key.split("/")[0] + "/" + key.split("/")[-1]
    )
    finish(place, unit)
    assert writes == ["artifacts/weights.bin", "artifacts/files.json", f"results/{unit.key}.arrow"]


def test_findings_are_rows_and_are_reported(place, units):
    unit = units["dense"]
    finding = Finding(kind="skipped_layer", subject="head", message="it is tied")

    def compute(place, unit, output):
        return Product(tables=bodies.compute(place, unit, output).tables, findings=(finding,))

    assert finish(place, unit, compute).findings == ("skipped_layer",)
    (row,) = decode(place.store.get(result_key(unit.task, unit.key))).rows("findings")
    assert row == {"kind": "skipped_layer", "subject": "head", "message": "it is tied"}


def test_a_judge_reads_two_results_and_no_model(place, units):
    unit = units["judge"]
    assert unit.task is TaskName.JUDGE
    report = worker.run_unit(place, unit)
    assert report.failure.failure_class is FailureClass.STORAGE, "what it reads is not there"
    assert completed(place.store) == frozenset()


def test_nothing_is_left_behind_on_the_node(place, units, tmp_path):
    finish(place, units["dense"])
    worker.guarded(units["dense"], lambda: finish(place, units["dense"], lambda *_: 1 / 0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadInput("x", why="y", do="z"), FailureClass.BAD_INPUT),
        (ModelChanged(), FailureClass.CHANGED),
        (NotPermitted(), FailureClass.PERMISSION),
        (Unreachable(), FailureClass.STORAGE),
        (Damaged(), FailureClass.STORAGE),
        (RegistryError(), FailureClass.STORAGE),
        (MemoryError(), FailureClass.MEMORY),
        (ImportError(), FailureClass.ENVIRONMENT),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FailureClass.MEMORY),
        (ZeroDivisionError(), FailureClass.INTERNAL),
    ],
)
def test_what_a_step_raises_is_a_failure_with_its_class(units, error, kind):
    def step():
        raise error

    report = worker.guarded(units["dense"], step)
    assert (report.status, report.failure.failure_class) == (UnitStatus.FAILED, kind)


def test_a_crash_is_not_caught(units):
    def step():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.guarded(units["dense"], step)
