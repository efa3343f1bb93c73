"""The exporter tells from the store alone how a fleet stands, to those who may know, whatever the models are called."""

from __future__ import annotations

import base64
import json
import ssl
import time
import urllib.error
import urllib.request

import duckdb
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families
from servers.certificates import certificate

from orchestrator.domain import Judgement
from orchestrator.errors import NotPermitted, StoreError, Unreachable, UsageError
from orchestrator.tables import schemas
from orchestrator.tables.folding import fold
from orchestrator.watching import exporting
from orchestrator.watching.exporting import MOST_RECIPES, Exporter
from orchestrator.watching.metrics import FLEET
from orchestrator.watching.scrapes import Guard, serve


def pools(unit_pool):
    return {"cpu": unit_pool}


@pytest.fixture
def pool():
    from pathlib import PurePosixPath

    from orchestrator.schedule.placement import pools_of
    from orchestrator.spec import load_fleet

    text = (
        "version: 1\nname: small\nstore: ./store\nregistries: {zoo: {kind: directory, path: ./zoo}}\n"
        "recipes: {half: {prune: {criterion: magnitude, amount: 0.5}}}\npools: {cpu: {cpus: 2, price_per_hour: 7200.0}}\n"
    )
    return pools_of(load_fleet(text, "fleet.yaml", PurePosixPath("/")))["cpu"]


def values(exporter):
    """Metric -> labels but the fleet's -> value."""
    found = {}
    for family in text_string_to_metric_families(exporter.text.decode()):
        for sample in family.samples:
            assert sample.labels.pop("fleet") == exporter.fleet
            found.setdefault(sample.name.removeprefix("prunefleet_"), {})[tuple(sample.labels.values())] = (
                sample.value
            )
    return found


def a_status(**changes):
    return {
        "run_id": "r1", "fleet": "small", "state": "ended", "started_at": 100.0, "updated_at": 160.0,
        "finished_at": 160.0, "exit_code": 4, "done_before": 5, "impossible": 1, "quarantined": 2,
        "units": {"done": 7, "failed": 3, "quarantined": 1, "waiting": 4, "ready": 1}, **changes,
    }  # fmt: skip


def put_status(store, **changes):
    status = a_status(**changes)
    store.put(f"runs/{status['run_id']}/status.json", json.dumps(status).encode())


def test_an_empty_store_has_every_series_already(local_store, pool):
    exporter = Exporter("small", local_store, {"cpu": pool}, ["half"])
    before = values(exporter)
    assert exporter.read() == ""
    after = values(exporter)
    assert {name: set(series) for name, series in before.items()} | {
        "exporter_read_duration_seconds": {()}
    } == {name: set(series) for name, series in after.items()}
    assert set(after) >= {one.name.removeprefix("prunefleet_") for one in FLEET}
    assert after["run_last_exit_code"] == {(): -1.0}
    assert set(after["models"]) == {(r, v.value) for r in ("half", "other") for v in Judgement}


def test_runs_quarantine_and_carried_over_units_are_told(local_store, pool):
    put_status(local_store)
    put_status(local_store, run_id="r0", finished_at=50.0, exit_code=0)
    put_status(local_store, run_id="r2", state="running", updated_at=200.0)
    put_status(local_store, run_id="rx", fleet="another", finished_at=900.0, exit_code=0)
    local_store.put("quarantine/u1.json", b"{}")
    exporter = Exporter("small", local_store, {"cpu": pool}, ["half"])
    assert exporter.read(lambda: 1000.0) == ""
    told = values(exporter)
    assert told["run_last_success_timestamp_seconds"] == {(): 50.0}
    assert told["run_last_completion_timestamp_seconds"] == {(): 160.0}
    assert told["run_last_duration_seconds"] == {(): 60.0}
    assert told["run_last_exit_code"] == {(): 4.0}
    assert told["runs_open"] == {(): 1.0}
    assert told["run_last_update_timestamp_seconds"] == {(): 200.0}
    assert told["quarantined_units"] == {(): 1.0}
    assert told["exporter_last_read_timestamp_seconds"] == {(): 1000.0}
    assert told["run_last_units"] == {
        ("done",): 7, ("found",): 5, ("failed",): 3, ("quarantined",): 3, ("impossible",): 1, ("carried_over",): 5,
    }  # fmt: skip


