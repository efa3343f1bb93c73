"""The report: what it says first, what it never says, and that it can be read whatever the night was like."""

from __future__ import annotations

import base64
import hashlib
import math
import random
import re
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

import orchestrator
from orchestrator import judging
from orchestrator.domain import FailureClass
from orchestrator.report import (
    MOST_REFUSED,
    MOST_ROWS,
    MOST_SECTIONS,
    ReportData,
    render_html,
    render_markdown,
)
from orchestrator.reportview import ADVICE
from orchestrator.schemas import TABLES

START = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
RECIPES = {
    "wanda-half": ("wanda", "unstructured", 0.5, 0.04),
    "wanda-2-of-4": ("wanda", "2:4", 0.5, 0.07),
    "magnitude-70": ("magnitude", "unstructured", 0.7, 0.13),
}
TOPICS = ("contracts", "chemistry", "cooking", "law", "mathematics", "poetry", "travel", "weather")
PARTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
GRID = (0.1, 0.3, 0.5, 0.7, 0.9)
ROW_TABLES = (
    "sensitivity",
    "layers",
    "artifacts",
    "evaluations",
    "latencies",
    "verdicts",
    "exemplars",
    "findings",
    "units",
)
CSS = (Path(orchestrator.__file__).parent / "templates" / "report.css").read_text()


# --- a made-up night -------------------------------------------------------------------------------------------


def identity(key, model, recipe):
    return {
        "unit_key": key,
        "run_id": "20261122-0100-7f3a",
        "registry": "zoo",
        "model": model,
        "version": "1",
        "model_digest": "d" * 64,
        "recipe": recipe,
    }


def sensitivity_rows(rng, base, layers, criterion, pattern):
    rows = []
    for place, layer in enumerate(layers):
        fragile = math.exp(rng.gauss(0, 0.6)) * (4.0 if place in (0, len(layers) - 1) else 1.0)
        for amount in GRID:
            delta = fragile * 0.004 * (math.exp(5.2 * amount) - 1) * rng.uniform(0.92, 1.08)
            rows.append(
                {
                    **base,
                    "layer": layer,
                    "criterion": criterion,
                    "pattern": pattern,
                    "amount": amount,
                    "metric": "loss",
                    "dense_value": 2.31,
                    "value": 2.31 + delta,
                    "delta": delta,
                    "stderr": delta * 0.07 + 0.001,
                    "method": "exact",
                }
            )
    return rows


def dense_outcomes(rng):
    rows = []
    for example in range(120):
        topic = TOPICS[example % 7] if example < 116 else TOPICS[7]
        tokens = rng.randint(40, 120)
        loss = tokens * rng.gauss(2.3, 0.2)
        rows.append({"example": example, "slices": {"topic": topic}, "tokens": tokens, "loss": loss})
    return rows


def pruned_outcomes(rng, dense, harm, harmed):
    return [
        {
            **row,
            "loss": row["loss"]
            + row["tokens"] * rng.gauss(harm + (0.35 if row["slices"]["topic"] == harmed else 0.0), 0.05),
        }
        for row in dense
    ]


def layer_rows(rng, base, layers, amount, even):
    rows = []
    for layer in layers:
        asked = amount if even else min(0.9, max(0.1, amount + rng.gauss(0, 0.12)))
        rows.append(
            {
                **base,
                "layer": layer,
                "parameters": 4096,
                "amount_asked": asked,
                "amount": int(4096 * asked) / 4096,
            }
        )
    return rows


def artifact_row(rng, base, size, amount, **over):
    return {
        **base,
        "digest": base["unit_key"],
        "dense_bytes": size,
        "bytes": size,
        "dense_parameters": size // 2,
        "parameters": size // 2,
        "nonzero_parameters": int(size / 2 * (1 - 0.9 * amount * rng.uniform(0.96, 1.0))),
        **over,
    }


