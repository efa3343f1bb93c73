"""Models come from a server and go back to it, by the command line: a real MLflow server, and a bucket."""

from __future__ import annotations

import json
import subprocess

import pytest

from orchestrator.registries.mlflow import aliases_of, tags_of
from orchestrator.registries.mlflow_server import MlflowServer
from orchestrator.registries.s3 import store_of
from orchestrator.specs.registries import S3RegistrySpec

MODEL = "round-lm"
FLEET = """
version: 1
name: round
store: {store}
registries:
  prod: REGISTRY
datasets:
  manual: {{kind: text, path: ./data/text.jsonl}}
recipes:
  half:
    match: {{registry: prod, name: "round-*", version: "VERSION"}}
    prune: {{criterion: magnitude, amount: 0.05}}
    evaluate: {{dataset: manual, split: test, metric: perplexity, slices: []}}
    gates: {{max_drop: 9.0, min_samples: 2}}
    publish: {{registry: prod, alias: candidate}}
pools:
  cpu: {{cpus: 2}}
"""


def home_of(make_home, registry, version):
    text = FLEET.replace("REGISTRY", registry).replace("VERSION", version)
    return make_home(models={}, text=text)


def test_a_night_from_mlflow_and_back_to_it(make_home, parts, mlflow, monkeypatch):
    server = MlflowServer(mlflow.uri)
    server.post("registered-models/create", name=MODEL)
    experiment = server.post("experiments/create", name="training")["experiment_id"]
    run = server.post("runs/create", experiment_id=experiment, start_time=1)["run"]["info"]
    for path in sorted((parts / "llama").iterdir()):
        server.upload(f"{run['artifact_uri'].removeprefix('mlflow-artifacts:/')}/model/{path.name}", path)
    source = f"{run['artifact_uri']}/model"
    server.post("model-versions/create", name=MODEL, source=source, run_id=run["run_id"])
    home = home_of(
        make_home, f'{{{{kind: mlflow, uri: "{mlflow.uri}", select: {{{{name: "round-*"}}}}}}}}', "1"
    )

    doctor = json.loads(home.cli("doctor", "fleet.yaml", "--json").stdout)
    checks = {check["name"]: check for check in doctor["checks"] if check["area"] == "registry prod"}
    assert {name: check["state"] for name, check in checks.items()} == {"scan": "ok", "publish": "ok"}

    assert home.run(check=0)["verdicts"] == {"pass": 1}
    made = server.get("model-versions/get", name=MODEL, version="2")["model_version"]
    tags = tags_of(made)
    assert tags["prunefleet.source"] == f"prod/{MODEL}@1"
    assert tags["prunefleet.recipe"] == "half"
    assert tags["prunefleet.label"].startswith("1-half-")
    assert float(tags["prunefleet.measured.perplexity"]) > 0
    model = server.get("registered-models/get", name=MODEL)["registered_model"]
    assert aliases_of(model) == {"candidate": "2"}
    assert home.run(check=0)["outcome"] == "nothing to do"

    code = (
        "import mlflow, os, sys; mlflow.set_tracking_uri(sys.argv[1]);"
        f"print(sorted(os.listdir(mlflow.artifacts.download_artifacts('models:/{MODEL}@candidate'))))"
    )
    done = subprocess.run([str(mlflow.python), "-c", code, mlflow.uri], capture_output=True, text=True)
    assert "model.safetensors" in done.stdout, done.stderr[-2000:]


@pytest.mark.s3
def test_a_night_from_a_bucket_and_back_to_it(make_home, parts, moto, monkeypatch):
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{moto.make_bucket()}/models"
    store = store_of(S3RegistrySpec(kind="s3", url=url, endpoint=moto.endpoint))
    for path in sorted((parts / "llama").iterdir()):
        store.upload(path, f"{MODEL}/v1/{path.name}")
    home = home_of(make_home, f'{{{{kind: s3, url: "{url}", endpoint: "{moto.endpoint}"}}}}', "v1")
    assert home.run(check=0)["verdicts"] == {"pass": 1}
    (listing,) = [found.key for found in store.list("") if found.key.endswith("/files.json")]
    version = listing.split("/")[1]
    assert version.startswith("v1-half-")
    assert json.loads(store.get(f"{MODEL}/aliases.json")) == {"candidate": version}
    assert json.loads(store.get(listing))["lineage"]["source"] == f"prod/{MODEL}@v1"
