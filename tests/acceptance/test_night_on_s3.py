"""The same night against a real S3 server: nothing but the fleet file's store changes."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def night(ceph, make_home):
    bucket = ceph.make_bucket()
    home = make_home(
        store="{" + f'url: "s3://{bucket}/a/prefix", endpoint: "{ceph.endpoint}", region: us-east-1' + "}"
    )
    home.environment.update(
        {name: value for name, value in ceph.environment.items() if "ENDPOINT" not in name}
    )
    return home, home.run(check=3), ceph, bucket


def keys(ceph, bucket):
    pages = ceph.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def test_a_night_on_s3_ends_as_one_in_a_directory_does(night):
    _, summary, ceph, bucket = night
    assert summary["outcome"] == "blocked"
    assert summary["verdicts"] == {"pass": 2, "block": 1}
    results = [key for key in keys(ceph, bucket) if key.startswith("a/prefix/results/")]
    assert len(results) == summary["units"]["done"]
    assert {key.split("/")[0] for key in keys(ceph, bucket)} == {"a"}


def test_the_tables_on_s3_answer_queries(night):
    home, summary, *_ = night
    rows = home.query("SELECT recipe, verdict FROM verdicts WHERE gate = 'overall' ORDER BY recipe")
    assert [row["verdict"] for row in rows] == ["pass", "block", "pass"]
    (row,) = home.query("SELECT count(*) AS units, count(DISTINCT unit_key) AS keys FROM units")
    assert row["units"] == row["keys"] == summary["units"]["done"]


def test_the_next_night_has_nothing_to_do(night):
    home, *_ = night
    assert home.run(check=0)["outcome"] == "nothing to do"


def test_what_passed_is_published_from_the_bucket(night):
    home, *_ = night
    aliases = json.loads((home.root / "published" / "lm" / "aliases.json").read_text())
    assert (home.root / "published" / "lm" / aliases["candidate"] / "model.safetensors").is_file()


def test_a_wrong_secret_is_not_permitted_and_says_so(night):
    home, *_ = night
    right = home.environment["AWS_SECRET_ACCESS_KEY"]
    home.environment["AWS_SECRET_ACCESS_KEY"] = "wrong-secret-0815"
    try:
        done = home.cli("plan", "fleet.yaml", check=77)
    finally:
        home.environment["AWS_SECRET_ACCESS_KEY"] = right
    assert "s3://" in done.stderr
    assert "wrong-secret-0815" not in done.stderr + done.stdout


def test_an_endpoint_that_is_not_there_is_unreachable(night, make_home):
    home = make_home(
        models={"mlp/1": "mlp"}, store='{url: "s3://no-bucket/p", endpoint: "http://127.0.0.1:9"}'
    )
    home.environment.update(night[0].environment)
    done = home.cli("plan", "fleet.yaml", check=69)
    assert "127.0.0.1:9" in done.stderr


def test_no_secret_is_in_any_object(night):
    home, _, ceph, bucket = night
    secret = home.environment["AWS_SECRET_ACCESS_KEY"].encode()
    client = ceph.client()
    for key in keys(ceph, bucket):
        assert secret not in client.get_object(Bucket=bucket, Key=key)["Body"].read()
