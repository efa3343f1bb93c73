"""What compression bought: told by the clock where there is one, else by the rule of the pattern."""

from __future__ import annotations

import pytest

from orchestrator.reports.gains import Gain, count_gains, expectation, gain_of

RULE = ({"kind": "no_speedup"},)


@pytest.mark.parametrize(
    ("before", "after", "low", "findings", "gain"),
    [
        (100, 100, None, RULE, Gain.NONE),
        (100, 120, None, RULE, Gain.NONE),
        (100, 100, None, (), Gain.UNKNOWN),
        (100, 60, None, RULE, Gain.SMALLER),
        (100, 60, None, (), Gain.SMALLER),
        (100, 100, 1.2, RULE, Gain.FASTER),
        (100, 100, 1.0, RULE, Gain.NONE),
        (100, 100, 0.98, (), Gain.NONE),
        (100, 60, 1.2, (), Gain.BOTH),
        (100, 60, 0.9, (), Gain.SMALLER),
        (None, None, None, RULE, Gain.NONE),
    ],
)
def test_the_clock_outranks_the_rule_and_bytes_are_counted(before, after, low, findings, gain):
    latency = None if low is None else {"speedup_low": low}
    assert gain_of({"dense_bytes": before, "bytes": after}, latency, findings) is gain


def artifact(key, **changes):
    return {"unit_key": key, "dense_bytes": 100, "bytes": 100, **changes}


def test_every_pruned_model_counts_once_however_many_recipes_share_it():
    artifacts = [artifact("a"), artifact("b"), artifact("c", bytes=50), artifact("d")]
    latencies = [{"unit_key": "la", "speedup_low": 0.97}, {"unit_key": "ld", "speedup_low": 1.4}]
    findings = [{"unit_key": key, "kind": "no_speedup"} for key in "abd"]
    pairs = [("a", "la"), ("a", ""), ("b", ""), ("c", ""), ("d", "ld"), ("failed", "")]
    gains = count_gains(pairs, artifacts, latencies, findings)
    assert (gains.models, gains.without, gains.measured) == (4, 2, 1)
    assert "2 of 4 pruned models are sparse but neither smaller nor faster" in gains.sentence
    assert "1 measured, the rest by rule" in gains.sentence


def test_the_sentence_says_how_it_is_known():
    by_rule = count_gains([("a", "")], [artifact("a")], [], [{"unit_key": "a", "kind": "no_speedup"}])
    assert "(by rule, not measured)" in by_rule.sentence
    measured = count_gains([("a", "l")], [artifact("a")], [{"unit_key": "l", "speedup_low": 0.9}], [])
    assert "(measured)" in measured.sentence
    assert count_gains([("a", "")], [artifact("a", bytes=10)], [], []).sentence == ""
    assert count_gains([], [], [], []).sentence == ""


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("unstructured", ["no speed-up expected, because", "OpenVINO"]),
        ("2:4", ["no speed-up expected in torch, because", "TensorRT"]),
        ("4:8", ["no runtime has kernels for 4:8"]),
    ],
)
def test_patterns_say_why_they_gain_nothing(pattern, words):
    assert all(word in expectation(pattern) for word in words)


def test_nothing_is_claimed_of_a_pattern_that_is_not_known():
    assert expectation("channel") == ""
