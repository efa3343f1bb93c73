"""The Kubernetes manifests as their tools would make them, and the schemas that they are held to."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
CHART = DEPLOY / "helm" / "prunefleet"
CRDS = ROOT.parent / "shared" / "data" / "kuberay"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
NOT_CORE = ("ray.io/v1", "monitoring.coreos.com/v1")


def generated():
    """The one source of the manifests."""
    spec = importlib.util.spec_from_file_location("generate", KUBERNETES / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = generated()


def built(folder):
    """What Kustomize makes of a folder that has only `resources`: every manifest, its base's first."""
    told = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(told) == {"apiVersion", "kind", "resources"}
    found = []
    for resource in told["resources"]:
        path = folder / resource
        found += built(path) if path.is_dir() else [yaml.safe_load(path.read_text())]
    return found


def of_chart(values):
    """What Helm makes of the chart's templates: of `{{ .Values.… }}` values, of ``{{ `{{` }}`` two braces, and there is nothing else."""

    def value(match):
        found = values
        for part in match[1].split("."):
            found = found[part]
        return str(found)

    made = []
    for path in sorted((CHART / "templates").iterdir()):
        text = re.sub(r"\{\{ \.Values\.([A-Za-z.]+) \}\}", value, path.read_text())
        plain = text.split("{{ `{{` }}")
        assert "{{" not in "".join(plain)
        made.append(yaml.safe_load("{{".join(plain)))
    return made


VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
RENDERED = {overlay: built(KUBERNETES / "overlays" / overlay) for overlay in OVERLAYS}
EVERY = [
    pytest.param(manifest, id=name)
    for name, manifest in {
        f"{manifest['kind']}-{manifest['metadata']['name']}-{hashlib.sha256(repr(manifest).encode()).hexdigest()[:6]}": manifest
        for manifests in (*RENDERED.values(), of_chart(VALUES))
        for manifest in manifests
    }.items()
]
"""Each once: overlays share their base, and the chart says the same."""


def closed(schema):
    """A CRD's schema that refuses unknown keys, as `kubectl apply` with strict validation does."""
    if isinstance(schema, dict):
        made = {key: closed(value) for key, value in schema.items()}
        if "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
        if made.get("x-kubernetes-int-or-string"):
            made = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
        return made
    return [closed(value) for value in schema] if isinstance(schema, list) else schema


@functools.cache
def crd(kind):
    """What the CRD of a kind says of it."""
    if not CRDS.is_dir():
        pytest.skip("no KubeRay CRDs beside the checkout")
    told = yaml.load((CRDS / f"ray.io_{kind.lower()}s.yaml").read_bytes(), Loader=yaml.CSafeLoader)
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in told["spec"]["versions"] if v["name"] == "v1"]
    return schema


@functools.cache
def strict(kind):
    """The same of its `spec`, without a key that is not known."""
    return closed(crd(kind)["properties"]["spec"])


def problems_of_ray(manifest):
    """Where a manifest of KubeRay's is not what its CRD says."""
    validator = jsonschema.Draft202012Validator(strict(manifest["kind"]))
    return [error.message for error in validator.iter_errors(manifest["spec"])]


def pods_of(value):
    """Every pod template's spec in a manifest, and in manifests that a ConfigMap holds."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for key, part in value.items():
            yield from pods_of(yaml.safe_load(part) if key == "rayjob.yaml" else part)
    elif isinstance(value, list):
        for part in value:
            yield from pods_of(part)


def problems_of(manifest):
    """Where a manifest, or one that a ConfigMap holds, is not what the schema of its kind says."""
    found = []
    if manifest["apiVersion"] == "ray.io/v1":
        found += problems_of_ray(manifest)
    elif manifest["apiVersion"] not in NOT_CORE:
        try:
            kubernetes_validate.validate(manifest, "1.29.0", strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(str(error))
    if manifest["kind"] == "ConfigMap":
        found += problems_of_ray(yaml.safe_load(manifest["data"]["rayjob.yaml"]))
    return found


def freedoms_of(manifest):
    """What its pods may that the restricted standard forbids, and secrets that stand in it."""
    found = ["it is a secret"] if "Secret" in manifest["kind"] else []
    for pod in pods_of(manifest):
        context = pod["securityContext"]
        found += [] if context["runAsNonRoot"] is True else ["it may run as root"]
        found += (
            []
            if context["seccompProfile"] == {"type": "RuntimeDefault"}
            else ["its system calls are not filtered"]
        )
        found += ["it uses the host's network"] if "hostNetwork" in pod else []
        found += ["it mounts the host's files"] if "hostPath" in str(pod["volumes"]) else []
        for container in pod["containers"]:
            asked = container["securityContext"]
            found += [] if asked["allowPrivilegeEscalation"] is False else ["it may gain privileges"]
            found += [] if asked["capabilities"] == {"drop": ["ALL"]} else ["it has capabilities"]
            found += [] if asked["readOnlyRootFilesystem"] is True else ["its root can be written"]
            found += [
                e["name"] for e in container.get("env", []) if re.search("SECRET|TOKEN|PASSW", e["name"])
            ]
    return found