def test_a_run_that_was_killed_is_not_open_once_another_has_ended(local_store, pool):
    put_status(local_store, run_id="r0", state="running", updated_at=1000.0)
    put_status(local_store, run_id="r2", state="running", updated_at=9000.0)
    exporter = Exporter("small", local_store, {"cpu": pool}, ["half"])
    exporter.read()
    assert values(exporter)["runs_open"] == {(): 2.0}
    put_status(local_store, run_id="r1", started_at=8000.0, finished_at=9100.0, exit_code=0)
    exporter.read()
    assert values(exporter)["runs_open"] == {(): 1.0}
    assert values(exporter)["run_last_update_timestamp_seconds"] == {(): 9000.0}


@pytest.mark.parametrize(
    "broken", [b"{", b"[]", b"\xff", b"[" * 100_000], ids=["cut", "list", "bytes", "deep"]
)
@pytest.mark.parametrize(
    ("key", "metric", "last"),
    [
        ("leases/nightly-small.json", "lease_epoch", 7.0),
        ("nights/small/closed/2026-01-02T0100.json", "night_last_closed_timestamp_seconds", 90.0),
        ("runs/r0/status.json", "runs_open", 0.0),
    ],
)
def test_a_broken_record_is_counted_and_all_others_are_told(local_store, pool, key, metric, last, broken):
    put_status(local_store)
    local_store.put("leases/nightly-small.json", b'{"owner": "me", "epoch": 7, "expires": 1}')
    local_store.put("nights/small/closed/2026-01-02T0100.json", b'{"ended_at": 90, "scheduled_at": 80}')
    exporter = Exporter("small", local_store, {"cpu": pool}, ["half"])
    assert exporter.read(lambda: 10.0) == ""
    whole = values(exporter)
    assert (whole["exporter_damaged_records"], whole[metric]) == ({(): 0.0}, {(): last})
    local_store.put(key, broken)
    assert exporter.read(lambda: 20.0) == ""
    assert [key in problem for problem in exporter.damaged] == [True]
    told = values(exporter)
    assert told["exporter_damaged_records"] == {(): 1.0}
    assert told["exporter_last_read_timestamp_seconds"] == {(): 20.0}
    assert told["exporter_read_failures_total"] == {(): 0.0}
    for name in ("lease_epoch", "night_last_closed_timestamp_seconds", "run_last_exit_code", "runs_open"):
        assert told[name] == whole[name]


def test_a_table_that_has_lost_a_file_is_a_failed_reading(local_store, pool, commit_units):
    commit_units(local_store, range(3))
    fold(local_store)
    exporter = Exporter("small", local_store, {"cpu": pool}, ["half"])
    assert exporter.read() == ""
    for stat in list(local_store.list("tables/units/")):
        if stat.key.endswith(".parquet"):
            local_store.delete(stat.key)
    assert "StoreError: the tables of" in exporter.read()
    assert values(exporter)["exporter_read_failures_total"] == {(): 1.0}


def test_time_money_savings_and_verdicts_come_from_the_tables(any_store, pool, commit_units):
    commit_units(any_store, range(12))
    fold(any_store)
    commit_units(any_store, range(12, 14))
    exporter = Exporter("small", any_store, {"cpu": pool}, ["half"])
    assert exporter.read() == ""
    told = values(exporter)
    assert told["busy_seconds"][("cpu", "prune")] == pytest.approx(3 * 1.5)
    assert told["spent_dollars"][("cpu",)] == pytest.approx(
        12 * 1.5 * pool.price_per_hour / 3600 / pool.slots
    )
    assert told["commit_lag_units"] == {(): 2.0}
    assert told["models"][("half", "pass")] == 0.0  # their gate is not `overall`
    assert told["store_objects"][("results",)] == 14.0
    assert sum(told["model_bytes"].values()) == 1 + 5 + 9


