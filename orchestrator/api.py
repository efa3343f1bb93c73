"""Effects. The verbs of the command line as Python: a fleet is opened once, then planned, run and asked.

What begins processes elsewhere or stays (`submit`, `join`, `logs`, `cancel`, `nightly`, `exporter`) is the command line's alone.

from orchestrator.api import open_fleet

fleet = open_fleet("fleet.yaml")
fleet.run(backend="local")
fleet.query("SELECT model, recipe, verdict FROM verdicts WHERE gate = 'overall'").to_pandas()
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.errors import UsageError
from orchestrator.survey import Survey, read_fleet, survey

if TYPE_CHECKING:
    import pyarrow as pa

    from orchestrator.care.collection import Marked, Swept
    from orchestrator.care.damages import Verification
    from orchestrator.care.garbage import Limits
    from orchestrator.controller import Signals, Watcher
    from orchestrator.endings import RunSummary
    from orchestrator.explaining import Explanation
    from orchestrator.ports import ObjectStore
    from orchestrator.probes.checks import Check
    from orchestrator.simulation.whatif import Scenario
    from orchestrator.spec import Fleet
    from orchestrator.tables.folding import Folded

DAY = 86_400.0


def open_fleet(path: str | os.PathLike[str]) -> OpenFleet:
    """Reads and checks a fleet file. Errors: SpecError, with every mistake and its line."""
    from orchestrator.stores.opening import open_store

    spec, text = read_fleet(Path(path))
    return OpenFleet(spec=spec, text=text, store=open_store(spec.store))


def cache_root(cache: str | os.PathLike[str] | None, address: str | None = None) -> str:
    """Where nodes cache models and data: where it was said, or below the user's own cache.

    Errors: UsageError, if that cannot be written here; a cluster at an address has nodes of its own, which are not asked.
    """
    usual = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    root = Path(cache or Path(usual) / "prunefleet")
    if address is None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise UsageError(
                f"models and data cannot be cached in {root}: {error.strerror}; name another folder with --cache"
            ) from error
    return str(root)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFleet:
    """A fleet and its store. Every method reads the world anew; all errors are `PrunefleetError`s, as on the command line."""

    spec: Fleet
    text: str
    """The fleet file as it is, which every run keeps."""
    store: ObjectStore

    def plan(self, *, retry_quarantined: bool = False) -> Survey:
        """Scans and plans: `.plan` has the units, `.placement` the prediction, `.catalog` the models found."""
        return survey(self.spec, self.text, time.time(), retry_quarantined=retry_quarantined)

    def run(
        self,
        *,
        planned: Survey | None = None,
        backend: Literal["ray", "local"] = "ray",
        address: str | None = None,
        budget_hours: float | None = None,
        window: str | None = None,
        max_failures: int | None = None,
        retry_quarantined: bool = False,
        actor: str | None = None,
        cache: str | os.PathLike[str] | None = None,
        signals: Signals | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> RunSummary:
        """Carries out a plan (one made now, unless `planned` is given), publishes, folds, and writes the report.

        `signals.drain` set from another thread lets what runs end and stops. Errors: UsageError, Unreachable, NotPermitted.
        """
        from orchestrator.backends.opening import choose_backend
        from orchestrator.controller import Signals
        from orchestrator.execution import RunOptions, execute
        from orchestrator.promotion.offices import this_user
        from orchestrator.schedule.window import first_stop, parse_window

        for name, value in (("budget_hours", budget_hours), ("max_failures", max_failures)):
            if value is not None and not value >= 0:
                raise UsageError(f"{name} is {value}; give 0 or more")
        hours = parse_window(window, None) if window is not None else None
        connect = choose_backend(backend, address)
        options = RunOptions(
            cache_root=cache_root(cache, address),
            stop=first_stop(hours, budget_hours, time.time()),
            max_failures=max_failures,
            actor=actor or this_user(),
        )
        seen = planned or self.plan(retry_quarantined=retry_quarantined)
        return execute(seen, connect, options, signals or Signals(), watchers=watchers)

    def query(self, sql: str) -> pa.Table:
        """The answer to one SELECT over the tables; `.to_pandas()`, or `polars.from_arrow`. Errors: QueryError."""
        from orchestrator.tables.querying import query

        return query(self.store, sql)

    def table(self, name: str) -> pa.Table:
        """A whole table: units, sensitivity, layers, artifacts, evaluations, verdicts, … Errors: QueryError, with those there are."""
        from orchestrator.errors import QueryError
        from orchestrator.tables.querying import TABLES

        if name not in TABLES:
            raise QueryError(f"there is no table {name!r}; known: {', '.join(TABLES)}")
        return self.query(f"SELECT * FROM {name}")

    def explain(self, asked: str, planned: Survey | None = None) -> tuple[Explanation, ...]:
        """Why units are as they are: those that a unit key, its beginning, or a model's name means. Errors: UsageError."""
        from orchestrator.explaining import explain, find_units
        from orchestrator.reports.reporting import table_rows
        from orchestrator.tables.folding import fold
        from orchestrator.tables.records import read_records

        seen = planned or self.plan()
        keys = find_units(seen.plan, asked)
        fold(self.store)
        units = table_rows(self.store, "units", {seen.plan.units[key].model.name for key in keys}, by="model")
        attempts = read_records(self.store, "attempts").table.to_pylist()
        findings = table_rows(self.store, "findings", keys)
        return tuple(
            explain(
                seen.plan, seen.placement, seen.pools, seen.costs, key,
                units=units, attempts=attempts, findings=findings,
            )
            for key in keys
        )  # fmt: skip

    def rebuild(self) -> Folded:
        """The tables of results, made anew from the results alone: where one is damaged, or cannot be opened any more."""
        from orchestrator.tables.folding import rebuild

        return rebuild(self.store)

    def runs(self) -> list[dict[str, Any]]:
        """The status of every run, newest first."""
        from orchestrator.runs import list_runs

        return list_runs(self.store)

    def status(self, run_id: str = "latest") -> dict[str, Any]:
        """One run's status, also while it runs; `run_id` may be a beginning. Errors: UnknownRun."""
        from orchestrator.runs import named, read_status

        return read_status(self.store, named(self.store, run_id))

    def report(self, run_id: str = "latest", kind: Literal["html", "md"] = "html") -> str:
        """A run's report: a self-contained page, or its summary. Errors: UnknownRun, UsageError; NotFound, before the run has ended."""
        from orchestrator.runs import named, read_report

        _check_kind(kind, ("html", "md"))
        return read_report(self.store, named(self.store, run_id), f"report.{kind}").decode()

    def morning(self, slot: str = "latest", kind: Literal["html", "md", "json"] = "md") -> str:
        """The morning report of a night: what it changed. Errors: UsageError, before the first night; NotFound."""
        from orchestrator.nights import nightrecords

        _check_kind(kind, ("html", "md", "json"))
        closed = nightrecords.closed_slots(self.store, self.spec.name)
        if slot == "latest" and not closed:
            raise UsageError(f"fleet {self.spec.name} has had no night yet; `prunefleet nightly` runs one")
        chosen = closed[-1] if slot == "latest" else slot
        return nightrecords.read_page(self.store, self.spec.name, chosen, f"report.{kind}").decode()

    def promote(
        self,
        model: str,
        version: str,
        *,
        alias: str,
        reason: str,
        registry: str | None = None,
        actor: str | None = None,
    ) -> dict[str, Any] | None:
        """Moves an alias to a version that passed, after a look at its bytes; its record, or None where it points there.

        Errors: GateRefused; NotPermitted, where approvals are missing; Damaged; AliasMoved; UsageError.
        """
        from orchestrator.promotion import promoting
        from orchestrator.promotion.claims import claim_of
        from orchestrator.promotion.offices import office_of

        office = office_of(self.spec, self.store, registry, actor)
        return promoting.promote(office, claim_of(self.plan(), office.outlet, model, version), alias, reason)

    def rollback(
        self,
        model: str,
        *,
        alias: str,
        reason: str,
        to: str | None = None,
        registry: str | None = None,
        actor: str | None = None,
    ) -> dict[str, Any] | None:
        """Moves an alias back to a version that it pointed to before; its record. Errors: UsageError, NotPermitted, Damaged."""
        from orchestrator.promotion import promoting
        from orchestrator.promotion.offices import office_of

        return promoting.rollback(office_of(self.spec, self.store, registry, actor), model, alias, reason, to)

    def history(self, model: str | None = None, alias: str | None = None) -> list[dict[str, Any]]:
        """Every move that this fleet made of an alias, in their order: rows of `promotions`."""
        from orchestrator.promotion.promoting import history

        rows = history(self.store, None, model)
        return [row for row in rows if row["fleet"] == self.spec.name and alias in (None, row["alias"])]

    def simulate(
        self, *, nothing_cached: bool = False, seed: int = 0, noise: float = 0.0, losses_per_hour: float = 0.0
    ) -> list[Scenario]:
        """The plan on a virtual cluster: first as it is, then with one slot more of each pool."""
        from orchestrator.simulation import whatif
        from orchestrator.simulation.capacity import Assumptions

        seen = self.plan()
        plan = whatif.nothing_cached(seen.plan) if nothing_cached else seen.plan
        assumptions = Assumptions(seed=seed, noise=noise, losses_per_hour=losses_per_hour)
        return list(whatif.scenarios(plan, seen.pools, seen.costs, assumptions))

    def doctor(self, *, address: str | None = None, thorough: bool = False) -> tuple[Check, ...]:
        """What store, registries, data, libraries and a cluster really do."""
        from orchestrator.care.doctor import examine
        from orchestrator.probes.ground import THOROUGH, Effort

        return tuple(examine(self.spec, THOROUGH if thorough else Effort(), address))

    def verify(self) -> Verification:
        """Every digest in the store and every published version, checked again."""
        from orchestrator.care.verification import verify

        return verify(self.store, self.spec)

    def garbage(self, *, older_than: float = 7 * DAY, runs_older_than: float | None = None) -> Marked:
        """What nothing points to any more, and is older than so many seconds, an hour at least. Nothing is removed."""
        from orchestrator.care.collection import mark

        return mark(self.store, self.spec, _limits(time.time(), older_than, runs_older_than))

    def collect(self, *, older_than: float = 7 * DAY, runs_older_than: float | None = None) -> Swept:
        """Removes what `garbage` names; what came into use meanwhile is spared. Errors: those of the store."""
        from orchestrator.care.collection import mark, sweep_away, sweeping

        with sweeping(self.store) as sweep:
            limits = _limits(sweep.at, older_than, runs_older_than)
            return sweep_away(sweep, mark(self.store, self.spec, limits))


def _check_kind(kind: str, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise UsageError(f"there is no report of kind {kind!r}; the kinds are {', '.join(known)}")


def _limits(at: float, older_than: float, runs_older_than: float | None) -> Limits:
    from orchestrator.care.garbage import SHORTEST, Limits

    for name, seconds in (("older_than", older_than), ("runs_older_than", runs_older_than)):
        if seconds is not None and not seconds >= SHORTEST:
            raise UsageError(
                f"{name} is {seconds} s; an upload may go on for {SHORTEST:.0f} s, so give that or more"
            )
    return Limits(at=at, older_than=older_than, runs_older_than=runs_older_than)
