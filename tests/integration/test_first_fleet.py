"""The first fleet file: for each kind of registry one that works as it stands, and a clear word where none can be."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
import yaml
from servers.tiny_files import model

from orchestrator.errors import UsageError
from orchestrator.registries.opening import open_registry
from orchestrator.spec import load_fleet
from orchestrator.specs.registries import (
    HuggingFaceRegistrySpec,
    MlflowRegistrySpec,
    S3RegistrySpec,
)
from orchestrator.starter import MOST_LOOKED_AT, registry_at, starter_fleet
from orchestrator.survey import read_fleet, survey

COMMAND = Path(sys.executable).parent / "prunefleet"


def put(root: Path, files) -> Path:
    root.mkdir(parents=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


def written(place, at: Path):
    """The fleet that `init` would write to a folder, as it is read back."""
    text = starter_fleet(place, at / "fleet.yaml")
    (at / "fleet.yaml").write_text(text)
    return text, load_fleet(text, "fleet.yaml", PurePosixPath(at))


def test_a_directory_named_from_the_fleet_file_on(tmp_path, monkeypatch):
    put(tmp_path / "lots of models" / "lm" / "1", model())
    (tmp_path / "fleets").mkdir()
    monkeypatch.chdir(tmp_path)
    text, fleet = written("lots of models", tmp_path / "fleets")
    assert yaml.safe_load(text)["registries"]["models"] == {"kind": "directory", "path": "../lots of models"}
    assert fleet.name == "lots-of-models"
    assert "1 model version found" in text


def test_the_plan_of_a_first_fleet_has_work_and_nothing_impossible(tmp_path, tiny_model):
    tiny_model(tmp_path / "models" / "lm" / "1", "LlamaForCausalLM", seed=1)
    written(str(tmp_path / "models"), tmp_path)
    planned = survey(*read_fleet(tmp_path / "fleet.yaml"), 0.0)
    assert len(planned.plan.todo) == 1
    assert planned.plan.impossible == ()


@pytest.mark.parametrize(
    ("kind", "matched", "metric"),
    [
        ("LlamaForCausalLM", "*ForCausalLM", "perplexity"),
        ("GPT2LMHeadModel", "GPT2LMHeadModel", "perplexity"),
        ("MLPForClassification", "MLPForClassification", "accuracy"),
    ],
)
def test_what_is_commented_out_suits_the_models_that_are_there(tmp_path, tiny_model, kind, matched, metric):
    tiny_model(tmp_path / "models" / "one" / "1", kind, seed=1)
    text, _ = written(str(tmp_path / "models"), tmp_path)
    meant = re.sub(r"(?m)^#(?=  (  )?[a-z-]+:)|^# (?=datasets:|  manual:)", "", text)
    recipe = load_fleet(meant, "fleet.yaml", PurePosixPath(tmp_path)).recipes["measured-half"]
    assert recipe.match.architecture == matched
    assert recipe.evaluate.metric == metric


def test_a_hugging_face_cache_is_known_by_its_layout(tmp_path):
    data = model()
    folder = tmp_path / "hub" / "models--owner--lm"
    snapshot = put(folder / "snapshots" / ("a" * 40), {})
    (folder / "blobs").mkdir()
    for name, content in data.items():
        blob = hashlib.sha256(content).hexdigest()
        (folder / "blobs" / blob).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    put(folder / "refs", {"main": b"a" * 40})
    text, fleet = written(str(tmp_path / "hub"), tmp_path)
    assert yaml.safe_load(text)["registries"]["models"] == {"kind": "huggingface", "cache": "./hub"}
    [found] = open_registry("models", fleet.registries["models"]).scan()
    assert found.name == "owner/lm"


def test_a_bucket(tmp_path, moto, monkeypatch):
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
    bucket = moto.make_bucket()
    for name, data in model().items():
        moto.client().put_object(Bucket=bucket, Key=f"models/lm/1/{name}", Body=data)
    text, fleet = written(f"s3://{bucket}/models", tmp_path)
    assert yaml.safe_load(text)["registries"]["models"] == {"kind": "s3", "url": f"s3://{bucket}/models"}
    assert fleet.name == "models"
    assert [one.id for one in open_registry("models", fleet.registries["models"]).scan()] == ["models/lm@1"]
    assert moto.secret not in text


def test_the_repositories_of_a_hub_by_the_command(tmp_path, hub):
    hub.repository("owner/lm").commit(model())
    hub.repository("owner/other").commit(model())

    def init(place, to):
        done = subprocess.run(
            [COMMAND, "init", place, "--to", to],
            cwd=tmp_path, env={**os.environ, "HF_ENDPOINT": hub.endpoint}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return (tmp_path / to).read_text()

    one = init("hf://owner/lm", "one.yaml")
    assert yaml.safe_load(one)["registries"]["models"] == {
        "kind": "huggingface",
        "repositories": ["owner/lm"],
    }
    every = init("hf://owner", "every.yaml")
    assert yaml.safe_load(every)["registries"]["models"] == {"kind": "huggingface", "owner": "owner"}
    assert "2 model versions found" in every
    assert load_fleet(every, "every.yaml", PurePosixPath(tmp_path)).name == "owner"


@pytest.mark.parametrize(
    ("place", "spec"),
    [
        ("http://127.0.0.1:5000", MlflowRegistrySpec(kind="mlflow", uri="http://127.0.0.1:5000")),
        ("https://mlflow.example/", MlflowRegistrySpec(kind="mlflow", uri="https://mlflow.example")),
        ("s3://bucket", S3RegistrySpec(kind="s3", url="s3://bucket")),
        ("hf://owner", HuggingFaceRegistrySpec(kind="huggingface", owner="owner")),
    ],
)
def test_an_address_says_which_kind_is_meant(place, spec):
    assert registry_at(place) == spec


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("nowhere", "is no directory"),
        ("ftp://host/models", "is no registry"),
        ("gs://bucket", "s3://bucket/prefix"),
        ("https://user:secret@mlflow.example", "credentials do not stand in this file"),
        ("s3://key:secret@bucket/models", "credentials do not stand in this file"),
        ("ftp://user:secret@host", "is no registry"),
        ("http://", "write http://host:port"),
    ],
)
def test_what_is_no_registry_is_refused_without_its_secrets(tmp_path, monkeypatch, place, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=told) as refusal:
        starter_fleet(place, tmp_path / "fleet.yaml")
    assert "secret" not in str(refusal.value)


def test_a_registry_without_a_sound_model_says_what_is_wrong_with_the_first(tmp_path):
    (tmp_path / "models").mkdir()
    with pytest.raises(UsageError, match="holds no sound model version"):
        starter_fleet(str(tmp_path / "models"), tmp_path / "fleet.yaml")
    put(tmp_path / "models" / "lm" / "1", {**model(), "model.safetensors": b"<html>"})
    with pytest.raises(UsageError, match="1 are broken, the first: .*safetensors"):
        starter_fleet(str(tmp_path / "models"), tmp_path / "fleet.yaml")


def test_a_huge_registry_is_not_counted_to_its_end(tmp_path, monkeypatch):
    sound = next(
        iter(
            open_registry(
                "m", registry_at(str(put(tmp_path / "m" / "lm" / "1", model()).parent.parent))
            ).scan()
        )
    )

    class Endless:
        def scan(self):
            while True:
                yield sound

    monkeypatch.setattr("orchestrator.starter.open_registry", lambda *_: Endless())
    text = starter_fleet(str(tmp_path / "m"), tmp_path / "fleet.yaml")
    assert f"at least {MOST_LOOKED_AT} model versions" in text
