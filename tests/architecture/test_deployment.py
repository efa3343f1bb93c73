"""Every file under deploy/ is held to the real schema, or the real tool, of what reads it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
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
BIN = Path(sys.executable).parent
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
NOT_CORE = ("ray.io/v1", "monitoring.coreos.com/v1")


def generated():
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
    """What Helm makes of the chart's templates, which use nothing but `{{ .Values.… }}`."""

    def value(match):
        found = values
        for part in match[1].split("."):
            found = found[part]
        return str(found)

    made = []
    for path in sorted((CHART / "templates").iterdir()):
        text = re.sub(r"\{\{ \.Values\.([A-Za-z.]+) \}\}", value, path.read_text())
        assert "{{" not in text
        made.append(yaml.safe_load(text))
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
    if not CRDS.is_dir():
        pytest.skip("no KubeRay CRDs beside the checkout")
    told = yaml.load((CRDS / f"ray.io_{kind.lower()}s.yaml").read_bytes(), Loader=yaml.CSafeLoader)
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in told["spec"]["versions"] if v["name"] == "v1"]
    return schema


@functools.cache
def strict(kind):
    return closed(crd(kind)["properties"]["spec"])


def problems_of_ray(manifest):
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


def test_the_files_are_those_that_the_one_source_makes():
    made = GENERATE.files()
    for path, text in made.items():
        assert path.read_text() == text, f"{path}: run python deploy/kubernetes/generate.py"
    there = {
        p
        for folder in (KUBERNETES / "base", KUBERNETES / "overlays", CHART / "templates")
        for p in folder.rglob("*.yaml")
    }
    assert there <= set(made)


@pytest.mark.parametrize("manifest", EVERY)
def test_a_manifest_is_what_its_kinds_schema_says(manifest):
    if manifest["apiVersion"] == "ray.io/v1":
        assert problems_of_ray(manifest) == []
    elif manifest["apiVersion"] not in NOT_CORE:
        kubernetes_validate.validate(manifest, "1.29.0", strict=True)
    if manifest["kind"] == "ConfigMap":
        assert problems_of_ray(yaml.safe_load(manifest["data"]["rayjob.yaml"])) == []


@pytest.mark.parametrize("manifest", EVERY)
def test_pods_are_restricted_and_name_secrets_by_reference(manifest):
    assert "Secret" not in manifest["kind"]
    for pod in pods_of(manifest):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "hostNetwork" not in pod
        assert "hostPath" not in str(pod["volumes"])
        for container in pod["containers"]:
            asked = container["securityContext"]
            assert asked["allowPrivilegeEscalation"] is False
            assert asked["capabilities"] == {"drop": ["ALL"]}
            assert asked["readOnlyRootFilesystem"] is True
            assert not [e for e in container.get("env", []) if re.search("SECRET|TOKEN|PASSW", e["name"])]


@pytest.mark.parametrize(
    ("key", "change"),
    [("entrypont", "x"), ("backoffLimit", "none"), ("activeDeadlineSeconds", "soon")],
)
def test_a_mistake_in_a_ray_job_would_be_found(key, change):
    (job,) = [m for m in RENDERED["run"] if m["kind"] == "RayJob"]
    assert problems_of_ray(job) == []
    assert problems_of_ray({**job, "spec": {**job["spec"], key: change}})


def test_a_mistake_in_a_core_kind_would_be_found():
    (cron,) = [m for m in RENDERED["nightly"] if m["kind"] == "CronJob"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**cron, "spec": {**cron["spec"], "concurencyPolicy": "Forbid"}}, "1.29.0", strict=True
        )


def ray_jobs():
    for overlay, manifests in RENDERED.items():
        for manifest in manifests:
            spec = manifest.get("spec", {})
            if manifest["kind"] == "RayJob":
                yield overlay, spec
            if manifest["kind"] == "RayCronJob":
                yield overlay, spec["jobTemplate"]
            if manifest["kind"] == "ConfigMap":
                yield overlay, yaml.safe_load(manifest["data"]["rayjob.yaml"])["spec"]


