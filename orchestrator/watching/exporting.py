"""Effects. What the exporter tells of a fleet, read from its store alone: the series of `metrics.FLEET`, set anew at each reading."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from orchestrator import leases, runs
from orchestrator.domain import Judgement, Pool, TaskName
from orchestrator.errors import Damaged, PrunefleetError, StoreError
from orchestrator.nights import nightrecords
from orchestrator.nights.due import overdue
from orchestrator.ports import ObjectStore
from orchestrator.runs import number_of
from orchestrator.schedule.costs import money
from orchestrator.specs.nights import ScheduleSpec
from orchestrator.watching.metrics import AREAS, FLEET, OUTCOMES, QUANTILES, register

MOST_RECIPES, MOST_POOLS = 60, 30
"""Names with series of their own, in the fleet's order; the rest are told together, as `other`."""
OTHER = "other"
STILL_SECONDS = 600.0
"""A run that was silent for so long when another one ended has died: nobody waits for it any more."""

Series = dict[tuple[str, ...], float]
"""Labels after the fleet's name -> value."""
Told = dict[str, Series]
"""A metric's short name -> its series."""

_PUBLISHED = re.compile(r"promotions/.+\.json\Z")
_LATEST = """
    SELECT {columns}, count(*) AS models FROM (
        SELECT a.*, row_number() OVER (PARTITION BY a.registry, a.model, a.version, a.recipe
                                       ORDER BY u.finished_at DESC NULLS LAST, a.unit_key) AS age
        FROM {table} a LEFT JOIN units u ON a.unit_key = u.unit_key WHERE {where}
    ) WHERE age = 1 GROUP BY recipe{more}
"""
"""One row a model version and recipe: the newest."""


