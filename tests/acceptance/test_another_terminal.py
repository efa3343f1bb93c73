"""A run in one terminal, and what another one sees of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

COMMAND = Path(sys.executable).parent / "prunefleet"


FLEET = """
version: 1
name: small
store: {store}
registries:
  zoo: {{kind: directory, path: ./zoo}}
datasets:
  manual: {{kind: text, path: ./data/text.jsonl}}
recipes:
  lm:
    match: {{registry: zoo}}
    prune: {{criterion: magnitude, amount: 0.4}}
    evaluate: {{dataset: manual, split: test, metric: perplexity}}
pools:
  cpu: {{cpus: 2}}
"""


def test_another_terminal_watches_a_run_to_its_end_and_the_next_plan_tells_what_is_left(make_home):
    home = make_home(models={"lm/1": "llama"}, text=FLEET)
    run = subprocess.Popen(
        [str(COMMAND), "run", "fleet.yaml", "--backend", "local", "--json"],
        cwd=home.root, env=home.all_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    ends = time.monotonic() + 120
    while not list(home.store.glob("runs/*/status.json")):
        assert time.monotonic() < ends
        time.sleep(0.02)
    watched = home.cli("status", "--watch", "--store", "store", check=0)
    said, _ = run.communicate(timeout=120)
    summary = json.loads(said)
    assert summary["run_id"] in watched.stdout
    assert "units, " in watched.stderr
    (row,) = json.loads(home.cli("status", "--store", "store", "--json", check=0).stdout)
    assert row["state"] == "ended"
    assert home.plan()["since"] == {"run_id": summary["run_id"], "changes": []}
    text = (home.root / "fleet.yaml").read_text()
    (home.root / "fleet.yaml").write_text(text.replace("amount: 0.4", "amount: 0.3"))
    (change,) = home.plan()["since"]["changes"]
    assert change["why"] == "changed recipe"
    assert change["detail"].startswith("from prune on")
    assert "~  changed recipe  lm" in home.cli("plan", "fleet.yaml", check=0).stdout
