"""Pure. What is said of values of the wrong shape, and which keys are known where."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec import Fleet, load_fleet
from orchestrator.specs.explaining import known_keys
from orchestrator.specs.prune import DistillSpec
from orchestrator.specs.registries import SPECS

FLEET = """\
version: 1
name: demo
store: ./out
registries:
  zoo: {kind: directory, path: ./zoo}
datasets:
  manual: {kind: text, path: ./manual.jsonl}
recipes:
  half:
    match: {registry: zoo}
    prune: {criterion: magnitude, amount: 0.5}
pools: {cpu: {cpus: 2}}
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("store: ./out", "store: 3", 3, "store: it should be a mapping of url, endpoint, region, path_style (it is 3)"),
        ("{kind: directory, path: ./zoo}", "./zoo", 5, "registries.zoo: it should be a mapping of kind, path, "),
        ("kind: directory, path", "path", 5, "registries.zoo: the key 'kind' is missing"),
        ("kind: directory", "kind: folder", 5, "registries.zoo.kind: it is one of directory, s3, mlflow, huggingface (it is 'folder')"),
        ("path: ./zoo", "pth: ./zoo", 5, "unknown key 'pth'; did you mean 'path'?"),
        ("{kind: text, path: ./manual.jsonl}", "[a.jsonl]", 7, "datasets.manual: it should be a mapping of kind, path, slice_by"),
        ("{registry: zoo}", "zoo", 10, "recipes.half.match: it should be a mapping of registry, name, version, architecture (it is 'zoo')"),
        ("amount: 0.5", "cut: width", 11, "recipes.half.prune.cut: it should be a mapping of width, heads, experts, channels, depth (it is 'width')"),
        ("amount: 0.5", "amount: 0.5, skip: lm_head", 11, "recipes.half.prune.skip: it should be a list (it is 'lm_head')"),
        ("{cpu: {cpus: 2}}", "cpu", 12, "pools: it should be a mapping of names, each to what it is (it is 'cpu')"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_shape_is_told_with_the_shape_it_should_have(old, new, line, said):
    assert FLEET.count(old) == 1
    with pytest.raises(SpecError) as caught:
        load_fleet(FLEET.replace(old, new), "fleet.yaml", PurePosixPath("/"))
    assert any(
        message.startswith(f"fleet.yaml:{line}: ") and said in message
        for message in str(caught.value).splitlines()
    ), str(caught.value)


def test_of_a_registry_the_keys_of_its_kind_are_known():
    for kind, spec in SPECS.items():
        value = {"registries": {"r": {"kind": kind}}}
        assert known_keys(Fleet, ("registries", "r"), value) == list(spec.model_fields)
    every = {key for spec in SPECS.values() for key in spec.model_fields}
    assert set(known_keys(Fleet, ("registries", "r"), {"registries": {"r": "x"}})) == every


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ((), list(Fleet.model_fields)),
        (("registries", "r", "select"), ["name", "version", "alias", "tags"]),
        (("recipes", "a", "prune", "recover", "distill"), list(DistillSpec.model_fields)),
        (("promotion", "signers", "ann"), ["public_key", "secret_env"]),
        (("recipes",), []),
        (("no", "such", "place"), []),
    ],
)
def test_the_keys_of_a_place_are_those_of_its_model(path, keys):
    assert known_keys(Fleet, path, {}) == keys
