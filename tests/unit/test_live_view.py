"""What a run tells at once, line by line, where nobody sees bars."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.domain import Failure, FailureClass, UnitReport, UnitStatus
from orchestrator.ports import AttemptEnded
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
