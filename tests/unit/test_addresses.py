"""Which addresses only this machine can reach, and which clusters may be used without a token."""

from __future__ import annotations

import pytest

from orchestrator.addresses import (
    ALLOW_OPEN,
    check_cluster,
    host_of,
    is_loopback,
    is_public,
    place_of,
    problem_of_cluster,
)
from orchestrator.errors import NotPermitted

HERE = [
    "127.0.0.1:6379", "127.8.9.10:6379", "localhost:6379", "LOCALHOST:1", "[::1]:6379", "::1", "ray://127.0.0.1:10001",
    "ray://localhost", "[::ffff:127.0.0.1]:6379", "127.0.0.1", "auto", "local",
]  # fmt: skip
ELSEWHERE = [
    "10.0.0.5:6379", "0.0.0.0:6379", "[::]:6379", "head.ray.svc:6379", "ray://10.0.0.5:10001", "[fe80::1%eth0]:6379",
    "localhost.example.com:6379", "127.0.0.1.example.com:6379", "2130706433:6379", "0x7f000001:6379", "127.1:6379",
    "[::ffff:10.0.0.1]:6379", "https://127.0.0.1.evil.example/", "user@10.0.0.5:6379", "169.254.169.254:80", "",
]  # fmt: skip


@pytest.mark.parametrize("address", HERE)
def test_what_only_this_machine_reaches_needs_no_token(address):
    assert problem_of_cluster(address, {}) == ""
    check_cluster(address, {})


@pytest.mark.parametrize("address", ELSEWHERE)
def test_what_others_reach_needs_one(address):
    for environment in (
        {},
        {"RAY_AUTH_MODE": ""},
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_TOKEN": "secret"},
    ):
        with pytest.raises(NotPermitted, match="RAY_AUTH_MODE=token") as told:
            check_cluster(address, environment)
        assert "secret" not in str(told.value)
        assert told.value.exit_code == 77
    check_cluster(address, {"RAY_AUTH_MODE": "token"})


def test_an_open_cluster_is_used_only_by_who_typed_that_it_is_unsafe():
    assert "UNSAFE" in ALLOW_OPEN
    check_cluster("10.0.0.5:6379", {ALLOW_OPEN: "1"})
    assert problem_of_cluster("10.0.0.5:6379", {ALLOW_OPEN: "1"}), "it stays a problem, and doctor says so"
    with pytest.raises(NotPermitted, match=ALLOW_OPEN):
        check_cluster("10.0.0.5:6379", {ALLOW_OPEN: "no"})


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("10.0.0.5:6379", "10.0.0.5"), ("10.0.0.5", "10.0.0.5"), ("ray://head:10001", "head"), ("[::1]:6379", "::1"),
        ("::1", "::1"), ("fe80::1%eth0", "fe80::1%eth0"), ("", ""),
    ],
)  # fmt: skip
def test_the_host_of_an_address(address, host):
    assert host_of(address) == host


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.5:6380", ("10.0.0.5", 6380)), ("10.0.0.5", ("10.0.0.5", 6379)), ("[::1]:7000", ("::1", 7000)),
        ("::1", ("::1", 6379)), ("[::1]", ("::1", 6379)), ("head", ("head", 6379)), ("head:x", ("head", 6379)),
        ("ray://head:10001", ("head", 10001)), ("head:123456", ("head", 6379)),
    ],
)  # fmt: skip
def test_the_host_and_port_of_an_address(address, place):
    assert place_of(address) == place


def test_a_zone_does_not_make_an_address_local():
    assert not is_loopback("fe80::1%lo")


PUBLIC = [
    "93.184.216.34",
    "2606:2800:220:1::1",
    "::ffff:93.184.216.34",
    "64:ff9b::5db8:d822",
    "2002:5db8:d822::1",
]
INSIDE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.1.1",
    "::1", "::", "fe80::1", "fe80::1%eth0", "2606:2800:220:1::1%eth0", "fd00:ec2::254", "ff02::1", "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::1", "example.org", "2852039166", "",
]  # fmt: skip


def test_a_number_is_public_only_if_nothing_in_it_is_inside():
    assert [address for address in PUBLIC if not is_public(address)] == []
    assert [address for address in INSIDE if is_public(address)] == []
