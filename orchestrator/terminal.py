"""Effects. The live view of a run, in its own process or from another: bars by pool on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from orchestrator.domain import Failure, FailureClass, Plan, Shard
from orchestrator.ports import AttemptEnded
from orchestrator.schedule.scheduling import Progress, Start, UnitState
from orchestrator.wording import duration, plain

LINE_EVERY_SECONDS = 15.0
_SHARED = frozenset({FailureClass.STORAGE, FailureClass.INFRASTRUCTURE})
"""One cause meets many units, and each of their tries: it is told once."""


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
    again: int = 0
    """Units that failed and wait for their next try."""


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
        note += f", {look.again} to be tried again" if look.again else ""
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
        self.told: set[tuple[FailureClass, str]] = set()

    def begun(self, start: Start, at: float) -> None:
        """An attempt starts."""

    def ended(self, event: AttemptEnded, shard: Shard, plan: Plan, at: float) -> None:
        """An attempt is over: failures are told at once."""
        for report in event.reports:
            if report.failure:
                unit = plan.units[report.key]
                who = f"{unit.task.value} of {plain(unit.model.id)} by {plain(unit.recipe)}"
                self._tell(who, report.failure, "red")
        if event.failure:
            self._tell(f"attempt {event.attempt_id}", event.failure, "yellow")

    def _tell(self, who: str, failure: Failure, style: str) -> None:
        cause = (failure.failure_class, _gist(failure.error))
        if self.quiet or (failure.failure_class in _SHARED and cause in self.told):
            return
        self.told.add(cause)
        text = f"{who}: {failure.failure_class.value}: {plain(failure.error, 400)}"
        self.console.print(text, style=style, markup=False)

    def looked(self, progress: Progress, capacity: Mapping[str, int], at: float) -> None:
        """The loop has gone round once."""
        again = progress.to_be_tried_again()
        for failure in [progress.reasons[key] for key in again]:
            if failure.failure_class in _SHARED:  # also what no attempt could begin for
                self._tell("units wait", failure, "yellow")
        counts = progress.counts
        failed = counts[UnitState.FAILED] + counts[UnitState.QUARANTINED]
        look = Look(
            total=self.total,
            over=counts[UnitState.DONE] + failed,
            failed=failed,
            seconds_left=progress.seconds_left(sum(capacity.values())),
            pools={name: (progress.used_slots[name], slots) for name, slots in capacity.items()},
            again=len(again),
        )
        self.show(look, at)


def _gist(error: str) -> str:
    """What is said, without the paths and keys of which it is said."""
    return " ".join(word for word in error.split() if "/" not in word)
