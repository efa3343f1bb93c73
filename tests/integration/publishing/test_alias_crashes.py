"""A crash at any step of a move of an alias, and damage to what it announced."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases.publications import make, make_artifact, move, records

from orchestrator.errors import Damaged, StoreError
from orchestrator.promotion.aliases import read_aliases
from orchestrator.promotion.promoting import history
from orchestrator.registries.directory_outlet import DirectoryOutlet
from orchestrator.stores.local import LocalStore


class Crash(BaseException):
    """The process ends here."""


class Crashing(LocalStore):
    """A store whose caller dies before or after its n-th write."""

    def __init__(self, root: Path, at: int, *, after: bool):
        super().__init__(root)
        self._left, self._after = at, after

    def put(self, key: str, data: bytes) -> None:
        self._step(lambda: LocalStore.put(self, key, data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._step(lambda: LocalStore.put_if_absent(self, key, data))

    def delete(self, key: str) -> None:
        self._step(lambda: LocalStore.delete(self, key))

    def _step(self, write):
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Crash
        outcome = write()
        if self._left == 0:
            raise Crash
        return outcome


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_after_a_crash_at_any_step_of_a_move_the_next_one_leaves_one_record_a_move(
    store, target, tmp_path, step, after
):
    first = make(store, target, make_artifact(store, tmp_path, 1))
    second = make(store, target, make_artifact(store, tmp_path, 2))
    move(store, target, first)
    with pytest.raises(Crash):
        move(Crashing(tmp_path / "store", step, after=after), target, second)
    move(store, target, second)
    assert read_aliases(target, "org/lm") == {"candidate": second.version}
    assert [(r["previous_version"], r["published_version"]) for r in records(store)] == [
        (None, first.version),
        (first.version, second.version),
    ]
    assert list(store.list("promotions-begun/")) == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_after_a_crash_a_move_to_something_else_still_records_what_happened(
    store, target, tmp_path, step, after
):
    first, second, third = (
        make(store, target, make_artifact(store, tmp_path, number)) for number in range(3)
    )
    move(store, target, first)
    with pytest.raises(Crash):
        move(Crashing(tmp_path / "store", step, after=after), target, second)
    was_made = read_aliases(target, "org/lm") == {"candidate": second.version}
    move(store, target, third)
    moves = [(r["previous_version"], r["published_version"]) for r in records(store)]
    expected = [(None, first.version), (first.version, second.version), (second.version, third.version)]
    if not was_made:
        expected = [(None, first.version), (first.version, third.version)]
    assert sorted(moves, key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_crashed_move_is_not_finished_by_another_fleet_that_calls_another_place_so(
    store, target, tmp_path, step, after
):
    ours, theirs = (make_artifact(store, tmp_path, number) for number in range(2))
    elsewhere = DirectoryOutlet(target.name, tmp_path / "elsewhere")
    publication, foreign = make(store, target, ours), make(store, elsewhere, theirs)
    with pytest.raises(Crash):
        move(Crashing(tmp_path / "store", step, after=after), target, publication)
    move(store, elsewhere, foreign)
    move(store, target, publication)
    told = {
        url: [row["published_version"] for row in history(store, url)] for url in (target.url, elsewhere.url)
    }
    assert told == {target.url: [publication.version], elsewhere.url: [foreign.version]}
    assert list(store.list("promotions-begun/")) == []


def test_one_directory_is_one_place_by_whatever_path_a_fleet_names_it(target, tmp_path):
    (tmp_path / "link").symlink_to(target.root)
    (tmp_path / "fleet").mkdir()
    paths = (target.root, tmp_path / "link", tmp_path / "fleet" / ".." / target.root.name)
    assert {DirectoryOutlet("any", path).url for path in paths} == {str(target.root)}


def test_a_damaged_announcement_stops_the_move_and_is_named(store, target, artifact):
    publication = make(store, target, artifact)
    with pytest.raises(Crash):
        move(Crashing(Path(store.url), 1, after=True), target, publication)
    (announced,) = store.list("promotions-begun/")
    store.put(announced.key, b"{")
    with pytest.raises(Damaged, match="promotions-begun/"):
        move(store, target, publication)


def test_a_store_that_fails_after_the_move_is_told_and_the_record_comes_with_the_next_one(
    store, target, artifact, tmp_path
):
    publication = make(store, target, artifact)

    class Failing(LocalStore):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            raise StoreError("the store went away")

    with pytest.raises(StoreError):
        move(Failing(tmp_path / "store"), target, publication)
    assert read_aliases(target, "org/lm") == {"candidate": publication.version}
    assert records(store) == []
    assert move(store, target, publication) is None
    assert [record["published_version"] for record in records(store)] == [publication.version]
