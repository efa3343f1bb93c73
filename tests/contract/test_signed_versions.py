"""A signed version of every outlet, downloaded as its users download it: the standard tool takes it, with its default options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cases.registry_places import MAKERS, Place, name
from cases.signing import PASSWORD, tool_accepts, write_key
from cryptography.hazmat.primitives.asymmetric import ec
from servers.tiny_files import model

from orchestrator.artifacts import artifact_files, differences, upload_artifact
from orchestrator.domain import ModelVersion
from orchestrator.promotion import signing
from orchestrator.promotion.publishing import Publication, publish
from orchestrator.registries.s3 import store_of
from orchestrator.stores.local import LocalStore


@pytest.fixture(
    params=[
        pytest.param(kind, marks=[pytest.mark.s3] if kind == "ceph" else [])
        for kind in MAKERS
        if kind != "s3"
    ]
)
def place(request, tmp_path) -> Iterator[Place]:
    return MAKERS[request.param](tmp_path, request)


def download(place: Place, publication: Publication, into: Path, request) -> None:
    """All that the registry has of a version, by other means than ours where there are any."""
    model_name = place.model_name(publication.model.name)
    found: dict[str, bytes]
    match place.spec.kind:
        case "directory":
            root = Path(place.spec.path) / model_name / publication.version
            found = {
                str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
            }
        case "s3":
            store, prefix = store_of(place.spec), f"{model_name}/{publication.version}/"
            found = {one.key.removeprefix(prefix): store.get(one.key) for one in store.list(prefix)}
        case "mlflow":
            with place.outlet().opened(publication.model.name, publication.version) as directory:
                found = {path.name: path.read_bytes() for path in directory.iterdir()}
        case "huggingface":
            hub = request.getfixturevalue("hub")
            found = hub.repository(model_name).commits[publication.version]
    for path, data in found.items():
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        (into / path).write_bytes(data)


def test_the_standard_tool_takes_a_signed_version_as_it_is_downloaded(place, tmp_path, monkeypatch, request):
    private, public = write_key(tmp_path / "one.pem", ec.generate_private_key(ec.SECP256R1()), PASSWORD)
    monkeypatch.setenv(signing.SIGNING_KEY, str(private))
    monkeypatch.setenv(signing.PASSWORD, PASSWORD)
    made, into, store = tmp_path / "artifact", tmp_path / "downloaded", LocalStore(tmp_path / "store")
    made.mkdir()
    into.mkdir()
    for path, data in model(**{"prunefleet.json": b"{}"}).items():
        (made / path).write_bytes(data)
    digest, _ = upload_artifact(store, made)
    files = artifact_files(store, digest)
    told = {path: file.sha256 for path, file in files.items()}
    source = ModelVersion(
        registry="zoo", name=name(place, "lm") if place.spec.kind != "huggingface" else "org/lm", version="v1",
        digest="d" * 64, uri="", format="safetensors", bytes=1, parameters=1, architecture="TinyForCausalLM",
    )  # fmt: skip
    statement = {"subject": [{"name": path, "digest": {"sha256": sha256}} for path, sha256 in told.items()]}
    publication = publish(
        store, place.outlet(), model=source, recipe="half", artifact_digest=digest, verdict_key="k" * 64, at=1e9,
        actor="ada", run_id="run-1", seal=signing.sealed(lambda: statement),
    )  # fmt: skip
    download(place, publication, into, request)
    outlet = place.outlet()
    beside = {path.name for path in into.iterdir()} - set(told) - {".gitattributes"}
    assert beside == {signing.SIGNATURE, signing.PROVENANCE, *outlet.adds}
    assert tool_accepts(into, public)
    with outlet.opened(source.name, publication.version) as directory:
        assert differences(directory, files, outlet.adds) == []
        assert signing.problem_of_seal(directory, public, told) == ""
    (into / "more.py").write_text("print()")
    assert not tool_accepts(into, public)
