"""The fleet file: what it accepts, and that each mistake is told with its line, its reason and what was meant."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath

import pytest
from pydantic import TypeAdapter

from orchestrator.errors import SpecError
from orchestrator.spec import SCHEMA_FILE, json_schema, load_fleet
from orchestrator.specs import yamltext
from orchestrator.specs.parts import size_in_bytes
from orchestrator.specs.registries import SPECS, RegistrySpec

HERE = Path(__file__)


def errors_of(text):
    with pytest.raises(SpecError) as caught:
        load_fleet(text, "fleet.yaml", PurePosixPath("/home"))
    return str(caught.value).splitlines()


def line_of(text, needle):
    return next(number for number, line in enumerate(text.splitlines(), 1) if needle in line)


def test_the_designs_example_is_understood(make_fleet):
    fleet = make_fleet()
    assert fleet.recipes["half"].prune.share == 0.5
    assert fleet.recipes["two-four"].prune.share == 0.5
    assert fleet.recipes["half"].match.architecture == "*ForCausalLM"


def test_paths_start_from_the_fleet_file(make_fleet):
    fleet = make_fleet()
    assert fleet.store.url == "/home/out"
    assert fleet.registries["zoo"].path == "/home/zoo"
    assert fleet.datasets["manual"].path == "/home/manual.jsonl"


def test_an_s3_store_is_left_as_it_is(fleet_text):
    text = fleet_text.replace("store: ./out", "store: s3://bucket/prefix")
    assert load_fleet(text, "f", PurePosixPath("/home")).store.url == "s3://bucket/prefix"


def test_a_store_may_name_its_endpoint(fleet_text):
    text = fleet_text.replace(
        "store: ./out", 'store: {url: "s3://b/p", endpoint: "http://127.0.0.1:9", region: x}'
    )
    assert load_fleet(text, "f", PurePosixPath("/")).store.endpoint == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("old", "new", "at", "words"),
    [
        ("criterion: wanda", "criterion: wandaa", "wandaa", ["recipes.half.prune.criterion", "'fisher', 'sparsegpt', 'random', 'loss', or the name of an entry point of prunefleet.criteria"]),
        ("amount: 0.5", "amount: 1.5", "1.5", ["recipes.half.prune.amount", "less than or equal to 1", "1.5"]),
        ("amount: 0.5", "amount: -0.1", "-0.1", ["greater than or equal to 0"]),
        ("amount: 0.5", "amount: half", "half,", ["valid number", "half"]),
        ("amount: 0.5", "amuont: 0.5", "amuont", ["unknown key 'amuont'", "did you mean 'amount'"]),
        ("units: 2", "unit: 2", "unit: 2", ["unknown key 'unit'", "did you mean 'units'"]),
        ("kind: text", "kind: txt", "txt", ["datasets.manual.kind", "'text', 'arrays' or 'choices'"]),
        ("kind: directory, path: ./zoo", "kind: folder, path: ./zoo", "folder", ["registries.zoo.kind", "directory"]),
        ("cpus: 2", "cpu: 2", "cpu: 2", ["unknown key 'cpu'", "did you mean 'cpus'"]),
        ("cpus: 2", "cpus: 0", "cpus: 0", ["a pool needs cpus or gpus"]),
        ("cpus: 2", "cpus: 2, cpus_per_shard: 3", "cpus_per_shard", ["cpus_per_shard is 3", "has 2 cpus"]),
        ("pattern: 2:4", "pattern: 4:4", "4:4", ["removes nothing"]),
        ("pattern: 2:4", "pattern: 2:4, amount: 0.7", "2:4", ["removes exactly 0.5"]),
        ("pattern: 2:4", "pattern: two-four", "pattern: two-four", ["pattern"]),
        ("dataset: manual, split: calibration", "dataset: manul, split: calibration", "manul", ["no dataset 'manul'", "did you mean 'manual'"]),
        ("registry: out", "registry: outt", "outt", ["no registry 'outt'", "did you mean 'out'"]),
        ("max_drop: 0.1}\n    publish", "confidence: 0.9}\n    publish", "confidence", ["gates need max_drop or max_slice_drop"]),
        ("metric: perplexity", "metric: bleu", "bleu", ["'perplexity', 'loss', 'accuracy', 'f1', 'fidelity'", "prunefleet.metrics"]),
        ("version: 1", "version: 2", "version: 2", ["version"]),
        ("name: demo", "name: ../demo", "../demo", ["name"]),
        ("recipes:\n  half:", "recipes:\n  ../half:", "../half", ["recipes"]),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_what_was_meant(fleet_text, old, new, at, words):
    text = fleet_text.replace(old, new, 1)
    assert text != fleet_text
    (message, *_) = [line for line in errors_of(text) if all(word in line for word in words)] or [
        errors_of(text)
    ]
    assert isinstance(message, str), f"no message has {words}: {message}"
    said = int(message.split(":")[1])
    assert 0 <= line_of(text, at) - said <= (5 if "gates need" in message else 2)


def test_every_mistake_is_told_at_once(fleet_text):
    text = (
        fleet_text.replace("amount: 0.5", "amount: 1.5")
        .replace("units: 2", "unit: 2")
        .replace("cpus: 2", "cpu: 2")
    )
    assert len(errors_of(text)) >= 3


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("{}", "at least one of"),
        ("{sensitivity: {dataset: manual}}", "sensitivity needs prune"),
        ("{prune: {criterion: wanda, amount: 0.5}}", "needs calibration data"),
        ("{prune: {criterion: magnitude, amount: 0.5, allocation: sensitivity}}", "needs a sensitivity step"),
        ("{prune: {criterion: magnitude}}", "amount is missing"),
        (
            "{prune: {criterion: magnitude, amount: 0.5, recover: {bias: true}}}",
            "recover needs calibration data",
        ),
        (
            "{prune: {criterion: magnitude, amount: 0.5, dataset: manual, recover: {}}}",
            "names none of bias, batch_norm, distill",
        ),
        (
            "{prune: {criterion: magnitude, amount: 0.5, dataset: manual, recover: {distill: {steps: 0}}}}",
            "greater than 0",
        ),
        (
            "{prune: {criterion: magnitude, amount: 0.5, dataset: manual, recover: {distil: true}}}",
            "unknown key 'distil'; did you mean 'distill'",
        ),
        ("{prune: {criterion: magnitude, cut: {}}}", "cut names none of width"),
        ("{prune: {criterion: magnitude, cut: {width: 1.2}}}", "less than or equal to 1"),
        ("{prune: {criterion: magnitude, cut: {widht: 0.2}}}", "did you mean 'width'"),
        ("{prune: {criterion: magnitude, cut: {width: 0.2}, amount: 0.5}}", "amount is about masks"),
        ("{prune: {criterion: magnitude, cut: {width: 0.2}, pattern: 2:4}}", "pattern is about masks"),
        ("{prune: {criterion: magnitude, cut: {width: 0.2}, skip: [x]}}", "skip is about masks"),
        ("{prune: {criterion: sparsegpt, cut: {width: 0.2}, dataset: manual}}", "does not go with cut"),
        ("{prune: {criterion: loss, cut: {width: 0.2}}}", "needs calibration data"),
        (
            "{prune: {criterion: magnitude, cut: {width: 0.2}, allocation: knapsack, budget: {flops: 0.5}}}",
            "is sensitivity, or left out",
        ),
        (
            "{prune: {criterion: magnitude, cut: {width: 0.2}, allocation: sensitivity}}",
            "needs a budget or a quality",
        ),
        (
            "{prune: {criterion: magnitude, cut: {width: 0.2}, quality: {max_increase: 0.1}}}",
            "needs allocation: sensitivity",
        ),
        (
            "{prune: {criterion: magnitude, cut: {width: 0.2}, quality: {max_increase: 0.1}, budget: {flops: 1}}}",
            "give one of them",
        ),
        (
            "{prune: {criterion: magnitude, cut: {width: 0.2}, allocation: sensitivity, budget: {latency: 0.5}}}",
            "leave allocation out",
        ),
        (
            "{prune: {criterion: magnitude, cut: {width: 0.2}, allocation: sensitivity, budget: {flops: 0.5}}}",
            "needs a sensitivity step",
        ),
        ("{prune: {criterion: loss, amount: 0.2, dataset: manual}}", "loss needs cut"),
        ("{prune: {criterion: magnitude, amount: 0.2, round_to: 8}}", "round_to needs cut"),
        ("{prune: {criterion: magnitude, pattern: block:4x4}}", "amount is missing"),
        ("{prune: {criterion: magnitude, scope: model}}", "amount is missing"),
        ("{prune: {criterion: magnitude, amount: 0.5, pattern: block:0x4}}", "pattern"),
        ("{prune: {criterion: magnitude, amount: 0.5, pattern: block:1x1}}", "is what unstructured says"),
        (
            "{prune: {criterion: sparsegpt, amount: 0.5, pattern: block:4x4, dataset: manual}}",
            "not in blocks",
        ),
        (
            "{prune: {criterion: sparsegpt, amount: 0.5, scope: model, dataset: manual}}",
            "scores weights as it goes",
        ),
        (
            "{prune: {criterion: magnitude, amount: 0.5, scope: model, allocation: erk}}",
            "leave allocation out",
        ),
        (
            "{prune: {criterion: magnitude, amount: 0.5, scope: model, pattern: block:4x4}}",
            "ranks single weights",
        ),
        ("{prune: {criterion: magnitude, pattern: 2:4, scope: model}}", "has its own scope"),
        ("{prune: {criterion: magnitude, amount: 0.5, min_amount: 0.1}}", "every allocation but uniform"),
        (
            "{prune: {criterion: magnitude, amount: 0.5, scope: model, min_amount: 0.6, max_amount: 0.5}}",
            "is above max_amount",
        ),
        (
            "{prune: {criterion: magnitude, amount: 0.5, scope: model}, sensitivity: {dataset: manual}}",
            "leave one of them out",
        ),
        (
            "{prune: {criterion: magnitude, amount: 0.5, pattern: block:4x4, allocation: knapsack}, sensitivity: {dataset: manual}}",
            "blocks go by amount",
        ),
        ("{prune: {criterion: fisher, amount: 0.5}}", "fisher needs calibration data"),
        ("{prune: {criterion: magnitude, amount: 0.5, allocation: knapsack}}", "needs a sensitivity step"),
        (
            "{prune: {criterion: magnitude, budget: {parameters: 0.5}}, sensitivity: {dataset: manual}}",
            "need allocation: sensitivity or knapsack",
        ),
        (
            "{prune: {criterion: magnitude, pattern: 2:4, budget: {parameters: 0.5}}, sensitivity: {dataset: manual}}",
            "need allocation: sensitivity or knapsack",
        ),
        (
            "{prune: {criterion: magnitude, amount: 0.5, quality: {max_increase: 0.1}, allocation: knapsack}}",
            "give one of them",
        ),
        ("{prune: {criterion: magnitude, budget: {}, allocation: knapsack}}", "exactly one of parameters"),
        (
            "{prune: {criterion: magnitude, budget: {flops: 0.5, bytes: 0.5}, allocation: knapsack}}",
            "exactly one of parameters",
        ),
        (
            "{prune: {criterion: magnitude, budget: {latency: 0.5}, allocation: knapsack}}",
            "masks make no runtime faster",
        ),
        (
            "{prune: {criterion: magnitude, cut: {width: 0.5}, budget: {latency: 0.5}}}",
            "budget.latency needs calibration data",
        ),
        (
            "{prune: {criterion: magnitude, cut: {width: 0.5}, budget: {latency: 0}, dataset: manual}}",
            "greater than 0",
        ),
        (
            "{prune: {criterion: magnitude, quality: {max_increase: 0}, allocation: knapsack}}",
            "greater than 0",
        ),
        (
            "{prune: {criterion: magnitude, budget: {flop: 0.5}, allocation: knapsack}}",
            "unknown key 'flop'; did you mean 'flops'",
        ),
        ("{prune: {criterion: sparsegpt, amount: 0.5}}", "sparsegpt needs calibration data"),
        ("{prune: {criterion: magnitude, amount: 0.5, allocation: owl}}", "owl needs calibration data"),
        ("{prune: {criterion: magnitude, pattern: 2:4, allocation: erk}}", "allocation must be uniform"),
        (
            "{prune: {criterion: magnitude, pattern: 2:4, allocation: sensitivity}}",
            "allocation must be uniform",
        ),
        ("{prune: {criterion: magnitude, pattern: 2:4, scope: row}}", "leave scope out"),
        (
            "{evaluate: {dataset: manual, metric: loss}, gates: {max_drop: 0.1}}",
            "gates need prune and evaluate",
        ),
        (
            "{evaluate: {dataset: manual, metric: loss}, publish: {registry: out, alias: a}}",
            "publish needs gates",
        ),
        (
            "{prune: {criterion: magnitude, amount: 0.5}, sensitivity: {dataset: manual, grid: [0.5, 0.1]}}",
            "ascending",
        ),
        (
            "{prune: {criterion: magnitude, amount: 0.5}, sensitivity: {dataset: manual, grid: []}}",
            "at least 1",
        ),
        ("{prune: {criterion: magnitude, amount: .nan}}", "valid number"),
        ("{evaluate: {dataset: manual, metric: loss, latency: true}}", "evaluate.latency needs prune"),
        ("{evaluate: {dataset: manual, metric: fidelity}}", "metric: fidelity needs prune"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_runs(fleet_text, recipe, words):
    start, end = fleet_text.index("recipes:"), fleet_text.index("pools:")
    text = f"{fleet_text[:start]}recipes:\n  one: {recipe}\n{fleet_text[end:]}"
    assert any(words in line for line in errors_of(text)), errors_of(text)


@pytest.mark.parametrize(
    ("how", "asked"),
    [("true", (100, 1e-4, 1.0)), ("{steps: 5}", (5, 1e-4, 1.0)), ("false", None), ("null", None)],
)
def test_distillation_is_asked_for_by_true_or_by_how(fleet_text, how, asked):
    text = fleet_text.replace("allocation: sensitivity}", f"recover: {{bias: true, distill: {how}}}}}", 1)
    assert text != fleet_text
    found = load_fleet(text, "f", PurePosixPath("/")).recipes["half"].prune.recover.distill
    assert (found and (found.steps, found.learning_rate, found.temperature)) == asked


@pytest.mark.parametrize(
    ("how", "asked"),
    [
        ("true", (8, 128, 20)),
        ("{}", (8, 128, 20)),
        ("{batch: 1, repetitions: 6}", (1, 128, 6)),
        ("false", None),
        ("null", None),
    ],
)
def test_latency_is_asked_for_with_a_word_or_in_detail(fleet_text, how, asked):
    text = fleet_text.replace("metric: perplexity}", f"metric: perplexity, latency: {how}}}", 1)
    found = load_fleet(text, "f", PurePosixPath("/")).recipes["half"].evaluate.latency
    assert (found and (found.batch, found.sequence, found.repetitions)) == asked


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("{repetitions: 5}", ["recipes.half.evaluate.latency.repetitions", "greater than or equal to 6"]),
        ("{batch: 0}", ["latency.batch", "greater than 0"]),
        ("{bach: 2}", ["unknown key 'bach'", "did you mean 'batch'"]),
        ("fast", ["recipes.half.evaluate.latency", "(it is 'fast')"]),
    ],
)
def test_a_mistake_in_latency_is_told_with_its_place(fleet_text, how, words):
    text = fleet_text.replace("metric: perplexity}", f"metric: perplexity, latency: {how}}}", 1)
    assert any(all(word in line for word in words) for line in errors_of(text)), errors_of(text)


def test_questions_with_choices_are_for_evaluation_alone(fleet_text, make_fleet):
    text = fleet_text.replace("kind: text", "kind: choices", 1)
    problems = errors_of(text)
    assert problems
    assert all("questions with choices are for evaluate; calibrate on texts" in line for line in problems)
    assert {line.split(": ")[1].rsplit(".", 2)[1] for line in problems} == {"sensitivity"}
    fine = fleet_text.replace("datasets:", "datasets:\n  quiz: {kind: choices, path: quiz.jsonl}", 1)
    asked = fine.replace(
        "evaluate: {dataset: manual, split: test, metric: perplexity",
        "evaluate: {dataset: quiz, metric: accuracy",
    )
    assert make_fleet(text=asked).datasets["quiz"].kind == "choices"


def test_n_of_m_is_text_and_no_number_of_minutes(fleet_text, make_fleet):
    assert "pattern: 2:4" in fleet_text
    assert make_fleet().recipes["two-four"].prune.pattern == "2:4"


def test_credentials_do_not_stand_in_the_file(fleet_text):
    text = fleet_text.replace("store: ./out", "store: s3://key:secret@bucket/prefix")
    (message,) = errors_of(text)
    assert "credentials" in message
    assert "secret" not in message.split("credentials", 1)[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("- a\n- b\n", "mapping"),
        ("just words", "mapping"),
        ("version: 1\nversion: 1\n", "stands here twice"),
        ("a: &x 1\nb: *x\n", "anchors"),
        ("a: !!python/object:os.system x\n", "tag"),
        ("a: [1, 2\n", "not valid YAML"),
        ("a:\n\t- b", "not valid YAML"),
        ("? [a]\n: b\n", "key must be plain text"),
    ],
)
def test_yaml_that_is_no_fleet_is_refused_with_its_line(text, words):
    assert any(words in line for line in errors_of(text))


def test_deep_and_huge_text_is_refused_quickly():
    assert "nested" in errors_of("[" * 100 + "]" * 100)[0]
    assert "bytes" in errors_of("a: " + "x" * (5 * 2**20))[0]


@pytest.mark.parametrize(
    ("text", "value"), [("8GiB", 8 * 2**30), ("500MB", 5 * 10**8), ("1.5KiB", 1536), ("7", 7), (7, 7)]
)
def test_sizes_are_read_as_people_write_them(text, value):
    assert size_in_bytes(text) == value


@pytest.mark.parametrize("text", ["8 gigs", "GiB", "-1GiB", "1e9"])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match="number of bytes"):
        size_in_bytes(text)


def test_the_schema_that_editors_read_is_the_one_that_is_checked_in():
    assert (HERE.parents[2] / SCHEMA_FILE).read_text() == json_schema()


def test_the_schema_knows_every_key_of_the_fleet(make_fleet):
    schema = json.loads(json_schema())
    assert set(schema["properties"]) == set(type(make_fleet()).model_fields)
    assert schema["additionalProperties"] is False


def test_every_registry_of_the_documentation_is_one():
    text = (HERE.parents[2] / "docs" / "registries.md").read_text()
    blocks = re.findall(r"```yaml\n(registries:\n.*?)```", text, re.DOTALL)
    parsed = [yamltext.parse(block, "docs/registries.md")[0]["registries"] for block in blocks]
    specs = [TypeAdapter(RegistrySpec).validate_python(one) for block in parsed for one in block.values()]
    assert {spec.kind for spec in specs} == set(SPECS)


def test_the_keys_of_each_kind_of_registry_are_its_own(fleet_text):
    line = "zoo: {kind: directory, path: ./zoo}"
    assert line in fleet_text
    assert "uri" in "".join(errors_of(fleet_text.replace(line, "zoo: {kind: mlflow, ury: http://host:5000}")))
    wrong = errors_of(fleet_text.replace(line, "zoo: {kind: s3, url: 's3://b', endpont: x}"))
    assert any("did you mean 'endpoint'" in one for one in wrong)
    assert any(
        "credentials" in one
        for one in errors_of(fleet_text.replace(line, "zoo: {kind: s3, url: 's3://k:s@b'}"))
    )
