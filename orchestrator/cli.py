"""Effects. The command line: data on stdout, talk on stderr, and exit codes that are never renumbered."""

from __future__ import annotations

import atexit
import os
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from orchestrator.commands import (
    care,
    clusters,
    explanation,
    exporting,
    nights,
    plans,
    promotion,
    questions,
    simulation,
    statuses,
)
from orchestrator.commands.console import (
    AsJson,
    FleetFile,
    StoreOption,
    aligned,
    open_store,
    out,
    print_json,
    say,
    survey_of,
    talk,
    write_file,
)
from orchestrator.commands.stopping import EXIT_INTERRUPTED, BudgetHours, Window, stop_of, stoppable
from orchestrator.commands.streams import guard_streams
from orchestrator.commands.watching import MetricsOpen, MetricsPort, observed
from orchestrator.credentials import masked
from orchestrator.errors import OutputLost, PrunefleetError, UsageError

if TYPE_CHECKING:
    from orchestrator.endings import RunSummary
    from orchestrator.survey import Survey

EXIT_INTERNAL = 1
OF_KEYBOARD = 130  # what Typer makes of an interrupt from the keyboard
EXIT_HAS_WORK = 6

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress whole registries of models, every night, on a Ray cluster.",
)


def main() -> NoReturn:
    """The process of a command: ends with its exit code, whatever threads of libraries are still about.

    The interpreter is left as it is: one of Arrow's threads that lets go of a file meanwhile would abort its teardown.
    """
    guard_streams()
    code = command_line()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has had enough
        pass
    except OutputLost as error:
        code = code or _failed(error)
    sys.stderr.flush()
    os._exit(code)


def command_line() -> int:
    """Runs the command that was typed; its exit code. Every expected error ends in one message and its own code."""
    try:
        app(standalone_mode=True)
    except PrunefleetError as error:
        return _failed(error)
    except SystemExit as ended:
        if isinstance(ended.code, int):
            return EXIT_INTERRUPTED if ended.code == OF_KEYBOARD else ended.code
        raise
    except Exception:  # a bug: where it is, without the secrets that a message may quote
        sys.stderr.write(masked(traceback.format_exc()))
        return EXIT_INTERNAL
    return 0


def _failed(error: PrunefleetError) -> int:
    say(masked(f"prunefleet: {error}"), style="red")
    return error.exit_code


def _say_version(asked: bool) -> None:
    if asked:
        from orchestrator.release import release

        out.print(release(), markup=False, highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print version and build.")
    ] = False,
) -> None:
    """What every command shares."""


@app.command()
def init(
    registry: Annotated[
        str,
        typer.Argument(
            metavar="REGISTRY",
            help="A directory of NAME/VERSION/config.json, s3://bucket/prefix, http(s)://server of MLflow, or hf://owner[/name].",
        ),
    ] = "models",
    to: Annotated[Path, typer.Option("--to", help="Where to write.")] = Path("fleet.yaml"),
) -> None:
    """Write a commented, working fleet.yaml for a registry."""
    from orchestrator.starter import starter_fleet

    write_file(to, starter_fleet(registry, to).encode(), is_new=True)
    say(f"next: prunefleet plan {shlex.quote(str(to))}")


@app.command()
def plan(
    fleet: FleetFile,
    as_json: AsJson = False,
    units: Annotated[bool, typer.Option("--units", help="List every unit with its state and why.")] = False,
    detailed_exitcode: Annotated[bool, typer.Option(help="Exit with 6 if there is work to do.")] = False,
) -> None:
    """Show what a run would do, what is cached, what cannot be done and why, and what it should take."""
    seen = survey_of(fleet)
    if as_json:
        print_json(plans.plan_json(seen))
    else:
        plans.show_plan(seen, out, units=units)
    if detailed_exitcode and len(seen.plan.todo) > len(seen.placement.misfits):
        raise typer.Exit(EXIT_HAS_WORK)


