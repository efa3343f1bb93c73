"""The trained zoo: real models, in the layout of their users, that can do what they were trained for."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import transformers
from safetensors.torch import load_file

from tasks import evaluation, pruning
from tasks.contract import Dataset, Work

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TRAIN = EXAMPLES / "zoo" / "train.py"
WORKER = EXAMPLES / "zoo" / "worker.py"

VERSIONS = (
    "byte-llama-m/1",
    "byte-llama-s/1",
    "byte-llama-s/2",
    "digit-mlp/1",
    "digit-mlp/2",
    "digit-resnet/1",
    "digit-resnet/2",
    "digit-vit/1",
    "section-bert/1",
)


@pytest.fixture(scope="module")
def scores(zoo: Path) -> dict[str, dict]:
    return {
        f"{score['model']}/{score['version']}": score
        for score in json.loads((zoo / "scores.json").read_text())
    }


@pytest.fixture(scope="module")
def digest_of():
    return lambda directory: {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def perplexity(rows) -> float:
    return math.exp(sum(row["loss"] for row in rows) / sum(row["tokens"] for row in rows))


def test_every_version_stands_in_its_directory(zoo):
    found = {
        path.parent.relative_to(zoo / "models").as_posix() for path in zoo.glob("models/*/*/config.json")
    }
    assert found == set(VERSIONS)


def test_the_models_are_of_five_architectures(scores):
    assert len({score["architecture"] for score in scores.values()}) == 5


@pytest.mark.parametrize("version", [version for version in VERSIONS if "mlp" not in version])
def test_transformers_loads_every_tensor_and_misses_none(zoo, version):
    directory = zoo / "models" / version
    architecture = json.loads((directory / "config.json").read_text())["architectures"][0]
    _, report = getattr(transformers, architecture).from_pretrained(
        directory, output_loading_info=True, local_files_only=True
    )
    assert {name: found for name, found in report.items() if found} == {}


@pytest.mark.parametrize("version", ["byte-llama-s/2", "section-bert/1"])
def test_the_auto_classes_need_nothing_but_the_directory(zoo, version):
    directory = zoo / "models" / version
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    text = "The while statement is used\n  for repeated execution: naïve ☃"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer.pad_token == "<pad>"


def test_language_models_are_far_better_than_counting(scores):
    for version, score in scores.items():
        if score["metric"] == "perplexity":
            assert score["value"] < 0.65 * score["bigram"] < 0.65 * score["chance"], version


def test_classifiers_are_far_better_than_guessing(scores):
    least = {"digit": 0.93, "section": 0.85}
    for version, score in scores.items():
        if score["metric"] == "accuracy":
            assert score["value"] > least[version.split("-")[0]] > 1.5 * score["chance"], version


def test_the_version_that_was_trained_longer_is_better(scores):
    assert scores["byte-llama-s/2"]["value"] < 0.95 * scores["byte-llama-s/1"]["value"]


def test_scores_are_what_the_independent_checker_finds(zoo, scores, from_examples):
    check = from_examples("check_artifact").check
    for version, data, shape in [
        ("byte-llama-m/1", "manual.jsonl", []),
        ("byte-llama-s/2", "manual.jsonl", []),
        ("section-bert/1", "sections.jsonl", []),
        ("digit-vit/1", "digits_images.parquet", [1, 16, 16]),
        ("digit-resnet/2", "digits_images.parquet", [1, 16, 16]),
        ("digit-mlp/2", "digits.parquet", []),
    ]:
        found = check(zoo / "models" / version, zoo / "data" / data, "test", [], shape)
        assert found["metric"] == scores[version]["metric"]
        assert found["values"]["all"] == pytest.approx(scores[version]["value"], rel=1e-4), version


def test_one_model_is_stored_in_half_precision(zoo):
    kinds = {
        version: {
            str(tensor.dtype) for tensor in load_file(zoo / "models" / version / "model.safetensors").values()
        }
        for version in VERSIONS
    }
    assert kinds["byte-llama-m/1"] == {"torch.bfloat16"}
    assert kinds["byte-llama-s/1"] == {"torch.float32"}


@pytest.mark.parametrize("name", ["manual", "sections"])
def test_text_splits_share_no_text(zoo, name):
    rows = lines(zoo / "data" / f"{name}.jsonl")
    assert len({row["text"] for row in rows}) == len(rows)
    assert set(Counter(row["split"] for row in rows)) == {"calibration", "test"}


def test_no_text_is_cut_by_its_model(zoo):
    for name, model in [("manual", "byte-llama-s"), ("sections", "section-bert")]:
        directory = zoo / "models" / model / "1"
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
        context = json.loads((directory / "config.json").read_text())["max_position_embeddings"]
        rows = lines(zoo / "data" / f"{name}.jsonl")
        assert max(len(tokenizer(row["text"])["input_ids"]) for row in rows) <= context


@pytest.mark.parametrize(
    ("name", "column"),
    [("manual", "topic"), ("sections", "topic"), ("digits", "digit"), ("digits", "ink")],
)
def test_every_slice_of_the_test_split_has_enough_examples(zoo, name, column):
    if name == "digits":
        rows = pq.read_table(zoo / "data" / "digits.parquet", columns=["split", column]).to_pylist()
    else:
        rows = lines(zoo / "data" / f"{name}.jsonl")
    assert min(Counter(row[column] for row in rows if row["split"] == "test").values()) >= 20


def test_labels_of_the_sections_are_those_of_their_model(zoo):
    config = json.loads((zoo / "models/section-bert/1/config.json").read_text())
    assert {row["label"] for row in lines(zoo / "data/sections.jsonl")} == set(config["label2id"])


def test_pictures_are_the_flat_digits_enlarged(zoo):
    flat = pq.read_table(zoo / "data/digits.parquet").to_pylist()
    large = pq.read_table(zoo / "data/digits_images.parquet").to_pylist()
    assert len(flat) == len(large)
    for small, big in zip(flat, large, strict=True):
        assert {key: small[key] for key in ("label", "split", "digit", "ink")} == {
            key: big[key] for key in ("label", "split", "digit", "ink")
        }
        picture = [big["inputs"][row * 16 : row * 16 + 16 : 2] for row in range(0, 16, 2)]
        assert [value for row in picture for value in row] == small["inputs"]
    assert min(map(min, (row["inputs"] for row in flat))) >= 0.0
    assert max(map(max, (row["inputs"] for row in flat))) == 1.0


def test_a_second_call_changes_nothing_and_is_done_at_once(zoo, digest_of):
    before = {path: path.stat().st_mtime_ns for path in sorted(zoo.rglob("*")) if path.name != ".lock"}
    command = [sys.executable, "-X", "importtime", str(TRAIN), str(zoo)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    )  # alone a third of a second
    assert done.stdout == ""
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert not imported & {"torch", "transformers", "numpy", "sklearn", "pyarrow", "rich"}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_same_call_makes_the_same_bytes(zoo, tmp_path, digest_of):
    subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path)],
        input="digit-mlp\ndata\n",
        text=True,
        check=True,
        capture_output=True,
        timeout=200,
    )
    assert digest_of(tmp_path / "digit-mlp") == digest_of(zoo / "models" / "digit-mlp")
    assert digest_of(tmp_path / "data") == digest_of(zoo / "data")


def test_what_is_damaged_is_made_again_and_nothing_else(zoo, tmp_path, digest_of):
    copy = tmp_path / "zoo"
    shutil.copytree(zoo, copy)
    (copy / "models/digit-mlp/2/model.safetensors").write_bytes(b"")
    (copy / "data/manual.jsonl").unlink()
    (copy / "models/byte-llama-xl").mkdir()
    untouched = (copy / "models/byte-llama-m/1/model.safetensors").stat().st_mtime_ns
    done = subprocess.run([sys.executable, str(TRAIN), str(copy)], check=True, capture_output=True, text=True)
    assert digest_of(copy / "models") == digest_of(zoo / "models")
    assert digest_of(copy / "data") == digest_of(zoo / "data")
    assert (copy / "models/byte-llama-m/1/model.safetensors").stat().st_mtime_ns == untouched
    assert (copy / "scores.json").read_bytes() == (zoo / "scores.json").read_bytes()
    assert "digit-mlp" in done.stdout
    assert not (copy / ".work").exists()


def test_what_a_training_process_said_last_is_shown_when_it_ends_early(zoo, tmp_path, from_examples):
    train = from_examples("train")
    with pytest.raises(
        SystemExit, match=r"(?s)no-such-job: the training process ended early\n.*StopIteration"
    ):
        train.make(tmp_path, ["no-such-job"])


@pytest.mark.parametrize("file", ["models/byte-llama-s/1/config.json", "scores.json", "data/digits.parquet"])
def test_a_missing_file_is_noticed(zoo, tmp_path, from_examples, file):
    copy = tmp_path / "zoo"
    shutil.copytree(zoo, copy)
    assert from_examples("train").missing_jobs(copy) == []
    (copy / file).unlink()
    assert from_examples("train").missing_jobs(copy) != []


def test_half_by_wanda_costs_little_and_half_by_magnitude_more(zoo, tmp_path):
    model = zoo / "models/byte-llama-s/1"
    data = zoo / "data/manual.jsonl"
    calibration = Dataset(path=data, kind="text", split="calibration")
    test = Dataset(path=data, kind="text", split="test")
    found = {}
    for criterion, scope, amount in [
        ("wanda", "row", 0.5),
        ("magnitude", "tensor", 0.5),
        ("magnitude", "tensor", 0.8),
    ]:
        artifact = tmp_path / f"{criterion}-{amount}"
        artifact.mkdir()
        params = {
            "criterion": criterion,
            "pattern": "unstructured",
            "scope": scope,
            "amount": amount,
            "allocation": "uniform",
            "max_amount": 0.95,
            "skip": [],
        }
        pruning.run(Work(model=model, params=params, datasets={"calibration": calibration}, output=artifact))
        found[criterion, amount] = artifact
    value = {
        key: perplexity(
            evaluation.run(Work(model=path, params={}, datasets={"evaluation": test})).tables["outcomes"]
        )
        for key, path in {("dense", 0): model, **found}.items()
    }
    dense = value["dense", 0]
    assert value["wanda", 0.5] < 1.15 * dense
    assert 1.05 * dense < value["magnitude", 0.5] < 1.6 * dense
    assert value["wanda", 0.5] < value["magnitude", 0.5]
    assert value["magnitude", 0.8] > 2 * dense
