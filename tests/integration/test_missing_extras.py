"""Each optional extra that is not installed is named by what needs it, with the command that installs it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NEEDS = {
    "notify": ("apprise", "from orchestrator.nights.notify import Message, _send_by_apprise as send\nsend('json://x', Message(delivery='', title='', lines=(), body={}))"),
    "signing": ("model_signing", "from orchestrator.promotion.signing import check_key\ncheck_key({'PRUNEFLEET_SIGNING_KEY': 'key.pem'})"),
    "signing, for approvals": ("cryptography", "from orchestrator.promotion.approvals import _verifies\n_verifies(b'', b'', b'')"),
    "lm-eval": ("lm_eval.tasks", "from orchestrator.harness import take\ntake(['arc_easy'])"),
    "zoo": ("sklearn", "sys.path.insert(0, 'examples/zoo')\nfrom corpora import digits\ndigits()"),
    "dashboards": ("grafana_foundation_sdk", "sys.path.insert(0, 'dashboards')\nfrom generate import written\nwritten()"),
}  # fmt: skip
"""Extra -> a module of it, and what needs that module."""


@pytest.mark.parametrize("extra", NEEDS)
def test_what_needs_an_extra_that_is_missing_says_how_to_install_it(extra):
    module, code = NEEDS[extra]
    hidden = f"import sys\nsys.modules[{module!r}] = None\n{code}\n"
    done = subprocess.run(
        [sys.executable, "-c", hidden], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"pip install 'prunefleet[{extra.split(',')[0]}]'" in last
    assert "ModuleNotFoundError" not in last


def test_every_extra_that_a_user_installs_is_tried():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra.split(",")[0] for extra in NEEDS} == set(extras) - {"docs", "test"}
