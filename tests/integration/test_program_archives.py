"""Archives of programs from strangers: what is refused, with what words, and that nothing in them ever runs."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from cases.programs import GRAPH, WEIGHT_LIST, archive_of, export, members_of, with_json
from torch import nn

from tasks.contract import BadInput
from tasks.files.layouts import read_layout
from tasks.loading.models import load_afresh, outline
from tasks.loading.weights import open_checkpoint, same_bytes, write_like

EXAMPLES = "data/sample_inputs/model.pt"


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "model.pt2"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    export(module, {"input": torch.randn(2, 4)}, path)
    return members_of(path)


@pytest.fixture
def place(tmp_path):
    """A directory with a config, into which `put(bytes)` puts a program."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"architectures": ["Sequential"]}')

    def put(data: bytes) -> Path:
        (directory / "model.pt2").write_bytes(data)
        return directory

    return put


def test_the_archive_that_the_other_tests_damage_is_good(good, place):
    assert load_afresh(place(archive_of(good))).family == "feature_classifier"


def test_another_folder_name_and_no_examples_are_as_good(good, place):
    without = {name: data for name, data in good.items() if not name.startswith("data/sample_inputs")}
    assert outline(place(archive_of(without, folder="anything"))).family == "feature_classifier"


def graph(change):
    return lambda members: with_json(members, GRAPH, change)


def weights(change):
    return lambda members: with_json(members, WEIGHT_LIST, lambda document: change(document["config"]))


def node(document, target="linear"):
    return next(item for item in document["graph_module"]["graph"]["nodes"] if target in item["target"])


