"""What is published is signed when a key is configured, and the standard tool says so without a network."""

from __future__ import annotations

import json
import shutil

import pytest
from cases.signing import PASSWORD, tool_accepts, write_key
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2

from orchestrator.artifacts import artifact_files, upload_artifact
from orchestrator.domain import DataRef, ModelVersion, Step, TaskName, Unit
from orchestrator.errors import UsageError
from orchestrator.promotion import signing
from orchestrator.promotion.attestation import PREDICATE_TYPE, STATEMENT_TYPE, statement
from orchestrator.promotion.publishing import publish
from orchestrator.registries.directory_outlet import DirectoryOutlet
from orchestrator.stores.local import LocalStore


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    root = tmp_path_factory.mktemp("keys")
    return write_key(root / "one.pem", ec.generate_private_key(ec.SECP256R1()), PASSWORD)


@pytest.fixture
def configured(keys, monkeypatch):
    monkeypatch.setenv(signing.SIGNING_KEY, str(keys[0]))
    monkeypatch.setenv(signing.PASSWORD, PASSWORD)
    return keys


MODEL = ModelVersion(
    registry="zoo",
    name="lm",
    version="1",
    digest="d" * 64,
    uri="/somewhere/lm",
    format="safetensors",
    bytes=1,
    parameters=1,
    architecture="Tiny",
)
DATA = DataRef(
    name="manual",
    path="data/manual.jsonl",
    digest="e" * 64,
    bytes=3,
    kind="text",
    split="test",
    slices=(),
    shape=(),
    samples=None,
)


def a_statement(files):
    unit = Unit(
        key="k" * 64,
        step=Step(
            task=TaskName.PRUNE,
            params={"criterion": "magnitude", "amount": 0.5},
            data=DATA,
            seed=3,
            digest="s" * 64,
        ),
        model=MODEL,
        recipe="half",
    )
    return statement(
        subjects={path: file.sha256 for path, file in files.items()},
        model=MODEL,
        recipe="half",
        units=[unit],
        run_id="r1",
        at=1_700_000_000.0,
        versions={"prunefleet": "0.1.0"},
    )


@pytest.fixture
def published(tmp_path, configured):
    """A signed version, its directory, and what its artifact is."""
    source = tmp_path / "artifact"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "sub").mkdir()
    (source / "sub" / "model.safetensors").write_bytes(bytes(range(200)))
    store = LocalStore(tmp_path / "store")
    digest, _ = upload_artifact(store, source)
    files = artifact_files(store, digest)
    outlet = DirectoryOutlet("out", tmp_path / "out")
    seal = signing.sealed(lambda: a_statement(files))
    made = publish(
        store, outlet, model=MODEL, recipe="half", artifact_digest=digest, verdict_key="v", at=1.0,
        actor="me", run_id="r1", seal=seal,
    )  # fmt: skip
    return store, outlet, made, tmp_path / "out" / "lm" / made.version, files


def problem(published, public):
    directory, files = published[3:]
    return signing.problem_of_seal(directory, public, {path: file.sha256 for path, file in files.items()})


def test_a_published_version_is_signed_and_the_standard_tool_accepts_it_until_a_byte_changes(published, keys):
    directory = published[3]
    assert {path.name for path in directory.iterdir()} >= {
        signing.SIGNATURE,
        signing.PROVENANCE,
        "config.json",
    }
    assert tool_accepts(directory, keys[1])
    assert problem(published, keys[1]) == ""
    weights = directory / "sub" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert not tool_accepts(directory, keys[1])
    assert "signature does not hold" in problem(published, keys[1])


@pytest.mark.parametrize("change", ["provenance", "extra", "missing", "other key", "unsigned", "garbage"])
def test_every_change_is_found(published, keys, tmp_path, change):
    directory, public = published[3], keys[1]
    match change:
        case "provenance":
            told = json.loads((directory / signing.PROVENANCE).read_text())
            told["predicate"]["buildDefinition"]["externalParameters"]["recipe"] = "another"
            (directory / signing.PROVENANCE).write_text(json.dumps(told))
        case "extra":
            (directory / "more.py").write_text("print()")
        case "missing":
            (directory / "config.json").unlink()
        case "other key":
            public = write_key(tmp_path / "two.pem", ec.generate_private_key(ec.SECP256R1()))[1]
        case "unsigned":
            (directory / signing.SIGNATURE).unlink()
        case "garbage":
            (directory / signing.SIGNATURE).write_text("{}")
    assert problem(published, public)


