"""Effects. Looks into a registry and writes the first fleet file for it: commented, and working as it stands."""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from orchestrator.errors import UsageError
from orchestrator.registries.opening import open_registry
from orchestrator.specs.registries import (
    DirectoryRegistrySpec,
    HuggingFaceRegistrySpec,
    MlflowRegistrySpec,
    RegistrySpec,
    S3RegistrySpec,
)
from orchestrator.wording import count, plain

_TEXT = """\
# yaml-language-server: $schema=./fleet.schema.json      (`prunefleet schema > fleet.schema.json`)
version: 1
name: {name}
store: ./prunefleet-store            # or s3://bucket/prefix; credentials come from the environment
registries:
  models: {registry}
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
#    match: {{registry: models, architecture: "{architecture}"}}
#    sensitivity: {{dataset: manual, split: calibration}}
#    prune: {{criterion: wanda, amount: 0.5, allocation: sensitivity}}
#    evaluate: {{dataset: manual, split: test, metric: {metric}}}
#    gates: {{max_drop: 0.10, max_slice_drop: 0.20}}

pools:
  cpu: {{cpus: {cpus}}}
"""


MOST_LOOKED_AT = 500
"""Versions; a first look at a registry of a hundred thousand is not for counting them."""


def registry_at(place: str) -> RegistrySpec:
    """The registry that a place means: a directory, s3://bucket/prefix, http(s)://server of MLflow, hf://owner[/name].

    A directory of `models--owner--name` is a Hugging Face cache. Errors: UsageError.
    """
    scheme, mark, rest = place.partition("://")
    try:
        match scheme if mark else "":
            case "s3":
                return S3RegistrySpec(kind="s3", url=place)
            case "http" | "https":
                return MlflowRegistrySpec(kind="mlflow", uri=place)
            case "hf" if "/" in rest:
                return HuggingFaceRegistrySpec(kind="huggingface", repositories=(rest,))
            case "hf":
                return HuggingFaceRegistrySpec(kind="huggingface", owner=rest)
            case "":
                return _directory_at(Path(place).resolve(), place)
    except ValidationError as error:
        told = "; ".join(str(one["msg"]).removeprefix("Value error, ") for one in error.errors())
        raise UsageError(f"{_without_secrets(place)}: {told}") from None
    raise UsageError(
        f"{_without_secrets(place)} is no registry; give a directory, s3://bucket/prefix, http(s)://server of MLflow, or hf://owner[/name]"
    )


def starter_fleet(place: str, to: Path) -> str:
    """The text of a fleet file, written to `to`, for the models of a registry.

    Errors: UsageError where there is no such registry or nothing in it can be compressed; those of the registry.
    """
    spec = registry_at(place)
    versions = list(islice(open_registry("models", spec).scan(), MOST_LOOKED_AT))
    sound = [version for version in versions if not version.problem]
    if not sound:
        broken = f"; {len(versions)} are broken, the first: {versions[0].problem}" if versions else ""
        raise UsageError(f"{plain(place)} holds no sound model version in Hugging Face layout{broken}")
    kinds = Counter(version.architecture for version in sound)
    lines = "".join(f"  #   {number} of {plain(kind, 80)}\n" for kind, number in sorted(kinds.items()))
    more = " at least" if len(versions) == MOST_LOOKED_AT else ""
    architecture, metric = _measurable(kinds)
    return _TEXT.format(
        architecture=architecture,
        metric=metric,
        name=_name_of(place),
        registry=_written(spec, to),
        found=f"  #{more} {count(len(sound), 'model version')} found:\n{lines}".rstrip(),
        cpus=os.cpu_count() or 1,
    )


def _measurable(kinds: Counter[str]) -> tuple[str, str]:
    """An architecture that is there, the most frequent language model's if there is one, and the metric that suits it."""
    language = [kind for kind, _ in kinds.most_common() if kind.endswith(("ForCausalLM", "LMHeadModel"))]
    if language:
        return (
            "*ForCausalLM" if language[0].endswith("ForCausalLM") else plain(language[0], 80)
        ), "perplexity"
    kind = kinds.most_common(1)[0][0]
    return plain(kind, 80), "accuracy" if kind.endswith("Classification") else "loss"


def _without_secrets(place: str) -> str:
    """What may be repeated of a place: of one with a user or a query, only what it begins with."""
    scheme, mark, rest = place.partition("://")
    return f"{plain(scheme, 40)}://…" if mark and ("@" in rest or "?" in rest) else plain(place)


def _directory_at(root: Path, place: str) -> RegistrySpec:
    if not root.is_dir():
        raise UsageError(
            f"{plain(place)} is no directory; give the directory that holds NAME/VERSION/config.json"
        )
    if next(root.glob("models--*/snapshots"), None):
        return HuggingFaceRegistrySpec(kind="huggingface", cache=str(root))
    return DirectoryRegistrySpec(kind="directory", path=str(root))


def _written(spec: RegistrySpec, to: Path) -> str:
    """The registry as one line of YAML; places on this machine are told from the fleet file on."""
    told = spec.model_dump(exclude_defaults=True)
    for key in ("path", "cache"):
        if key in told:
            path = os.path.relpath(told[key], to.resolve().parent)
            told[key] = path if path.startswith(".") else f"./{path}"
    inner = ", ".join(
        f"{key}: {value if key == 'kind' else json.dumps(value)}" for key, value in told.items()
    )
    return f"{{{inner}}}"


def _name_of(place: str) -> str:
    """A name for the fleet, from the last part of a place."""
    if "://" in place:
        last = place.rstrip("/").rpartition("/")[2].partition(":")[0]
    else:
        last = Path(place).resolve().name
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in last).strip("-")[:64] or "fleet"
