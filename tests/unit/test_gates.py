"""The quality gate: what blocks, and what is said when nothing can be said."""

from __future__ import annotations

import math

import pytest
from cases.verdicts import GATES, answer, answers, judged, kinds, overall, text
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.gate import judging
from orchestrator.gate.comparison import Comparison
from orchestrator.gate.gates import Gates, by_evidence
from orchestrator.gate.pairing import ALL, pair
from orchestrator.gate.statistics import answers_needed, drop_bounds, holm, mcnemar_p
from orchestrator.tables.schemas import result_table, rows_of
from tasks.contract import Finding


def test_no_change_passes_everywhere():
    dense = answers(80, 100, topic="a")
    result = judged(dense, dense, slices=["topic"])
    assert [row["verdict"] for row in result.verdicts] == ["pass", "pass", "pass"]
    assert kinds(result) == ["no_change"]


def test_a_drop_beyond_the_limit_blocks_and_the_overall_row_says_where():
    result = judged(answers(90, 100), answers(70, 100))
    row = overall(result)
    assert (row["verdict"], row["slice"], row["limit"]) == ("block", "all", 0.10)
    assert row["observed"] == pytest.approx(0.20)
    assert row["samples_needed"] is None


def test_a_drop_of_exactly_the_limit_is_neither_shown_to_be_within_nor_beyond():
    gates = Gates(max_drop=0.02)
    assert overall(judged(answers(90, 100), answers(88, 100), gates=gates))["verdict"] == "inconclusive"
    many = judged(answers(9000, 10000), answers(8800, 10000), gates=gates)
    assert overall(many)["p_value"] < 1e-50
    assert overall(many)["verdict"] == "inconclusive"


def test_a_drop_beyond_the_limit_that_chance_may_have_made_is_not_blocked():
    dense, pruned = answers(90, 100), answers(86, 100)
    row = overall(judged(dense, pruned, gates=Gates(max_drop=0.02)))
    assert row["observed"] == pytest.approx(0.04)
    assert row["p_value"] == 1 / 16
    assert row["verdict"] == "inconclusive"


def test_harm_hidden_in_one_slice_blocks_although_the_whole_is_fine():
    dense = [row for t in range(20) for row in answers(50, 50, 50 * t, topic=f"t{t}")]
    pruned = [row for t in range(20) for row in answers(35 if t == 7 else 50, 50, 50 * t, topic=f"t{t}")]
    result = judged(dense, pruned, slices=["topic"])
    by_slice = {row["slice"]: row["verdict"] for row in result.verdicts if row["gate"] != "overall"}
    assert by_slice["all"] == "pass"
    assert by_slice["topic=t7"] == "block"
    assert overall(result)["slice"] == "topic=t7"
    assert result.verdicts[1]["slice"] == "topic=t7"


def test_a_relative_increase_of_perplexity_is_held_against_the_limit():
    dense = [text(i, 20.0) for i in range(10)]
    worse = [text(i, 20.0 + 10 * math.log(1.11)) for i in range(10)]
    fine = [text(i, 20.0 + 10 * math.log(1.09)) for i in range(10)]
    assert overall(judged(dense, worse, metric="perplexity"))["verdict"] == "block"
    assert overall(judged(dense, fine, metric="perplexity"))["verdict"] == "pass"


def test_an_improvement_is_a_negative_drop_and_passes():
    row = overall(judged(answers(50, 100), answers(60, 100)))
    assert row["verdict"] == "pass"
    assert row["observed"] == pytest.approx(-0.1)
    assert row["p_value"] > 0.99


def test_a_block_outweighs_what_cannot_be_judged():
    dense = [*answers(50, 50, topic="a"), *answers(2, 2, 50, topic="b")]
    pruned = [*answers(10, 50, topic="a"), *answers(2, 2, 50, topic="b")]
    result = judged(dense, pruned, slices=["topic"])
    assert overall(result)["verdict"] == "block"
    assert [row["verdict"] for row in result.verdicts[1:]] == ["block", "block", "inconclusive"]


