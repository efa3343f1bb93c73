"""Effects. The command `simulate`: the fleet's plan on a virtual cluster, before anything is paid for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from orchestrator.commands.console import AsJson, FleetFile, out, print_json, say, write_file

if TYPE_CHECKING:
    from orchestrator.simulation.whatif import Scenario


def simulate(
    fleet: FleetFile,
    nothing_cached: Annotated[
        bool, typer.Option("--nothing-cached", help="As if no unit had been done before.")
    ] = False,
    noise: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="Spread of real over estimated times; 0.3 is about 30 %.")
    ] = 0.0,
    node_loss_per_hour: Annotated[
        float, typer.Option(min=0.0, max=60.0, help="How often each slot's node is lost.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of noise and losses.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Write how busy each pool is over time, as SVG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the plan on a virtual cluster: how long it takes, what it costs, what one more slot of each pool would buy.

    The scheduler is the real one; times are the cost model's. Nothing is computed, and nothing is written to the store.
    """
    from orchestrator.simulation import whatif
    from orchestrator.simulation.capacity import Assumptions
    from orchestrator.survey import read_fleet, survey

    spec, text = read_fleet(fleet)
    seen = survey(spec, text, time.time())
    plan = whatif.nothing_cached(seen.plan) if nothing_cached else seen.plan
    assumptions = Assumptions(seed=seed, noise=noise, losses_per_hour=node_loss_per_hour)
    found = whatif.scenarios(plan, seen.pools, seen.costs, assumptions)
    if plot:
        from orchestrator.simulation.drawing import utilization

        write_file(plot, utilization(found[0].outcome, f"{plan.fleet}, simulated").encode())
    if as_json:
        print_json(whatif.as_json(found))
    else:
        _show(found)


def _show(found: list[Scenario]) -> None:
    from orchestrator.wording import count, duration, percent

    base = found[0].outcome
    done, tried = base.units["done"], sum(base.units.values())
    if not tried:
        say("nothing to do: every unit is done; --nothing-cached simulates a first night")
        return
    say(
        f"{count(done, 'unit')} in {count(base.attempts, 'attempt')} take {duration(base.makespan_seconds)}, "
        f"at least {duration(found[0].lower_bound_seconds)} (ratio {found[0].ratio:.2f})"
        + (f", ${base.dollars:.2f}" if base.dollars else "")
        + (f"; {tried - done} fail" if tried > done else "")
    )
    table = Table(box=None, pad_edge=False)
    for column in ("pool", "slots", "busy", "with one slot more", "saves", "costs"):
        table.add_column(column, justify="left" if column == "pool" else "right")
    wider = {scenario.widened: scenario.outcome for scenario in found[1:]}
    for name, slots in base.slots.items():
        cells = [escape(name), str(slots), percent(base.utilization(name), 0)]
        if name in wider:
            saved = base.makespan_seconds - wider[name].makespan_seconds
            cells += [
                duration(wider[name].makespan_seconds),
                duration(saved) if saved >= 0 else f"−{duration(-saved)}",
                f"{wider[name].dollars - base.dollars:+.2f} $",
            ]
        table.add_row(*cells)
    out.print(table)
