"""Headers, indexes, configs and whole registries from a stranger who means it, with the safetensors library as the oracle."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import header_rounds
import pytest
from cases.hostile_models import ODD_KEYS, ODD_SETTINGS, ODD_VALUES, rendered
from header_rounds import KINDS, SECONDS, alarm, judged


def in_a_process(seed: int, count: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, header_rounds.__file__, str(seed), str(count)],
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def check_round(told: dict[str, Any], count: int) -> None:
    assert told["problems"] == []
    assert sum(told["accepted"].values()) + sum(told["refused"].values()) == count
    for kind in KINDS:
        assert told["accepted"].get(kind, 0) > 0, f"no {kind} was accepted"
        assert told["refused"].get(kind, 0) > 0, f"no {kind} was refused"
    assert told["slowest"][0] < SECONDS


def test_thousands_of_hostile_inputs_are_refused_or_read_as_the_library_reads_them() -> None:
    check_round(in_a_process(1, 4000), 4000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_hostile_inputs() -> None:
    began, told = time.monotonic(), in_a_process(2, 100_000)
    print(f"\n100000 inputs in {time.monotonic() - began:.0f} s; {told}")
    check_round(told, 100_000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_configs_that_lie_give_a_refusal_or_an_empty_module(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """transformers computes with whatever a config says; nothing of that may end otherwise, or take long."""
    from tasks.loading.models import outline

    architectures = (
        "LlamaForCausalLM",
        "GPT2LMHeadModel",
        "BertForSequenceClassification",
        "ViTForImageClassification",
    )
    sound = {}
    for name in (*architectures, "ResNetForImageClassification", "MLPForClassification"):
        tiny_model(tmp_path / name, name)
        sound[name] = json.loads((tmp_path / name / "config.json").read_text())
        outline(tmp_path / name)
    ended = Counter[str]()
    for number in range(1500):
        chance = random.Random(number)
        name = chance.choice(sorted(sound))
        config = dict(sound[name])
        for _ in range(chance.randrange(1, 3)):
            config[chance.choice([*config, *ODD_KEYS])] = chance.choice(
                (*ODD_VALUES, *ODD_SETTINGS, 3, 10**5, "gelu")
            )
        (tmp_path / name / "config.json").write_text(rendered(config, False))
        with alarm(SECONDS):
            is_built, problems = judged(partial(outline, tmp_path / name), None, "", lambda _: [])
        assert problems == [], number
        ended["built" if is_built else "refused"] += 1
    assert min(ended["built"], ended["refused"]) > 100, ended
