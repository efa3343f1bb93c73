"""Where no cluster answers, a run says so soon, and leaves the environment as it was."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

JOIN = """
import os, sys
from orchestrator.backends import ray_backend
from orchestrator.errors import Unreachable
before = dict(os.environ)
try:
    ray_backend.connect({}, None, sys.argv[1])
except Unreachable as error:
    print(error)
assert dict(os.environ) == before
"""


def join(address, **environment):
    """What joining says, and the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip(), time.monotonic() - began


@pytest.fixture
def port():
    """A free port, on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_head_that_is_not_there_is_named_at_once(port):
    told, seconds = join(f"127.0.0.1:{port}")
    assert f"nothing answers at 127.0.0.1 port {port}" in told
    assert "Is its head running?" in told
    assert seconds < 60  # Ray alone takes some 400 s


@pytest.mark.soak
def test_a_head_that_stopped_answering_is_given_up_within_a_minute():
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(64)
        told, seconds = join(f"127.0.0.1:{mute.getsockname()[1]}")
    assert "cannot be used" in told
    assert seconds < 120
