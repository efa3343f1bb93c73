"""Effects. The live view of a run: bars by pool on a terminal, a line now and then elsewhere. Talk goes to stderr."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from orchestrator.domain import Plan, Shard
from orchestrator.ports import AttemptEnded
from orchestrator.scheduling import Progress, Start, UnitState
from orchestrator.wording import duration, plain

LINE_EVERY_SECONDS = 15.0


class LiveView:
    """Watches the loop; on a terminal one bar for all units and one for each pool's slots."""

    def __init__(self, console: Console, pools: Mapping[str, object], total: int, *, quiet: bool):
        self.console = console
        self.quiet = quiet
        self.total = total
        self.last_line = float("-inf")
        self.bars: Bars | None = None
        self.rows: dict[str, TaskID] = {}
        if console.is_terminal and not quiet:
            self.bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=console,
            )
            self.rows[""] = self.bars.add_task("units", total=total, note="")
            for name in pools:
                self.rows[name] = self.bars.add_task(f"pool {name}", total=1, note="slots busy")

    def __enter__(self) -> LiveView:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bars:
            self.bars.stop()

    def begun(self, start: Start, at: float) -> None:
        """An attempt starts."""

    def ended(self, event: AttemptEnded, shard: Shard, plan: Plan, at: float) -> None:
        """An attempt is over: failures are told at once."""
        for report in event.reports:
            if report.failure and not self.quiet:
                unit = plan.units[report.key]
                kind, text = report.failure.failure_class.value, plain(report.failure.error, 400)
                self.console.print(
                    f"{unit.task.value} of {plain(unit.model.id)}: {kind}: {text}", style="red", markup=False
                )
        if event.failure and not self.quiet:
            text = plain(event.failure.error, 200)
            self.console.print(
                f"attempt {event.attempt_id}: {event.failure.failure_class.value}: {text}",
                style="yellow",
                markup=False,
            )

    def looked(self, progress: Progress, capacity: Mapping[str, int], at: float) -> None:
        """The loop has gone round once."""
        over = sum(
            progress.counts[state] for state in (UnitState.DONE, UnitState.FAILED, UnitState.QUARANTINED)
        )
        left = duration(progress.seconds_left(sum(capacity.values())))
        failed = progress.counts[UnitState.FAILED] + progress.counts[UnitState.QUARANTINED]
        note = f"{left} left" + (f", {failed} failed" if failed else "")
        if self.bars:
            self.bars.update(self.rows[""], completed=over, note=note if over < self.total else "")
            for name, row in self.rows.items():
                if name:
                    self.bars.update(
                        row, completed=progress.used_slots[name], total=max(1, capacity.get(name, 0))
                    )
        elif not self.quiet and (
            at - self.last_line >= LINE_EVERY_SECONDS or (over == self.total and self.total)
        ):
            self.last_line = at if over < self.total else float("inf")
            self.console.print(f"{over} of {self.total} units, {note}", markup=False, highlight=False)
