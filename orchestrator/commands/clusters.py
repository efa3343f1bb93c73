"""Effects. The commands for runs on Ray clusters: `submit`, `join`, `logs` and `cancel`; and what `status` says of clusters."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from orchestrator.commands.console import AsJson, FleetFile, StoreOption, open_store, out, print_json, say
from orchestrator.commands.stopping import BudgetHours, Window, stop_of, stoppable
from orchestrator.commands.watching import MetricsOpen, MetricsPort, observed
from orchestrator.errors import PrunefleetError, Unreachable, UsageError
from orchestrator.ports import ObjectStore

POLL_SECONDS = 2.0
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]
Clusters = Annotated[
    list[str] | None, typer.Option("--cluster", help="Only this cluster of the fleet file; may be repeated.")
]
Place = Annotated[Path, typer.Option("--fleet", help="The fleet file that names the clusters.")]


def submit(
    fleet: FleetFile,
    cluster: Clusters = None,
    run_id: Annotated[
        str | None, typer.Option("--run", help="Go on with this run, or name a new one so.")
    ] = None,
    ship: Annotated[
        bool,
        typer.Option("--ship", help="Send this installation's code along; else the cluster's image has it."),
    ] = False,
    budget_hours: BudgetHours = None,
    window: Window = None,
    as_json: AsJson = False,
) -> None:
    """Start a run on the fleet's Ray clusters, one job on each; again with the same --run, nothing that runs is touched.

    The clusters share the work through the store. Nothing secret is sent: their own environment has the store's credentials.
    """
    from orchestrator.clusters import runboard, submission
    from orchestrator.execution import new_run_id
    from orchestrator.stores.opening import open_store as opened
    from orchestrator.survey import read_fleet

    spec, text = read_fleet(fleet)
    stop = stop_of(window, budget_hours)
    wanted = submission.chosen(spec, cluster or [])
    problems = [problem for name in wanted for problem in submission.out_of_reach(spec, text, name)]
    if problems:
        raise UsageError("\n".join(problems))
    ways = {name: submission.jobs_of(spec, name) for name in wanted}
    run = run_id or new_run_id(time.time())
    store = opened(spec.store)
    submission.record(store, run, text, PurePosixPath(fleet.resolve().parent), str(fleet))
    submission.limit(store, run, stop)
    runboard.lift_stop(store, run, ways.keys(), spec.clusters.keys() - ways.keys())
    package = submission.packaged() if ship else None
    sent = []
    for name, jobs in ways.items():
        runtime_env: dict[str, Any] = {"working_dir": jobs.put_package(*package)} if package else {}
        command = submission.entrypoint(wanted[name], run, name, spec)
        sent.append(submission.send(jobs, store, run, name, command, runtime_env))
    if as_json:
        rows = [{"cluster": one.cluster, "job": one.submission_id, "new": one.is_new} for one in sent]
        print_json({"run_id": run, "jobs": rows})
        return
    for one in sent:
        say(f"{one.cluster}: {'started' if one.is_new else 'there already'}: {one.submission_id}")
    out.print(run, markup=False, highlight=False)


def logs(
    run_id: RunId,
    cluster: Annotated[str, typer.Option("--cluster", help="Whose job.")],
    fleet: Place = Path("fleet.yaml"),
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until that cluster's part ends.")
    ] = False,
) -> None:
    """Print what a run's job on a cluster says. Whether it has ended is asked of the store, not of its log."""
    from orchestrator.clusters import jobs as jobs_api
    from orchestrator.clusters import runboard, submission
    from orchestrator.stores.opening import open_store as opened
    from orchestrator.survey import read_fleet
    from orchestrator.wording import plain

    spec, _ = read_fleet(fleet)
    submission.chosen(spec, [cluster])
    jobs = submission.jobs_of(spec, cluster)
    store = opened(spec.store)
    job = submission.latest(jobs, run_id, cluster)
    if not job:
        raise UsageError(f"cluster {cluster} has no job of run {run_id}; `submit --run {run_id}` starts one")
    shown = 0
    before = runboard.read_object(store, runboard.state_key(run_id, cluster))
    while True:
        told = runboard.read_object(store, runboard.state_key(run_id, cluster))
        is_over = jobs.status(job) in jobs_api.OVER
        is_over |= (
            told != before and told.get("state") == "ended"
        )  # what stood there before may be of an earlier job
        lines = jobs.logs(job).splitlines(keepends=True)
        if follow and not is_over and lines and not lines[-1].endswith("\n"):
            lines.pop()  # the rest of it comes later
        for line in lines[shown:]:
            out.print(plain(line.rstrip("\r\n"), 4000), markup=False, highlight=False)
        shown = len(lines)
        if is_over or not follow:
            return
        time.sleep(POLL_SECONDS)