def night(models=4, recipes=3, blocks=3, seed=0):
    """Models of a few blocks, each under some recipes, judged by the real judge."""
    rng = random.Random(seed)
    tables = {name: [] for name in ROW_TABLES}
    chains, publications, failures = [], [], []
    for m in range(models):
        model = f"assistant-{'abcdefgh'[m % 8]}{m // 8 or ''}"
        layers = [f"model.layers.{block}.{part}" for block in range(blocks) for part in PARTS]
        dense, size = dense_outcomes(rng), rng.randint(200, 900) * 1_000_000
        for recipe, (criterion, pattern, amount, harm) in list(RECIPES.items())[:recipes]:
            keys = [f"{model}/{recipe}/{task}" for task in ("sensitivity", "prune", "judge")]
            measured, pruned, judged = (identity(key, model, recipe) for key in keys)
            chain = {
                "registry": "zoo",
                "model": model,
                "version": "1",
                "recipe": recipe,
                "units": keys,
                "state": "done",
            }
            chains.append(chain)
            if m % 8 == 3 and recipe == "magnitude-70":
                chain["state"] = "failed"
                failures.append(
                    {
                        "subject": f"zoo/{model}@1 prune",
                        "recipe": recipe,
                        "class": "memory",
                        "error": "Node gpu-3 killed the worker: 41.2 GB of 40 GB in use.",
                    }
                )
                continue
            even = pattern == "2:4"
            tables["sensitivity"] += sensitivity_rows(rng, measured, layers, criterion, pattern)
            tables["layers"] += layer_rows(rng, pruned, layers, amount, even)
            tables["artifacts"].append(artifact_row(rng, pruned, size, amount))
            if even:
                message = "Its 258 inputs are no multiple of 4, so the pattern does not fit; it stays dense."
                tables["findings"].append(
                    {**pruned, "kind": "skipped_layer", "subject": "lm_head", "message": message}
                )
            outcomes = pruned_outcomes(
                rng, dense, harm * rng.uniform(0.5, 1.3), "mathematics" if m % 3 == 1 else ""
            )
            gates = {"max_drop": 0.12, "max_slice_drop": 0.25, "min_samples": 5 if m % 4 == 2 else 3}
            params = {"dataset": "manual", "metric": "perplexity", "slices": ["topic"], "gates": gates}
            for name, rows in judging.run(params, dense, outcomes, seed).items():
                tables[name] += [{**judged, **row} for row in rows]
            chain["verdict"] = next(r["verdict"] for r in tables["verdicts"] if r["unit_key"] == keys[2])
            if chain["verdict"] == "pass":
                publications.append(
                    {
                        "registry": "out",
                        "model": model,
                        "recipe": recipe,
                        "alias": "candidate",
                        "published_version": "2",
                        "previous_version": "1" if m else None,
                        "artifact_digest": keys[1],
                    }
                )
            for base, pool in ((measured, "gpu"), (pruned, "gpu"), (judged, "cpu")):
                seconds = rng.uniform(4, 90)
                tables["units"].append(
                    {**base, "pool": pool, "wall_seconds": seconds, "predicted_seconds": seconds * 1.1}
                )
    run = {
        "run_id": "20261122-0100-7f3a",
        "fleet": "demo",
        "started_at": START,
        "finished_at": START + timedelta(minutes=47, seconds=12),
        "outcome": "done",
        "exit_code": 3,
        "wanted": 3 * len(chains),
        "done_before": 0,
        "done": len(tables["units"]),
        "failed": len(failures),
        "impossible": 1,
    }
    reason = "model.safetensors: tensor lm_head.weight ends beyond the file; download it again."
    impossible = [{"subject": "zoo/broken@1", "recipe": "wanda-half", "reason": reason}]
    return ReportData(
        run=run, chains=chains, failures=failures, impossible=impossible, publications=publications, **tables
    )


@pytest.fixture(scope="module")
def four():
    return night()


@pytest.fixture(scope="module")
def page(four):
    return render_html(four)


def many(data, times):
    """The same night again and again, under other names."""

    def renamed(rows, copy):
        return [
            {
                **row,
                **({"unit_key": f"{row['unit_key']}#{copy}"} if "unit_key" in row else {}),
                **({"units": [f"{key}#{copy}" for key in row["units"]]} if "units" in row else {}),
                **({"model": f"{row['model']}-{copy}"} if "model" in row else {}),
            }
            for row in rows
        ]

    return replace(
        data,
        **{
            field.name: [row for copy in range(times) for row in renamed(getattr(data, field.name), copy)]
            for field in fields(ReportData)
            if field.name not in ("run", "failures", "impossible")
        },
    )


