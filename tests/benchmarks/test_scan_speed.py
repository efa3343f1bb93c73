"""How long a night on which nothing changed takes to find that out."""

from __future__ import annotations

import json
import time

import pytest

from orchestrator.registries.directory import DirectoryRegistry
from orchestrator.registries.memory import dump_memory, load_memory

pytestmark = pytest.mark.benchmark

AT = 4e9
VERSIONS = 10_000
LIMIT_SECONDS = 5.0  # for the whole of `plan`; the scan is a part of it


def test_ten_thousand_versions_are_scanned_from_a_warm_memory_within_the_limit(
    tmp_path, record_property, capsys
):
    text = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    weights = len(text).to_bytes(8, "little") + text + bytes(4)
    for number in range(VERSIONS):
        directory = tmp_path / f"model{number // 10}" / f"v{number % 10}"
        directory.mkdir(parents=True)
        (directory / "config.json").write_bytes(b'{"architectures": ["Tiny"]}')
        (directory / "tokenizer.json").write_bytes(b"{}")
        (directory / "model.safetensors").write_bytes(weights)
    seconds = {}
    stored, found = None, []
    for state in ("cold", "warm"):
        started, busy = time.perf_counter(), time.process_time()
        memory, problem = load_memory(stored, AT)
        before, found = found, list(DirectoryRegistry("zoo", tmp_path, memory).scan())
        stored = dump_memory(memory)
        seconds[state] = time.perf_counter() - started
        busy_seconds = time.process_time() - busy
        assert problem == ""
        record_property(f"{state}_seconds", seconds[state])
    assert found == before
    assert len(found) == VERSIONS
    with capsys.disabled():
        print(f" {VERSIONS} versions: cold {seconds['cold']:.2f} s, warm {seconds['warm']:.2f} s ", end="")
    assert busy_seconds < LIMIT_SECONDS, (
        "of its own work; what other processes take of a shared machine is not counted"
    )
