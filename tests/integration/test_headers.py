"""Headers: everything a hostile or broken checkpoint can say, with the safetensors library as the oracle."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from cases.weight_files import check, pack, tensor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from tasks.contract import BadInput
from tasks.files.headers import DTYPE_BITS, MAX_HEADER_BYTES


def refusal(content: bytes) -> BadInput:
    with pytest.raises(BadInput) as caught:
        check(content)
    assert caught.value.file == "model.safetensors"
    assert caught.value.do
    return caught.value


def test_a_plain_header_gives_its_tensors_in_data_order():
    header = {"b": tensor(8, 12), "__metadata__": {"format": "pt"}, "a": tensor(0, 8, [2, 1])}
    content = pack(header, bytes(12))
    entries = check(content)
    start = len(content) - 12
    assert list(entries) == ["a", "b"]
    assert (entries["a"].begin, entries["a"].end, entries["a"].shape) == (start, start + 8, (2, 1))
    assert (entries["b"].begin, entries["b"].end, entries["b"].elements) == (start + 8, start + 12, 1)


def test_no_tensors_zero_sized_tensors_and_scalars_are_fine():
    assert check(pack({})) == {}
    entries = check(
        pack({"a": tensor(0, 0, [0, 3]), "b": tensor(0, 4, []), "c": tensor(4, 4, [0])}, bytes(4))
    )
    assert [entry.elements for entry in entries.values()] == [0, 1, 0]


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_of_the_library_is_known_with_its_size(dtype):
    bits = DTYPE_BITS[dtype]
    content = pack({"a": tensor(0, bits, [8], dtype)}, bytes(bits))
    assert check(content)["a"].dtype == dtype
    assert deserialize(content)[0][1]["dtype"] == dtype


def test_the_dtypes_are_those_of_the_library():
    with pytest.raises(SafetensorError) as caught:
        deserialize(pack({"a": tensor(0, 4, [1], "ZZ")}, bytes(4)))
    listed = str(caught.value).partition("expected one of ")[2].partition(" at ")[0]
    assert {name.strip("` ") for name in listed.split(",")} == set(DTYPE_BITS)


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "short": (b"\x02\x00\x00", "too few"),
    "length beyond the file": (struct.pack("<Q", 100) + b"{}", "cut short"),
    "length beyond the cap": (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}", "more than"),
    "length of all ones": (b"\xff" * 16, "more than"),
    "not utf-8": (pack(b'{"\xff\xfe": 1}'), "UTF-8 at byte 2"),
    "not json": (pack(b'{"a": }'), "not JSON"),
    "no json at all": (pack(b""), "does not"),
    "list": (pack(b"[]"), "does not"),
    "space first": (pack(b" {}"), "byte 8"),
    "text after": (pack(b"{}x"), "not JSON"),
    "nan": (pack(b'{"a": NaN}'), "NaN"),
    "deep": (pack(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "deep"),
    "half a surrogate": (pack(b'{"\\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'), "surrogate"),
    "half a surrogate in metadata": (pack(b'{"__metadata__":{"a":"\\udc00"}}'), "surrogate"),
    "repeated tensor": (
        pack(b'{"a":%s,"a":%s}' % ((json.dumps(tensor(0, 0)).encode(),) * 2)),
        "'a' stands in it twice",
    ),
    "repeated field": (
        pack(b'{"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}}'),
        "'dtype' stands in it twice",
    ),
    "metadata of numbers": (pack({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata null": (pack({"__metadata__": None}), "__metadata__"),
    "metadata list": (pack({"__metadata__": ["a"]}), "__metadata__"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "Git-LFS"),
    "html page": (b"<!DOCTYPE html><html><title>404</title></html>", "web page"),
    "html page after spaces": (b"\n\n  <html lang=en></html>", "web page"),
    "pickle": (b"\x80\x02}q\x00X\x04\x00\x00\x00aaaaq\x01.", "more than"),
    "zip": (b"PK\x03\x04" + bytes(100), "more than"),
    "trailing bytes": (pack({"a": tensor(0, 4)}, bytes(5)), "bytes after its last tensor"),
    "missing bytes": (pack({"a": tensor(0, 4)}, bytes(3)), "ends before its data"),
    "hole": (pack({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)), "leaves a hole"),
    "hole at the start": (pack({"a": tensor(4, 8)}, bytes(8)), "leaves a hole"),
    "overlap": (pack({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)), "overlaps"),
    "same data twice": (pack({"a": tensor(0, 4), "b": tensor(0, 4)}, bytes(4)), "overlaps"),
    "unknown dtype": (pack({"a": tensor(0, 4, [1], "F33")}, bytes(4)), "'F33' is unknown"),
    "dtype of another case": (pack({"a": tensor(0, 4, [1], "f32")}, bytes(4)), "unknown"),
    "dtype a list": (pack({"a": tensor(0, 4, [1], ["F32"])}, bytes(4)), "unknown"),
    "float shape": (pack({"a": tensor(0, 4, [1.0])}, bytes(4)), "shape"),
    "true in the shape": (pack({"a": tensor(0, 4, [True])}, bytes(4)), "shape"),
    "negative shape": (pack({"a": tensor(0, 4, [-1, -1])}, bytes(4)), "shape"),
    "minus zero": (pack(b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'), "-0"),
    "text shape": (pack({"a": tensor(0, 4, "1")}, bytes(4)), "shape"),
    "nine dimensions": (pack({"a": tensor(0, 4, [1] * 9)}, bytes(4)), "8 whole numbers"),
    "shape that overflows": (pack({"a": tensor(0, 4, [2**32, 2**32])}, bytes(4)), "more elements"),
    "shape that overflows to one": (pack({"a": tensor(0, 4, [2**62, 4, 1])}, bytes(4)), "more elements"),
    "shape hidden by a zero": (pack({"a": tensor(0, 0, [2**40, 2**40, 0])}), "more elements"),
    "shape beyond 64 bits": (pack({"a": tensor(0, 0, [0, 2**64])}), "shape"),
    "negative offsets": (pack({"a": tensor(-4, 0, [1])}, bytes(4)), "data_offsets"),
    "float offsets": (
        pack({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}}, bytes(4)),
        "data_offsets",
    ),
    "swapped offsets": (pack({"a": tensor(4, 0, [1])}, bytes(4)), "data_offsets"),
    "three offsets": (
        pack({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, bytes(4)),
        "data_offsets",
    ),
    "data too small for the shape": (pack({"a": tensor(0, 4, [2])}, bytes(4)), "takes 8 bytes"),
    "data too large for the shape": (pack({"a": tensor(0, 8, [1])}, bytes(8)), "takes 4 bytes"),
    "half a byte": (pack({"a": tensor(0, 1, [1], "F4")}, bytes(1)), "takes 0.5 bytes"),
    "missing field": (pack({"a": {"dtype": "F32", "shape": [1]}}), "needs dtype"),
    "extra field": (pack({"a": {**tensor(0, 4), "x": 1}}, bytes(4)), "nothing else"),
    "tensor a list": (pack({"a": ["F32", [1], [0, 4]]}, bytes(4)), "needs dtype"),
    "empty name": (pack({"": tensor(0, 4)}, bytes(4)), "empty, unprintable"),
    "escape in a name": (pack({"a\x1b[2J": tensor(0, 4)}, bytes(4)), "unprintable"),
    "direction in a name": (pack({"a\u202eb": tensor(0, 4)}, bytes(4)), "unprintable"),
    "long name": (pack({"a" * 513: tensor(0, 4)}, bytes(4)), "longer than 512"),
    "long number": (pack(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}"), "number"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_headers_are_refused_with_their_reason(name):
    content, reason = BROKEN[name]
    assert reason in str(refusal(content))


def test_too_many_tensors_are_refused():
    entry = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    text = b"{" + b",".join(entry % index for index in range(200_001)) + b"}"
    assert "200001 tensors" in str(refusal(pack(text)))


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":[' + b"{}," * 1_000_000 + b"{}]}",
        b'{"a":[' + b"[]," * 2_600_000 + b"[]]}",
        b'{"a":[' + b"1," * 2_600_000 + b"1]}",
        b'{"__metadata__":{"a":"' + b"[" * 2_600_000 + b'"}}',
    ],
    ids=["objects", "lists", "numbers", "brackets"],
)
def test_headers_that_only_cost_memory_are_refused_early(text):
    assert "more than" in str(refusal(pack(text)))


def test_a_tensor_is_named_in_its_refusal():
    error = refusal(pack({"good": tensor(0, 4), "bad": tensor(4, 8, [7])}, bytes(8)))
    assert error.tensor == "bad"


def upstream_accepts(content: bytes) -> bool:
    try:
        deserialize(content)
    except SafetensorError:
        return False
    return True


def we_accept(content: bytes) -> bool:
    try:
        check(content)
    except BadInput:
        return False
    return True


NUMBERS = st.one_of(
    st.integers(0, 40),
    st.sampled_from([-1, -4, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 2**65, 1.0, 4.0, True, None, "4", 1e300]),
)


@st.composite
def headers(draw: Any) -> tuple[dict[str, Any], bytes]:
    """A valid header and its data."""
    header: dict[str, Any] = {}
    position = 0
    for index in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3"]))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        size = DTYPE_BITS[dtype] // 8
        for length in shape:
            size *= length
        header[f"t{index}"] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2))
    return header, bytes(position)


@st.composite
def mutants(draw: Any) -> bytes:
    """A valid file with up to three things changed: in the structure, in the text, or in the bytes."""
    header, data = draw(headers())
    names = [name for name in header if name != "__metadata__"]
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(
            st.sampled_from(["offset", "shape", "dtype", "field", "data", "swap", "replace", "metadata"])
        )
        if kind == "data":
            data = data[: draw(st.integers(0, len(data)))] + bytes(draw(st.integers(0, 5)))
        elif kind == "metadata":
            header["__metadata__"] = draw(
                st.sampled_from([None, 1, [], {}, {"a": 1}, {"a": None}, {"a": "b"}])
            )
        elif names:
            name = draw(st.sampled_from(names))
            fields = header[name] if isinstance(header[name], dict) else {}
            if kind == "offset" and isinstance(fields.get("data_offsets"), list):
                fields["data_offsets"][draw(st.integers(0, 1))] = draw(NUMBERS)
            elif kind == "shape":
                fields["shape"] = draw(st.lists(NUMBERS, max_size=3))
            elif kind == "dtype":
                fields["dtype"] = draw(st.sampled_from([*DTYPE_BITS, "F33", "", 4, None, {}]))
            elif kind == "field" and fields:
                fields.pop(draw(st.sampled_from(sorted(fields))))
            elif kind == "swap" and isinstance(fields.get("data_offsets"), list):
                fields["data_offsets"].reverse()
            elif kind == "replace":
                header[name] = draw(st.sampled_from([None, [], {}, 1, "x", ["F32", [0], [0, 0]]]))
    text = json.dumps(header).encode()
    if draw(st.integers(0, 3)) == 0 and text:
        at = draw(st.integers(0, len(text) - 1))
        text = text[:at] + draw(st.binary(max_size=2)) + text[at + draw(st.integers(0, 2)) :]
    length = len(text) + (draw(st.integers(-3, 3)) if draw(st.integers(0, 5)) == 0 else 0)
    return struct.pack("<Q", max(0, length)) + text + data


@given(headers())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_valid_files_are_accepted_and_read_as_the_library_reads_them(valid):
    header, data = valid
    content = pack(header, data)
    entries = check(content)
    theirs = {
        name: (info["dtype"], tuple(info["shape"]), bytes(info["data"]))
        for name, info in deserialize(content)
    }
    ours = {name: (e.dtype, e.shape, content[e.begin : e.end]) for name, e in entries.items()}
    assert ours == theirs


@given(mutants())
@settings(max_examples=1500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_is_accepted_that_the_library_rejects(content):
    assert upstream_accepts(content) or not we_accept(content)


@given(st.binary(max_size=64))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_random_bytes_end_in_a_refusal_and_in_nothing_else(content):
    assert not we_accept(content) or upstream_accepts(content)
