"""Movers of one alias at once: each move has its turn, its record says from where, and the records end where the alias is."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from cases.alias_movers import ALIAS, move_often
from cases.registry_places import MAKERS, name
from servers.tiny_files import model

from orchestrator import leases
from orchestrator.errors import AliasMoved
from orchestrator.promotion import aliasturn
from orchestrator.promotion.aliases import Move, move_alias, read_aliases
from orchestrator.promotion.aliasturn import turn
from orchestrator.promotion.promoting import history
from orchestrator.registries.hub_outlet import HubShelf
from orchestrator.registries.mlflow_outlet import MlflowShelf
from orchestrator.registries.s3_outlet import S3Shelf
from orchestrator.simulation.store import Flaw, MemoryStore
from orchestrator.stores.local import LocalStore

SHELVES = {"s3": S3Shelf, "mlflow": MlflowShelf, "huggingface": HubShelf}


@pytest.fixture(params=[pytest.param("s3", marks=pytest.mark.s3), "mlflow", "huggingface"])
def place(request, tmp_path):
    return MAKERS[request.param](tmp_path, request)


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def versions(place):
    """Four versions of one model, and what the registry calls it."""
    made = [
        place.put(name(place, "org/lm"), f"v{number}", model(**{"vocab.txt": b"%d" % number}))
        for number in range(4)
    ]
    return place.model_name(name(place, "org/lm")), made


def check_chain(place, store, called, moves):
    """Every move is recorded once, from where the one before it led, and the last one is where the alias is."""
    rows = history(store)
    assert len(rows) == moves
    assert rows[0]["previous_version"] is None
    assert all(after["previous_version"] == before["published_version"] for before, after in pairwise(rows))
    assert read_aliases(place.outlet(), called)[ALIAS] == rows[-1]["published_version"]
    assert list(store.list("promotions-begun/")) == []


def test_threads_that_move_one_alias_leave_one_unbroken_history(place, store, versions):
    called, made = versions
    with ThreadPoolExecutor(2) as pool:
        movers = [
            pool.submit(move_often, Path(store.url), place.spec, called, pair, 4)
            for pair in (made[:2], made[2:])
        ]
    for mover in movers:
        mover.result()
    check_chain(place, store, called, 8)


@pytest.mark.parametrize("place", ["mlflow"], indirect=True)
def test_processes_that_move_one_alias_of_a_real_server_leave_one_unbroken_history(place, store, versions):
    called, made = versions
    context = multiprocessing.get_context("spawn")
    movers = [
        context.Process(target=move_often, args=(Path(store.url), place.spec, called, pair, 6))
        for pair in (made[:2], made[2:])
    ]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join()
    assert [mover.exitcode for mover in movers] == [0, 0]
    check_chain(place, store, called, 12)


def to(called, version):
    return Move(
        registry="out",
        model=called,
        alias=ALIAS,
        published_version=version,
        at=1e9,
        actor="ada",
        reason="good",
    )


def test_who_moves_it_right_after_us_without_a_turn_is_found_and_our_move_is_recorded(
    place, store, versions, monkeypatch
):
    called, made = versions
    kind = SHELVES[place.spec.kind]
    point = kind.point

    def overtaken(shelf, alias, version, previous):
        point(shelf, alias, version, previous)
        point(shelf, alias, made[1], version)

    monkeypatch.setattr(kind, "point", overtaken)
    with pytest.raises(AliasMoved, match=f"is recorded, and right after .* to {made[1]}"):
        move_alias(store, place.outlet(), to(called, made[0]))
    assert [row["published_version"] for row in history(store)] == [made[0]]


@pytest.mark.parametrize("place", ["huggingface"], indirect=True)
def test_the_turn_of_a_mover_that_died_is_waited_for_and_taken_over(place, store, versions, monkeypatch):
    called, made = versions
    monkeypatch.setattr(aliasturn, "SECONDS", 0.5)
    abandoned = turn(store, place.outlet(), called, ALIAS)
    zombie = abandoned.__enter__()
    assert move_alias(store, place.outlet(), to(called, made[0]))["published_version"] == made[0]
    with pytest.raises(AliasMoved, match="another mover has it"):
        zombie.keep()
    assert abandoned.__exit__(None, None, None) is not True
    assert read_aliases(place.outlet(), called)[ALIAS] == made[0]


@pytest.mark.parametrize("place", ["huggingface"], indirect=True)
def test_patience_with_others_has_an_end(place, store, versions, monkeypatch):
    called, made = versions
    monkeypatch.setattr(aliasturn, "PATIENCE_SECONDS", 0.2)
    with turn(store, place.outlet(), called, ALIAS), pytest.raises(AliasMoved, match="all the time"):
        move_alias(store, place.outlet(), to(called, made[0]))
    assert ALIAS not in read_aliases(place.outlet(), called)


@pytest.mark.parametrize("place", ["huggingface"], indirect=True)
def test_a_store_without_conditions_has_no_turns_and_says_so(place, versions, caplog):
    called, made = versions
    store = MemoryStore(flaws=(Flaw.IGNORES_IF_MATCH,))
    assert move_alias(store, place.outlet(), to(called, made[0])) is not None
    assert "UNSAFE" in caplog.text
    assert [row["at"].timestamp() for row in history(store)] == [1e9]


@pytest.mark.parametrize("place", ["huggingface"], indirect=True)
def test_a_move_is_dated_when_it_is_made_and_gives_its_turn_back(place, store, versions):
    called, made = versions
    before = time.time()
    row = move_alias(store, place.outlet(), to(called, made[0]))
    assert before - 1 <= row["at"].timestamp() <= time.time() + 1
    (lease,) = (found.key for found in store.list(leases.PREFIX))
    assert (
        leases.holder(store, lease.removeprefix(leases.PREFIX).removesuffix(".json")).owner == leases.NOBODY
    )
    later = replace(to(called, made[1]), at=4e9)
    assert move_alias(store, place.outlet(), later)["at"].timestamp() == 4e9
