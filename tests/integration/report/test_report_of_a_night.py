"""The report: what it says first of a night, of its verdicts, its failures and what was left."""

from __future__ import annotations

import re
from dataclasses import replace

from cases.reports import ROW_TABLES, Page, case, empty

from orchestrator.domain import FailureClass
from orchestrator.reports.report import (
    render_html,
    render_markdown,
)
from orchestrator.reports.view import ADVICE
from orchestrator.tables.schemas import TABLES


def test_the_made_up_night_has_only_columns_that_tables_have(four):
    for name in ROW_TABLES:
        assert {column for row in getattr(four, name) for column in row} <= set(TABLES[name].names), name


def test_the_page_tells_what_was_refused_before_anything_else(page):
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", page)
    assert headings == [
        "Refused, and why",
        "Failed or impossible, and what to do",
        "Models and recipes",
        "Quality, size and speed",
        "Model by model",
        "Findings",
        "Published",
        "Time by pool",
    ]


def test_the_headline_counts_every_way_in_which_cases_ended(four, page):
    assert "<h1>4 model versions under 3 recipes: " in page
    headline = re.search("<h1>(.*?)</h1>", page)[1]
    told = sum(
        int(number) for number in re.findall(r"(\d+)\u00a0(?:blocked|failed|inconclusive|passed)", headline)
    )
    assert told == len(four.chains)
    assert headline.endswith("1 more could not be planned.")


def test_a_refusal_says_by_how_much_where_and_beyond_which_limit(page):
    assert re.search(r"perplexity \+\d\d\.\d % on topic=mathematics \(limit \+25\.0 %, p (=|&lt;) 0\.0", page)


def test_the_worst_refusal_stands_first():
    def refused(name, drop):
        verdict = {"verdict": "block", "gate": "max_drop", "slice": "all", "observed": drop, "limit": 0.02}
        evaluation = {"slice": "all", "samples": 100, "dense_value": 0.9, "value": 0.9 - drop, "delta": -drop}
        data = case(key=name, verdict="block", evaluations=[evaluation], verdicts=[verdict])
        return replace(data, chains=[{**data.chains[0], "model": name}])

    one, two = refused("mild", 0.05), refused("bad", 0.3)
    data = replace(
        one, **{n: [*getattr(one, n), *getattr(two, n)] for n in ("chains", "evaluations", "verdicts")}
    )
    html = render_html(data)
    assert html.index("zoo/bad@1") < html.index("zoo/mild@1")
    assert "accuracy −30.0 pt overall (limit −2.0 pt)" in html
    assert render_markdown(data).index("zoo/bad@1") < render_markdown(data).index("zoo/mild@1")


def test_an_inconclusive_verdict_gives_its_reason_and_what_would_do():
    data = case(
        verdict="inconclusive",
        verdicts=[
            {"verdict": "inconclusive", "gate": "max_slice_drop", "slice": "topic=law", "samples_needed": 713}
        ],
        findings=[
            {
                "kind": "too_few_samples",
                "subject": "topic=law",
                "message": "4 examples are too few: 709 more.",
            },
            {"kind": "skipped_layer", "subject": "topic=law", "message": "irrelevant"},
        ],
    )
    section = render_html(data).split('id="refused"')[1].split("</section>")[0]
    assert "topic=law: 4 examples are too few: 709 more." in section
    assert "irrelevant" not in section


def test_it_is_not_said_that_nothing_was_published_where_the_inconclusive_was():
    held = case(
        verdict="inconclusive", verdicts=[{"verdict": "inconclusive", "gate": "max_drop", "slice": "all"}]
    )
    assert "Nothing here was published." in render_html(held)
    published = replace(
        held,
        artifacts=[{"unit_key": "k", "digest": "d" * 64, "dense_parameters": 4, "nonzero_parameters": 2}],
        publications=[
            {
                "registry": "out",
                "alias": "candidate",
                "artifact_digest": "d" * 64,
                "recipe": held.chains[0]["recipe"],
            }
        ],
    )
    html = render_html(published)
    assert "Nothing here was published." not in html
    assert "only what is inconclusive was published" in html


def test_the_examples_that_moved_most_are_listed_and_inert():
    def moved(example, distance, slices="topic=law"):
        return {"example": example, "slices": slices, "measure": "taxicab", "distance": distance, "label": 3, "dense_prediction": 3, "prediction": 7}  # fmt: skip

    rows = [moved(i, 1.5 - i / 100) for i in range(24)] + [moved(77, 1.99, "topic=<script>alert(1)</script>")]
    html = render_html(case(exemplars=rows))
    table = html.split("predictions moved most")[1].split("</details>")[0]
    assert table.index(">77<") < table.index(">0<") < table.index(">18<")
    assert ">20<" not in table
    assert "And 5 more, in the table exemplars." in table
    assert "absolute changes of their probabilities" in table
    assert "&lt;script&gt;" in table
    assert html.count("<script") == 1
    assert "moved most" not in render_html(case())