DAMAGES = {
    "code in a guard": (graph(lambda d: d["guards_code"].append("__import__('os').system('true')")), "evaluate"),
    "code in a size": (
        graph(lambda d: d["graph_module"]["graph"]["tensor_values"]["input"]["sizes"].__setitem__(
            0, {"as_expr": {"expr_str": "open('/etc/passwd')", "hint": None}})),
        "evaluate",
    ),
    "code far down": (graph(lambda d: d["graph_module"]["metadata"].update(a=[{"expr_str": "exec('1')"}])), "evaluate"),
    "another schema": (graph(lambda d: d["schema_version"].update(major=9)), "version 9"),
    "no schema": (graph(lambda d: d.pop("schema_version")), "not built as torch writes it"),
    "a file is opened": (graph(lambda d: node(d).update(target="torch.ops.aten.from_file.default")), "from_file"),
    "another library": (graph(lambda d: node(d).update(target="torch.ops.mine.run.default")), "torch.ops.mine"),
    "a function of Python": (graph(lambda d: node(d).update(target="os.system")), "os.system"),
    "a way out of aten": (graph(lambda d: node(d).update(target="torch.ops.aten.linear.__class__")), "__class__"),
    "a method of the packet": (graph(lambda d: node(d).update(target="torch.ops.aten.linear.overloads")), "overloads"),
    "used before it is made": (
        graph(lambda d: node(d, "relu")["inputs"][0]["arg"]["as_tensor"].update(name="linear_1")),
        "before any step makes it",
    ),
    "made twice": (
        graph(lambda d: node(d, "relu")["outputs"][0]["as_tensor"].update(name="linear")),
        "is there already",
    ),
    "an answer that nobody makes": (
        graph(lambda d: d["graph_module"]["signature"]["output_specs"][0]["user_output"]["arg"]["as_tensor"].update(name="x")),
        "no step makes",
    ),
    "a made-up class": (
        graph(lambda d: d["graph_module"]["module_call_graph"][0]["signature"].update(
            out_spec=json.dumps([1, {"type": "collections.defaultdict", "context": "[]", "children_spec": []}]))),
        "collections.defaultdict",
    ),
    "a weight that is not stored": (weights(lambda c: c.pop("0.weight")), "not stored"),
    "a pickled weight": (weights(lambda c: c["0.weight"].update(use_pickle=True)), "pickled"),
    "another shape": (weights(lambda c: c["0.weight"]["tensor_meta"]["sizes"][0].update(as_int=7)), "takes .* bytes"),
    "a negative size": (weights(lambda c: c["0.weight"]["tensor_meta"]["sizes"][0].update(as_int=-8)), "whole numbers"),
    "a huge shape": (weights(lambda c: c["0.weight"]["tensor_meta"]["sizes"][0].update(as_int=2**62)), "whole numbers"),
    "an unknown dtype": (weights(lambda c: c["0.weight"]["tensor_meta"].update(dtype=99)), "99"),
    "other strides": (weights(lambda c: c["0.weight"]["tensor_meta"]["strides"].reverse()), "contiguous"),
    "an offset": (weights(lambda c: c["0.weight"]["tensor_meta"]["storage_offset"].update(as_int=1)), "contiguous"),
    "data elsewhere": (weights(lambda c: c["0.weight"].update(path_name="../../../etc/passwd")), "not in the archive"),
    "no fields": (weights(lambda c: c["0.weight"].clear()), "not what torch writes"),
    "a name that acts": (weights(lambda c: c.update({"\x1b[2J": c["0.weight"]})), "unprintable"),
    "compiled code": (lambda members: {**members, "data/aotinductor/model/x.so": b"\x7fELF"}, "compiled code"),
    "a stranger's member": (lambda members: {**members, "code/__init__.py": b""}, "no part of a plain program"),
    "a way up": (lambda members: {**members, "data/weights/../../x": b""}, "no part of a plain program"),
    "two folders": (lambda members: {**members, "../x": b""}, "folder|no part"),
    "big-endian": (lambda members: {**members, "byteorder": b"big"}, "byteorder"),
    "another format": (lambda members: {**members, "archive_format": b"pt3"}, "archive_format"),
    "no graph": (lambda members: {k: v for k, v in members.items() if k != GRAPH}, "none of them called model"),
    "a graph that is no JSON": (lambda members: {**members, GRAPH: b"{"}, "not JSON"),
    "a graph that is deep": (lambda members: {**members, GRAPH: b'{"a":' * 9000 + b"1" + b"}" * 9000}, "nested|deep"),
    "lists of tensors that are none": (lambda members: {**members, WEIGHT_LIST: b'{"config": 7}'}, "list its tensors"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_with_an_archive_is_said(good, place, damage):
    change, words = DAMAGES[damage]
    with pytest.raises(BadInput, match=words):
        outline(place(archive_of(change(good))))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no zip"),
        (b"PK\x03\x04", "no zip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "no zip"),
        (pickle.dumps({"a": 1}), "no zip"),
    ],
)
def test_what_is_no_archive_is_refused(place, data, words):
    with pytest.raises(BadInput, match=words):
        outline(place(data))


def test_compressed_members_are_refused(good, place):
    with pytest.raises(BadInput, match="compressed"):
        outline(place(archive_of(good, compression=zipfile.ZIP_DEFLATED)))


def test_a_member_that_lies_over_another_is_refused(good, place):
    data = bytearray(archive_of(good))
    end = data.rindex(b"PK\x05\x06")
    first = struct.unpack_from("<I", data, end + 16)[0]
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    with pytest.raises(BadInput, match="lies over|another name where it lies"):
        outline(place(bytes(data)))


def test_a_member_before_the_beginning_is_refused(good, place):
    data = archive_of(good)
    end = data.rindex(b"PK\x05\x06")
    start = struct.unpack_from("<I", data, end + 16)[0]
    with pytest.raises(BadInput, match="does not begin where"):
        outline(place(data[:end] + data[end : end + 16] + struct.pack("<I", start + 50) + data[end + 20 :]))


def test_a_document_without_its_checksum_is_refused(good, place):
    data = archive_of(good)
    at = data.index(b'"schema_version"')
    with pytest.raises(BadInput, match="checksum"):
        outline(place(data[:at] + b'"sch\xc3\xa9ma_version'[:16] + data[at + 16 :]))


def test_pickles_in_an_archive_are_neither_run_nor_published(good, place, tmp_path):
    mark = tmp_path / "ran"
    trap = pickle.dumps(Trap(mark))
    directory = place(archive_of({**good, EXAMPLES: trap, "data/weights/weight_99": trap, ".data/x": trap}))
    load_afresh(directory)
    output = tmp_path / "output"
    output.mkdir()
    findings = write_like(open_checkpoint(directory), output, lambda name: None)
    assert not mark.exists()
    left_out = {finding.subject for finding in findings if finding.kind == "skipped_file"}
    assert left_out == {EXAMPLES, "data/weights/weight_99", ".data/x"}
    assert all(trap not in data for data in members_of(output / "model.pt2").values())


def test_a_changed_tensor_is_all_that_changes_and_torch_loads_the_result(good, place, tmp_path):
    directory, output = place(archive_of(good)), tmp_path / "output"
    output.mkdir()
    zeros = torch.zeros(8, 4)
    write_like(
        open_checkpoint(directory),
        output,
        lambda name: [memoryview(zeros.numpy())] if name == "0.weight" else None,
    )
    before, after = members_of(directory / "model.pt2"), members_of(output / "model.pt2")
    assert list(before) == list(after)
    assert {name for name in before if before[name] != after[name]} == {"data/weights/weight_0", EXAMPLES}
    loaded = torch.export.load(output / "model.pt2")
    assert not loaded.state_dict["0.weight"].any()
    dense, pruned = open_checkpoint(directory), open_checkpoint(output)
    assert [name for name in dense.names if not same_bytes(dense, pruned, name)] == ["0.weight"]
    assert all(entry.begin % 64 == 0 for entry in read_layout(output).files[0].entries.values())


def test_the_same_change_makes_the_same_bytes(good, place, tmp_path):
    directory = place(archive_of(good))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_like(open_checkpoint(directory), tmp_path / name, lambda name: None)
    assert (tmp_path / "one/model.pt2").read_bytes() == (tmp_path / "two/model.pt2").read_bytes()


def test_a_file_that_is_cut_short_while_it_is_copied_is_told(good, place, tmp_path):
    directory = place(archive_of(good))
    checkpoint = open_checkpoint(directory)
    path = directory / "model.pt2"
    path.write_bytes(path.read_bytes()[:-200])
    (tmp_path / "output").mkdir()
    with pytest.raises(BadInput):
        write_like(checkpoint, tmp_path / "output", lambda name: None)
    assert not (tmp_path / "output/model.pt2").exists()


def mutated(members: dict[str, bytes], chance: random.Random) -> bytes:
    """An archive with a few bytes changed, or with a few values of a document exchanged."""
    if chance.random() < 0.5:
        data = bytearray(archive_of(members))
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
        return bytes(data[: chance.choice((len(data), chance.randrange(len(data))))])
    name = chance.choice((GRAPH, GRAPH, WEIGHT_LIST))
    document = json.loads(members[name])
    for _ in range(chance.randint(1, 3)):
        _exchange(document, chance)
    return archive_of({**members, name: json.dumps(document).encode()})


def _exchange(value, chance: random.Random) -> None:
    odd = (
        None,
        True,
        -1,
        0,
        2**63,
        1e308,
        "",
        "x",
        [],
        {},
        [1],
        {"as_int": 1},
        {"as_none": True},
        "torch.ops.aten.add.Tensor",
    )
    while isinstance(value, dict | list) and value:
        key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
        if not isinstance(value[key], dict | list) or not value[key] or chance.random() < 0.15:
            value[key] = chance.choice(odd)
            return
        value = value[key]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A program with convolution and batch norm, for which most code is needed."""
    path = tmp_path_factory.mktemp("pictures") / "model.pt2"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
        )
    export(module, {"input": torch.randn(2, 1, 4, 4)}, path)
    return members_of(path)


def run_rounds(good, directory: Path, seeds: range) -> dict[str, int]:
    """How many mutated programs were refused, and how many ran."""
    told = {"refused": 0, "ran": 0}
    for seed in seeds:
        (directory / "model.pt2").write_bytes(mutated(good, random.Random(seed)))
        try:
            model = load_afresh(directory)
            with torch.inference_mode():
                model.module(torch.zeros(2, 1, 4, 4))
            told["ran"] += 1
        except BadInput:
            told["refused"] += 1
    return told


def test_six_hundred_mutated_programs_are_refused_or_run(pictures, place):
    told = run_rounds(pictures, place(archive_of(pictures)), range(600))
    assert sum(told.values()) == 600
    assert min(told.values()) > 50


@pytest.mark.soak
def test_a_hundred_thousand_mutated_programs_are_refused_or_run(pictures, place):
    told = run_rounds(pictures, place(archive_of(pictures)), range(1000, 101_000))
    assert sum(told.values()) == 100_000


def test_a_zip_of_two_gigabytes_and_more_would_be_aligned_too():
    from tasks.files.archives import _padding

    for position, size in ((0, 2**31), (64, 10), (17, 2**40)):
        extra = _padding(position, "model/data/weights/weight_0", size)
        header = 30 + len("model/data/weights/weight_0") + (20 if size >= 2**31 else 0)
        assert (position + header + len(extra)) % 64 == 0
        assert extra[:2] == b"FB"
        assert int.from_bytes(extra[2:4], "little") == len(extra) - 4


def test_the_checksum_of_every_member_that_is_written_holds(good, place, tmp_path):
    directory = place(archive_of(good))
    (tmp_path / "output").mkdir()
    write_like(open_checkpoint(directory), tmp_path / "output", lambda name: None)
    with zipfile.ZipFile(io.BytesIO((tmp_path / "output/model.pt2").read_bytes())) as archive:
        assert archive.testzip() is None
        assert {zlib.crc32(archive.read(info)) == info.CRC for info in archive.infolist()} == {True}
