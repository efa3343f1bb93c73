"""The S3 store when the server refuses, breaks off, lies or is not there."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cases.store_calls import calls_of
from servers.ceph import S3Server
from servers.scripted import Fault, Scripted

from orchestrator.errors import Damaged, NotFound, NotPermitted, StoreError, Unreachable
from orchestrator.spec import StoreSpec
from orchestrator.stores.s3 import DIGEST, WRITER, S3Store

PATH = "/bucket/prefix/key"


@pytest.fixture
def shaky(scripted: Scripted) -> S3Store:
    """A store on the scripted server."""
    return S3Store(StoreSpec(url="s3://bucket/prefix", endpoint=scripted.endpoint))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 and the store pause for a hundredth of what they would."""
    sleep = time.sleep
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: sleep(seconds / 100))
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: sleep(seconds / 100))


@pytest.mark.parametrize(
    "faults",
    [
        ("+reset",),
        ("+reset", "+reset"),
        ("+500",),
        ("+503",),
        ("reset",),
        (500, 503, "reset"),
        (409,),
        (409, "+reset"),
        (409, 409, 409, 409, 409),
        ("+500", 409),
        (500, 500, 500, "+500"),
        ("reset", "reset", "reset", "reset", "reset"),
        (500, "+reset", 412),
    ],
    ids=str,
)
def test_whatever_happens_to_the_reply_our_creation_is_ours(
    shaky: S3Store, scripted: Scripted, faults: tuple[Fault, ...]
) -> None:
    scripted.fail("PUT", *faults)
    assert shaky.put_if_absent("key", b"ours") is True
    assert scripted.objects[PATH] == b"ours"


@pytest.mark.parametrize(
    "faults", [(), (409,), (500,), ("reset",), (500, 500, 500, 500, 500), (409, "reset")], ids=str
)
def test_whatever_happens_to_the_reply_anothers_creation_is_not_ours(
    shaky: S3Store, scripted: Scripted, faults: tuple[Fault, ...]
) -> None:
    assert shaky.put_if_absent("key", b"theirs")
    scripted.fail("PUT", *faults)
    assert shaky.put_if_absent("key", b"ours") is False
    assert scripted.objects[PATH] == b"theirs"


def test_equal_bytes_of_another_writer_are_not_ours(shaky: S3Store, scripted: Scripted) -> None:
    """Ceph answers 500 to losers of a race; the same bytes there do not make them winners."""
    assert shaky.put_if_absent("key", b"same")
    scripted.fail("PUT", 500)
    assert shaky.put_if_absent("key", b"same") is False


def test_equal_bytes_without_a_writers_mark_are_taken_for_ours(shaky: S3Store, scripted: Scripted) -> None:
    scripted.objects[PATH] = b"same"
    scripted.fail("PUT", 500)
    assert shaky.put_if_absent("key", b"same") is True


def test_the_reading_back_may_fail_too(shaky: S3Store, scripted: Scripted) -> None:
    scripted.fail("PUT", "+reset")
    scripted.fail("GET", 500, 500, 500, 500, "cut", 503)
    assert shaky.put_if_absent("key", b"ours") is True


@pytest.mark.parametrize("faults", [("+reset",), ("+500",), (500,), (409, 409), ("reset", "+reset")], ids=str)
def test_a_swap_is_ours_whatever_happens_to_the_reply(
    shaky: S3Store, scripted: Scripted, faults: tuple[Fault, ...]
) -> None:
    first = shaky.swap("key", b"1", None)
    scripted.fail("PUT", *faults)
    second = shaky.swap("key", b"2", first)
    assert second == shaky.stat("key").etag  # type: ignore[union-attr]
    scripted.fail("PUT", *faults)
    assert shaky.swap("key", b"3", first) is None
    assert scripted.objects[PATH] == b"2"


def test_an_open_end_is_an_error_and_never_an_answer(shaky: S3Store, scripted: Scripted) -> None:
    scripted.fail("PUT", *[409] * 100)
    with pytest.raises(StoreError, match="ConditionalRequestConflict"):
        shaky.put_if_absent("key", b"ours")
    assert scripted.count("PUT") == 8
    scripted.faults["PUT"].clear()
    scripted.fail("PUT", *["reset"] * 100)
    with pytest.raises(Unreachable, match="does not answer"):
        shaky.put_if_absent("other", b"ours")


def test_a_server_without_conditional_writes_is_named(shaky: S3Store, scripted: Scripted) -> None:
    scripted.fail("PUT", 501)
    with pytest.raises(StoreError, match="doctor"):
        shaky.put_if_absent("key", b"")


def test_a_refused_write_is_not_permitted_and_not_tried_again(shaky: S3Store, scripted: Scripted) -> None:
    scripted.fail("PUT", 403, 403)
    with pytest.raises(NotPermitted, match="prefix"):
        shaky.put_if_absent("key", b"")
    with pytest.raises(NotPermitted):
        shaky.put("key", b"")
    assert scripted.count("PUT") == 2


def test_a_plain_write_is_repeated_until_it_holds(shaky: S3Store, scripted: Scripted) -> None:
    scripted.fail("PUT", 500, "reset", 503)
    shaky.put("key", b"data")
    assert scripted.objects[PATH] == b"data"


@pytest.mark.parametrize("fault", ["cut", "flip", 500, 503])
def test_a_bad_reading_is_repeated(shaky: S3Store, scripted: Scripted, fault: Fault) -> None:
    shaky.put("key", b"data" * 1000)
    scripted.fail("GET", fault)
    assert shaky.get("key") == b"data" * 1000


