"""Effects. The live view of a run, in its own process or from another: bars by pool on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from orchestrator.domain import Plan, Shard
from orchestrator.ports import AttemptEnded
from orchestrator.schedule.scheduling import Progress, Start, UnitState
from orchestrator.wording import duration, plain

LINE_EVERY_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a run stands at one moment."""

    total: int
    """Units that the run has to do."""
    over: int
    """Of them, those that ended."""
    failed: int
    seconds_left: float | None
    pools: Mapping[str, tuple[int, int]]
    """Pool -> slots busy, of all."""


class Bars:
    """On a terminal one bar for all units and one for each pool's slots; elsewhere a line now and then."""

    def __init__(self, console: Console, *, quiet: bool):
        self.console = console
        self.quiet = quiet
        self.last_line = float("-inf")
        self.rows: dict[str, TaskID] = {}
        self.bars: RichProgress | None = None
        if console.is_terminal and not quiet:
            self.bars = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=console,
            )

    def __enter__(self) -> Self:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bars:
            self.bars.stop()

    def show(self, look: Look, at: float) -> None:
        """Draws how it stands."""
        left = "no estimate yet" if look.seconds_left is None else f"{duration(look.seconds_left)} left"
        note = left + (f", {look.failed} failed" if look.failed else "")
        is_over = look.over == look.total
        if self.bars:
            self._draw("units", look.over, look.total, "" if is_over else note)
            for name, (used, slots) in look.pools.items():
                self._draw(f"pool {plain(name, 40)}", used, max(1, slots), "slots busy")
        elif not self.quiet and (at - self.last_line >= LINE_EVERY_SECONDS or (is_over and look.total)):
            self.last_line = float("inf") if is_over else at
            busy = ", ".join(f"{name} {used}/{slots}" for name, (used, slots) in look.pools.items())
            told = f"{look.over} of {look.total} units, {note}" + (f"; {busy}" if busy else "")
            self.console.print(told, markup=False, highlight=False)

    def _draw(self, row: str, completed: int, total: int, note: str) -> None:
        assert self.bars is not None
        if row not in self.rows:
            self.rows[row] = self.bars.add_task(row, total=total, note=note)
        self.bars.update(self.rows[row], completed=completed, total=total, note=note)


class LiveView(Bars):
    """Watches the loop that runs in this process."""

    def __init__(self, console: Console, total: int, *, quiet: bool):
        super().__init__(console, quiet=quiet)
        self.total = total

    def begun(self, start: Start, at: float) -> None:
        """An attempt starts."""

    def ended(self, event: AttemptEnded, shard: Shard, plan: Plan, at: float) -> None:
        """An attempt is over: failures are told at once."""
        for report in event.reports:
            if report.failure and not self.quiet:
                unit = plan.units[report.key]
                kind, text = report.failure.failure_class.value, plain(report.failure.error, 400)
                self.console.print(
                    f"{unit.task.value} of {plain(unit.model.id)} by {plain(unit.recipe)}: {kind}: {text}",
                    style="red",
                    markup=False,
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
        counts = progress.counts
        failed = counts[UnitState.FAILED] + counts[UnitState.QUARANTINED]
        look = Look(
            total=self.total,
            over=counts[UnitState.DONE] + failed,
            failed=failed,
            seconds_left=progress.seconds_left(sum(capacity.values())),
            pools={name: (progress.used_slots[name], slots) for name, slots in capacity.items()},
        )
        self.show(look, at)