def test_a_store_that_cannot_be_read_keeps_what_was_told_and_its_age(local_store, pool, monkeypatch):
    put_status(local_store)
    exporter = Exporter("small", local_store, {"cpu": pool}, ["half"])
    assert exporter.read(lambda: 10.0) == ""

    def broken(*_):
        raise StoreError("the store is away")

    monkeypatch.setattr(type(local_store), "list", broken)
    assert "the store is away" in exporter.read(lambda: 20.0)
    told = values(exporter)
    assert told["exporter_last_read_timestamp_seconds"] == {(): 10.0}
    assert told["run_last_exit_code"] == {(): 4.0}
    assert told["exporter_read_failures_total"] == {(): 1.0}


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_hostile_names_neither_swell_nor_slow_a_scrape(local_store, pool, monkeypatch, count):
    recipes = 500
    numbers = pa.array(range(count))
    with duckdb.connect() as connection:
        connection.register("numbers", pa.table({"n": numbers}))
        hostile = "repeat('x', 20) || chr(10) || '\"}} ' || n"
        artifacts = connection.sql(
            f"SELECT ({hostile}) AS unit_key, 'zoo' AS registry, ({hostile}) AS model, '1' AS version, "
            "CASE WHEN n % 2 = 0 THEN 'r' || (n % 700) ELSE 'evil' || n END AS recipe, 10 AS dense_bytes, 5 AS bytes FROM numbers"
        ).to_arrow_table()
    empty = {
        name: schemas.TABLES[name].empty_table() for name in ("units", "evaluations", "verdicts", "latencies")
    }
    lacking = [name for name in schemas.TABLES["artifacts"].names if name not in artifacts.schema.names]
    for name in lacking:
        artifacts = artifacts.append_column(
            name, pa.nulls(count, schemas.TABLES["artifacts"].field(name).type)
        )
    monkeypatch.setattr(
        "orchestrator.tables.delta.read_table", lambda store, name: {**empty, "artifacts": artifacts}[name]
    )
    exporter = Exporter("small", local_store, {"cpu": pool}, [f"r{n}" for n in range(0, 2 * recipes, 2)])
    assert exporter.read() == ""
    told = values(exporter)
    series = sum(len(samples) for samples in told.values())
    assert series <= 2000
    assert len(exporter.text) <= 1 << 20
    assert sum(told["model_bytes"].values()) == 5.0 * count
    assert len(told["model_bytes"]) == min(recipes, MOST_RECIPES) + 1
    assert b"evil" not in exporter.text
    server = serve(lambda: exporter.text, "127.0.0.1", 0, Guard())
    try:
        times = []
        for _ in range(20):
            began = time.perf_counter()
            with urllib.request.urlopen(
                f"http://127.0.0.1:{server.server_port}/metrics", timeout=30
            ) as answer:
                assert answer.read() == exporter.text
            times.append(time.perf_counter() - began)
        assert min(times) <= 0.1
    finally:
        server.shutdown()
        server.server_close()