def test_ray_jobs_keep_the_operators_own_rules():
    found = dict(ray_jobs())
    assert set(found) == {"run", "nightly", "raycronjob", "kueue"}
    for overlay, spec in found.items():
        assert spec["backoffLimit"] == 0
        assert spec["shutdownAfterJobFinishes"] is True
        assert "deletionStrategy" not in spec
        assert spec.get("suspend", False) == (overlay == "kueue")
        cluster = spec["rayClusterSpec"]
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert "enableInTreeAutoscaling" not in cluster


def test_a_night_of_kubernetes_is_not_started_twice_nor_made_up_for_many_times():
    (cron,) = [m["spec"] for m in RENDERED["nightly"] if m["kind"] == "CronJob"]
    assert (cron["concurrencyPolicy"], cron["startingDeadlineSeconds"]) == ("Forbid", 3600)


def test_the_scheduler_may_create_ray_jobs_and_nothing_else():
    (role,) = [m for m in RENDERED["nightly"] if m["kind"] == "Role"]
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list"]}
    ]


def test_the_network_is_closed_by_default_and_nobody_outside_reaches_ray():
    policies = {m["metadata"]["name"]: m["spec"] for m in RENDERED["cluster"] if m["kind"] == "NetworkPolicy"}
    assert policies["prunefleet-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for spec in policies.values():
        for rule in spec.get("ingress", []):
            assert rule["from"], "an empty `from` would be everybody"
    (https,) = [r for r in policies["prunefleet-egress"]["egress"] if r["ports"][0]["port"] == 443]
    assert https["to"][0]["ipBlock"]["except"] == ["169.254.169.254/32"]


def test_the_chart_with_its_defaults_is_the_nightly_overlay_without_its_namespace():
    def opened(manifest):
        files = manifest.get("data", {})
        read = {key: yaml.safe_load(text) if key.endswith(".yaml") else text for key, text in files.items()}
        return {**manifest, "data": read} if files else manifest

    def named(manifests):
        return {(m["kind"], m["metadata"]["name"]): opened(m) for m in manifests if m["kind"] != "Namespace"}

    assert named(of_chart(VALUES)) == named(RENDERED["nightly"])


def test_the_chart_heeds_every_value():
    changed = {
        "workers": {"replicas": 7, "cpu": 3, "memory": "5Gi"},
        "head": {"cpu": 9, "memory": "6Gi"},
        "exporter": {"port": 9999},
    }
    others = {
        key: 77 if isinstance(value, int) else "changed-value"
        for key, value in VALUES.items()
        if key not in changed
    }
    text = yaml.safe_dump(of_chart({**others, **changed}))
    for value in ("77", "changed-value", "7", "3", "5Gi", "9", "6Gi", "9999"):
        assert value in text
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["apiVersion"], chart["name"]) == ("v2", "prunefleet")
    assert set(chart) == {"apiVersion", "name", "description", "type", "version", "appVersion", "kubeVersion"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_itself_builds_the_same(overlay):
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl")
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr

    def named(manifests):
        return {(m["kind"], m["metadata"]["name"]): m for m in manifests}

    assert named(yaml.safe_load_all(done.stdout)) == named(RENDERED[overlay])


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_images_are_what_hadolint_wants_and_have_no_root(name):
    done = subprocess.run(
        [str(BIN / "hadolint"), str(DEPLOY / name)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
    lines = (DEPLOY / name).read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    assert [line for line in lines if "://" in line] == [], (
        "from where packages come is the builder's setting"
    )
    copied = {
        part
        for line in lines
        if line.startswith("COPY") and "--from" not in line
        for part in line.split()[1:-1]
    }
    assert {path for path in copied if not (ROOT / path).exists()} == set()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == copied


def test_the_compose_file_is_a_compose_file(tmp_path):
    if shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose")
    shutil.copytree(DEPLOY / "compose", tmp_path / "compose")
    (tmp_path / "compose" / "s3.env").write_text("A=b\n")
    done = subprocess.run(
        ["docker-compose", "-f", str(tmp_path / "compose" / "compose.yaml"), "config", "--quiet"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_image_of_the_compose_stack_has_a_version():
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    images = {
        name: re.fullmatch(r"\$\{[A-Z0-9_]+:-(.+)\}", service["image"])[1]
        for name, service in services.items()
    }
    assert [name for name, image in images.items() if not re.search(r":v?\d+\.\d+\.\d+\Z", image)] == []


def test_the_compose_stack_has_tokens_secrets_as_files_and_only_loopback_ports():
    told = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    for name, service in told["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        for variable in service.get("environment", {}):
            assert variable.endswith(("_FILE", "_PATH", "_MODE", "_URL", "_REGION")), variable
        for secret in service.get("secrets", []):
            assert told["secrets"][secret]["file"].startswith("./secrets/")
        for volume in service.get("volumes", []):
            local = volume.split(":")[0]
            assert not local.startswith("./") or (DEPLOY / "compose" / local).exists()
    assert {"head", "worker", "nightly", "exporter", "s3", "prometheus", "grafana"} == set(told["services"])
    for name in ("head", "worker", "nightly"):
        assert told["services"][name]["environment"]["RAY_AUTH_MODE"] == "token"


def test_the_stacks_secrets_are_drawn_once_and_are_private(tmp_path):
    shutil.copy(DEPLOY / "compose" / "setup.sh", tmp_path)

    def make():
        done = subprocess.run(["sh", str(tmp_path / "setup.sh")], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    first = make()
    assert make() == first
    assert len({first["ray_token"], first["grafana_password"]}) == 2
    assert len(first["ray_token"]) == 48
    key, secret = re.findall(r"= (\w+)", first["aws_credentials"])
    assert f"ROOT_SECRET_KEY={secret}" in (tmp_path / "s3.env").read_text()
    assert key != secret


def test_prometheus_takes_the_stacks_configuration():
    if shutil.which("promtool") is None:
        pytest.skip("no promtool")
    file = DEPLOY / "compose" / "prometheus.yml"
    done = subprocess.run(
        ["promtool", "check", "config", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_takes_the_units(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text().replace("/opt/prunefleet/bin/prunefleet", shutil.which("true"))
        (tmp_path / path.name).write_text(text)
    units = [str(path) for path in tmp_path.iterdir()]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    timer = (DEPLOY / "systemd" / "prunefleet-nightly.timer").read_text()
    when = re.search("OnCalendar=(.*)", timer)[1]
    done = subprocess.run(["systemd-analyze", "calendar", when], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_cluster_launcher_takes_its_file():
    from ray.autoscaler._private.util import validate_config

    told = yaml.safe_load((DEPLOY / "ray" / "cluster.yaml").read_text())
    whole = {**told, "cluster_synced_files": []}  # which `ray up` adds
    assert validate_config(whole) is None
    with pytest.raises(Exception, match="is not valid under any of the given schemas|is not of type"):
        validate_config({**whole, "max_workers": "many"})


@pytest.mark.parametrize(
    "path", [DEPLOY / "slurm" / "prunefleet.sbatch", DEPLOY / "compose" / "setup.sh"], ids=str
)
def test_scripts_are_scripts(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


COMMANDS = re.compile(
    r"(?:prunefleet|ExecStart=\S+/prunefleet) ((?:nightly|exporter|run|plan|doctor)[^\n'\"&|]*)"
)


def test_every_command_that_is_deployed_is_one_that_there_is():
    import click
    import typer.main

    from orchestrator.cli import app

    known = typer.main.get_command(app).commands
    texts = {
        path: path.read_text()
        for path in DEPLOY.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    called = {(match[1].strip(), path) for path, text in texts.items() for match in COMMANDS.finditer(text)}
    for service in yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"].values():
        if str(service.get("image", "")).startswith("${PRUNEFLEET_IMAGE") and service.get("entrypoint") != [
            "ray"
        ]:
            called.add((" ".join(service["command"]), DEPLOY / "compose"))
    for manifest in RENDERED["run"]:
        for pod in pods_of(manifest):
            called |= {(" ".join(c["args"]), KUBERNETES) for c in pod["containers"] if "args" in c}
    assert len(called) >= 5
    for line, path in sorted(called, key=str):
        name, *arguments = line.split()
        assert name in known, f"{path}: there is no command {name}"
        context = click.Context(known[name], info_name=name, resilient_parsing=False)
        placed = [a if not a.startswith(("$", '"')) else "fleet.yaml" for a in arguments]
        known[name].make_parser(context).parse_args(placed)


def test_nothing_that_is_deployed_names_a_secret():
    for path in DEPLOY.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert not re.search(
                r"(?i)(secret_access_key|password|token)\s*[:=]\s*[A-Za-z0-9+/]{16,}", path.read_text()
            ), path