def empty(**over):
    run = {"run_id": "r", "fleet": "demo", "started_at": START, "finished_at": None, "outcome": None}
    return ReportData(run=run, chains=[], **over)


def case(key="k", verdict="pass", metric="accuracy", state="done", evaluations=None, **tables):
    """One chain with one unit and its rows."""
    chain = {
        "registry": "zoo",
        "model": "m",
        "version": "1",
        "recipe": "half",
        "units": [key],
        "verdict": verdict,
        "state": state,
    }
    rows = [
        {
            "slice": "all",
            "samples": 100,
            "dense_value": 0.9,
            "value": 0.85,
            "delta": -0.05,
            "ci_low": -0.1,
            "ci_high": -0.01,
        }
    ]
    base = {"unit_key": key, "dataset": "d", "metric": metric}
    given = {"evaluations": rows if evaluations is None else evaluations, **tables}
    return replace(
        empty(),
        chains=[chain],
        **{name: [{**base, **row} for row in members] for name, members in given.items()},
    )


class Page(HTMLParser):
    """What a page is made of; raises where tags do not nest."""

    VOID = frozenset({"meta", "link", "br", "img", "hr"})

    def __init__(self, html):
        super().__init__()
        self.stack, self.tags, self.text, self.ids, self.anchors = [], [], [], [], []
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        self.anchors += [given["href"][1:]] if tag == "a" and given["href"].startswith("#") else []
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ("style", "title"):
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def test_the_made_up_night_has_only_columns_that_tables_have(four):
    for name in ROW_TABLES:
        assert {column for row in getattr(four, name) for column in row} <= set(TABLES[name].names), name


# --- what it says, and in which order --------------------------------------------------------------------------


def test_the_page_tells_what_was_refused_before_anything_else(page):
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", page)
    assert headings == [
        "Refused, and why",
        "Failed or impossible, and what to do",
        "Models and recipes",
        "Quality against size",
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
    assert "<script" not in html
    assert "moved most" not in render_html(case())


def test_unstructured_zeros_are_not_called_savings(four, page):
    assert "No file became smaller" in page
    assert "zeros take as much room as any number" in page
    assert "No file became smaller" in render_markdown(four)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (
            600_000_000,
            "Files went from 1.0 GB to 600 MB (−40.0 %); 50.0 % of the parameters are gone or zero.",
        ),
        (1_000_000_000, "No file became smaller (1.0 GB)"),
        (1_200_000_000, "Files grew from 1.0 GB to 1.2 GB"),
    ],
)
def test_sizes_are_told_as_they_are(now, said):
    artifact = {
        "digest": "a",
        "dense_bytes": 10**9,
        "bytes": now,
        "dense_parameters": 100,
        "nonzero_parameters": 50,
    }
    assert said in Page(render_html(case(artifacts=[artifact]))).words


def test_speed_is_claimed_only_where_it_was_measured():
    slow = {"digest": "a", "dense_bytes": 10, "bytes": 10}
    assert "Speed was not measured." in render_html(case(artifacts=[slow]))
    html = render_html(case(artifacts=[slow], latencies=[latency_row()]))
    assert "Median speed-up 2.00× over 1 measured model, 1 of them faster beyond the noise." in html
    words = Page(html).words
    assert "Speed 2.00× of dense, 95 % interval 1.80 to 2.20: 200 ms dense, 100 ms pruned" in words
    assert (
        "(median of 40 readings each, in turns) for a batch of 8 × 128 tokens; torch 2 eager on cpu" in words
    )
    assert "2.00× 1.80 to 2.20" in words
    assert "Faster." in words


