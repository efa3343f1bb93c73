"""SQL over the store: every table, nothing else, nothing written."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from orchestrator.errors import NotPermitted, QueryError
from orchestrator.stores.local import LocalStore
from orchestrator.tables import listing, results, schemas
from orchestrator.tables.folding import fold
from orchestrator.tables.querying import TABLES, query

CommitUnits = Callable[[Any, range], None]


def ask(store: Any, sql: str) -> list[dict[str, Any]]:
    """The rows of an answer that needed no notice."""

    def object_to(notice: str) -> None:
        raise AssertionError(notice)

    rows: list[dict[str, Any]] = query(store, sql, object_to).to_pylist()
    return rows


def test_results_are_folded_before_they_are_asked_for(any_store: Any, commit_units: CommitUnits) -> None:
    commit_units(any_store, range(8))
    assert ask(any_store, "SELECT count(*) AS n, sum(wall_seconds) AS s FROM units") == [{"n": 8, "s": 12.0}]
    commit_units(any_store, range(8, 12))
    joined = "SELECT model, max(delta) AS worst FROM sensitivity JOIN units USING (unit_key, model) GROUP BY ALL ORDER BY 1"
    assert ask(any_store, joined) == [
        {"model": "model-0", "worst": 2.0},
        {"model": "model-1", "worst": 2.5},
        {"model": "model-2", "worst": 3.0},
    ]


def test_columns_of_one_name_are_all_in_the_answer(
    local_store: LocalStore, commit_units: CommitUnits
) -> None:
    commit_units(local_store, range(1))
    assert ask(local_store, "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a") == [
        {"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}
    ]
    joined = query(local_store, "SELECT * FROM units u JOIN verdicts v ON u.unit_key = v.unit_key")
    assert joined.num_columns == len({*joined.column_names})


def test_times_are_times(local_store: LocalStore, commit_units: CommitUnits) -> None:
    commit_units(local_store, range(4))
    (row,) = ask(
        local_store, "SELECT epoch(min(started_at)) AS t, date_trunc('year', min(started_at)) AS y FROM units"
    )
    assert row["t"] == 1_700_000_000.5
    assert row["y"].year == 2023


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_rows_has_its_columns(local_store: LocalStore, name: str) -> None:
    table = query(local_store, f"SELECT * FROM {name}")
    assert table.num_rows == 0
    if name != "plan":
        assert table.schema.names == schemas.TABLES[name].names
    assert list(local_store.list("")) == []


def test_the_tables_can_be_listed_described_and_summarized(
    local_store: LocalStore, commit_units: CommitUnits
) -> None:
    commit_units(local_store, range(4))
    assert sorted(row["name"] for row in ask(local_store, "SHOW TABLES")) == sorted(TABLES)
    described = ask(local_store, "DESCRIBE verdicts")
    assert [row["column_name"] for row in described] == schemas.TABLES["verdicts"].names
    (row,) = (row for row in ask(local_store, "SUMMARIZE units") if row["column_name"] == "seed")
    assert row["count"] == 4


@pytest.mark.parametrize(
    "sql",
    [
        "WITH x AS (SELECT 1 AS a) SELECT a FROM x",
        "FROM units",
        "SELECT count(*) FROM Units u, (SELECT 1) WHERE u.task = 'prune';",
        "SELECT 'it''s; not two' AS text -- really; not",
        "TABLE units",
        "VALUES (1)",
    ],
)
def test_whatever_only_reads_is_answered(
    local_store: LocalStore, commit_units: CommitUnits, sql: str
) -> None:
    commit_units(local_store, range(4))
    assert query(local_store, sql).num_rows >= 1


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("", "one statement, and this is 0"),
        ("  -- nothing", "one statement"),
        ("SELECT 1; SELECT 2", "this is 2"),
        ("SELEC 1", "syntax error"),
        ("INSERT INTO units SELECT * FROM units", "only reads.*INSERT"),
        ("DELETE FROM units", "only reads"),
        ("DROP TABLE units", "only reads"),
        ("CREATE TABLE x AS SELECT 1", "only reads"),
        ("COPY units TO '/tmp/stolen.csv'", "only reads"),
        ("ATTACH '/tmp/x.db'", "only reads"),
        ("SET threads = 1", "only reads"),
        ("PRAGMA version", "only reads"),
        ("INSTALL httpfs", "only reads"),
        ("LOAD httpfs", "only reads"),
        ("CALL duckdb_settings()", "only reads"),
        ("EXPLAIN ANALYZE SELECT 1", "only reads"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM read_text('/etc/hostname')", "disabled by configuration"),
        ("SELECT * FROM '/etc/passwd'", "no table"),
        ("SELECT * FROM glob('/*')", "disabled by configuration"),
        ("SELECT * FROM 'https://127.0.0.1/x.parquet'", "no table|disabled"),
        ("SELECT * FROM read_parquet('s3://bucket/x')", "disabled|not exist|extension"),
        ("SELECT getenv('HOME')", "getenv"),
        ("SELECT * FROM store", "no table 'store'"),
        ("SELECT * FROM object_to", "no table"),
        ("SELECT * FROM unit", "did you mean 'units'.*sensitivity"),
        ("SELECT * FROM verdict", "did you mean 'verdicts'"),
        ("SELECT modle FROM units", "model"),
        ("SELECT 1/0 + 'x'", "Could not convert"),
    ],
)
def test_whatever_does_not_is_refused_with_a_reason(local_store: LocalStore, sql: str, why: str) -> None:
    object_to = pa.table({"secret": [1]})
    with pytest.raises(QueryError, match=f"(?s){why}"):
        query(local_store, sql)
    assert object_to.num_rows == 1
    assert list(local_store.list("")) == []


def test_where_nothing_may_be_written_the_tables_answer_as_they_are_and_it_is_said(
    local_store: LocalStore, commit_units: CommitUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_units(local_store, range(4))
    fold(local_store)
    commit_units(local_store, range(4, 8))

    def refuse(key: str, data: bytes) -> bool:
        raise NotPermitted(f"cannot create {key}")

    monkeypatch.setattr(local_store, "put_if_absent", refuse)
    notices: list[str] = []
    assert query(local_store, "SELECT count(*) AS n FROM units", notices.append).to_pylist() == [{"n": 4}]
    assert len(notices) == 1
    assert "newer results may be missing" in notices[0]
    query(local_store, "SELECT count(*) AS n FROM attempts", notices.append)
    assert len(notices) == 1


def test_what_is_left_out_is_said(local_store: LocalStore, commit_units: CommitUnits) -> None:
    commit_units(local_store, range(4))
    local_store.put(listing.result_key("prune", "0" * 64), b"garbage")
    local_store.put("results/foreign", b"")
    local_store.put("runs/r1/attempts/torn.json", b"{")
    local_store.put("runs/r1/plan.parquet", b"torn")
    notices: list[str] = []
    query(local_store, "SELECT * FROM units, attempts, plan", notices.append)
    assert len(notices) == 4
    for part in ("0" * 64, "1 objects under results/", "torn.json", "plan.parquet"):
        assert any(part in notice for notice in notices), part


def plan_of(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def test_the_plans_of_all_runs_are_one_table(any_store: Any) -> None:
    any_store.put("runs/r1/plan.parquet", plan_of([{"unit_key": "a", "task": "prune", "state": "todo"}]))
    any_store.put("runs/r2/plan.parquet", plan_of([{"unit_key": "b", "seconds": 1.5}]))
    assert ask(any_store, "SELECT run_id, unit_key, task, seconds FROM plan ORDER BY run_id") == [
        {"run_id": "r1", "unit_key": "a", "task": "prune", "seconds": None},
        {"run_id": "r2", "unit_key": "b", "task": None, "seconds": 1.5},
    ]


def test_plans_that_do_not_fit_are_told(local_store: LocalStore) -> None:
    local_store.put("runs/r1/plan.parquet", plan_of([{"unit_key": ["a"]}]))
    with pytest.raises(QueryError, match="do not fit"):
        query(local_store, "SELECT * FROM plan")


def test_records_of_runs_are_tables(any_store: Any) -> None:
    attempt = {"unit_key": "k", "attempt": "a1", "failure_class": "poison", "line": 7, "more": "left"}
    any_store.put("runs/r1/attempts/a1.json", json.dumps([attempt, {**attempt, "unit_key": "l"}]).encode())
    any_store.put("runs/r2/attempts/a2.json", json.dumps({**attempt, "run_id": "r2"}).encode())
    closed = {"run_id": "r1", "fleet": "demo", "started_at": 1_700_000_000.5, "exit_code": 0, "done": 3.0}
    any_store.put("runs/r1/closed.json", json.dumps(closed).encode())
    any_store.put(
        "promotions/p1.json", json.dumps({"alias": "champion", "at": "2026-01-02T03:04:05+00:00"}).encode()
    )
    assert ask(any_store, "SELECT run_id, unit_key, line FROM attempts ORDER BY ALL") == [
        {"run_id": "r1", "unit_key": "k", "line": 7},
        {"run_id": "r1", "unit_key": "l", "line": 7},
        {"run_id": "r2", "unit_key": "k", "line": 7},
    ]
    (run,) = ask(any_store, "SELECT fleet, epoch(started_at) AS t, done, finished_at FROM runs")
    assert run == {"fleet": "demo", "t": 1_700_000_000.5, "done": 3, "finished_at": None}
    assert ask(any_store, 'SELECT alias, year("at") AS y FROM promotions') == [
        {"alias": "champion", "y": 2026}
    ]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b"{", "torn"),
        (b"[1]", "torn"),
        (b"7", "torn"),
        (b'{"line": "seven"}', "line is 'seven'"),
        (b'{"line": 1.5}', "line is 1.5"),
        (b'{"line": true}', "line is True"),
        (b'{"line": 1e30}', "line is 1e"),
        (b'{"error": 5}', "error is 5"),
        (b'{"error": "\\ud800"}', "surrogates"),
        (b"\xff", "torn"),
        (b"[" * 100_000, "torn"),
    ],
)
def test_a_record_that_cannot_be_a_row_is_left_out_and_named(
    local_store: LocalStore, record: bytes, why: str
) -> None:
    local_store.put("runs/r1/attempts/good.json", b'{"attempt": "good", "unknown": [1]}')
    local_store.put("runs/r1/attempts/torn.json", record)
    notices: list[str] = []
    table = query(local_store, "SELECT attempt FROM attempts", notices.append)
    assert table.to_pylist() == [{"attempt": "good"}]
    assert len(notices) == 1
    assert "torn.json" in notices[0]
    assert why in notices[0]


@pytest.mark.parametrize("when", ["Infinity", "NaN", "1e300", '"soon"', "true", "[]"])
def test_a_time_that_is_none_is_left_out_and_named(local_store: LocalStore, when: str) -> None:
    local_store.put("runs/r1/closed.json", f'{{"fleet": "demo", "started_at": {when}}}'.encode())
    notices: list[str] = []
    assert query(local_store, "SELECT * FROM runs", notices.append).num_rows == 0
    assert "closed.json" in notices[0]


def test_a_computation_that_differs_is_a_finding(
    any_store: Any, provenance: Callable[..., dict[str, Any]], unit_key: Callable[[int], str]
) -> None:
    def commit(value: float, **changes: Any) -> results.Commit:
        rows = {"sensitivity": [{"layer": "a", "delta": value}]}
        data = results.encode("sensitivity", rows, provenance(0, "sensitivity", **changes))
        return results.commit(any_store, "sensitivity", unit_key(0), data)

    assert commit(1.0) is results.Commit.CREATED
    assert commit(1.0, attempt="a2", run_id="r2", wall_seconds=9.0) is results.Commit.EXISTED_EQUAL
    assert ask(any_store, "SELECT * FROM findings") == []
    assert commit(2.0, attempt="a3", node="n3", run_id="r3") is results.Commit.EXISTED_DIFFERENT
    assert commit(2.0, attempt="a4", node="n4", run_id="r3") is results.Commit.EXISTED_DIFFERENT
    (row,) = ask(any_store, "SELECT kind, subject, run_id, unit_key, message FROM findings")
    assert (row["kind"], row["subject"], row["run_id"], row["unit_key"]) == (
        "nondeterminism", "sensitivity", "r3", unit_key(0),
    )  # fmt: skip
    assert all(part in row["message"] for part in ("a3", "n3", "r1", "stay"))
    assert ask(any_store, "SELECT delta FROM sensitivity") == [{"delta": 1.0}]
    assert results.read(any_store, "sensitivity", unit_key(0)).rows("sensitivity")[0]["delta"] == 1.0


@pytest.mark.parametrize(
    ("params", "second"),
    [
        ('{"budget": {"latency": 0.7}, "cut": {"width": 0.5}}', results.Commit.EXISTED_EQUAL),
        ('{"budget": {"bytes": 0.7}}', results.Commit.EXISTED_DIFFERENT),
        ('{"cut": {"width": 0.5}}', results.Commit.EXISTED_DIFFERENT),
        (None, results.Commit.EXISTED_DIFFERENT),
    ],
)
def test_only_units_whose_clock_had_a_say_may_differ(
    any_store: Any,
    provenance: Callable[..., dict[str, Any]],
    unit_key: Callable[[int], str],
    params: str | None,
    second: results.Commit,
) -> None:
    found = []
    for digest in ("a", "b"):
        data = results.encode(
            "prune", {"artifacts": [{"digest": digest}]}, provenance(0, "prune", params=params)
        )
        found.append(results.commit(any_store, "prune", unit_key(0), data))
    assert found == [results.Commit.CREATED, second]
    assert results.read(any_store, "prune", unit_key(0)).rows("artifacts")[0]["digest"] == "a"


def test_a_store_whose_path_is_odd_is_queried_all_the_same(tmp_path: Path, commit_units: CommitUnits) -> None:
    for number, name in enumerate(("with space", "100%", "ümläut 日本", "a+b&c=d", "semi;colon'quote")):
        store = LocalStore(tmp_path / f"{number} {name}")
        commit_units(store, range(4))
        assert ask(store, "SELECT count(*) AS n FROM units") == [{"n": 4}]
