"""Effects. Looks into a registry and writes the first fleet file for it: commented, and working as it stands."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.registries.opening import open_registry
from orchestrator.registryspec import DirectoryRegistrySpec
from orchestrator.wording import plain

_TEXT = """\
# yaml-language-server: $schema=./fleet.schema.json      (`prunefleet schema > fleet.schema.json`)
version: 1
name: {name}
store: ./prunefleet-store            # or s3://bucket/prefix; credentials come from the environment
registries:
  models: {{kind: directory, path: {path}}}
{found}
# Data makes more possible: calibrated criteria, sensitivity analysis, quality gates. One file a dataset, for example
# JSON lines with the keys text, split and topic:
# datasets:
#   manual: {{kind: text, path: ./manual.jsonl, slice_by: topic}}

recipes:
  magnitude-half:                    # works without data: half of each layer's weights, the smallest ones
    match: {{registry: models}}
    prune: {{criterion: magnitude, amount: 0.5}}
#  measured-half:                    # with data: measure each layer, spread the budget, and refuse what got worse
#    match: {{registry: models, architecture: "*ForCausalLM"}}
#    sensitivity: {{dataset: manual, split: calibration}}
#    prune: {{criterion: wanda, amount: 0.5, allocation: sensitivity}}
#    evaluate: {{dataset: manual, split: test, metric: perplexity}}
#    gates: {{max_drop: 0.10, max_slice_drop: 0.20}}

pools:
  cpu: {{cpus: {cpus}}}
"""


def starter_fleet(registry: Path, to: Path) -> str:
    """The text of a fleet file, written to `to`, for the models under `registry`.

    Errors: UsageError where there is no such directory or nothing in it can be compressed.
    """
    root = registry.resolve()
    if not root.is_dir():
        raise UsageError(
            f"{registry} is no directory; give the directory that holds NAME/VERSION/config.json"
        )
    versions = list(open_registry("models", DirectoryRegistrySpec(kind="directory", path=str(root))).scan())
    sound = [version for version in versions if not version.problem]
    if not sound:
        broken = f"; {len(versions)} are broken, the first: {versions[0].problem}" if versions else ""
        raise UsageError(f"{registry} holds no sound model version in Hugging Face layout{broken}")
    kinds = Counter(version.architecture for version in sound)
    found = "".join(f"  #   {count} of {plain(kind, 80)}\n" for kind, count in sorted(kinds.items()))
    path = os.path.relpath(root, to.resolve().parent)
    return _TEXT.format(
        name="".join(c if c.isascii() and c.isalnum() else "-" for c in root.name).strip("-") or "fleet",
        path=_quoted(path if path.startswith(".") else f"./{path}"),
        found=f"  # {len(sound)} model versions were found:\n{found}".rstrip(),
        cpus=os.cpu_count() or 1,
    )


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