def latency_row(**changes):
    return {
        "runtime": "torch 2 eager",
        "device": "cpu",
        "batch": 8,
        "sequence": 128,
        "repetitions": 20,
        "dense_seconds": 0.2,
        "seconds": 0.1,
        "speedup": 2.0,
        "speedup_low": 1.8,
        "speedup_high": 2.2,
        **changes,
    }


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"findings": [{"kind": "no_speedup", "subject": "2:4", "message": "zeros are stored"}]}, "(by rule, not measured)"),
        ({"latencies": [latency_row(speedup=1.01, speedup_low=0.97, speedup_high=1.04)]}, "(measured)"),
    ],
)  # fmt: skip
def test_a_model_that_is_sparse_and_gained_nothing_is_told_at_the_top_and_at_its_own_place(tables, said):
    data = case(artifacts=[{"digest": "a", "dense_bytes": 10, "bytes": 10}], **tables)
    sentence = f"1 of 1 pruned models are sparse but neither smaller nor faster {said}."
    words = Page(render_html(data)).words
    assert sentence in words.split("Models and recipes")[0]
    assert "Sparse but neither smaller nor faster." in words.split("Model by model")[1]
    assert sentence in render_markdown(data)


def test_a_model_that_became_smaller_is_not_accused():
    data = case(artifacts=[{"digest": "a", "dense_bytes": 10, "bytes": 5}])
    assert "neither smaller nor faster" not in render_html(data)
    assert "Smaller." in Page(render_html(data)).words


PREDICTED = {
    "digest": "a",
    "dense_bytes": 10,
    "bytes": 10,
    "calibration_loss": 1.7347,
    "predicted_increase": 0.0685,
    "measured_increase": 0.0733,
}


def test_what_was_predicted_stands_beside_what_came_of_it():
    said = (
        "The loss of 1.735 on the calibration data was predicted to change by 0.0685 and changed by 0.0733."
    )
    night = case(artifacts=[PREDICTED])
    assert said in Page(render_html(night)).words
    assert f"- `zoo/m@1`, `half`: {said}" in render_markdown(night).splitlines()


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (("predicted_increase",), "The loss of 1.735 on the calibration data changed by 0.0733."),
        (
            ("measured_increase", "calibration_loss"),
            "The loss on the calibration data was predicted to change by 0.0685.",
        ),
        (("predicted_increase", "measured_increase"), ""),
    ],
)
def test_of_predictions_only_what_is_known_is_told(gone, said):
    artifact = {column: None if column in gone else value for column, value in PREDICTED.items()}
    page = Page(render_html(case(artifacts=[artifact]))).words
    assert said in page
    assert ("on the calibration data" in page) == bool(said)


def test_each_step_of_recovery_is_told_with_its_losses_in_the_order_in_which_they_were_taken():
    steps = [
        {"step": "distill", "loss_before": 2.0571, "loss_after": 1.7521, "kept": True},
        {"step": "bias", "loss_before": 2.0571, "loss_after": 2.0571, "kept": False},
    ]
    night = case(recoveries=steps)
    page = Page(render_html(night)).words
    assert "bias 2.057 2.057 no distill 2.057 1.752 yes" in page
    text = render_markdown(night)
    assert (
        "- `zoo/m@1`, `half`, held-out loss by recovery: `bias` 2.057 → 2.057 (undone); `distill` 2.057 → 1.752."
        in text.splitlines()
    )
    assert "## On the calibration data" in text


def test_without_recovery_or_prediction_nothing_is_said_of_calibration_data(four, page):
    assert "calibration data" not in page
    assert "calibration data" not in render_markdown(four)


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


def test_alike_amounts_are_told_in_a_sentence_instead_of_a_drawing(page):
    assert "wanda-2-of-4: all 12 layers pruned by 50.0 %, as asked." in page


def test_all_layers_and_amounts_stand_in_the_map_with_their_numbers(four, page):
    for row in four.sensitivity:
        if row["model"] == "assistant-b":
            short = row["layer"].removeprefix("model.layers.")
            assert f"<title>{short} at {row['amount'] * 100:.0f} %: " in page


# --- safe ------------------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>document.title='pwned'</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title></svg><script>1</script>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "`code` | pipe | **bold** [a](http://evil.example) <b>",
    "\u202egnp.exe\u202c \u200bzero\x00\x1b[31m",
    "x" * 10_000,
    "line\nbreak\r\n# heading",
    "a\u0300" + "\u0301" * 3000,
    "\ud800 lone",
]