@app.command()
def run(
    fleet: FleetFile,
    address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster: auto or host:port. Default: one on this machine."),
    ] = None,
    backend: Annotated[str, typer.Option(help="ray, or local for child processes without Ray.")] = "ray",
    metrics_port: MetricsPort = None,
    metrics_open: MetricsOpen = False,
    budget_hours: BudgetHours = None,
    window: Window = None,
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="Start nothing more once more units failed.")
    ] = None,
    retry_quarantined: Annotated[bool, typer.Option(help="Also try what is quarantined.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Where this machine's nodes cache models and data.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Carry the plan out and write the report."""
    from orchestrator.api import cache_root
    from orchestrator.backends.opening import choose_backend
    from orchestrator.execution import RunOptions, execute, new_run_id
    from orchestrator.promotion.offices import this_user
    from orchestrator.terminal import LiveView

    stop = stop_of(window, budget_hours)
    connect = choose_backend(backend, address)
    seen = survey_of(fleet, retry_quarantined=retry_quarantined)
    if not quiet and not as_json:
        plans.show_plan(seen, talk, units=False)
    run_id = new_run_id(time.time())
    options = RunOptions(
        cache_root=cache_root(cache, address),
        stop=stop,
        max_failures=max_failures,
        actor=this_user(),
    )
    with (
        stoppable() as signals,
        observed(seen, run_id, metrics_port, metrics_open, signals) as metrics,
        LiveView(talk, len(seen.plan.todo), quiet=quiet or as_json) as view,
    ):
        summary = execute(seen, connect, options, signals, watchers=(view, metrics), run_id=run_id)
        metrics.closed(summary.exit_code, time.time())
    if as_json:
        print_json(_summary_json(seen, summary))
    else:
        _show_summary(seen, summary)
    raise typer.Exit(summary.exit_code)


app.command()(statuses.status)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help='For example "SELECT * FROM verdicts".')],
    store: StoreOption = None,
    as_json: AsJson = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Ask the results in SQL (DuckDB); `SHOW TABLES` lists what there is."""
    from orchestrator.tables.querying import query as ask

    if as_json and csv:
        raise UsageError("--json and --csv exclude each other")
    table = ask(open_store(store), sql)
    if as_json:
        print_json(table.to_pylist())
    elif csv:
        import pyarrow.csv

        pyarrow.csv.write_csv(table, sys.stdout.buffer)
    else:
        from orchestrator.wording import plain

        head = [plain(name) for name in table.column_names]
        rows = [[plain(_cell(value), 200) for value in row.values()] for row in table.to_pylist()]
        if not out.is_terminal:
            sys.stdout.writelines(f"{line}\n" for line in aligned([head, *rows]))
            return
        shown = Table(box=None, pad_edge=False)
        for name in head:
            shown.add_column(escape(name), overflow="fold")
        for row in rows:
            shown.add_row(*map(escape, row))
        out.print(shown)


@app.command()
def report(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's id, its beginning, or `latest`.")
    ] = "latest",
    store: StoreOption = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Where to write the HTML page; default: print its text.")
    ] = None,
) -> None:
    """Write a run's report (HTML) to a file, or print its summary (Markdown)."""
    from orchestrator import runs

    opened = open_store(store)
    text = runs.read_report(opened, runs.named(opened, run_id), "report.html" if to else "report.md")
    if to:
        write_file(to, text)
    else:
        sys.stdout.write(text.decode())


@app.command()
def schema(
    command: Annotated[
        str | None, typer.Argument(metavar="[COMMAND]", help="A command; default: the fleet file.")
    ] = None,
) -> None:
    """Print the JSON Schema of a fleet file, or of what a command prints with --json."""
    from orchestrator.outputs import OUTPUTS, schema_of
    from orchestrator.spec import json_schema

    if command is None:
        sys.stdout.write(json_schema())
    elif command in OUTPUTS:
        print_json(schema_of(command))
    else:
        raise UsageError(f"no schema for {command!r}; there is one for {', '.join(sorted(OUTPUTS))}")


for together in (clusters.submit, clusters.join, clusters.logs, clusters.cancel):
    app.command()(together)
for command in (
    explanation.explain, exporting.exporter, nights.nightly, nights.morning, promotion.promote, promotion.rollback,
    promotion.history, care.doctor, care.verify, care.rebuild, care.gc, simulation.simulate, questions.questions,
):  # fmt: skip
    app.command()(command)


def _show_summary(seen: Survey, summary: RunSummary) -> None:
    from orchestrator.wording import plain

    counts = summary.counts
    failed = counts["failed"] + counts["quarantined"]
    talk.print(
        f"run {summary.run_id}: {summary.outcome}; {counts['done']} done, {failed} failed, "
        f"{summary.carried_over} carried over",
        markup=False,
        highlight=False,
    )
    if summary.stop_reason:
        talk.print(
            f"stopped: {plain(summary.stop_reason, 400)}", style="yellow", markup=False, highlight=False
        )
    for notice in summary.notices:
        talk.print(f"note: {plain(notice, 400)}", style="yellow", markup=False, highlight=False)
    if summary.verdicts:
        told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(summary.verdicts.items()))
        talk.print(f"verdicts: {told}", markup=False, highlight=False)
    if summary.gains.sentence:
        talk.print(summary.gains.sentence, style="yellow", markup=False, highlight=False)
    for item in summary.published:
        talk.print(f"published: {plain(item.text, 200)}", style="green", markup=False, highlight=False)
    talk.print(
        f"report: {seen.store.url.rstrip('/')}/runs/{summary.run_id}/report.html",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _summary_json(seen: Survey, summary: RunSummary) -> dict[str, Any]:
    return {
        "run_id": summary.run_id,
        "outcome": summary.outcome,
        "exit_code": summary.exit_code,
        "units": dict(summary.counts),
        "verdicts": dict(summary.verdicts),
        "findings": dict(summary.findings),
        "pruned_models": summary.gains.models,
        "neither_smaller_nor_faster": summary.gains.without,
        "published": [item.text for item in summary.published],
        "carried_over": summary.carried_over,
        "stop_reason": summary.stop_reason,
        "notices": list(summary.notices),
        "report": f"{seen.store.url.rstrip('/')}/runs/{summary.run_id}/report.html",
    }


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
