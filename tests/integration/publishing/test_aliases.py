"""Aliases move, with a record of who, when, why and from what, and never to what is not there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cases.publications import AT, HOSTILE, make, make_artifact, move, names, records, source

from orchestrator.errors import RegistryError
from orchestrator.identity import digest_bytes
from orchestrator.promotion.aliases import Move, move_alias, move_to, read_aliases
from orchestrator.tables import schemas
from orchestrator.tables.records import read_records


def test_an_alias_moves_and_says_from_what(store, target, tmp_path):
    first = make(store, target, make_artifact(store, tmp_path, 1))
    second = make(store, target, make_artifact(store, tmp_path, 2), at=AT + 60)
    assert move(store, target, first)["previous_version"] is None
    row = move(store, target, second)
    assert row["previous_version"] == first.version
    assert read_aliases(target, "org/lm") == {"candidate": second.version}
    assert [record["published_version"] for record in records(store)] == [first.version, second.version]


def test_a_record_has_the_columns_of_promotions_and_says_who_when_why(store, target, artifact):
    publication = make(store, target, artifact)
    row = move(store, target, publication)
    assert set(row) == set(schemas.TABLES["promotions"].names)
    assert row == {
        "unit_key": "k" * 64,
        "run_id": "run-1",
        "registry": "out",
        "fleet": "",
        "registry_url": target.url,
        "model": "org/lm",
        "version": "v2",
        "model_digest": digest_bytes(b"dense"),
        "recipe": "half",
        "alias": "candidate",
        "published_version": publication.version,
        "previous_version": None,
        "artifact_digest": artifact,
        "at": row["at"],
        "actor": "ada",
        "reason": "passed",
    }
    assert datetime.fromtimestamp(AT, UTC) < row["at"] <= datetime.now(UTC), (
        "when it was its turn, not when it was asked for"
    )
    assert records(store) == [row]
    assert read_records(store, "promotions").skipped == ()


def test_an_alias_that_points_there_already_is_not_moved_and_not_recorded(store, target, artifact):
    publication = make(store, target, artifact)
    assert move(store, target, publication)
    assert move(store, target, publication) is None
    assert len(records(store)) == 1


def test_aliases_of_one_model_live_beside_each_other(store, target, artifact):
    publication = make(store, target, artifact)
    move(store, target, publication, "candidate")
    move(store, target, publication, "champion")
    assert read_aliases(target, "org/lm") == {
        "candidate": publication.version,
        "champion": publication.version,
    }
    assert read_aliases(target, "org/other") == {}


def test_an_alias_can_be_moved_back_by_hand(store, target, tmp_path):
    first = make(store, target, make_artifact(store, tmp_path, 1))
    second = make(store, target, make_artifact(store, tmp_path, 2))
    move(store, target, first)
    move(store, target, second)
    back = Move(
        registry="out",
        model="org/lm",
        alias="candidate",
        published_version=first.version,
        at=AT + 99,
        actor="grace",
        reason="rollback",
    )
    row = move_alias(store, target, back)
    assert (row["previous_version"], row["actor"]) == (second.version, "grace")
    assert read_aliases(target, "org/lm") == {"candidate": first.version}
    assert len(records(store)) == 3


def test_an_alias_does_not_move_to_what_is_not_there(store, target, artifact):
    publication = make(store, target, artifact)
    wrong = replace(publication, version="v9-half-000000000000")
    with pytest.raises(RegistryError, match="has no version v9-half"):
        move(store, target, wrong)
    assert read_aliases(target, "org/lm") == {}
    assert records(store) == []


def test_moving_an_alias_of_a_model_that_is_not_there_makes_no_directory(store, target, artifact):
    publication = make(store, target, artifact)
    with pytest.raises(RegistryError):
        move(store, target, replace(publication, model=source("org/typo")))
    assert names(target.root / "org") == {"lm"}


def test_an_alias_does_not_move_to_a_link(store, target, artifact, tmp_path):
    make(store, target, artifact)
    (target.root / "org" / "lm" / "linked").symlink_to(tmp_path)
    with pytest.raises(RegistryError, match="link"):
        move_alias(
            store,
            target,
            Move(
                registry="out",
                model="org/lm",
                alias="a",
                published_version="linked",
                at=AT,
                actor="",
                reason="",
            ),
        )


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("field", ["model", "alias", "published_version"])
def test_a_move_with_a_hostile_name_is_refused(store, target, artifact, field, name):
    publication = make(store, target, artifact)
    hostile = replace(move_to(publication, registry="out", alias="candidate", reason=""), **{field: name})
    with pytest.raises(RegistryError) as caught:
        move_alias(store, target, hostile)
    assert str(caught.value).isprintable()
    assert records(store) == []
    assert read_aliases(target, "org/lm") == {}


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_the_aliases_of_a_hostile_name_are_not_looked_for(target, name):
    with pytest.raises(RegistryError):
        read_aliases(target, name)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"candidate": 7}',
        b'{"candidate": "../x"}',
        b'{"\\u001b[2J": "v1"}',
        b'{"a": "\\ud800"}',
        b"[" * 100_000,
        b"\xff",
        b" " * 2_000_000,
    ],
)
def test_an_alias_file_that_cannot_be_trusted_is_refused_and_kept(store, target, artifact, data):
    publication = make(store, target, artifact)
    path = target.root / "org" / "lm" / "aliases.json"
    path.write_bytes(data)
    with pytest.raises(RegistryError, match="aliases.json"):
        move(store, target, publication)
    assert path.read_bytes() == data
    assert records(store) == []


def test_an_alias_file_that_is_a_link_is_refused(store, target, artifact, tmp_path):
    publication = make(store, target, artifact)
    (tmp_path / "outside.json").write_text("{}")
    (target.root / "org" / "lm" / "aliases.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(RegistryError, match="aliases.json"):
        move(store, target, publication)
    assert (tmp_path / "outside.json").read_text() == "{}"


def test_movers_at_once_lose_no_alias_and_no_record(store, target, artifact):
    publication = make(store, target, artifact)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: move(store, target, publication, f"alias{number % 12}"), range(36)))
    assert len(read_aliases(target, "org/lm")) == 12
    assert len(records(store)) == 12