def hostile(data, name):
    """Every text column that comes from outside says `name`."""
    keep = {
        "unit_key",
        "run_id",
        "units",
        "verdict",
        "gate",
        "metric",
        "state",
        "class",
        "artifact_digest",
        "digest",
        "outcome",
    }

    def spoiled(row):
        return {k: name if isinstance(v, str) and k not in keep else v for k, v in row.items()}

    changes = {}
    for field in fields(ReportData):
        rows = getattr(data, field.name)
        changes[field.name] = spoiled(rows) if field.name == "run" else [spoiled(row) for row in rows]
    slices = [{**row, "slice": "all" if i == 0 else name} for i, row in enumerate(data.evaluations)]
    return replace(
        data,
        **{
            **changes,
            "evaluations": [{**s, **{k: v for k, v in spoiled(s).items() if k != "slice"}} for s in slices],
        },
    )


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_inert_and_leave_the_page_whole(name):
    small = night(models=1, recipes=1, blocks=1)
    html = render_html(hostile(small, name))
    parsed = Page(html)
    assert not {tag for tag, _ in parsed.tags} & {"script", "img", "iframe"}
    assert not [key for _, attrs in parsed.tags for key in attrs if key.startswith("on")]
    assert all(attrs.get("href", "#").startswith(("#", "data:,")) for _, attrs in parsed.tags)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\u200b\ud800-\udfff]", html)
    assert len(html) < len(render_html(small)) + 400_000
    html.encode()


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_stay_in_code_spans_of_the_summary(name):
    text = render_markdown(hostile(night(models=1, recipes=1, blocks=1), name))
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    for mark in ("<script", "](http", "**bold", "onerror", "# heading", "evil", "\x1b", "\u202e"):
        assert mark not in outside, mark
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert widths <= {5, 6, 13}
    text.encode()


