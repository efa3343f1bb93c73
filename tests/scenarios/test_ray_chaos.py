"""Whatever is killed on a real cluster, and whenever: nothing is lost, nothing is there twice, nobody is blamed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from servers import ray_nodes

from orchestrator.stores.local import LocalStore
from orchestrator.tables import folding, results, schemas
from orchestrator.tables.delta import read_table

pytestmark = pytest.mark.ray

COMMAND = Path(sys.executable).parent / "prunefleet"
WITNESS = Path(ray_nodes.__file__).parent / "witness"
SILENT_HEAD_SECONDS = 10  # Ray's own setting; a minute where nobody sets it
LONG = 300.0  # for whatever must happen, on a machine as busy as it may be
DOCUMENTED = {0, 3, 4, 5, 69, 75}  # 4: a unit was struck at every try that one run allows; the next goes on
FINISHED = {0, 3, 5}

FLEET = """
version: 1
name: chaos
store: ./store
registries:
  zoo: {kind: directory, path: ./zoo}
  out: {kind: directory, path: ./published}
datasets:
  digits: {kind: arrays, path: ./data/arrays.parquet, slice_by: digit}
recipes:
  half:
    match: {registry: zoo}
    sensitivity: {dataset: digits, split: calibration, grid: [0.5]}
    prune: {criterion: wanda, amount: 0.5, allocation: sensitivity}
    evaluate: {dataset: digits, split: test, metric: loss}
    gates: {max_drop: 100.0, min_samples: 2}
    publish: {registry: out, alias: candidate}
  too-far:
    match: {registry: zoo}
    prune: {criterion: magnitude, amount: 0.9}
    evaluate: {dataset: digits, split: test, metric: loss}
    gates: {max_drop: 0.000001, min_samples: 2}
pools:
  cpu: {cpus: 16}
