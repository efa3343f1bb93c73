"""Effects. The one source of the Kubernetes manifests: writes the Kustomize base and overlays, and the Helm chart's templates.

`python deploy/kubernetes/generate.py` writes them anew; a test holds the files to it. Values that an installation sets are
`Value(path)`: their default in Kustomize, where a patch changes them, and `{{ .Values.path }}` in the chart.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
CHART = HERE.parent / "helm" / "prunefleet"
RULES = HERE.parents[1] / "dashboards" / "rules"

VALUES: dict[str, Any] = {
    "namespace": "prunefleet",
    "image": "prunefleet:0.1.0",
    "fleetConfigMap": "prunefleet-fleet",
    "credentialsSecret": "prunefleet-credentials",
    "schedule": "*/15 * * * *",
    "nightSeconds": 28800,
    "workers": {"replicas": 2, "cpu": "4", "memory": "16Gi"},
    "head": {"cpu": "2", "memory": "8Gi"},
    "exporter": {"port": 9464},
    "monitoringNamespace": "monitoring",
    "operatorNamespace": "kuberay-system",
}

Value = Callable[[str], Any]
LABELS = {"app.kubernetes.io/name": "prunefleet"}
NIGHTS = {**LABELS, "app.kubernetes.io/component": "night"}
"""Of the RayJobs that the CronJob's script makes, counts and clears away."""
RAY_CRON = {"schedule": "0 1 * * *", "timeZone": "Etc/UTC"}
"""When a RayCronJob ticks: it starts a cluster each time, and cannot ask before, so these are to be the fleet's own times."""
RAY_VERSION = "2.60.0"
ASK = ["prunefleet", "nightly", "/etc/prunefleet/fleet.yaml", "--due"]
RUN_PORT = 9465
"""At which a run tells its metrics, on the head, where its driver is."""
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def default(path: str) -> Any:
    """The value that Kustomize's files have."""
    found: Any = VALUES
    for part in path.split("."):
        found = found[part]
    return found


def templated(path: str) -> str:
    """What stands in the chart; quoted where the value is text."""
    mark = f"{{{{ .Values.{path} }}}}"
    return mark if isinstance(default(path), str) else f"@@{mark}@@"


def meta(name: str, value: Value, **labels: str) -> dict[str, Any]:
    return {"name": name, "namespace": value("namespace"), "labels": {**LABELS, **labels}}


def container(name: str, value: Value, **more: Any) -> dict[str, Any]:
    """A container of our image: read-only, with a home and a /tmp of its own, credentials by reference."""
    return {
        "name": name,
        "image": value("image"),
        "securityContext": CONTAINER_SECURITY,
        "envFrom": [{"secretRef": {"name": value("credentialsSecret")}}],
        "volumeMounts": [
            {"name": "fleet", "mountPath": "/etc/prunefleet", "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "home", "mountPath": "/home/prunefleet"},
        ],
        **more,
    }


def pod(containers: list[Any], value: Value, **more: Any) -> dict[str, Any]:
    return {
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "containers": containers,
        "volumes": [
            {"name": "fleet", "configMap": {"name": value("fleetConfigMap")}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "home", "emptyDir": {}},
        ],
        **more,
    }


def ray_cluster(value: Value) -> dict[str, Any]:
    """A head that runs no unit, and workers; token on, no autoscaler, Ray's object store small: weights do not travel through it."""

    def node(name: str, size: str) -> dict[str, Any]:
        asked = {"cpu": value(f"{size}.cpu"), "memory": value(f"{size}.memory")}
        limits = {"memory": value(f"{size}.memory")}
        body = container(name, value, resources={"requests": asked, "limits": limits})
        body["volumeMounts"] = [*body["volumeMounts"], {"name": "shm", "mountPath": "/dev/shm"}]
        if name == "ray-head":
            ports = {
                "gcs": 6379,
                "dashboard": 8265,
                "client": 10001,
                "metrics": 8080,
                "run-metrics": RUN_PORT,
            }
            body["ports"] = [{"name": key, "containerPort": port} for key, port in ports.items()]
        else:
            body["ports"] = [{"name": "metrics", "containerPort": 8080}]
        made = pod([body], value, terminationGracePeriodSeconds=120)
        made["volumes"] = [
            *made["volumes"],
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        ]
        return {"metadata": {"labels": LABELS}, "spec": made}

    start = {"object-store-memory": "134217728", "metrics-export-port": "8080"}
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {**start, "num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": node("ray-head", "head"),
        },
        "workerGroupSpecs": [
            {
                "groupName": "cpu",
                "replicas": value("workers.replicas"),
                "minReplicas": 0,
                "maxReplicas": value("workers.replicas"),
                "labels": {"prunefleet.io/pool": "cpu"},
                "rayStartParams": start,
                "template": node("ray-worker", "workers"),
            }
        ],
    }