class Exporter:
    """The metrics of one fleet; `read` makes them, `text` is what a scrape is given until the next reading."""

    def __init__(
        self,
        fleet: str,
        store: ObjectStore,
        pools: Mapping[str, Pool],
        recipes: Iterable[str],
        schedule: ScheduleSpec | None = None,
    ):
        self.fleet, self.store, self.pools, self.schedule = fleet, store, pools, schedule
        self.recipes = (*list(recipes)[:MOST_RECIPES], OTHER)
        self.pool_names = (*list(pools)[:MOST_POOLS], OTHER)
        self.damaged: list[str] = []
        """Records that the last reading left out, and what is wrong with each."""
        self.registry = CollectorRegistry()
        self._metrics: dict[str, Any] = dict(register(FLEET, self.registry))
        self._metrics["exporter_read_failures"].labels(fleet)
        self._set("exporter_last_read_timestamp_seconds", {(): 0.0})
        self._publish(self._empty())

    def read(self, now: Callable[[], float] = time.time) -> str:
        """Reads the store; empty, or why it cannot be read: what was told before stays then, and its time with it."""
        began = now()
        self.damaged = []
        try:
            told = self._read(began)
        except (PrunefleetError, OSError) as error:
            self._metrics["exporter_read_failures"].labels(self.fleet).inc()
            self.text = generate_latest(self.registry)
            return f"{type(error).__name__}: {error}"
        told["exporter_last_read_timestamp_seconds"] = {(): began}
        told["exporter_read_duration_seconds"] = {(): now() - began}
        self._publish(told)
        return ""

    def _publish(self, told: Told) -> None:
        for name, series in told.items():
            self._set(name, series)
        self.text = generate_latest(self.registry)

    def _set(self, name: str, series: Series) -> None:
        for labels, value in series.items():
            self._metrics[name].labels(self.fleet, *labels).set(value)

    def _empty(self) -> Told:
        """Every series, before anything is known of it."""
        told: Told = {
            one.name.removeprefix("prunefleet_"): {(): 0.0}
            for one in FLEET
            if one.kind == "gauge"
            and one.labels == ("fleet",)
            and not one.name.endswith("last_read_timestamp_seconds")
        }
        told["run_last_exit_code"] = {(): -1.0}
        told["run_last_units"] = dict.fromkeys(((outcome,) for outcome in OUTCOMES), 0.0)
        for name in ("store_objects", "store_bytes"):
            told[name] = dict.fromkeys(((area,) for area in AREAS), 0.0)
        told["busy_seconds"] = {(pool, task.value): 0.0 for pool in self.pool_names for task in TaskName}
        told["spent_dollars"] = {(pool,): 0.0 for pool in self.pool_names}
        told["models"] = {(recipe, verdict.value): 0.0 for recipe in self.recipes for verdict in Judgement}
        for name in _SUMS:
            told[name] = {(recipe,): 0.0 for recipe in self.recipes}
        for name in ("model_quality_drop_ratio", "model_speedup_ratio"):
            told[name] = {(recipe, quantile): math.nan for recipe in self.recipes for quantile in QUANTILES}
        return told

    def _read(self, at: float) -> Told:
        told = self._empty()
        results = self._count_objects(told)
        last = self._tell_runs(told)
        closed_at = self._tell_nights(told)
        if self.schedule:
            since = closed_at or told["run_last_completion_timestamp_seconds"][()]
            told["night_overdue_timestamp_seconds"] = {
                (): overdue(self.schedule, since, at) if since else 0.0
            }
        with _opened(self.store) as ask:
            self._tell_time(told, ask, last, results)
            self._tell_models(told, ask)
        return told

    def _count_objects(self, told: Told) -> int:
        """One listing of the whole store; how many results there are."""
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        published = 0
        for stat in self.store.list(""):
            first = stat.key.partition("/")[0]
            area = first if first in AREAS else OTHER
            counts[area] += 1
            sizes[area] += stat.bytes
            published += bool(_PUBLISHED.match(stat.key))
        told["store_objects"] = {(area,): float(counts[area]) for area in AREAS}
        told["store_bytes"] = {(area,): float(sizes[area]) for area in AREAS}
        told["quarantined_units"] = {(): float(counts["quarantine"])}
        told["published_models"] = {(): float(published)}
        return counts["results"]

    def _tell_runs(self, told: Told) -> str:
        """The id of the run that ended last, or nothing."""
        every = runs.list_runs(self.store)
        for status in every:
            if problem := status.get("problem"):
                self._skip(told, Damaged(f"{runs.status_key(status['run_id'])}: {problem}"))
        ours = [status for status in every if status.get("fleet") == self.fleet]
        ended = sorted(
            (s for s in ours if s.get("state") == "ended"), key=lambda s: number_of(s, "finished_at")
        )
        newest = number_of(ended[-1], "finished_at") - STILL_SECONDS if ended else 0.0
        open_ones = [s for s in ours if s.get("state") == "running" and number_of(s, "updated_at") >= newest]
        told["runs_open"] = {(): float(len(open_ones))}
        told["run_last_update_timestamp_seconds"] = {
            (): max((number_of(status, "updated_at") for status in open_ones), default=0.0)
        }
        good = [number_of(status, "finished_at") for status in ended if status.get("exit_code") == 0]
        told["run_last_success_timestamp_seconds"] = {(): max(good, default=0.0)}
        if not ended:
            return ""
        last = ended[-1]
        finished = number_of(last, "finished_at")
        told["run_last_completion_timestamp_seconds"] = {(): finished}
        told["run_last_duration_seconds"] = {(): finished - number_of(last, "started_at")}
        told["run_last_exit_code"] = {(): number_of(last, "exit_code", -1.0)}
        units = last.get("units")
        counts = units if isinstance(units, dict) else {}
        left = sum(number_of(counts, state) for state in ("waiting", "ready", "running"))
        told["run_last_units"] = {
            ("done",): number_of(counts, "done"),
            ("found",): number_of(last, "done_before"),
            ("failed",): number_of(counts, "failed"),
            ("quarantined",): number_of(counts, "quarantined") + number_of(last, "quarantined"),
            ("impossible",): number_of(last, "impossible"),
            ("carried_over",): left,
        }
        return str(last["run_id"])

    def _tell_nights(self, told: Told) -> float:
        """When the slot of the last closed night began; 0 if there is none."""
        try:
            held = leases.holder(self.store, f"nightly-{self.fleet}")
            told["lease_epoch"] = {(): float(held.epoch) if held else 0.0}
        except Damaged as error:
            self._skip(told, error, "lease_epoch")
        slots = nightrecords.closed_slots(self.store, self.fleet)
        if not slots:
            return 0.0
        try:
            record = nightrecords.read_closed(self.store, self.fleet, slots[-1])
            told["night_last_closed_timestamp_seconds"] = {(): number_of(record, "ended_at")}
        except Damaged as error:
            record = {}
            self._skip(told, error, "night_last_closed_timestamp_seconds")
        told["night_tries"] = {(): float(len(nightrecords.tries_of(self.store, self.fleet, slots[-1])))}
        messages = nightrecords.told(self.store, self.fleet, slots[-1]).values()
        told["night_untold_messages"] = {
            (): float(sum(message.get("state") != "sent" for message in messages))
        }
        return number_of(record, "scheduled_at")

    def _skip(self, told: Told, error: Damaged, metric: str = "") -> None:
        """Counts a record that cannot be read; the metric that only it tells stays as it was."""
        told["exporter_damaged_records"][()] += 1.0
        told.pop(metric, None)
        self.damaged.append(str(error))

    def _tell_time(self, told: Told, ask: Ask, last: str, results: int) -> None:
        folded, spent = 0.0, told["spent_dollars"]
        for pool, task, units, seconds, of_last in ask(
            "SELECT pool, task, count(*), sum(wall_seconds), sum(wall_seconds) FILTER (run_id = ?) FROM units GROUP BY ALL",
            [last],
        ):
            folded += units
            name = pool if pool in self.pool_names else OTHER
            key = (name, task)
            if key in told["busy_seconds"]:
                told["busy_seconds"][key] += seconds or 0.0
            if known := self.pools.get(pool):
                spent[(name,)] += money(seconds or 0.0, known)
                told["run_last_cost_dollars"][()] += money(of_last or 0.0, known)
        told["commit_lag_units"] = {(): max(0.0, results - folded)}

    def _tell_models(self, told: Told, ask: Ask) -> None:
        def add(name: str, labels: tuple[str, ...], value: float | None) -> None:
            key = (self._recipe(labels[0]), *labels[1:])
            if key in told[name]:
                told[name][key] += value or 0.0

        for recipe, verdict, models in ask(
            _LATEST.format(
                columns="recipe, verdict", table="verdicts", where="a.gate = 'overall'", more=", verdict"
            )
        ):
            add("models", (recipe, verdict), models)
        sums = ", ".join(f"sum({column})" for column in _SUMS.values())
        for recipe, *values, _ in ask(
            _LATEST.format(columns=f"recipe, {sums}", table="artifacts", where="true", more="")
        ):
            for name, value in zip(_SUMS, values, strict=True):
                add(name, (recipe,), value)
        drop = "CASE WHEN falls THEN -delta ELSE delta END / nullif(abs(dense_value), 0)"
        shares = ", ".join(QUANTILES)
        for name, table, column, where in (
            ("model_quality_drop_ratio", "evaluations", drop, "a.slice = 'all'"),
            ("model_speedup_ratio", "latencies", "speedup", "true"),
        ):
            for recipe, values, _ in ask(
                _LATEST.format(
                    columns=f"recipe, quantile_cont({column}, [{shares}])", table=table, where=where, more=""
                )
            ):
                if recipe in self.recipes and values is not None:
                    for quantile, value in zip(QUANTILES, values, strict=True):
                        told[name][(recipe, quantile)] = math.nan if value is None else float(value)

    def _recipe(self, name: str) -> str:
        return name if name in self.recipes else OTHER


