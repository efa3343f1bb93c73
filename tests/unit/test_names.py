"""What a name from outside may be, how it is shown, and how people count."""

from __future__ import annotations

import random

import pytest

from orchestrator.names import clash, is_sha256, natural, problem_of_part, problem_of_path, shown

HOSTILE_PARTS = [
    "",
    ".",
    "..",
    "...",
    ".hidden",
    "a\\b",
    "C:\\windows",
    "\\\\server\\share",
    "nul\0byte",
    "new\nline",
    "tab\there",
    "\x1b[31mred",
    "bell\a",
    "delete\x7f",
    "c1\x9b31m",
    "\u202eright-to-left",
    "zero\u200bwidth",
    "line\u2028separator",
    "lone\ud800surrogate",
    "\udcff",
    " leading",
    "trailing ",
    "no-break\u00a0space",
    "\uff0e\uff0e",
    "\u2025",
    "a\uff0fb",
    "%2e%2e",
    "%2e%2e%2fetc",
    "a%2fb",
    "a%00b",
    "x" * 256,
    "é" * 128,
    "x" * 4096,
]


@pytest.mark.parametrize("part", HOSTILE_PARTS, ids=range(len(HOSTILE_PARTS)))
def test_a_hostile_part_is_refused_with_a_reason(part):
    assert problem_of_part(part)
    assert problem_of_path(f"models/{part}/v1")


def test_a_part_holds_no_separator_and_a_path_does():
    assert problem_of_part("a/b")
    assert problem_of_path("a/b") == ""


@pytest.mark.parametrize(
    "part", ["v1", "a", "模型", "naïve", "a b", "a..b", "a.", "C:x", "100%", "x" * 255, "@", "~", "-rf"]
)
def test_an_ordinary_part_is_accepted(part):
    assert problem_of_part(part) == ""


@pytest.mark.parametrize("path", ["/etc/passwd", "//host/share", "a//b", "a/", "../a", "a/../b", "a/./b", ""])
def test_a_path_that_could_leave_its_root_is_refused(path):
    assert problem_of_path(path)


def test_a_path_of_four_kibibytes_is_refused_for_its_length():
    assert problem_of_path("/".join(["part"] * 1024)) == "it is longer than 512 bytes"


def test_the_reason_names_the_part_without_its_escapes():
    reason = problem_of_path("good/\x1b[2Jbad")
    assert "\x1b" not in reason
    assert r"\\x1b[2Jbad" in reason


def test_ten_thousand_random_names_are_refused_or_stay_where_they_are():
    generator = random.Random(7)
    alphabet = [
        "..",
        ".",
        "/",
        "\\",
        "a",
        "B",
        "\0",
        "\n",
        "%2e",
        "%2f",
        "\uff0e",
        "\u2024",
        "\u202e",
        " ",
        "é",
        "\udc80",
        "v1",
    ]
    accepted = 0
    for _ in range(10_000):
        path = "".join(generator.choices(alphabet, k=generator.randint(1, 8)))
        if problem_of_path(path) == "":
            accepted += 1
            parts = path.split("/")
            assert all(part and part.isprintable() and not part.startswith(".") for part in parts)
    assert 200 < accepted < 9_000


@pytest.mark.parametrize("name", HOSTILE_PARTS, ids=range(len(HOSTILE_PARTS)))
def test_what_is_shown_is_printable_encodable_and_short(name):
    text = shown(name)
    assert text.isprintable()
    assert len(text) <= 160
    text.encode("utf-8")


def test_an_ordinary_name_is_shown_as_it_is():
    assert shown("模型/v1") == "模型/v1"


def test_people_count_v2_before_v10():
    names = ["v10", "v2", "v1", "v1.10", "v1.9", "v01", "main", "v2-rc1", "2024-01-10", "2024-01-9"]
    assert sorted(names, key=natural) == [
        "2024-01-9",
        "2024-01-10",
        "main",
        "v01",
        "v1",
        "v1.9",
        "v1.10",
        "v2",
        "v2-rc1",
        "v10",
    ]


def test_natural_order_is_total_and_does_not_depend_on_the_order_given():
    generator = random.Random(3)
    names = ["".join(generator.choices("ab019.-", k=5)) for _ in range(500)]
    keys = {natural(name): name for name in names}
    assert len(keys) == len(set(names))
    shuffled = names[:]
    generator.shuffle(shuffled)
    assert sorted(names, key=natural) == sorted(shuffled, key=natural)


def test_a_number_of_ten_thousand_digits_is_compared_and_not_converted():
    assert natural("v" + "9" * 10_000) < natural("v1" + "0" * 10_000)


def test_digits_of_other_scripts_are_letters():
    assert natural("v²") != natural("v2")


def test_names_that_differ_only_in_case_or_in_how_accents_are_written_clash():
    assert clash(["Model", "model"]) == ("Model", "model")
    assert clash(["caf\u00e9", "cafe\u0301"]) is not None
    assert clash(["straße", "STRASSE"]) is not None
    assert clash(["model-1", "model-2"]) is None


@pytest.mark.parametrize(
    "text", ["", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n", "a" * 65, None, 7, b"a" * 64]
)
def test_only_64_lower_case_hex_digits_are_a_digest(text):
    assert not is_sha256(text)


def test_a_digest_is_a_digest():
    assert is_sha256("0123456789abcdef" * 4)