def test_a_flipped_bit_is_damage(shaky: S3Store, scripted: Scripted) -> None:
    shaky.put("key", b"data")
    scripted.objects[PATH] = b"dat\xe1"
    with pytest.raises(Damaged, match="key in s3://bucket/prefix is damaged"):
        shaky.get("key")


def test_an_object_that_is_always_cut_is_unreachable(shaky: S3Store, scripted: Scripted) -> None:
    shaky.put("key", b"data" * 100)
    scripted.fail("GET", *["cut"] * 10)
    with pytest.raises(Unreachable):
        shaky.get("key")


def test_every_write_carries_its_digest_and_only_conditional_ones_a_mark(
    shaky: S3Store, scripted: Scripted, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"data")
    shaky.put("a", b"data")
    shaky.put_if_absent("b", b"data")
    shaky.upload(tmp_path / "file", "c")
    for key in "abc":
        headers = {name.lower(): value for name, value in scripted.metadata[f"/bucket/prefix/{key}"].items()}
        assert headers[f"x-amz-meta-{DIGEST}"].startswith("3a6eb079")
        assert (f"x-amz-meta-{WRITER}" in headers) is (key == "b")


def test_off_aws_no_checksum_is_sent_that_servers_refuse(shaky: S3Store, scripted: Scripted) -> None:
    shaky.put("key", b"data")
    ((_, _, headers),) = scripted.requests
    assert not [name for name in headers if "checksum" in name.lower() or "trailer" in name.lower()]
    assert "aws-chunked" not in headers.get("Content-Encoding", "")


def test_nobody_there_is_told_quickly(scripted: Scripted) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    store = S3Store(StoreSpec(url="s3://bucket/prefix", endpoint=endpoint))
    calls = calls_of(store)
    began = time.monotonic()
    for call in calls:
        with pytest.raises(Unreachable, match="s3://bucket/prefix"):
            call()
    assert time.monotonic() - began < 30


@pytest.mark.s3
def test_a_wrong_secret_is_not_permitted_and_stays_untold(
    s3_store: Callable[..., S3Store], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = s3_store("prefix")
    (tmp_path / "file").write_bytes(b"data")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-at-all")
    calls: tuple[Callable[[], object], ...] = (
        *calls_of(store),
        lambda: store.upload(tmp_path / "file", "key"),
        lambda: store.download("key", tmp_path / "other"),
    )
    for call in calls:
        with pytest.raises(NotPermitted) as raised:
            call()
        assert "not-the-secret" not in str(raised.value)
        assert "fleetkey" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.s3
def test_no_credentials_are_not_permitted(
    s3_store: Callable[..., S3Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_store()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(NotPermitted, match="AWS_PROFILE"):
        store.stat("key")


@pytest.mark.s3
def test_a_missing_bucket_is_named_and_is_no_missing_object(
    ceph: S3Server, s3_store: Callable[..., S3Store]
) -> None:
    s3_store()
    store = S3Store(StoreSpec(url="s3://no-such-bucket/prefix", endpoint=ceph.endpoint))
    for call in (lambda: store.get("key"), lambda: store.put("key", b""), lambda: list(store.list(""))):
        with pytest.raises(StoreError, match="create the bucket") as raised:
            call()
        assert not isinstance(raised.value, NotFound)


@pytest.mark.s3
def test_damage_behind_the_stores_back_is_noticed(
    ceph: S3Server, s3_store: Callable[..., S3Store], tmp_path: Path
) -> None:
    store = s3_store()
    bucket = store.url.removeprefix("s3://")
    (tmp_path / "file").write_bytes(b"x" * (20 << 20))
    store.put("small", b"data")
    store.upload(tmp_path / "file", "large")
    client = ceph.client()
    for key, size in (("small", 4), ("large", 20 << 20)):
        metadata = client.head_object(Bucket=bucket, Key=key)["Metadata"]
        client.put_object(Bucket=bucket, Key=key, Body=b"y" * size, Metadata=metadata)
        with pytest.raises(Damaged, match=key):
            store.get(key)
        with pytest.raises(Damaged, match=key):
            store.download(key, tmp_path / "down")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing half or wrong is left"


@pytest.mark.s3
def test_objects_of_others_in_the_bucket_are_read_and_those_beside_the_prefix_not_seen(
    ceph: S3Server, s3_store: Callable[..., S3Store]
) -> None:
    store = s3_store("mine")
    bucket = store.url.removeprefix("s3://").split("/")[0]
    client = ceph.client()
    for key in ("mine/foreign", "mine2/x", "other", "mine/", "mine//odd", "mine/folder/"):
        client.put_object(Bucket=bucket, Key=key, Body=b"data")
    assert [found.key for found in store.list("")] == ["foreign"]
    assert store.get("foreign") == b"data"


@pytest.mark.s3
def test_a_large_upload_is_visible_only_when_it_is_whole(
    ceph: S3Server, s3_store: Callable[..., S3Store]
) -> None:
    store = s3_store()
    bucket = store.url.removeprefix("s3://")
    client = ceph.client()
    begun = client.create_multipart_upload(Bucket=bucket, Key="large")
    client.upload_part(
        Bucket=bucket, Key="large", UploadId=begun["UploadId"], PartNumber=1, Body=b"x" * (5 << 20)
    )
    assert store.stat("large") is None
    assert list(store.list("")) == []


@pytest.mark.s3
def test_a_key_that_its_prefix_makes_too_long_is_refused(s3_store: Callable[..., S3Store]) -> None:
    store = s3_store("p" * 200)
    with pytest.raises(StoreError, match="limit of S3"):
        store.put("/".join(["k" * 200] * 5), b"")