def ray_job_spec(value: Value) -> dict[str, Any]:
    """A night on a cluster of its own. No retry of KubeRay's: the next night goes on where this one stopped."""
    submitter = container("ray-job-submitter", value)
    return {
        # open, as the network policy lets nobody but Prometheus in
        "entrypoint": "prunefleet nightly /etc/prunefleet/fleet.yaml --address auto --trigger kubernetes "
        f"--metrics-port {RUN_PORT} --metrics-open",
        "submissionMode": "K8sJob",
        "backoffLimit": 0,
        "activeDeadlineSeconds": value("nightSeconds"),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "submitterPodTemplate": {
            "metadata": {"labels": {**LABELS, "app.kubernetes.io/component": "submitter"}},
            "spec": pod([submitter], value, restartPolicy="Never"),
        },
        "rayClusterSpec": ray_cluster(value),
    }


def ray_kind(kind: str, name: str, spec: Mapping[str, Any], value: Value, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "ray.io/v1",
        "kind": kind,
        "metadata": meta(name, value, **labels),
        "spec": dict(spec),
    }


def namespace(value: Value) -> dict[str, Any]:
    modes = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": value("namespace"), "labels": {**LABELS, **modes}},
    }


def access(value: Value) -> dict[str, dict[str, Any]]:
    """The scheduler may create RayJobs, look at them and clear them away, in its own namespace, and nothing else."""
    api = "rbac.authorization.k8s.io"
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta("prunefleet-scheduler", value),
        "automountServiceAccountToken": False,
    }
    role = {
        "apiVersion": f"{api}/v1",
        "kind": "Role",
        "metadata": meta("prunefleet-scheduler", value),
        "rules": [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "list", "delete"]}],
    }
    binding = {
        "apiVersion": f"{api}/v1",
        "kind": "RoleBinding",
        "metadata": meta("prunefleet-scheduler", value),
        "roleRef": {"apiGroup": api, "kind": "Role", "name": "prunefleet-scheduler"},
        "subjects": [
            {"kind": "ServiceAccount", "name": "prunefleet-scheduler", "namespace": value("namespace")}
        ],
    }
    return {"serviceaccount": account, "role": role, "rolebinding": binding}