def test_a_signature_of_another_artifacts_files_does_not_pass(published, keys):
    directory, files = published[3:]
    others = dict.fromkeys(files, "f" * 64)
    assert signing.problem_of_seal(directory, keys[1], others).endswith("is about other files")


def test_the_provenance_is_an_in_toto_statement_with_a_slsa_predicate(published):
    directory, files = published[3:]
    told = json.loads((directory / signing.PROVENANCE).read_text())
    assert (told["_type"], told["predicateType"]) == (STATEMENT_TYPE, PREDICATE_TYPE)
    json_format.ParseDict(
        {**{k: v for k, v in told.items() if k != "_type"}, "type": told["_type"]}, statement_pb2.Statement()
    )
    read = json_format.ParseDict(told["predicate"], provenance_pb2.Provenance())
    assert {one["name"]: one["digest"]["sha256"] for one in told["subject"]} == {
        path: file.sha256 for path, file in files.items()
    }
    sources = {one.name: dict(one.digest) for one in read.build_definition.resolved_dependencies}
    assert sources == {MODEL.id: {"prunefleetFiles": MODEL.digest}, "manual": {"sha256": DATA.digest}}
    assert read.run_details.metadata.invocation_id == "r1"
    (step,) = told["predicate"]["buildDefinition"]["externalParameters"]["steps"]
    assert step["params"] == {"criterion": "magnitude", "amount": 0.5}
    assert "/somewhere" not in json.dumps(told)
    assert told["predicate"]["buildDefinition"]["internalParameters"]["unitKeys"] == ["k" * 64]


def test_a_version_that_is_there_is_not_published_again_signed_or_not(published, monkeypatch):
    store, outlet, made, directory, _ = published
    before = (directory / signing.SIGNATURE).read_bytes()
    again = publish(
        store, outlet, model=MODEL, recipe="half", artifact_digest=made.artifact_digest, verdict_key="v",
        at=2.0, actor="me", run_id="r2",
    )  # fmt: skip
    assert not again.is_new
    assert (directory / signing.SIGNATURE).read_bytes() == before


def test_neither_key_nor_password_is_published(published, keys):
    for path in published[3].rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes()
            assert b"PRIVATE" not in path.read_bytes()


def test_without_a_key_nothing_is_added(monkeypatch):
    monkeypatch.delenv(signing.SIGNING_KEY, raising=False)
    assert signing.sealed(dict) is None
    assert signing.verifying_key({}) is None


@pytest.mark.parametrize("wrong", ["absent", "public", "rsa", "password", "curve"])
def test_a_key_that_cannot_sign_is_refused_before_the_run_and_not_quoted(tmp_path, keys, wrong):
    environment = {signing.SIGNING_KEY: str(keys[0]), signing.PASSWORD: PASSWORD}
    match wrong:
        case "absent":
            environment[signing.SIGNING_KEY] = str(tmp_path / "none.pem")
        case "public":
            environment[signing.SIGNING_KEY] = str(keys[1])
        case "rsa":
            made = write_key(tmp_path / "rsa.pem", rsa.generate_private_key(65537, 2048))
            environment = {signing.SIGNING_KEY: str(made[0])}
        case "password":
            environment[signing.PASSWORD] = "not the password"
        case "curve":
            made = write_key(tmp_path / "k1.pem", ec.generate_private_key(ec.SECP256K1()))
            environment = {signing.SIGNING_KEY: str(made[0])}
    with pytest.raises(UsageError, match=signing.SIGNING_KEY) as caught:
        signing.check_key(environment)
    assert "not the password" not in str(caught.value)


def test_a_missing_library_is_named(monkeypatch, keys):
    monkeypatch.setattr(signing.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"prunefleet\[signing\]"):
        signing.check_key({signing.SIGNING_KEY: str(keys[0])})


def test_the_private_key_stays_where_it_is(published, keys, tmp_path):
    assert not list(tmp_path.rglob("*.pem"))
    assert shutil.which("openssl") is None or keys[0].is_file()
