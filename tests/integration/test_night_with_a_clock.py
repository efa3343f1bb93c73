"""Effects. A night whose recipe times its models: from the fleet file to the summary, the tables and the report."""

from __future__ import annotations

import json

from cases.fleets import half_of_the_zoo

FLEET = half_of_the_zoo(
    "evaluate: {dataset: digits, split: test, metric: loss, latency: {batch: 4, repetitions: 6}}"
)


def test_a_night_tells_what_its_zeros_bought(make_small_fleet, prunefleet):
    make_small_fleet(models=1, text=FLEET)
    assert "no speed-up expected, because" in prunefleet("plan", "fleet.yaml").stdout
    run = ("run", "fleet.yaml", "--backend", "local", "--json")
    summary = json.loads(prunefleet(*run, check=0).stdout)
    asked = prunefleet("query", "SELECT * FROM latencies", "--store", "store", "--json")
    (row,) = json.loads(asked.stdout)
    assert (row["model"], row["recipe"], row["batch"], row["repetitions"]) == ("mlp0", "half", 4, 6)
    assert row["device"] == "cpu, 1 thread"
    assert 0 < row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
    gained_nothing = row["speedup_low"] <= 1.0
    assert summary["pruned_models"] == 1
    assert summary["neither_smaller_nor_faster"] == gained_nothing
    assert summary["findings"].get("no_gain", 0) == gained_nothing
    report = prunefleet("report", "--store", "store").stdout
    assert ("sparse but neither smaller nor faster (measured)" in report) == gained_nothing
    again = json.loads(prunefleet(*run).stdout)
    assert again["outcome"] == "nothing to do", "the clock runs once"
    assert again["neither_smaller_nor_faster"] == gained_nothing