def test_a_slice_with_too_few_examples_is_inconclusive_and_says_how_many_it_needs():
    gates = Gates(max_drop=0.5, max_slice_drop=0.02, min_samples=10)
    dense = [*answers(100, 100, topic="a"), *answers(9, 9, 100, topic="b")]
    pruned = [*answers(98, 100, topic="a"), *answers(0, 9, 100, topic="b")]
    result = judged(dense, pruned, slices=["topic"], gates=gates)
    row = overall(result)
    assert (row["verdict"], row["slice"]) == ("inconclusive", "topic=b")
    flip_rate = 11 / 109
    assert row["samples_needed"] == answers_needed(flip_rate, 0.0, 0.02, 0.05)
    assert "too_few_samples" in kinds(result)
    told = next(f.message for f in result.findings if f.subject == "topic=b")
    assert told.startswith(
        f"9 of 10 examples that min_samples asks for. It needs at least {row['samples_needed'] - 9:,} more examples"
    )


def test_without_flips_a_slice_still_needs_what_the_bound_asks_for():
    dense = [*answers(100, 100, topic="a"), *answers(2, 2, 100, topic="b")]
    gates = Gates(max_slice_drop=0.05)
    assert overall(judged(dense, dense, slices=["topic"], gates=gates))["samples_needed"] == 70
    assert drop_bounds(0, 0, 70, 0.05) < 0.05 < drop_bounds(0, 0, 69, 0.05)


def test_nothing_passes_a_limit_of_zero_and_it_is_said_why():
    dense = answers(900, 1000, topic="a")
    result = judged(dense, dense, slices=["topic"], gates=Gates(max_drop=0.0, max_slice_drop=0.1))
    row = overall(result)
    assert (row["verdict"], row["slice"], row["samples_needed"]) == ("inconclusive", "all", None)
    assert kinds(result) == ["zero_margin", "no_change", "cannot_tell"]
    assert result.findings[0].subject == "max_drop"
    assert "Set the smallest drop that would matter" in result.findings[0].message


def test_too_few_examples_in_all_are_inconclusive_however_bad_they_look():
    row = overall(judged(answers(2, 2), answers(0, 2)))
    assert row["verdict"] == "inconclusive"
    assert row["observed"] == pytest.approx(1.0)


def test_no_examples_are_inconclusive():
    result = judged([], [])
    assert overall(result)["verdict"] == "inconclusive"
    assert kinds(result) == ["no_examples"]
    assert result.evaluations[0]["samples"] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:-1], "seen by one model only"),
        (lambda rows: [*rows, rows[0]], "stands twice"),
        (lambda rows: [{**rows[0], "label": 0}, *rows[1:]], "another label"),
        (lambda rows: [{**rows[0], "tokens": 11}, *rows[1:]], "another tokens"),
        (lambda rows: [{**rows[0], "slices": {"topic": "b"}}, *rows[1:]], "another slices"),
    ],
)
def test_outcomes_of_other_examples_are_not_compared(change, said):
    dense = answers(8, 10, topic="a")
    result = judged(dense, change(dense), slices=["topic"])
    assert overall(result)["verdict"] == "inconclusive"
    assert result.evaluations == ()
    assert kinds(result) == ["examples_differ"]
    assert said in result.findings[0].message


def test_rows_may_come_in_any_order():
    dense, pruned = answers(8, 10), answers(7, 10)
    assert judged(dense, pruned) == judged(dense[::-1], pruned)


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_a_loss_that_is_not_finite_is_inconclusive_where_it_is_and_names_the_example(loss, metric):
    dense = [text(i, 10.0, topic="ab"[i % 2]) for i in range(10)]
    pruned = [{**row, "loss": loss} if row["example"] == 3 else row for row in dense]
    result = judged(dense, pruned, metric=metric, slices=["topic"])
    verdicts = {row["slice"]: row["verdict"] for row in result.verdicts if row["gate"] != "overall"}
    assert verdicts == {"all": "inconclusive", "topic=a": "pass", "topic=b": "inconclusive"}
    assert kinds(result) == ["not_finite", "not_finite"]
    assert "first example 3" in result.findings[0].message
    assert [row["value"] for row in result.evaluations if row["slice"] != "topic=a"] == [None, None]


