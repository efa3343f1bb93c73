"""What a run tells at once, line by line, where nobody sees bars."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.domain import Failure, FailureClass, UnitReport, UnitStatus
from orchestrator.ports import AttemptEnded
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.scheduling import Start, begin, decide, observe
from orchestrator.terminal import LiveView


@pytest.fixture
def told(make_plan, make_model):
    """What is told of a unit that failed with some error."""

    def told(error, quiet=False, name="lm"):
        plan = make_plan([make_model(name)])
        key = next(iter(plan.units))
        console = Console(file=io.StringIO(), width=200)
        failure = Failure(failure_class=FailureClass.BAD_INPUT, error=error)
        report = UnitReport(key=key, status=UnitStatus.FAILED, failure=failure)
        with LiveView(console, len(plan.units), quiet=quiet) as view:
            view.ended(AttemptEnded(attempt_id="a", reports=(report,)), None, plan, 1.0)
        return console.file.getvalue(), plan.units[key]

    return told


def test_a_failure_names_the_task_the_model_and_the_recipe(told):
    text, unit = told("its weights are gone")
    assert text == f"{unit.task.value} of {unit.model.id} by {unit.recipe}: bad_input: its weights are gone\n"


def test_foreign_names_and_errors_do_nothing_to_the_terminal(told):
    text, _ = told("\x1b[31mred[/red]", name="m\x1b[2J\n[bold]")
    assert "\x1b" not in text
    assert text.count("\n") == 1
    assert "[bold]" in text


def test_who_asked_for_quiet_hears_nothing(told):
    assert told("its weights are gone", quiet=True)[0] == ""


class TestTriesAgain:
    """A store that is full or away meets every unit at each of its tries."""

    @pytest.fixture
    def view(self):
        with LiveView(Console(file=io.StringIO(), width=300), 3, quiet=False) as view:
            yield view

    @pytest.fixture
    def progress(self, make_plan, make_model, make_pool):
        plan = make_plan([make_model(f"lm-{number}") for number in range(3)])
        return begin(plan, {"cpu": make_pool()}, Costs(), {})

    @staticmethod
    def fail(view, progress, failure_class, error, at=0.0):
        for key in progress.plan.units:
            failure = Failure(failure_class=failure_class, error=error.format(key=key))
            report = UnitReport(key=key, status=UnitStatus.FAILED, failure=failure)
            view.ended(AttemptEnded(attempt_id=key, reports=(report,)), None, progress.plan, at)

    @staticmethod
    def lines(view):
        return view.console.file.getvalue().splitlines()

    def test_one_cause_is_told_once_however_many_units_and_tries_it_meets(self, view, progress):
        for _ in range(3):
            self.fail(view, progress, FailureClass.STORAGE, "cannot write results/{key}: the disk is full")
        assert len(self.lines(view)) == 1
        self.fail(view, progress, FailureClass.STORAGE, "cannot write results/{key}: read-only")
        assert len(self.lines(view)) == 2

    def test_a_fault_of_each_model_is_told_for_each(self, view, progress):
        self.fail(view, progress, FailureClass.BAD_INPUT, "its weights are gone")
        assert len(self.lines(view)) == len(progress.plan.units)

    def test_units_that_could_not_begin_are_told_with_the_reason_and_counted(self, view, progress):
        starts = [order for order in decide(progress, {"cpu": 2}, 0.0) if isinstance(order, Start)]
        for at in (0.0, 20.0):
            for start in starts:
                failure = Failure(
                    failure_class=FailureClass.STORAGE, error=f"cannot write underway/{at}: full"
                )
                observe(progress, AttemptEnded(attempt_id=start.attempt_id, failure=failure), at)
            view.looked(progress, {"cpu": 2}, at)
        waiting = len(progress.to_be_tried_again())
        reason, *counted = self.lines(view)
        assert reason == "units wait: storage: cannot write underway/0.0: full"
        assert len(counted) == 2
        assert all(f"{waiting} to be tried again" in line for line in counted)
