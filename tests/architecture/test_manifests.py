"""Every manifest and the chart are held to Kubernetes' schemas, to KubeRay's, and to the operator's own rules."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from cases.manifests import (
    CHART,
    EVERY,
    GENERATE,
    KUBERNETES,
    OVERLAYS,
    RENDERED,
    VALUES,
    freedoms_of,
    of_chart,
    pods_of,
    problems_of,
    problems_of_ray,
)
from cases.prometheus import RULES


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
def test_a_manifest_is_what_its_kinds_schema_says_and_its_pods_are_restricted(manifest):
    assert problems_of(manifest) == []
    assert freedoms_of(manifest) == []


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
    assert problems_of({**cron, "spec": {**cron["spec"], "concurencyPolicy": "Forbid"}})


def test_a_pod_that_may_more_would_be_found():
    (deployment,) = [m for m in RENDERED["nightly"] if m["kind"] == "Deployment"]
    (pod,) = pods_of(deployment)
    for change in (
        {"hostNetwork": True},
        {"securityContext": {**pod["securityContext"], "runAsNonRoot": False}},
    ):
        assert freedoms_of({"kind": "Pod", "spec": {**pod, **change}})


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
    assert (cron["concurrencyPolicy"], cron["startingDeadlineSeconds"]) == ("Forbid", 600)


def test_the_scheduler_may_create_see_and_clear_away_ray_jobs_and_nothing_else():
    (role,) = [m for m in RENDERED["nightly"] if m["kind"] == "Role"]
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "list", "delete"]}
    ]


def test_the_network_is_closed_by_default_and_nobody_outside_reaches_ray():
    policies = {m["metadata"]["name"]: m["spec"] for m in RENDERED["cluster"] if m["kind"] == "NetworkPolicy"}
    assert policies["prunefleet-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for spec in policies.values():
        for rule in spec.get("ingress", []):
            assert rule["from"], "an empty `from` would be everybody"
    (https,) = [r for r in policies["prunefleet-egress"]["egress"] if r["ports"][0]["port"] == 443]
    assert https["to"][0]["ipBlock"]["except"] == ["169.254.169.254/32"]


def test_a_run_is_scraped_where_it_listens_and_nobody_else_is_let_in():
    for overlay, spec in ray_jobs():
        (monitor,) = [m["spec"] for m in RENDERED[overlay] if m["kind"] == "PodMonitor"]
        (policy,) = [m["spec"] for m in RENDERED[overlay] if m["metadata"]["name"] == "prunefleet-scrapes"]
        (head,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in head["ports"]}
        asked = shlex.split(spec["entrypoint"])
        assert "--metrics-open" in asked
        assert asked[asked.index("--metrics-port") + 1] == str(ports["run-metrics"])
        scraped = {ports[endpoint["port"]] for endpoint in monitor["podMetricsEndpoints"]}
        assert scraped == {ports["metrics"], ports["run-metrics"]}
        (rule,) = policy["ingress"]
        assert {port["port"] for port in rule["ports"]} == scraped
        assert [list(peer) for peer in rule["from"]] == [["namespaceSelector"]]


@pytest.mark.parametrize("manifests", [*RENDERED.values(), of_chart(VALUES)], ids=[*OVERLAYS, "chart"])
def test_every_installation_brings_the_rules_that_are_tested(manifests):
    (ours,) = [m["spec"]["groups"] for m in manifests if m["kind"] == "PrometheusRule"]
    assert ours == [group for path in RULES for group in yaml.safe_load(Path(path).read_text())["groups"]]


def test_the_chart_with_its_defaults_is_the_nightly_overlay_without_its_namespace():
    def opened(manifest):
        files = manifest.get("data", {})
        read = {key: yaml.safe_load(text) if key.endswith(".yaml") else text for key, text in files.items()}
        return {**manifest, "data": read} if files else manifest

    def named(manifests):
        return {(m["kind"], m["metadata"]["name"]): opened(m) for m in manifests if m["kind"] != "Namespace"}

    assert named(of_chart(VALUES)) == named(RENDERED["nightly"])


OTHERS = [
    {"image": "registry.example:5000/team/prunefleet@sha256:" + "a" * 64, "namespace": "ml"},
    {"schedule": "*/30 22-23,0-5 * * 1-5", "nightSeconds": 999_999, "monitoringNamespace": "prom", "operatorNamespace": "ray"},
    {"workers": {"replicas": 64, "cpu": "500m", "memory": "1.5Ti"}, "head": {"cpu": "1500m", "memory": "512Mi"}, "exporter": {"port": 19464}},
    {"fleetConfigMap": "other.fleet", "credentialsSecret": "other.credentials", "workers": {"replicas": 1, "cpu": 0.5, "memory": "17179869184"}},
]  # fmt: skip


@pytest.mark.parametrize("values", OTHERS)
def test_the_chart_with_other_values_is_still_what_the_schemas_say(values):
    made = of_chart({**VALUES, **values})
    assert {manifest["kind"] for manifest in made} == {manifest["kind"] for manifest in of_chart(VALUES)}
    assert [
        problem for manifest in made for problem in (*problems_of(manifest), *freedoms_of(manifest))
    ] == []


def test_no_default_is_a_number_that_helm_would_print_with_an_exponent():
    numbers = [
        one for value in VALUES.values() for one in (value.values() if isinstance(value, dict) else [value])
    ]
    assert [
        one for one in numbers if isinstance(one, float) or (isinstance(one, int) and one >= 1_000_000)
    ] == []


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