def test_accuracy_of_a_language_model_is_not_computable():
    rows = [text(i, 10.0) for i in range(10)]
    result = judged(rows, rows)
    assert overall(result)["verdict"] == "inconclusive"
    assert kinds(result) == ["not_computable"]


def test_perplexity_without_tokens_is_not_computable():
    rows = answers(5, 10)
    assert kinds(judged(rows, rows, metric="perplexity")) == ["not_computable"]
    rows = [text(i, 0.0, tokens=0) for i in range(10)]
    assert kinds(judged(rows, rows, metric="perplexity")) == ["not_computable"]


def test_a_dense_loss_of_nothing_has_no_relative_change():
    rows = [text(i, 0.0) for i in range(10)]
    assert kinds(judged(rows, rows, metric="loss")) == ["not_computable"]


def test_a_perplexity_beyond_all_numbers_blocks():
    dense, pruned = [text(i, 20.0) for i in range(10)], [text(i, 9e4) for i in range(10)]
    result = judged(dense, pruned, metric="perplexity")
    assert overall(result)["verdict"] == "block"
    assert overall(result)["observed"] == math.inf


def test_a_slice_column_that_is_not_there_is_inconclusive_if_slices_are_gated():
    dense = answers(100, 100, topic="a")
    result = judged(dense, dense, slices=["topic", "language"])
    assert {row["slice"] for row in result.verdicts if row["limit"] is not None} >= {"language", "topic=a"}
    assert overall(result)["verdict"] == "inconclusive"
    assert kinds(result) == ["missing_slice", "no_change"]
    only_whole = judged(dense, dense, slices=["language"], gates=Gates(max_drop=0.1))
    assert overall(only_whole)["verdict"] == "pass"
    assert kinds(only_whole) == ["missing_slice", "no_change"]


def test_a_gate_on_slices_without_slices_is_inconclusive():
    dense = answers(100, 100)
    result = judged(dense, dense, gates=GATES)
    assert overall(result)["verdict"] == "inconclusive"
    assert kinds(result) == ["no_change", "no_slices"]


def test_without_gates_it_only_measures_and_says_so():
    result = judged(answers(100, 100, topic="a"), answers(10, 100, topic="a"), slices=["topic"], gates=None)
    (row,) = result.verdicts
    assert (row["gate"], row["verdict"], row["limit"]) == ("overall", "pass", None)
    assert row["observed"] == pytest.approx(0.9)
    assert kinds(result) == ["ungated"]
    assert len(result.evaluations) == 2


def test_without_gates_what_could_not_be_measured_is_no_pass():
    rows = [text(i, 10.0) for i in range(10)]
    assert overall(judged(rows, rows, gates=None))["verdict"] == "inconclusive"


def test_a_metric_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="known: accuracy, f1, fidelity, loss, mae, mse, perplexity"):
        judged(answers(1, 1), answers(1, 1), metric="bleu")


outcome = st.tuples(st.booleans(), st.booleans(), st.sampled_from("abc"))


