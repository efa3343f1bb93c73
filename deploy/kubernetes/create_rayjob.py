"""Effects. A tick of the CronJob: creates a RayJob where a slot is due and no night's RayJob is there that has not ended.

`create_rayjob.py RAYJOB.yaml COMMAND…`: the command exits with 6 if a slot is due, with 0 if none is. Runs with the service
account's token; needs only the standard library and PyYAML. The RayJob is named after this tick's Job, so that a second try of
the same tick finds it there. Of the night's RayJobs that have ended the last few are kept.
"""

import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
NOT_FOUND, EXISTS = 404, 409
DUE = 6
KEPT = 3
ENDED = {"Complete", "Failed", "ValidationFailed"}
"""A RayJob's `jobDeploymentStatus`, after which KubeRay does nothing more for it."""


def main(path, *command):
    """One tick; the exit code: 0 if all is as it should be, else 1 or the command's."""
    manifest = yaml.safe_load(Path(path).read_text())
    labels = ",".join(f"{key}={value}" for key, value in sorted(manifest["metadata"]["labels"].items()))
    jobs = asked("GET", f"?{urllib.parse.urlencode({'labelSelector': labels})}")["items"]
    ended = [job for job in jobs if job.get("status", {}).get("jobDeploymentStatus") in ENDED]
    for job in sorted(ended, key=lambda job: job["metadata"]["creationTimestamp"])[:-KEPT]:
        asked("DELETE", f"/{job['metadata']['name']}", missing=NOT_FOUND)
    alive = [job["metadata"]["name"] for job in jobs if job not in ended]
    if alive:
        sys.stdout.write(f"RayJob {alive[0]} has not ended\n")
        return 0
    code = subprocess.run(command, check=False).returncode
    if code != DUE:
        return code
    name = os.environ["JOB_NAME"][-47:].strip("-")
    manifest["metadata"].update(name=name, namespace=os.environ["NAMESPACE"])
    is_new = asked("POST", "", manifest, missing=EXISTS) is not None
    sys.stdout.write(f"RayJob {name} {'created' if is_new else 'is there already'}\n")
    return 0


def asked(method, path, body=None, missing=None):
    """What the API server answers about the namespace's RayJobs; None for the status that is no error here."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    place = f"/apis/ray.io/v1/namespaces/{os.environ['NAMESPACE']}/rayjobs{path}"
    request = urllib.request.Request(
        f"https://{host}:{port}{place}",
        data=json.dumps(body).encode() if body else None,
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}",
        },
        method=method,
    )
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=60, context=trusted) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == missing:
            return None
        said = error.read(2000).decode(errors="replace")
        sys.exit(f"{method} {place}: {error.code} {said}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
