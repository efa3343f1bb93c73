"""The processes of the compose stack together, with its own commands and configuration: a night through Ray, S3 and Prometheus.

No container engine runs here, so they are started natively (`servers/compose.py`), one worker for all replicas. Grafana's server cannot be had without its
image, and the S3 image's program neither: Ceph stands in for it.
"""

from __future__ import annotations

import json
import shutil
import signal
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from servers import compose
from servers.ray_nodes import until

from orchestrator.addresses import is_loopback

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.timeout(900)]

FLEET = """
version: 1
name: small
store: {store}
registries: {{zoo: {{kind: directory, path: ./zoo}}}}
datasets: {{digits: {{kind: arrays, path: ./data/arrays.parquet, slice_by: digit}}}}
recipes:
  two-four:
    match: {{registry: zoo}}
    prune: {{criterion: magnitude, pattern: 2:4}}
    evaluate: {{dataset: digits, split: test, metric: accuracy}}
    gates: {{max_drop: 1.0, min_samples: 1}}
pools: {{cpu: {{cpus: 2}}}}
schedule: {{at: "{at}"}}
"""
LONG = 200.0
NOT_HERE = {"s3", "grafana"}
"""Ceph is in the place of the first; the second does not run without its image."""


@pytest.fixture(scope="module")
def night(ceph, make_home):
    """The stack after the night whose slot was an hour ago; the stack, its bucket and the night's record."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (make system)")
    bucket = ceph.make_bucket()
    at = datetime.now(UTC) - timedelta(hours=1)
    home = make_home({"mlp/1": "mlp"}, f"s3://{bucket}/p", FLEET.replace("{at}", f"{at:%H:%M}"))
    with compose.stack(home.root, ceph.endpoint, (ceph.key, ceph.secret)) as stack:
        stack.start_ray("head")
        stack.start_ray("worker")
        stack.start("prometheus")
        stack.start("exporter", "--port", str(stack.ports["exporter"]), "--every", "1")
        stack.start("nightly", RAY_ADDRESS=f"127.0.0.1:{stack.ports['head']}", NO_COLOR="1")

        def closed():
            found = (
                ceph.client()
                .list_objects_v2(Bucket=bucket, Prefix="p/nights/small/closed/")
                .get("Contents", ())
            )
            return [one["Key"] for one in found]

        assert until(lambda: closed() or stack.processes["nightly"].poll() is not None, LONG), stack.said(
            "nightly"
        )
        assert closed(), stack.said("nightly")
        record = json.loads(ceph.client().get_object(Bucket=bucket, Key=closed()[0])["Body"].read())
        yield stack, ceph, bucket, record


def asked(stack, query):
    """What the stack's Prometheus answers: the values of the series."""
    url = f"http://127.0.0.1:{stack.ports['prometheus']}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return [float(one["value"][1]) for one in json.load(answer)["data"]["result"]]
    except OSError:
        return []


def test_every_service_was_started_but_those_that_cannot_run_here(night):
    stack, *_ = night
    assert set(stack.processes) == stack.services.keys() - NOT_HERE
    assert [name for name, process in stack.processes.items() if process.poll() is not None] == []


def test_the_resident_night_was_carried_out_on_the_stacks_ray_and_is_in_the_stacks_bucket(night):
    stack, ceph, bucket, record = night
    assert (record["outcome"], record["exit_code"]) == ("done", 0), stack.said("nightly")
    keys = [one["Key"] for one in ceph.client().list_objects_v2(Bucket=bucket)["Contents"]]
    assert sum(key.startswith("p/results/") for key in keys) == 4
    assert f"p/runs/{record['run_id']}/report.html" in keys


def test_prometheus_has_scraped_the_run_while_it_lived_and_the_exporter_tells_how_it_ended(night):
    stack, *_ = night
    assert asked(stack, 'max_over_time(up{job="prunefleet-run"}[1h])') == [1.0]
    assert asked(stack, 'max_over_time(prunefleet_units{state="done"}[1h])') != []
    assert until(lambda: asked(stack, "prunefleet_run_last_exit_code") == [0.0]), stack.said("exporter")


def test_prometheus_works_out_the_rules_and_says_that_no_exporter_is_missing(night):
    stack, *_ = night
    recorded = "fleet:prunefleet_exporter_last_read_timestamp_seconds:max_3d"
    assert until(lambda: len(asked(stack, recorded)) == 1), stack.said("prometheus")
    with urllib.request.urlopen(
        f"http://127.0.0.1:{stack.ports['prometheus']}/api/v1/rules?type=alert", timeout=10
    ) as answer:
        groups = json.load(answer)["data"]["groups"]
    states = {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}
    assert len(states) > 20
    assert states["PrunefleetExporterDown"] != "firing"


def test_tokens_are_on_and_secrets_are_in_files_alone(night):
    stack, *_ = night
    values = [
        (stack.folder / "secrets" / name).read_text().split()[-1] for name in ("ray_token", "aws_credentials")
    ]
    for name in ("head", "worker", "nightly"):
        process = psutil.Process(stack.processes[name].pid)
        assert process.environ()["RAY_AUTH_MODE"] == "token"
        told = " ".join((*process.cmdline(), *process.environ().values(), stack.said(name)))
        assert not any(value in told for value in values)


def test_everything_listens_on_loopback_alone(night):
    stack, *_ = night
    places = set()
    for process in stack.processes.values():
        root = psutil.Process(process.pid)
        for one in (root, *root.children(recursive=True)):
            places |= {
                each.laddr.ip for each in one.net_connections("inet") if each.status == psutil.CONN_LISTEN
            }
    assert places
    assert [place for place in places if not is_loopback(place)] == []


def test_the_resident_ends_in_peace_when_it_is_told_to_after_a_night_on_ray(night):
    stack, *_ = night
    resident = stack.processes["nightly"]
    assert until(lambda: "the next night is slot" in stack.said("nightly"))
    resident.send_signal(signal.SIGTERM)
    assert resident.wait(LONG) == 0, stack.said("nightly")