def network(value: Value) -> dict[str, dict[str, Any]]:
    """Nothing comes in or goes out but: Ray among its nodes, the submitter and the operator to the head, scrapes, DNS and HTTPS."""

    def policy(name: str, selector: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": meta(f"prunefleet-{name}", value),
            "spec": {"podSelector": dict(selector), **spec},
        }

    def ports(*numbers: Any) -> list[dict[str, Any]]:
        return [{"protocol": "TCP", "port": number} for number in numbers]

    def space(path: str) -> dict[str, Any]:
        return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": value(path)}}}

    ours = {"matchLabels": LABELS}
    nodes = {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    heads = {"matchLabels": {"ray.io/node-type": "head"}}
    submitter = {"matchLabels": {"app.kubernetes.io/component": "submitter"}}
    exporter = {"matchLabels": {"app.kubernetes.io/component": "exporter"}}
    dns = {
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
    }
    # The metadata service of clouds is left out: credentials come from the secret or from workload identity.
    https = {
        "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}}],
        "ports": ports(443, 6443),
    }
    return {
        "deny": policy("deny", {}, policyTypes=["Ingress", "Egress"]),
        "egress": policy("egress", ours, policyTypes=["Egress"], egress=[dns, https]),
        "nodes": policy(
            "nodes", nodes, policyTypes=["Ingress", "Egress"],
            ingress=[{"from": [{"podSelector": nodes}]}], egress=[{"to": [{"podSelector": nodes}]}],
        ),
        "head": policy(
            "head", heads, policyTypes=["Ingress"],
            ingress=[{"from": [{"podSelector": submitter}, space("operatorNamespace")], "ports": ports(8265)}],
        ),
        "submitter": policy(
            "submitter", submitter, policyTypes=["Egress"],
            egress=[{"to": [{"podSelector": heads}], "ports": ports(8265)}],
        ),
        "scrapes": policy(
            "scrapes", {"matchExpressions": [{"key": "ray.io/is-ray-node", "operator": "Exists"}]},
            policyTypes=["Ingress"], ingress=[{"from": [space("monitoringNamespace")], "ports": ports(8080, RUN_PORT)}],
        ),
        "exporter-scrapes": policy(
            "exporter", exporter, policyTypes=["Ingress"],
            ingress=[{"from": [space("monitoringNamespace")], "ports": ports(value("exporter.port"))}],
        ),
    }  # fmt: skip


def exporter(value: Value) -> dict[str, dict[str, Any]]:
    """The metrics that are there when no cluster is."""
    labels = {**LABELS, "app.kubernetes.io/component": "exporter"}
    port = value("exporter.port")
    body = container(
        "exporter",
        value,
        args=[
            "exporter",
            "/etc/prunefleet/fleet.yaml",
            "--host",
            "0.0.0.0",
            "--port",
            f"{port}".replace("@@", ""),
            "--open",  # the network policy lets nobody but Prometheus in
        ],
        ports=[{"name": "metrics", "containerPort": port}],
        readinessProbe={"tcpSocket": {"port": "metrics"}, "periodSeconds": 30},
        resources={"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
    )
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta("prunefleet-exporter", value, **{"app.kubernetes.io/component": "exporter"}),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod([body], value)},
        },
    }
    monitor = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": meta("prunefleet", value),
        "spec": {
            "selector": {"matchLabels": LABELS},
            "podMetricsEndpoints": [{"port": port, "interval": "30s"} for port in ("metrics", "run-metrics")],
            "podTargetLabels": ["ray.io/cluster", "app.kubernetes.io/component"],
            "sampleLimit": 20000,
        },
    }
    return {"exporter": deployment, "podmonitor": monitor}


def rules(value: Value) -> dict[str, Any]:
    """The recordings and alerts that dashboards/rules has, for Prometheus' operator."""
    pages = (yaml.safe_load((RULES / f"{name}.yaml").read_text()) for name in ("recordings", "alerts"))
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": meta("prunefleet", value),
        "spec": {"groups": [group for page in pages for group in page["groups"]]},
    }


def cron_job(value: Value) -> dict[str, Any]:
    """Asks every quarter of an hour whether a slot is due, and then creates a RayJob named after the tick's own Job."""
    job_name = {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}}
    namespaced = {"fieldRef": {"fieldPath": "metadata.namespace"}}
    body = container(
        "scheduler",
        value,
        command=["python", "/scheduler/create_rayjob.py", "/scheduler/rayjob.yaml", *ASK],
        env=[{"name": "JOB_NAME", "valueFrom": job_name}, {"name": "NAMESPACE", "valueFrom": namespaced}],
        resources={"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
    )
    body["volumeMounts"].append({"name": "scheduler", "mountPath": "/scheduler", "readOnly": True})
    made = pod(
        [body],
        value,
        serviceAccountName="prunefleet-scheduler",
        automountServiceAccountToken=True,
        restartPolicy="Never",
    )
    made["volumes"].append({"name": "scheduler", "configMap": {"name": "prunefleet-scheduler"}})
    template = {
        "metadata": {"labels": {**LABELS, "app.kubernetes.io/component": "scheduler"}},
        "spec": made,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": meta("prunefleet-nightly", value),
        "spec": {
            "schedule": value("schedule"),
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"spec": {"backoffLimit": 2, "template": template}},
        },
    }