def scrape(port, path="/metrics", scheme="http", context=None, **headers):
    request = urllib.request.Request(f"{scheme}://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


@pytest.fixture
def served():
    servers = []

    def start(guard):
        servers.append(serve(lambda: b"prunefleet_x 1\n", "127.0.0.1", 0, guard))
        return servers[-1].server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_only_metrics_are_served(served):
    port = served(Guard())
    assert scrape(port) == (200, b"prunefleet_x 1\n")
    assert scrape(port, "/metrics?name[]=x")[0] == 200
    assert scrape(port, "/")[0] == 404
    assert scrape(port, "/../etc/passwd")[0] == 404


@pytest.mark.parametrize(
    ("secret", "header"), [("a-long-token", "Bearer a-long-token"), ("me:password", None)]
)
def test_a_scraper_without_the_secret_is_refused(served, tmp_path, secret, header):
    (tmp_path / "token").write_text(f"{secret}\n")
    port = served(Guard(token=tmp_path / "token"))
    right = header or f"Basic {base64.b64encode(secret.encode()).decode()}"
    assert scrape(port, Authorization=right)[0] == 200
    for wrong in ("", "Bearer wrong", "Basic d3Jvbmc=", right[:-1], f"{right}x", "Bearer é"):
        assert scrape(port, Authorization=wrong.encode().decode("latin-1"))[0] == 401
    assert scrape(port)[0] == 401


def test_tls_and_client_certificates(served, tmp_path):
    for name in ("server", "client"):
        (tmp_path / name).mkdir()
        certificate(tmp_path / name)
    server, client = tmp_path / "server", tmp_path / "client"
    guard = Guard(certificate=server / "ca.crt", key=server / "key.pem", client_ca=client / "ca.crt")
    port = served(guard)
    context = ssl.create_default_context(cafile=str(server / "ca.crt"))
    with pytest.raises(OSError, match=r".*"):
        scrape(port, scheme="https", context=context)
    context.load_cert_chain(client / "ca.crt", client / "key.pem")
    assert scrape(port, scheme="https", context=context)[0] == 200
    plain = served(Guard(certificate=server / "ca.crt", key=server / "key.pem"))
    anyone = ssl.create_default_context(cafile=str(server / "ca.crt"))
    assert scrape(plain, scheme="https", context=anyone)[0] == 200


def test_other_machines_are_let_in_only_on_purpose(tmp_path):
    with pytest.raises(NotPermitted, match="--token-file"):
        serve(lambda: b"", "0.0.0.0", 0, Guard())
    (tmp_path / "short").write_text("abc")
    with pytest.raises(UsageError, match="shorter"):
        serve(lambda: b"", "127.0.0.1", 0, Guard(token=tmp_path / "short"))
    with pytest.raises(UsageError, match="certificate"):
        serve(lambda: b"", "127.0.0.1", 0, Guard(client_ca=tmp_path / "short"))
    with pytest.raises(Unreachable, match="cannot be served"):
        serve(lambda: b"", "192.0.2.1", 0, Guard(), is_open=True)


def test_the_command_prints_what_a_scrape_would_see(tmp_path, capfd):
    from orchestrator.commands.exporting import exporter

    (tmp_path / "fleet.yaml").write_text(
        "version: 1\nname: small\nstore: ./store\nregistries: {zoo: {kind: directory, path: ./zoo}}\n"
        "recipes: {half: {prune: {criterion: magnitude, amount: 0.5}}}\n"
    )
    exporter(tmp_path / "fleet.yaml", once=True)
    assert 'prunefleet_run_last_exit_code{fleet="small"} -1.0' in capfd.readouterr().out
    assert exporting.OTHER == "other"


def test_the_command_names_damaged_records_and_ends_well_and_a_store_that_cannot_be_read_ends_it(
    tmp_path, monkeypatch
):
    from typer.testing import CliRunner

    from orchestrator.cli import app

    (tmp_path / "zoo").mkdir()
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        "version: 1\nname: small\nstore: ./store\nregistries: {zoo: {kind: directory, path: ./zoo}}\n"
        "recipes: {half: {prune: {criterion: magnitude, amount: 0.5}}}\npools: {cpu: {cpus: 2}}\n"
    )
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        (tmp_path / f"store/runs/r{number}").mkdir(parents=True)
        (tmp_path / f"store/runs/r{number}/status.json").write_text("{")
    done = CliRunner().invoke(app, ["exporter", "fleet.yaml", "--once"])
    assert (done.exit_code, done.stderr.count("damaged and left out: runs/r")) == (0, 5)
    assert "and 3 more that are damaged" in done.stderr
    assert 'prunefleet_exporter_damaged_records{fleet="small"} 8.0' in done.stdout
    (tmp_path / "store/tables/units").mkdir(parents=True)
    (tmp_path / "store/tables/units/_delta_log").write_text("no folder")
    done = CliRunner().invoke(app, ["exporter", "fleet.yaml", "--once"])
    assert done.exit_code == 69, done.output