def cancel(
    run_id: RunId,
    cluster: Clusters = None,
    fleet: Place = Path("fleet.yaml"),
    now: Annotated[
        bool,
        typer.Option(
            "--now", help="Also end the jobs at once through the Jobs API; what runs is lost, and done again."
        ),
    ] = False,
) -> None:
    """Ask a run's clusters, or some, to let what runs end and to start nothing more; others take over the rest.

    The request goes through the store, so it is heard also where the Jobs API does not answer. `submit --run RUN` goes on.
    """
    from orchestrator import runs
    from orchestrator.clusters import runboard, submission
    from orchestrator.stores.opening import open_store as opened
    from orchestrator.survey import read_fleet

    spec, _ = read_fleet(fleet)
    wanted = submission.chosen(spec, cluster or [])
    store = opened(spec.store)
    if store.stat(submission.submission_key(run_id)) is None:
        runs.read_status(store, run_id)
    runboard.ask_to_stop(store, run_id, "cancelled by `prunefleet cancel`", cluster or ())
    say(f"run {run_id}: asked {', '.join(wanted)} to stop; `status {run_id}` shows when they have")
    problems: list[PrunefleetError] = []
    for name in wanted if now else ():
        try:
            jobs = submission.jobs_of(spec, name)
            job = submission.latest(jobs, run_id, name)
            say(f"{name}: {'stopped' if job and jobs.stop(job) else 'no job runs'}")
        except PrunefleetError as error:
            say(f"{name}: {error}", style="red")
            problems.append(error)
    if problems:
        raise Unreachable(
            f"{len(problems)} clusters could not be told at once; the request stands in the store"
        )


def with_clusters(store: ObjectStore, status: Mapping[str, Any]) -> dict[str, Any]:
    """A run's status and, where clusters share it, what each said last and how many seconds ago."""
    from orchestrator.clusters import runboard

    found = runboard.states(store, str(status["run_id"]))
    clusters = {str(told.get("cluster")): {**told, "age_seconds": age} for told, age in found}
    return {**status, **({"clusters": clusters} if clusters else {})}


def show_clusters(store: ObjectStore, run_id: str) -> None:
    """A table of how each cluster of a run stands, from the store alone; nothing where the run has none."""
    from orchestrator.clusters import runboard

    found = runboard.states(store, run_id)
    if not found:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("cluster", "state", "last heard of", "slots", "running", "claimed blocks", "seconds left"):
        table.add_column(column)
    for told, age in found:
        eta = told.get("eta_seconds")
        pools = told.get("pools", {})
        running = sum(pool.get("running", 0) for pool in pools.values())
        is_lost = told.get("state") == "running" and age > runboard.MISSED * heartbeat_seconds()
        cells = (
            told.get("cluster"), "silent" if is_lost else told.get("state"), f"{age:.0f} s", told.get("slots"), running,
            told.get("claimed"), "" if eta is None else f"{eta:.0f}",
        )  # fmt: skip
        table.add_row(*(escape(str(cell)) for cell in cells))
    out.print(table)


def join(
    run_id: RunId,
    cluster: Annotated[str, typer.Option("--cluster", help="Whose part.")],
    store: StoreOption = None,
    endpoint: Annotated[str | None, typer.Option(help="Of an S3 server that is not AWS.")] = None,
    region: Annotated[str | None, typer.Option(help="Of the S3 bucket.")] = None,
    address: Annotated[str, typer.Option(help="The Ray cluster: auto or host:port.")] = "auto",
    cache: Annotated[
        Path | None, typer.Option(help="Where this cluster's nodes cache models and data.")
    ] = None,
    metrics_port: MetricsPort = None,
    metrics_open: MetricsOpen = False,
) -> None:
    """Carry out one cluster's part of a submitted run: what the job that `submit` starts does there."""
    from orchestrator.api import cache_root
    from orchestrator.backends.opening import choose_backend
    from orchestrator.clusters import submission
    from orchestrator.clusters.runboard import Board
    from orchestrator.clusters.sharing import Share
    from orchestrator.execution import RunOptions, execute
    from orchestrator.spec import StoreSpec
    from orchestrator.stores.opening import open_store as opened
    from orchestrator.survey import survey

    is_plain = endpoint is None and region is None
    place = (
        open_store(store)
        if is_plain
        else opened(StoreSpec(url=store or "", endpoint=endpoint, region=region))
    )
    fleet, text = submission.recorded(place, run_id)
    submission.chosen(fleet, [cluster])
    connect = choose_backend("ray", address)
    seen = survey(fleet, text, time.time(), own_run=run_id)
    board = Board(seen.store, run_id, cluster, heartbeat_seconds())
    share = Share(board=board, pools={name: spec.pools for name, spec in fleet.clusters.items()})
    options = RunOptions(
        cache_root=cache_root(cache, address),
        stop=submission.limited(place, run_id),
        actor=f"cluster {cluster}",
    )
    say(
        f"{board.owner}: {len(seen.plan.todo)} units to do in run {run_id}, shared between {', '.join(fleet.clusters)}"
    )
    with stoppable() as signals, observed(seen, run_id, metrics_port, metrics_open, signals) as metrics:
        summary = execute(seen, connect, options, signals, (metrics,), run_id, share)
        metrics.closed(summary.exit_code, time.time())
    say(f"{board.owner}: {summary.outcome}; {summary.stop_reason}".rstrip("; "))
    raise typer.Exit(summary.exit_code)


def heartbeat_seconds() -> float:
    """How often a cluster says that it lives: PRUNEFLEET_HEARTBEAT_SECONDS, or 10; the same for all clusters of a run."""
    from orchestrator.clusters.runboard import HEARTBEAT_SECONDS

    text = os.environ.get("PRUNEFLEET_HEARTBEAT_SECONDS", "")
    try:
        seconds = float(text or HEARTBEAT_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise UsageError(f"PRUNEFLEET_HEARTBEAT_SECONDS is {text!r}; write seconds, 0.1 to 3600")
    return seconds