_SUMS: Mapping[str, str] = {
    "model_dense_bytes": "dense_bytes",
    "model_bytes": "bytes",
    "model_dense_parameters": "dense_parameters",
    "model_nonzero_parameters": "nonzero_parameters",
    "model_dense_flops": "dense_flops",
    "model_effective_flops": "coalesce(effective_flops, flops)",  # of a cut, zeros are not counted
}
"""A sum over a recipe's models -> its column."""

Ask = Callable[..., Sequence[tuple[Any, ...]]]


class _opened:
    """A DuckDB that sees the folded tables as they are: nothing is folded, for the exporter only reads."""

    def __init__(self, store: ObjectStore):
        self.store = store

    def __enter__(self) -> Ask:
        import duckdb

        from orchestrator.tables import schemas
        from orchestrator.tables.delta import read_table

        self.connection = duckdb.connect(":memory:")
        for name in ("units", "artifacts", "evaluations", "verdicts", "latencies"):
            table = read_table(self.store, name)
            self.connection.register(name, schemas.TABLES[name].empty_table() if table is None else table)

        def ask(sql: str, values: Sequence[Any] | None = None) -> Sequence[tuple[Any, ...]]:
            try:
                return self.connection.execute(sql, values or []).fetchall()
            except duckdb.Error as error:
                raise StoreError(f"the tables of {self.store.url} cannot be read: {error}") from error

        return ask

    def __exit__(self, *error: object) -> None:
        self.connection.close()