def scheduler_files(value: Value) -> dict[str, Any]:
    """The ConfigMap that the CronJob reads: the script, and the RayJob that it creates."""
    job = ray_kind("RayJob", "prunefleet-night", ray_job_spec(value), value, **NIGHTS)
    script = (HERE / "create_rayjob.py").read_text()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta("prunefleet-scheduler", value),
        "data": {"create_rayjob.py": script, "rayjob.yaml": written(job)},
    }


def base(value: Value) -> dict[str, dict[str, Any]]:
    """File name -> manifest, of what every installation has."""
    policies = {f"network-{name}": made for name, made in network(value).items()}
    return {
        "namespace": namespace(value),
        **access(value),
        **policies,
        **exporter(value),
        "prometheusrule": rules(value),
    }


def overlays(value: Value) -> dict[str, dict[str, dict[str, Any]]]:
    """Overlay -> file name -> manifest beside the base's."""
    spec = ray_job_spec(value)
    queued = {**spec, "suspend": True}
    cron = {**RAY_CRON, "jobTemplate": spec}
    return {
        "cluster": {"raycluster": ray_kind("RayCluster", "prunefleet", ray_cluster(value), value)},
        "run": {"rayjob": ray_kind("RayJob", "prunefleet-run", spec, value)},
        "nightly": {"cronjob": cron_job(value), "scheduler": scheduler_files(value)},
        "raycronjob": {"raycronjob": ray_kind("RayCronJob", "prunefleet-nightly", cron, value)},
        "kueue": {
            "rayjob": ray_kind(
                "RayJob", "prunefleet-run", queued, value, **{"kueue.x-k8s.io/queue-name": "prunefleet"}
            )
        },
    }


def written(manifest: Mapping[str, Any]) -> str:
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    Dumper.add_representer(
        str,
        lambda dumper, text: dumper.represent_scalar(
            "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
        ),
    )
    text = yaml.dump(dict(manifest), Dumper=Dumper, sort_keys=False, width=4000, allow_unicode=True)
    return re.sub(r"['\"]?@@(\{\{[^}]+\}\})@@['\"]?", r"\1", text)


def for_helm(manifest: Mapping[str, Any]) -> str:
    """The same where Helm reads it: braces that are not ours are for Prometheus, and stay."""
    return re.sub(r"\{\{(?! \.Values\.)", "{{ `{{` }}", written(manifest))


def files() -> dict[Path, str]:
    """Every generated file and its text."""
    made: dict[Path, str] = {}
    for name, manifest in base(default).items():
        made[HERE / "base" / f"{name}.yaml"] = written(manifest)
    made[HERE / "base" / "kustomization.yaml"] = kustomization([f"{name}.yaml" for name in base(default)])
    for overlay, manifests in overlays(default).items():
        folder = HERE / "overlays" / overlay
        for name, manifest in manifests.items():
            made[folder / f"{name}.yaml"] = written(manifest)
        made[folder / "kustomization.yaml"] = kustomization(
            ["../../base", *(f"{name}.yaml" for name in manifests)]
        )
    templates = CHART / "templates"
    for name, manifest in base(templated).items():
        if name != "namespace":  # Helm makes it with --create-namespace, and owns none
            made[templates / f"{name}.yaml"] = for_helm(manifest)
    for name, manifest in overlays(templated)["nightly"].items():
        made[templates / f"{name}.yaml"] = for_helm(manifest)
    made[CHART / "values.yaml"] = "# The defaults; docs in ../../README.md.\n" + written(VALUES)
    return made


def kustomization(resources: list[str]) -> str:
    return written(
        {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}
    )


def main() -> None:
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        sys.stdout.write(f"{path.relative_to(HERE.parent)}\n")


if __name__ == "__main__":
    main()
