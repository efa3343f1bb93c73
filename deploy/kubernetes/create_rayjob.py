"""Effects. Creates a RayJob from a file through the Kubernetes API, named after this tick's Job: a second try finds it there.

Runs in the CronJob's pod with the service account's token; needs only the standard library and PyYAML.
"""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

import yaml

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
CREATED, EXISTS = 201, 409


def main(path):
    """Creates the job; the exit code: 0 if it is there now, else 1."""
    manifest = yaml.safe_load(Path(path).read_text())
    name, namespace = os.environ["JOB_NAME"][-47:].strip("-"), os.environ["NAMESPACE"]
    manifest["metadata"].update(name=name, namespace=namespace)
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    request = urllib.request.Request(
        f"https://{host}:{port}/apis/ray.io/v1/namespaces/{namespace}/rayjobs",
        data=json.dumps(manifest).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}",
        },
        method="POST",
    )
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=60, context=trusted) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
        if status != EXISTS:
            sys.stderr.write(
                f"RayJob {namespace}/{name}: {status} {error.read(2000).decode(errors='replace')}\n"
            )
    if status in (CREATED, EXISTS):
        sys.stdout.write(
            f"RayJob {namespace}/{name} {'created' if status == CREATED else 'is there already'}\n"
        )
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
