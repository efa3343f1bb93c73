"""A small fleet of untrained models, and the command line in a subprocess, as a user has it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cases import commands

COMMAND = Path(sys.executable).parent / "prunefleet"

FLEET = """
version: 1
name: small
store: {store}
registries:
  zoo: {{kind: directory, path: ./zoo}}
  out: {{kind: directory, path: ./published}}
datasets:
  manual: {{kind: text, path: ./data/text.jsonl, slice_by: topic}}
  digits: {{kind: arrays, path: ./data/arrays.parquet, slice_by: digit}}
recipes:
  lm-half:
    match: {{registry: zoo, architecture: "*ForCausalLM"}}
    sensitivity: {{dataset: manual, split: calibration, grid: [0.3, 0.6]}}
    prune: {{criterion: wanda, amount: 0.4, allocation: sensitivity}}
    evaluate: {{dataset: manual, split: test, metric: perplexity}}
    gates: {{max_drop: 9.0, max_slice_drop: 9.0, min_samples: 2}}
    publish: {{registry: out, alias: candidate}}
  lm-too-far:
    match: {{registry: zoo, architecture: "*ForCausalLM"}}
    prune: {{criterion: magnitude, amount: 0.95}}
    evaluate: {{dataset: manual, split: test, metric: perplexity}}
    gates: {{max_drop: 0.0001, min_samples: 2}}
  mlp-two-four:
    match: {{registry: zoo, architecture: MLPForClassification}}
    prune: {{criterion: magnitude, pattern: 2:4}}
    evaluate: {{dataset: digits, split: test, metric: accuracy}}
    gates: {{max_drop: 1.0, min_samples: 1}}
pools:
  cpu: {{cpus: 2}}
"""


@dataclass
class Home:
    """A directory with models, data and a fleet file; `cli` runs a command in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def fleet(self):
        return self.root / "fleet.yaml"

    @property
    def store(self):
        return self.root / "store"

    def cli(self, *arguments, check=None, timeout=240):
        """Runs `prunefleet` in a process of its own; `check` is the exit code that must come."""
        done = subprocess.run(
            [str(COMMAND), *map(str, arguments)],
            cwd=self.root,
            env=self.all_environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return commands.ended_with(check, done)

    def typed(self, *arguments, check=None):
        """The same in this process, unless the home has an environment of its own."""
        if self.environment:
            return self.cli(*arguments, check=check)
        return commands.typed(self.root, *arguments, check=check)

    def all_environment(self):
        return commands.environment(self.root, **self.environment)

    def run(self, *arguments, check=None):
        """`prunefleet run fleet.yaml` in child processes, and its summary as JSON."""
        done = self.typed("run", "fleet.yaml", "--backend", "local", "--json", *arguments, check=check)
        return json.loads(done.stdout)

    def plan(self):
        return json.loads(self.typed("plan", "fleet.yaml", "--json", check=0).stdout)

    def query(self, sql):
        return json.loads(self.typed("query", sql, "--json", "--store", "fleet.yaml", check=0).stdout)

    def results(self):
        """Unit key -> the bytes of its result."""
        return {path.stem: path.read_bytes() for path in (self.store / "results").rglob("*.arrow")}


@pytest.fixture(scope="session")
def parts(tmp_path_factory, tiny_model, tiny_data):
    """Models and data, made once."""
    root = tmp_path_factory.mktemp("parts")
    tiny_model(root / "llama", "LlamaForCausalLM", seed=1)
    tiny_model(root / "llama2", "LlamaForCausalLM", seed=2)
    tiny_model(root / "mlp", "MLPForClassification", seed=3)
    tiny_data(root / "data")
    return root


@pytest.fixture(scope="session")
def make_home(parts, tmp_path_factory):
    """Makes homes: `make_home(models={"name/version": part}, store=..., text=...)`."""

    def make(models=None, store="./store", text=FLEET):
        root = tmp_path_factory.mktemp("home")
        chosen = {"lm/1": "llama", "mlp/1": "mlp"} if models is None else models
        for place, part in chosen.items():
            shutil.copytree(parts / part, root / "zoo" / place)
        shutil.copytree(parts / "data", root / "data")
        (root / "fleet.yaml").write_text(text.format(store=store))
        return Home(root)

    return make