"""


@dataclass
class Night:
    """A fleet on a cluster, a driver that is started again whenever it has ended, and what was done to them."""

    root: Path
    cluster: ray_nodes.RayNodes
    draw: random.Random
    add_model: object
    driver: subprocess.Popen | None = None
    drivers: int = 0
    models: int = 0
    runs_before: int = 0
    seen: int = 0
    """Computations begun before the last strike."""
    at_risk: int = 0
    """Computations that strikes may have cost: what could be in flight where they hit."""
    strikes: Counter = field(default_factory=Counter)
    ends: Counter = field(default_factory=Counter)
    """Exit codes of drivers that ended by themselves."""
    headless: list[float] = field(default_factory=list)
    """Seconds from the death of a head to its driver's end."""

    @property
    def store(self):
        return LocalStore(self.root / "store")

    @property
    def slots(self):
        return self.cluster.cpus * self.cluster.count

    def begun(self):
        """Units, as often as their computation began."""
        file = self.root / "witness"
        return file.read_text().split() if file.exists() else []

    def grow(self, models):
        """More models in the registry."""
        for number in range(self.models, self.models + models):
            self.add_model(self.root / "zoo" / f"mlp{number}" / "1", "MLPForClassification", seed=number)
        self.models += models

    def cli(self, *words):
        return subprocess.run(
            [COMMAND, *words], cwd=self.root, env=self.environment(), capture_output=True, text=True, timeout=LONG
        )  # fmt: skip

    def environment(self):
        ours = {"XDG_CACHE_HOME": str(self.root / "cache"), "NO_COLOR": "1", "COLUMNS": "200"}
        return {**os.environ, **self.cluster.environment, **ours}

    def runs(self):
        return len(list((self.root / "store" / "runs").glob("*/status.json")))

    def log(self):
        return (self.root / f"driver{self.drivers}.log").read_text()

    def start(self):
        """A driver, on a cluster that is whole."""
        self.cluster.mend()
        self.drivers += 1
        self.runs_before = self.runs()
        with (self.root / f"driver{self.drivers}.log").open("wb") as out:
            self.driver = subprocess.Popen(
                [COMMAND, "run", "fleet.yaml", "--address", self.cluster.address, "--quiet"],
                cwd=self.root, env=self.environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    def ended(self, expected=DOCUMENTED):
        """The exit code with which the driver ends by itself."""
        code = self.driver.wait(LONG)
        assert code in expected, f"exit {code}\n{self.log()[-6000:]}"
        assert "Traceback" not in self.log(), self.log()[-6000:]
        self.driver = None
        self.ends[code] += 1
        return code

    def until_busy(self):
        """Waits until a driver has work under way that was not when the last strike came."""
        deadline = time.monotonic() + LONG
        while not (self.driver and self.runs() > self.runs_before and len(self.begun()) > self.seen):
            assert time.monotonic() < deadline, f"nothing moves\n{self.log()[-6000:]}"
            if self.driver and self.driver.poll() is not None:
                code = self.ended()
                if code in FINISHED:
                    self.grow(4)
                else:  # a machine so busy that a living head seemed silent
                    self.at_risk += self.slots
            if self.driver is None:
                self.start()
            time.sleep(0.05)

    def strike(self, kind):
        """Waits for a random moment of work, and strikes."""
        self.until_busy()
        time.sleep(self.draw.uniform(0.0, 1.5))
        self.seen = len(self.begun())
        STRIKES[kind](self)
        self.strikes[kind] += 1

    def finish(self):
        """Lets the drivers run undisturbed until one has nothing left to do."""
        for _ in range(5):
            if self.driver is None:
                self.start()
            if self.ended() in FINISHED:
                return
            self.at_risk += self.slots
        raise AssertionError(f"no driver comes to an end: {self.ends}\n{self.log()[-6000:]}")


def busy_worker(night):
    """Mostly one that runs a task, sometimes one that waits for one."""
    workers = night.cluster.workers()
    busy = [worker for worker in workers if not is_idle(worker)]
    chosen = busy if busy and night.draw.random() < 0.8 else workers
    return night.draw.choice(chosen) if chosen else None


def is_idle(worker):
    with contextlib.suppress(psutil.Error):
        return " ".join(worker.cmdline()).startswith("ray::IDLE")
    return True


def kill_worker(night):
    night.at_risk += 1
    if worker := busy_worker(night):
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()


def pause_worker(night):
    worker = busy_worker(night)
    with contextlib.suppress(psutil.NoSuchProcess, AttributeError):
        worker.suspend()
        time.sleep(night.draw.uniform(0.5, 4.0))
        worker.resume()


def kill_raylet(night):
    """Its workers have to notice by themselves."""
    night.at_risk += night.cluster.cpus
    for raylet in night.draw.choice(night.cluster.nodes).named("raylet"):
        raylet.kill()
    night.cluster.mend()


def cut_power(night):
    """A whole node at once."""
    night.at_risk += night.cluster.cpus
    ray_nodes.end(night.draw.choice(night.cluster.nodes).processes())
    night.cluster.mend()


def kill_head(night):
    """There will be another cluster at another address; whoever worked with this one has to notice."""
    night.at_risk += night.slots
    night.cluster.kill_head()
    began = time.monotonic()
    night.ended()
    night.headless.append(time.monotonic() - began)


def kill_driver(night):
    night.at_risk += night.slots
    night.driver.kill()
    night.driver.wait()
    night.driver = None


def stop_driver(night):
    """SIGTERM: what runs may end, and the same command goes on later."""
    night.driver.terminate()
    night.ended({*FINISHED, 75})


STRIKES = {
    "worker": kill_worker,
    "pause": pause_worker,
    "raylet": kill_raylet,
    "node": cut_power,
    "head": kill_head,
    "driver": kill_driver,
    "sigterm": stop_driver,
}
KILLS = tuple(kind for kind in STRIKES if kind != "pause")


@pytest.fixture
def make_night(tmp_path, tiny_model, tiny_data):
    """`make_night(seed, models, count, cpus)`; afterwards nothing of it is left."""
    with contextlib.ExitStack() as held:

        def make(seed, models, **shape):
            environment = {
                "RAY_gcs_rpc_server_reconnect_timeout_s": str(SILENT_HEAD_SECONDS),
                "CHAOS_WITNESS": str(tmp_path / "witness"),
                "PYTHONPATH": os.pathsep.join(filter(None, (str(WITNESS), os.environ.get("PYTHONPATH")))),
            }
            (tmp_path / "fleet.yaml").write_text(FLEET)
            tiny_data(tmp_path / "data")
            cluster = held.enter_context(ray_nodes.serve(environment=environment, **shape))
            night = Night(tmp_path, cluster, random.Random(seed), tiny_model)
            held.callback(lambda: night.driver and night.driver.kill())
            night.grow(models)
            return night

        yield make


def rows_of(store, name):
    table = read_table(store, name)
    if table is None:
        return []
    return sorted(json.dumps(row, sort_keys=True, default=str) for row in table.to_table().to_pylist())


def check(night):
    """What must hold when all is over, from the store alone; how many computations were in vain."""
    plan = json.loads(night.cli("plan", "fleet.yaml", "--json").stdout)
    wanted = {unit["unit_key"]: unit["task"] for unit in plan["units"]}
    assert {unit["state"] for unit in plan["units"]} == {"cached"}
    assert (plan["impossible"], plan["quarantined"]) == ([], {})

    keys = [stat.key for stat in night.store.list("results/")]
    assert sorted(Path(key).stem for key in keys) == sorted(wanted), "one result for each unit"
    for unit_key, task in wanted.items():
        assert results.read(night.store, task, unit_key).provenance["unit_key"] == unit_key
    assert not [stat.key for stat in night.store.list("quarantine/")]
    assert not [stat.key for stat in night.store.list("underway/")]
    assert not list(night.root.glob("store/runs/*/nondeterminism/*")), "no two computations differed"

    units = [json.loads(row) for row in rows_of(night.store, "units")]
    assert sorted(row["unit_key"] for row in units) == sorted(wanted), "one row for each unit"
    shutil.copytree(night.root / "store", night.root / "again")
    again = LocalStore(night.root / "again")
    folding.rebuild(again)
    for name in schemas.FOLDED:
        assert rows_of(night.store, name) == rows_of(again, name), name

    verified = night.cli("verify", "--store", "fleet.yaml", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    begun = Counter(night.begun())
    assert set(begun) == set(wanted), "whoever has a result was computed, and nobody else was"
    in_vain = begun.total() - len(wanted)
    assert in_vain <= night.at_risk, (
        f"{in_vain} computations in vain, {night.at_risk} at risk: {night.strikes}"
    )
    return len(wanted), in_vain


def blames(night):
    """What failed attempts were put down to, in units."""
    records = night.root.glob("store/runs/*/attempts/*.json")
    return Counter(row["failure_class"] for record in records for row in json.loads(record.read_text()))


def check_nothing_to_do(night):
    night.start()
    assert night.ended() == 0
    assert "nothing to do" in night.log()


def check_nothing_is_left(night):
    night.cluster.stop()
    assert night.cluster.left() == []
    assert ray_nodes.using(night.root) == []


def told(night, seconds, units, in_vain):
    kills = sum(night.strikes[kind] for kind in KILLS)
    return (
        f"\n{kills} kills and {night.strikes['pause']} pauses {dict(night.strikes)} in {seconds:.0f} s:"
        f" {units} units of {night.models} models, {in_vain} computations in vain of at most {night.at_risk};"
        f" {night.drivers} drivers, exit codes {dict(night.ends)}; failed attempts by class {dict(blames(night))};"
        f" drivers ended within {max(night.headless, default=0):.0f} s of their head"
    )


def haunt(night, strikes, capsys):
    """Strikes, and lets all come to its end; (units, computations in vain)."""
    began = time.monotonic()
    for kind in strikes:
        night.strike(kind)
    night.finish()
    units, in_vain = check(night)
    check_nothing_to_do(night)
    with capsys.disabled():
        print(told(night, time.monotonic() - began, units, in_vain))
    check_nothing_is_left(night)
    return units, in_vain


@pytest.mark.timeout(1500)
def test_a_kill_of_each_kind(make_night, capsys):
    night = make_night(7, models=3, count=2, cpus=1)
    strikes = ["worker", "pause", "raylet", "driver"]
    night.draw.shuffle(strikes)
    units, in_vain = haunt(night, [*strikes, "head"], capsys)
    assert night.strikes == Counter([*strikes, "head"])
    assert units == 8 * night.models
    assert in_vain <= night.at_risk
    assert not night.ends.keys() - DOCUMENTED


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_two_hundred_kills(make_night, capsys):
    night = make_night(11, models=12, count=3, cpus=1)
    number = {"worker": 125, "pause": 20, "raylet": 12, "node": 12, "head": 8, "driver": 22, "sigterm": 22}
    strikes = [kind for kind, count in number.items() for _ in range(count)]
    night.draw.shuffle(strikes)
    haunt(night, strikes, capsys)
    assert sum(night.strikes[kind] for kind in KILLS) >= 200
    assert signal.SIGKILL not in night.ends
