"""Secrets are masked wherever they stand in a text, and nothing else is."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.redaction import MASK, redacted, secrets_of


def test_a_secret_is_known_by_its_variables_name():
    environment = {
        "AWS_SECRET_ACCESS_KEY": "s3cret-one",
        "HF_TOKEN": "hf_two_two",
        "MLFLOW_TRACKING_PASSWORD": "three-three",
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "RAY_AUTH_MODE": "token-mode",
        "RAY_AUTH_TOKEN_PATH": "/run/secrets/token",
        "TOKENIZERS_PARALLELISM": "false-false",
        "SHORT_TOKEN": "abc",
        "HOME": "/home/user",
    }
    assert secrets_of(environment) == ("three-three", "hf_two_two", "s3cret-one")


@given(st.text(min_size=6, max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_known_secret_is_left_in_any_text(secret, before, after):
    for form in (secret, quote(secret, safe=""), repr(secret)[1:-1]):
        told = redacted(f"{before}{form}{after}", [secret])
        assert form in (MASK, "") or form not in told or form in MASK or MASK in form


def test_a_longer_secret_is_masked_before_the_one_that_begins_it():
    secrets = secrets_of({"A_TOKEN": "abcdef", "B_TOKEN": "abcdefghij"})
    assert redacted("abcdefghij", secrets) == MASK


def test_what_looks_like_a_secret_is_masked_though_nobody_knows_it():
    cases = {
        "http://user:pw@host/path": f"http://{MASK}@host/path",
        "https://h/?X-Amz-Signature=abc123&x=1": f"https://h/?X-Amz-Signature={MASK}&x=1",
        "https://h/?token=abc": f"https://h/?token={MASK}",
        "Authorization: Bearer abcdefghijkl": f"Authorization: Bearer {MASK}",
        "Basic dXNlcjpwYXNz": f"Basic {MASK}",
        "-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----": MASK,
        "-----BEGIN PRIVATE KEY-----\nMHc": MASK,
    }
    for text, told in cases.items():
        assert redacted(text, ()) == told


def test_plain_texts_stay_as_they_are():
    for text in (
        "model.safetensors: tensor a: 4 bytes of 8",
        "s3://bucket/prefix/runs/x/status.json",
        "lm@1 has no basic layers",
        "email someone@example.org about it",
        "the key layers.0.weight=3 is missing",
    ):
        assert redacted(text, ()) == text
