"""The protocol of a conditional write, played through with written answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.stores.deciding import Answer, Undecided, decide

WON = Answer(etag="new")
LOST = Answer(is_lost=True, cause=Exception("412"))
LOST_AFTER_RESENDING = Answer(is_lost=True, is_in_doubt=True, cause=Exception("412"))
CONFLICT = Answer(cause=Exception("409"))
TIMEOUT = Answer(is_in_doubt=True, cause=TimeoutError("no answer"))

NOTHING = (False, None)
OURS = (True, "ours")
THEIRS = (False, "theirs")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


def play(answers: list[Answer], seen: list[tuple[bool, str | None]], old: str | None = None) -> str | None:
    """The decision; every answer and every reading must be used, and no more."""
    asked, read = iter(answers), iter(seen)
    etag = decide(lambda: next(asked), lambda: next(read), lambda there: there == old)
    assert not rest(asked), "answers were left"
    assert not rest(read), "readings were left"
    return etag


def rest(left: Iterator[object]) -> list[object]:
    return list(left)


def test_the_first_answer_may_decide() -> None:
    assert play([WON], []) == "new"
    assert play([LOST], []) is None


def test_a_conflict_is_never_read_as_exists() -> None:
    assert play([CONFLICT, CONFLICT, WON], []) == "new"
    assert play([CONFLICT, LOST], []) is None


def test_a_lost_reply_is_read_back_and_ours_is_a_win() -> None:
    assert play([TIMEOUT], [OURS]) == "ours"


def test_a_lost_reply_before_anothers_write_is_a_loss() -> None:
    assert play([TIMEOUT], [THEIRS]) is None


def test_a_lost_request_is_sent_again() -> None:
    assert play([TIMEOUT, WON], [NOTHING]) == "new"
    assert play([TIMEOUT, CONFLICT, WON], [NOTHING, NOTHING]) == "new"


def test_a_refusal_after_a_lost_reply_may_be_our_own_success() -> None:
    assert play([TIMEOUT, LOST], [NOTHING, OURS]) == "ours"
    assert play([TIMEOUT, LOST], [NOTHING, THEIRS]) is None


def test_a_refusal_of_a_request_that_the_library_sent_twice_is_read_back() -> None:
    assert play([LOST_AFTER_RESENDING], [OURS]) == "ours"
    assert play([LOST_AFTER_RESENDING], [THEIRS]) is None


def test_a_swap_goes_on_only_while_the_old_object_is_there() -> None:
    assert play([TIMEOUT, WON], [(False, "old")], old="old") == "new"
    assert play([TIMEOUT], [(False, "newer")], old="old") is None
    assert play([TIMEOUT], [NOTHING], old="old") is None


def test_what_stays_open_is_raised_and_never_guessed() -> None:
    with pytest.raises(Undecided) as raised:
        play([TIMEOUT] * 8, [NOTHING] * 8)
    assert raised.value.cause is TIMEOUT.cause
    with pytest.raises(Undecided):
        play([CONFLICT] * 8, [])


def test_a_reading_that_fails_leaves_it_open() -> None:
    readings = iter([Undecided(TimeoutError()), OURS])

    def read_back() -> tuple[bool, str | None]:
        match next(readings):
            case Undecided() as undecided:
                raise undecided
            case found:
                return found

    answers = iter([TIMEOUT, LOST])
    assert decide(lambda: next(answers), read_back, lambda there: there is None) == "ours"