def test_a_measurement_without_gates_is_not_called_passed():
    data = case(
        verdict="pass", verdicts=[{"verdict": "pass", "gate": "overall", "slice": "all", "observed": 0.05}]
    )
    assert "1\u00a0measured only." in render_html(data)


def test_accuracy_falls_in_points_and_its_interval_keeps_its_direction():
    words = Page(render_html(case())).words
    assert "0.9000 → 0.8500 accuracy −5.0 pt −10.0 pt to −1.0 pt" in words


def test_agreement_falls_in_points_and_is_told_for_every_slice():
    rows = [
        {"slice": "all", "samples": 100, "dense_value": 1.0, "value": 0.97, "delta": -0.03, "ci_low": -0.05, "ci_high": -0.01, "flips": 41, "agreement": 0.97, "kl_divergence": 0.0123, "kl_p99": 0.456},
        {"slice": "topic=law", "samples": 20, "dense_value": 1.0, "value": 0.9, "delta": -0.1, "agreement": 0.9, "kl_divergence": 0.05, "kl_p99": 0.7},
    ]  # fmt: skip
    data = case(metric="fidelity", evaluations=rows)
    words = Page(render_html(data)).words
    assert "1.000 → 0.9700 fidelity −3.0 pt −5.0 pt to −1.0 pt −10.0 pt topic=law" in words
    assert "41 predictions changed." in words
    assert "all 100 41 97.00 % 0.0123 0.456 topic=law 20 – 90.00 % 0.0500 0.700" in words
    assert "| 97.00 % | 0.0123, 0.456 |" in render_markdown(data)


def test_default_slices_are_marked_and_explained():
    rows = [
        {"slice": "all", "samples": 100, "dense_value": 0.9, "value": 0.85, "delta": -0.05, "flips": 7},
        {
            "slice": "default label=3",
            "samples": 20,
            "dense_value": 0.9,
            "value": 0.6,
            "delta": -0.3,
            "flips": 6,
        },
    ]
    words = Page(render_html(case(evaluations=rows))).words
    assert "The recipe names no slices, so these are the default ones" in words
    assert "default label=3 20 6" in words
    assert "`default label=3`" in render_markdown(case(evaluations=rows))
    assert "names no slices" not in render_html(case())


def test_nothing_is_said_of_predictions_that_nobody_compared():
    assert "How far the predictions moved" not in render_html(case())


def test_every_failure_class_has_advice(four):
    assert set(ADVICE) == {member.value for member in FailureClass} | {"quarantined"}
    assert "Give the pool more per shard" in render_html(four)


def test_a_running_run_and_an_empty_one_have_a_page():
    html = render_html(empty())
    assert "nothing to do" in html
    assert "still running" in html
    assert "nothing to do" in render_markdown(empty())


def test_work_left_to_a_later_run_is_waiting():
    assert "1\u00a0waiting." in render_html(case(verdict="", state="waiting", evaluations=[]))


def test_rows_follow_units_and_not_recipes():
    """A unit that serves two recipes carries the name of the first; both show its numbers."""
    data = case()
    both = replace(data, chains=[data.chains[0], {**data.chains[0], "recipe": "other"}])
    assert render_html(both).count("0.9000 → 0.8500") == 2


def test_units_of_other_runs_are_not_in_the_timing(four):
    others = [{**row, "run_id": "before"} for row in four.units]
    assert "Time by pool" not in render_html(replace(four, units=others))


def test_the_summary_is_short_and_begins_with_what_was_refused(four):
    text = render_markdown(four)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# prunefleet, run `20261122-0100-7f3a`",
        "## Refused",
        "## Failed or impossible",
        "## Models and recipes",
        "## Findings",
        "## Published",
    ]
    assert len(text) < 8_000
    assert "\n\n\n" not in text


def test_a_good_night_has_no_refusals_in_it():
    data = case(
        verdict="pass",
        verdicts=[{"verdict": "pass", "gate": "max_drop", "slice": "all", "observed": 0.01, "limit": 0.02}],
    )
    assert "Refused" not in render_html(data)
    assert "Refused" not in render_markdown(data)
    assert "1\u00a0passed." in render_markdown(data)
