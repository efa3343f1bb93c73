"""The report on size, speed, sparsity, predictions and recovery: nothing is claimed that was not measured."""

from __future__ import annotations

import pytest
from cases.reports import Page, case, latency_row

from orchestrator.reports.report import (
    render_html,
    render_markdown,
)


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


def test_alike_amounts_are_told_in_a_sentence_instead_of_a_drawing(page):
    assert "wanda-2-of-4: all 12 layers pruned by 50.0 %, as asked." in page


def test_all_layers_and_amounts_stand_in_the_map_with_their_numbers(four, page):
    for row in four.sensitivity:
        if row["model"] == "assistant-b":
            short = row["layer"].removeprefix("model.layers.")
            assert f"<title>{short} at {row['amount'] * 100:.0f} %: " in page