@settings(max_examples=60, deadline=None)
@given(st.lists(outcome, min_size=1, max_size=60), st.floats(0, 0.5), st.floats(0, 0.5), st.integers(1, 20))
def test_the_verdict_follows_its_definition_whatever_the_outcomes(outcomes, whole, part, least):
    dense = [answer(i, was, topic=topic) for i, (was, _, topic) in enumerate(outcomes)]
    pruned = [answer(i, now, topic=topic) for i, (_, now, topic) in enumerate(outcomes)]
    gates = Gates(max_drop=whole, max_slice_drop=part, min_samples=least)
    result = judged(dense, pruned, slices=["topic"], gates=gates)
    counts = {}
    for name in [None, *{topic for *_, topic in outcomes}]:
        members = [(was, now) for was, now, topic in outcomes if name in (None, topic)]
        counts[name] = (
            sum(was > now for was, now in members),
            sum(was < now for was, now in members),
            len(members),
        )
    tested = [name for name, (*_, samples) in counts.items() if samples >= least]
    rejected = dict(zip(tested, holm([mcnemar_p(*counts[name][:2]) for name in tested], 0.05), strict=True))
    expected = set()
    for name, (worse, better, samples) in counts.items():
        limit = whole if name is None else part
        is_beyond = (worse - better) / samples > limit + 1e-12
        if rejected.get(name) and is_beyond:
            expected.add("block")
        elif name in rejected and drop_bounds(worse, better, samples, 0.05) < limit:
            expected.add("pass")
        else:
            expected.add("inconclusive")
    worst = next(verdict for verdict in ("block", "inconclusive", "pass") if verdict in expected)
    assert overall(result)["verdict"] == worst
    assert {row["verdict"] for row in result.verdicts} == expected


def test_the_verdict_needs_nothing_but_comparisons():
    def verdict(**numbers):
        part = Comparison(slice=ALL, samples=50, units=50, **{"p_value": 0.4, "spread": 0.1, **numbers})
        (found,) = by_evidence([part], Gates(max_drop=0.02), metric="accuracy", alpha=0.05)
        return found.judgement

    assert verdict(drop=0.01, bound=0.019) == "pass"
    assert verdict(drop=0.01, bound=0.03) == "inconclusive"
    assert verdict(drop=0.03, bound=0.05) == "inconclusive"
    assert verdict(drop=0.03, bound=0.05, p_value=0.01) == "block"
    assert verdict(drop=0.01, bound=0.019, p_value=0.01) == "pass", "harm within the margin is allowed"
    problem = Finding(kind="not_finite", subject=ALL, message="")
    assert verdict(drop=None, problem=problem) == "inconclusive"


def test_pairs_are_in_order_of_the_example():
    pairs = pair(answers(1, 3)[::-1], answers(2, 3))
    assert not isinstance(pairs, Finding)
    assert pairs.examples == (0, 1, 2)
    assert pairs.dense_correct.tolist() == [1, 0, 0]
    assert pairs.correct.tolist() == [1, 1, 0]


def params(**gates):
    return {"dataset": "manual", "metric": "accuracy", "slices": ["topic"], "gates": gates or None}


def test_the_judge_unit_yields_rows_that_fit_its_result_object():
    dense, pruned = answers(90, 100, topic="a"), answers(60, 100, topic="a")
    tables = judging.run(params(max_drop=0.02, max_slice_drop=0.05), dense, pruned, seed=3)
    result = result_table("judge", tables)
    assert rows_of(result, "evaluations") == tables["evaluations"]
    assert rows_of(result, "verdicts") == tables["verdicts"]
    assert rows_of(result, "findings") == tables["findings"] == []
    assert tables["verdicts"][0]["verdict"] == "block"
    assert tables["evaluations"][0]["dataset"] == "manual"


def test_the_judge_unit_reads_what_the_evaluation_wrote():
    dense = result_table("evaluate", {"outcomes": answers(90, 100, topic="a", probabilities=[0.5, 0.5])})
    rows = rows_of(dense, "outcomes")
    tables = judging.run(params(), rows, rows, seed=0)
    assert [row["slice"] for row in tables["evaluations"]] == ["all", "topic=a"]
    assert tables["evaluations"][0]["kl_divergence"] == 0.0
    assert [row["kind"] for row in tables["findings"]] == ["ungated"]


def test_an_unknown_gate_is_refused_and_not_ignored():
    with pytest.raises(TypeError, match="max_dorp"):
        judging.run(params(max_dorp=0.1), [], [], seed=0)