def test_the_policy_allows_exactly_the_style_of_the_page(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy


def test_the_page_refers_to_nothing_outside(page):
    assert not re.search(r'(src|href)="(?!#|data:,)', page)
    assert "url(" not in page
    assert "@import" not in page
    assert not re.search(r"<[^>]* style=", page)


# --- readable --------------------------------------------------------------------------------------------------


def test_ids_are_unique_and_every_anchor_leads_somewhere(page):
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert set(parsed.anchors) <= set(parsed.ids)
    assert parsed.anchors


def test_every_drawing_has_a_name_and_every_table_a_caption(page):
    parsed = Page(page)
    drawings = page.count('role="img"')
    assert drawings > 10
    assert len(re.findall(r'<svg [^>]*role="img"[^>]*><title>[^<]+</title>', page)) == drawings
    count = sum(tag == "table" for tag, _ in parsed.tags)
    assert count == sum(tag == "caption" for tag, _ in parsed.tags) > 2


def test_every_verdict_has_a_sign_besides_its_colour(page):
    chips = re.findall(r'<span class="chip (\w+)" data-sign="([^"]+)">', page)
    assert len({sign for _, sign in chips}) == len({status for status, _ in chips}) > 3


def test_the_style_sheet_knows_every_class_of_the_page(page):
    used = {name for names in re.findall(r'class="([^"]*)"', page) for name in names.split()}
    known = set(re.findall(r"\.([a-z][a-z0-9]*)", CSS))
    assert used - known <= {"what", "model", "none", "all", "value"}


def scheme(dark):
    light, _, rest = CSS.partition("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", light))
    return (
        colours | dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", rest.partition("\n}\n")[0]))
        if dark
        else colours
    )


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one, two):
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_lines_have_enough_contrast_in_light_and_dark(dark):
    colours = scheme(dark)
    for ground in ("page", "surface"):
        for ink in ("ink", "soft", "link", "pass", "block", "inconclusive", "failed", "waiting", "measured"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for step in range(6):
        assert contrast(colours[f"depth{step}"], colours["surface"]) >= 3, step
    for step in range(8):
        ink = colours["on-low" if step < 5 else "on-high"]
        assert contrast(ink, colours[f"heat{step}"]) >= 4.5, step


@pytest.mark.parametrize("dark", [False, True])
def test_the_steps_of_the_map_differ_in_lightness_in_one_direction(dark):
    steps = [luminance(scheme(dark)[f"heat{step}"]) for step in range(8)]
    assert steps == sorted(steps, reverse=not dark)


def test_a_thousand_models_are_all_in_the_table_and_the_urgent_ones_in_detail(four):
    data = many(four, 250)
    html = render_html(data)
    assert html.count('<tr>\n<td><span class="chip') == len(data.chains) == 3000
    assert html.count('<details class="model"') == MOST_SECTIONS
    assert f"The {MOST_SECTIONS} most urgent of 1,000 model versions are shown in detail" in html
    assert f"{3000 - MOST_ROWS:,} further rows" in html
    assert re.search(r"And [\d,]+ more, in the table below", html)
    assert html.split('id="refused"')[1].split("</section>")[0].count("<li>") == MOST_REFUSED
    assert len(html) < 6_000_000
    assert len(render_markdown(data)) < 20_000


def test_labels_of_the_scatter_plot_do_not_overlap(four):
    html = render_html(many(four, 20))
    chart = html.split('id="scatter"')[1].split("</section>")[0]
    boxes = [
        (float(x), float(y), float(x) + 0.6 * 11 * len(name), float(y) - 12)
        for x, y, name in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="name">([^<]*)</text>', chart)
    ]
    assert boxes
    for i, (left, bottom, right, top) in enumerate(boxes):
        for other_left, other_bottom, other_right, other_top in boxes[:i]:
            assert right <= other_left or other_right <= left or bottom <= other_top or other_bottom <= top
    assert re.search(r"\d+ of \d+ marks are named", chart)


def test_a_model_of_a_thousand_layers_shows_the_most_sensitive_and_says_so():
    rng = random.Random(1)
    layers = [f"model.layers.{i}.mlp.up_proj" for i in range(1000)]
    base = {"unit_key": "k"}
    data = case(
        sensitivity=sensitivity_rows(rng, base, layers, "wanda", "unstructured"),
        layers=layer_rows(rng, base, layers, 0.5, even=False),
    )
    html = render_html(data)
    assert "40 of 1,000 layers are shown: the most sensitive." in html
    assert "60 of 1,000 layers are drawn: the most sensitive." in html
    assert "40 of 1000 layers are shown: those furthest from the mean." in html
    assert len(html) < 600_000


@pytest.mark.parametrize("number", [None, math.nan, math.inf, -math.inf, 0.0, 1e300, -1e-300])
def test_numbers_that_are_none_do_not_break_the_page(number):
    evaluation = {
        "slice": "all",
        "samples": 5,
        **dict.fromkeys(("dense_value", "value", "delta", "ci_low", "ci_high", "kl_divergence"), number),
    }
    rows = [evaluation, {**evaluation, "slice": "topic=a"}]
    layer = {"layer": "a.b", "amount": 0.5, "delta": number, "stderr": number}
    verdict = {
        "verdict": "block",
        "gate": "max_drop",
        "slice": "all",
        "observed": number,
        "limit": number,
        "p_value": None,
    }
    artifact = {
        "digest": "a",
        "dense_bytes": 10,
        "bytes": 10,
        "dense_parameters": 10,
        "nonzero_parameters": 5,
    }
    for metric in ("accuracy", "perplexity"):
        data = case(
            verdict="block",
            metric=metric,
            evaluations=rows,
            verdicts=[verdict],
            artifacts=[artifact],
            sensitivity=[layer],
        )
        html = render_html(data)
        Page(html)
        assert not re.search(r'="[^"]*\b(nan|inf)\b', html)
        render_markdown(data)


def test_the_same_rows_in_any_order_make_the_same_page(four, page):
    rng = random.Random(5)
    shuffled = {}
    for name in ("chains", "sensitivity", "layers", "artifacts", "evaluations", "verdicts", "units"):
        shuffled[name] = list(getattr(four, name))
        rng.shuffle(shuffled[name])
    assert render_html(replace(four, **shuffled)) == page


# --- the summary -----------------------------------------------------------------------------------------------


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
