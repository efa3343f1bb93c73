"""Result objects as bytes: what was written is read, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.errors import Damaged
from orchestrator.tables import listing, results, schemas

KEY = hashlib.sha256(b"unit").hexdigest()
PROVENANCE: Mapping[str, Any] = {
    "unit_key": KEY,
    "run_id": "r1",
    "registry": "zoo",
    "model": "tiny",
    "version": "3",
    "model_digest": "d" * 64,
    "recipe": "half",
    "task": "sensitivity",
    "params": '{"amount":0.5}',
    "pool": "cpu",
    "node": "n1",
    "attempt": "a1",
    "started_at": 1_700_000_000.25,
    "finished_at": 1_700_000_003,
    "wall_seconds": 2.75,
    "cpu_seconds": 2,
    "gpu_seconds": None,
    "peak_memory_bytes": 2**40,
    "predicted_seconds": 3.0,
    "model_bytes": 10,
    "parameters": 5,
    "code_version": "1",
    "seed": 0,
}
TABLES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "sensitivity": [
        {
            "layer": "a",
            "group": "attention",
            "amount": 0.5,
            "value": 2.5,
            "delta": float("inf"),
            "samples": 3,
        },
        {"layer": "b", "amount": 0.5, "value": float("nan"), "samples": None},
    ],
    "findings": [{"kind": "zero_effect", "subject": "b", "message": "nichts geändert ∅"}],
}
OUTCOMES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "outcomes": [
        {
            "example": 0,
            "slices": {"topic": "x", "more": "y"},
            "loss": 1.5,
            "probabilities": [0.25, 0.75],
            "correct": True,
        },
        {"example": 1, "slices": {}, "loss": None, "probabilities": [], "correct": False},
        {"example": 2, "slices": None, "probabilities": None},
    ]
}


def provenance(**changes: Any) -> dict[str, Any]:
    return {**PROVENANCE, **changes}


def evaluation() -> bytes:
    return results.encode("evaluate", OUTCOMES, provenance(task="evaluate"))


def raw(schema: pa.Schema, *batches: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def with_note(note: Any, schema: pa.Schema | None = None, digest: str | None = None) -> bytes:
    """A result object with no rows and this provenance, of which the digest is right unless another is given."""
    text = note if isinstance(note, bytes) else json.dumps(note).encode()
    known = schema or schemas.result_schema("sensitivity")
    right = hashlib.sha256(text).hexdigest()
    metadata = {b"prunefleet": text, b"prunefleet_sha256": (digest or right).encode()}
    return raw(known.with_metadata(metadata))


def test_what_is_written_is_read() -> None:
    result = results.decode(results.encode("sensitivity", TABLES, PROVENANCE))
    assert result.task == "sensitivity"
    assert result.provenance == PROVENANCE
    first, second = result.rows("sensitivity")
    assert (first["layer"], first["delta"], first["samples"], first["method"]) == ("a", float("inf"), 3, None)
    assert second["value"] != second["value"]
    assert result.rows("findings") == [dict(TABLES["findings"][0])]


def test_maps_and_lists_are_read_as_they_were() -> None:
    rows = results.decode(evaluation()).rows("outcomes")
    assert rows[0]["slices"] == {"topic": "x", "more": "y"}
    assert [row["probabilities"] for row in rows] == [[0.25, 0.75], [], None]
    assert [row["slices"] for row in rows][1:] == [{}, None]


def test_a_result_without_rows_is_a_result() -> None:
    result = results.decode(results.encode("judge", {}, provenance(task="judge")))
    assert len(result.table) == 0
    assert result.rows("verdicts") == []


def test_the_file_is_plain_arrow_for_everyone_else() -> None:
    with pa.ipc.open_file(pa.BufferReader(results.encode("sensitivity", TABLES, PROVENANCE))) as reader:
        assert json.loads(reader.schema.metadata[b"prunefleet"])["model"] == "tiny"
        assert reader.read_all().num_rows == 3


def test_equal_rows_have_equal_digests_whoever_computed_them() -> None:
    one = results.decode(results.encode("sensitivity", TABLES, PROVENANCE))
    other = results.decode(
        results.encode("sensitivity", TABLES, provenance(node="n2", run_id="r2", wall_seconds=9.0))
    )
    assert one.content_sha256 == other.content_sha256


def test_a_change_of_any_cell_changes_the_digest() -> None:
    digests = {results.decode(results.encode("sensitivity", TABLES, PROVENANCE)).content_sha256}
    for column, value in {
        "layer": "c",
        "amount": 0.25,
        "value": 0.0,
        "samples": 4,
        "method": "exact",
    }.items():
        rows = [dict(row) for row in TABLES["sensitivity"]]
        rows[0][column] = value
        changed = {**TABLES, "sensitivity": rows}
        digests.add(results.decode(results.encode("sensitivity", changed, PROVENANCE)).content_sha256)
    assert len(digests) == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"unit_key": None},
        {"run_id": 7},
        {"seed": 0.5},
        {"seed": True},
        {"seed": 2**63},
        {"started_at": "yesterday"},
        {"started_at": 1e15},
        {"wall_seconds": "3"},
        {"node": "lone \ud800"},
        {"task": "prune"},
    ],
    ids=str,
)
def test_a_wrong_provenance_is_a_bug_of_the_writer(changes: Mapping[str, Any]) -> None:
    with pytest.raises(ValueError, match="provenance"):
        results.encode("sensitivity", TABLES, provenance(**changes))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_provenance_that_is_no_json_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="wall_seconds|JSON"):
        results.encode("sensitivity", TABLES, provenance(wall_seconds=value))


def test_further_keys_of_a_provenance_are_kept() -> None:
    data = results.encode("sensitivity", TABLES, provenance(ray_node="abc"))
    assert results.decode(data).provenance["ray_node"] == "abc"


def test_an_unknown_column_is_a_bug_of_the_writer() -> None:
    with pytest.raises(KeyError, match="lyer"):
        results.encode("sensitivity", {"sensitivity": [{"lyer": "x"}]}, PROVENANCE)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no result object"),
        (b"not arrow", "no result object"),
        (b"ARROW1\0\0" + b"\xff" * 100 + b"ARROW1", "no result object"),
        (json.dumps({"a": 1}).encode(), "no result object"),
        (b"PK\x03\x04" + b"\0" * 100, "no result object"),
        (raw(pa.schema([("table", pa.string())])), "no provenance"),
        (with_note(b"not json"), "no result object"),
        (with_note([1]), "not complete"),
        (with_note({"task": "sensitivity"}), "not complete"),
        (with_note({**PROVENANCE, "content_sha256": "0" * 64}), "digest differs"),
        (with_note({**PROVENANCE, "content_sha256": "0" * 64}, digest="1" * 64), "digest differs"),
        (with_note({**PROVENANCE, "content_sha256": "x", "task": "rm -rf"}), "task"),
        (with_note({**PROVENANCE, "content_sha256": "x", "unit_key": 5}), "unit_key"),
        (with_note({**PROVENANCE, "content_sha256": "x", "wall_seconds": float("nan")}), "wall_seconds"),
        (with_note({**PROVENANCE, "content_sha256": "x", "node": "\ud800"}), "node"),
        (with_note(b"[" * 100_000), "no result object"),
        (with_note({**PROVENANCE, "content_sha256": "x"}, pa.schema([("a", pa.string())])), "columns"),
        (with_note({**PROVENANCE, "content_sha256": "x"}, pa.schema([("table", pa.string())] * 2)), "columns"),
        (
            with_note({**PROVENANCE, "content_sha256": "x"}, pa.schema([("table", pa.string()), ("layer", pa.int64())])),
            "layer is int64",
        ),
    ],
)  # fmt: skip
def test_foreign_bytes_are_refused_with_a_reason(data: bytes, why: str) -> None:
    with pytest.raises(Damaged, match=why):
        results.decode(data)


def test_an_extension_type_is_refused_and_nothing_is_loaded() -> None:
    field = pa.field("layer", pa.json_())
    schema = pa.schema([("table", pa.string()), field])
    with pytest.raises(Damaged, match="foreign type"):
        results.decode(with_note({**PROVENANCE, "content_sha256": "x"}, schema))


def test_a_torn_object_is_refused_at_every_length() -> None:
    data = results.encode("sensitivity", TABLES, PROVENANCE)
    for length in range(0, len(data), 7):
        with pytest.raises(Damaged):
            results.decode(data[:length])


def test_no_flipped_bit_is_ever_read_as_other_rows() -> None:
    whole = evaluation()
    expected = results.decode(whole)
    generator = random.Random(0)
    refused = 0
    for _ in range(3000):
        torn = bytearray(whole)
        for _ in range(generator.choice((1, 1, 1, 4))):
            torn[generator.randrange(len(torn))] ^= 1 << generator.randrange(8)
        try:
            result = results.decode(bytes(torn))
        except Damaged:
            refused += 1
            continue
        assert result.content_sha256 == expected.content_sha256
        assert result.table.equals(expected.table)
        assert result.provenance == expected.provenance
    assert refused > 1500, "what is read in spite of a flip lies in padding"


def test_what_an_older_version_did_not_write_is_null() -> None:
    table = schemas.result_table("sensitivity", TABLES).drop_columns(["method", "tokens"])
    note = {**PROVENANCE, "content_sha256": results.row_digest(table)}
    old = with_rows(table, note)
    assert results.decode(old).rows("sensitivity")[0]["method"] is None
    assert results.decode(old).content_sha256 == results.row_digest(
        schemas.result_table("sensitivity", TABLES)
    )


def test_what_a_newer_version_added_is_left() -> None:
    table = schemas.result_table("sensitivity", TABLES)
    newer = table.append_column("novelty", pa.array([1, 2, 3]))
    result = results.decode(with_rows(newer, {**PROVENANCE, "content_sha256": results.row_digest(newer)}))
    assert result.table.equals(table) or result.table.schema == table.schema
    assert "novelty" not in result.table.schema.names


def with_rows(table: pa.Table, note: Mapping[str, Any]) -> bytes:
    text = json.dumps(note).encode()
    metadata = {b"prunefleet": text, b"prunefleet_sha256": hashlib.sha256(text).hexdigest().encode()}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema.with_metadata(metadata)) as writer:
        writer.write_table(table, max_chunksize=1)
    return bytes(sink.getvalue())


def test_the_key_of_a_result_is_sharded_by_its_first_digits() -> None:
    assert listing.result_key("prune", KEY) == f"results/prune/{KEY[:2]}/{KEY}.arrow"


@pytest.mark.parametrize(
    ("task", "key"), [("prune", "short"), ("prune", KEY.upper()), ("dance", KEY), ("prune", "../" + KEY)]
)
def test_a_key_that_is_none_is_a_bug(task: str, key: str) -> None:
    with pytest.raises(AssertionError):
        listing.result_key(task, key)
