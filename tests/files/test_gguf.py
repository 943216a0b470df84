"""GGUF headers: what is right is read exactly, each kind of lie is named."""
from __future__ import annotations

import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from file_builder import Gguf, small_gguf

from skipstone.errors import FileError
from skipstone.files import open_model
from skipstone.files.gguf_types import TYPES


@pytest.fixture
def write(tmp_path):
    def write(data: bytes) -> Path:
        path = tmp_path / "small.gguf"
        path.write_bytes(data)
        return path
    return write


@pytest.mark.parametrize("version", [2, 3])
def test_reads_keys_and_tensors(write, version):
    model = open_model(write(small_gguf(version=version).build()))
    assert (model.format, model.architecture, model.name, model.config) == ("gguf", "small", "small.gguf", {})
    assert model.metadata == {
        "general.architecture": "small", "small.count": 7, "small.names": ["a", "bc", ""], "small.sizes": [1, -2, 3], "small.flag": True,
        "small.flags": [True, False], "small.eps": 0.5, "small.wide": 0.25, "small.u8": 255, "small.i8": -1, "small.u16": 65535,
        "small.i16": -2, "small.i32": -3, "small.u64": 2**63, "small.i64": -(2**62)}
    assert type(model.metadata["small.flag"]) is bool and type(model.metadata["small.flags"][0]) is bool
    table = model.tensors["token_embd.weight"]
    assert (table.type, table.shape, table.source, table.data.tobytes()) == ("Q8_0", (3, 64), "small.gguf", bytes(3 * 2 * 34))
    norm = model.tensors["output_norm.weight"]
    assert (norm.type, norm.shape, norm.data.tobytes()) == ("F32", (5,), b"\1" * 20)


def test_views_are_read_only_and_not_copied(write):
    path = write(small_gguf().build())
    tensor = open_model(path).tensors["output_norm.weight"]
    assert tensor.data.dtype == np.uint8 and tensor.data.ndim == 1 and not tensor.data.flags.writeable and not tensor.data.flags.owndata
    with open(path, "r+b") as file:         # a mapping sees what is written to the file, a copy does not
        file.seek(-32, os.SEEK_END)
        file.write(b"\7")
    assert tensor.data[0] == 7


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_alignment_of_the_file(write, alignment):
    gguf = small_gguf(alignment=alignment)
    gguf.keys.append(("general.alignment", "u32", alignment))
    model = open_model(write(gguf.build()))
    assert [t.data[0] for t in model.tensors.values()] == [0, 1]


def test_no_tensors_and_no_padding(write):
    gguf = Gguf([("general.architecture", "str", "vocabulary only")])
    assert open_model(write(b"".join(f.data for f in gguf.fields()))).tensors == {}


def test_tensors_may_come_in_any_order(write):
    data = small_gguf().build(offset_of_token_embd_weight=32, offset_of_output_norm_weight=0)
    model = open_model(write(data))
    assert model.tensors["token_embd.weight"].data[0] == 0 and model.tensors["output_norm.weight"].shape == (5,)


def test_nan_and_infinity_are_values(write):
    gguf = Gguf([("general.architecture", "str", "a"), ("x", "[f32]", [math.nan, math.inf])])
    values = open_model(write(gguf.build())).metadata["x"]
    assert math.isnan(values[0]) and values[1] == math.inf


def test_types_agree_with_the_gguf_package():
    gguf = pytest.importorskip("gguf")
    sizes = {int(k): (k.name, *v) for k, v in gguf.GGML_QUANT_SIZES.items()}
    for number, known in TYPES.items():
        if number in sizes:
            assert sizes[number] == (known.name, known.block, known.bytes)


def test_an_empty_architecture_and_a_cut_description(write):
    gguf = small_gguf()
    gguf.keys.append(("general.description", "str", "ab\u00e9"))
    model = open_model(write(gguf.build(**{"text_value_of_general_description": b"abc\xc3"})))     # cut in a character
    assert model.metadata["general.description"] == "abc\ufffd"


# What is replaced in the small file, and what the message says. The message must name what is wrong.
LIES = {
    "magic": (dict(text_magic=b"GGML"), "starts with b'GGML'; expected b'GGUF'"),
    "version 1": (dict(version=1), "GGUF version 1; expected version 2 or 3"),
    "version of the future": (dict(version=4), "GGUF version 4"),
    "big-endian": (dict(version=b"\0\0\0\3"), "big-endian GGUF; expected a little-endian"),
    "tensor count 2^63": (dict(count_of_tensors=2**63), "number of tensors claims 9223372036854775808"),
    "tensor count beyond the file": (dict(count_of_tensors=1000), "number of tensors claims 1000"),
    "one tensor too many": (dict(count_of_tensors=3), "small.gguf: .*expected"),
    "key count 2^64-1": (dict(count_of_keys=2**64 - 1), "number of keys claims 18446744073709551615"),
    "key count beyond the file": (dict(count_of_keys=2**20), "number of keys claims 1048576"),
    "key length 2^63": (dict(length_of_key_small_count=2**63), "name of key number.*needs 9223372036854775808 bytes"),
    "key length 2^64-1": (dict(length_of_key_small_count=2**64 - 1), "name of key number.*needs 18446744073709551615 bytes"),
    "key without a name": (dict(length_of_key_small_count=0, text_key_small_count=b""), "key number 1 has no name"),
    "key twice": (dict(text_key_small_i16=b"small.u16"), "key small.u16 is there twice; expected each key once"),
    "key is no UTF-8": (dict(text_key_small_count=b"small.c\xff\xffnt"), r"name of key number\[1\] is not UTF-8"),
    "value of type 13": (dict(kind_of_small_count=13), "key small.count has a value of type 13; expected a type from 0 to 12"),
    "value of type 2^32-1": (dict(kind_of_small_count=2**32 - 1), "key small.count has a value of type 4294967295"),
    "string length 2^63": (dict(length_of_value_of_general_architecture=2**63), "key general.architecture needs 9223372036854775808 bytes"),
    "string length wraps": (dict(length_of_value_of_general_architecture=2**64 - 8), "key general.architecture needs 18446744073709551608 bytes"),
    "string in an array, length": (dict(**{"length_of_small_names[1]": 2**40}), r"key small.names\[1\] needs 1099511627776 bytes"),
    "string in an array is no UTF-8": (dict(**{"text_small_names[1]": b"\xc3\x28"}), r"key small.names\[1\] is not UTF-8"),
    "surrogates in UTF-8": (dict(**{"text_small_names[1]": b"\xed\xa0\x80", "length_of_small_names[1]": 3}), r"key small.names\[1\] is not UTF-8"),
    "array count 2^61 wraps": (dict(count_of_small_sizes=2**62 + 1), "key small.sizes claims 4611686018427387905 entries"),
    "array count beyond the file": (dict(count_of_small_sizes=500), "key small.sizes claims 500 entries"),
    "array of arrays": (dict(element_kind_of_small_sizes=9), "key small.sizes is an array of arrays"),
    "array of type 13": (dict(element_kind_of_small_sizes=13), "key small.sizes is an array of elements of type 13"),
    "bool 2": (dict(value_of_small_flag=2), "key small.flag is a bool with the value 2; expected 0 or 1"),
    "bool 2 in an array": (dict(**{"small_flags[1]": 255}), r"key small.flags\[1\] is a bool with the value 255"),
    "tensor without a name": (dict(length_of_tensor_output_norm_weight=0, text_tensor_output_norm_weight=b""), "tensor number 1 has no name"),
    "tensor name length": (dict(length_of_tensor_output_norm_weight=2**33), r"name of tensor number\[1\] needs 8589934592 bytes"),
    "rank 0": (dict(rank_of_output_norm_weight=0), "tensor output_norm.weight has 0 dimensions; expected 1 to 4"),
    "rank 5": (dict(rank_of_output_norm_weight=5), "tensor output_norm.weight has 5 dimensions; expected 1 to 4"),
    "rank 2^32-1": (dict(rank_of_output_norm_weight=2**32 - 1), "tensor output_norm.weight has 4294967295 dimensions"),
    "dimension 0": (dict(dimension_1_of_token_embd_weight=0), r"tensor token_embd.weight has dimensions \[64, 0\]"),
    "dimension 2^63": (dict(dimension_1_of_token_embd_weight=2**63), r"tensor token_embd.weight has dimensions \[64, 9223372036854775808\]"),
    "product overflows to the right size": (dict(dimension_1_of_token_embd_weight=2**58 + 3), "tensor token_embd.weight has dimensions"),
    "product of allowed dimensions": (dict(dimension_1_of_token_embd_weight=2**40), "token_embd.weight of type Q8_0 .* needs 74766790688768 bytes"),
    "row no multiple of the block": (dict(dimension_0_of_token_embd_weight=65),
                                     "tensor token_embd.weight has type Q8_0 and rows of 65 weights; expected a multiple of 32"),
    "too short for a tensor": (dict(dimension_1_of_token_embd_weight=9),
                               "tensor token_embd.weight of type Q8_0 .* needs 612 bytes at offset 0, but the file has only 256"),
    "hole in the types, Q4_2": (dict(type_of_token_embd_weight=4), "tensor token_embd.weight has type 4, Q4_2, which GGUF no longer has"),
    "hole in the types, 36": (dict(type_of_token_embd_weight=36), "tensor token_embd.weight has type 36, IQ4_NL_4_4"),
    "activation type": (dict(type_of_token_embd_weight=15), "type 15, Q8_K, which is for activations only"),
    "unknown type": (dict(type_of_token_embd_weight=2**32 - 1),
                     "tensor token_embd.weight has type 4294967295, which is no GGUF type that Skipstone knows; expected one of F32"),
    "offset not aligned": (dict(offset_of_output_norm_weight=225),
                           "tensor output_norm.weight starts at offset 225; expected a multiple of the alignment 32"),
    "offset beyond the file": (dict(offset_of_output_norm_weight=2**20),
                               "tensor output_norm.weight of type F32 .* offset 1048576, but the file has only 256"),
    "offset wraps": (dict(offset_of_output_norm_weight=2**64 - 32), "offset 18446744073709551584, but the file has only"),
    "overlap": (dict(offset_of_output_norm_weight=192), "tensor output_norm.weight starts at offset 192, inside tensor token_embd.weight"),
    "the same place": (dict(offset_of_output_norm_weight=0), "inside tensor"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_named(write, name):
    lies, message = LIES[name]
    with pytest.raises(FileError, match="small.gguf: ") as caught:
        open_model(write(small_gguf().build(**lies)))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("alignment", [0, 1, 4, 24, 33, 2**21, 2**30, 2**31])
def test_alignment_must_be_a_sane_power_of_two(write, alignment):
    gguf = small_gguf()
    gguf.keys.append(("general.alignment", "u32", alignment))
    with pytest.raises(FileError, match=f"key general.alignment is {alignment}; expected a power of two"):
        open_model(write(gguf.build()))


@pytest.mark.parametrize(("kind", "value"), [("str", "32"), ("f32", 32.0), ("bool", True), ("[u32]", [32]), ("i32", -32)])
def test_alignment_must_be_a_number(write, kind, value):
    gguf = small_gguf()
    gguf.keys.append(("general.alignment", kind, value))
    with pytest.raises(FileError, match="key general.alignment"):
        open_model(write(gguf.build()))


def test_tensor_twice(write):
    gguf = small_gguf(tensors=[("a", [4], "F32", 16), ("a", [4], "F32", 16)])
    with pytest.raises(FileError, match="tensor a is there twice"):
        open_model(write(gguf.build()))


@pytest.mark.parametrize(("keys", "found"),
                         [([], "missing"), ([("general.architecture", "u32", 1)], "1"), ([("general.architecture", "str", "")], "''"),
                                             ([("general.architecture", "str", "x" * 65)], "xxx")])
def test_architecture_must_be_a_short_text(write, keys, found):
    with pytest.raises(FileError, match=f"key general.architecture is '?{found}.*; expected the architecture's name"):
        open_model(write(Gguf(keys).build()))


def test_truncation_at_every_byte(write):
    whole = small_gguf().build()
    for size in range(len(whole) - 12):        # the last 12 bytes are padding behind the last tensor
        with pytest.raises(FileError) as caught:
            open_model(write(whole[:size]))
        assert "small.gguf: " in str(caught.value) and len(str(caught.value)) < 2000
    for size in range(len(whole) - 12, len(whole) + 1):
        assert len(open_model(write(whole[:size])).tensors) == 2


def test_hostile_names_do_not_reach_the_terminal(write):
    gguf = small_gguf(tensors=[("\x1b[2J" + "n" * 500, [3, 3], "Q8_0", 0)])
    with pytest.raises(FileError) as caught:
        open_model(write(gguf.build()))
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 1000


def test_counts_do_not_make_objects(write):
    """A count that the file can hold, but that is out of all proportion to a header."""
    entries = 5 << 20
    gguf = Gguf([("general.architecture", "str", "a"), ("x", "[u8]", [])])
    fields = gguf.fields()
    next(f for f in fields if f.name == "count of x").data = entries.to_bytes(8, "little")
    with pytest.raises(FileError, match="key x claims 5242880 entries; expected at most"):
        open_model(write(b"".join(f.data for f in fields) + bytes(entries)))


def test_many_strings_are_read_beyond_the_first_piece(write):
    """The header is read in growing pieces; nothing is lost at their borders."""
    tokens = [f"token {i}" for i in range(150_000)]
    model = open_model(write(Gguf([("general.architecture", "str", "a"), ("tokens", "[str]", tokens)]).build()))
    assert model.metadata["tokens"] == tokens


def test_a_file_that_shrinks_while_it_is_read():
    from skipstone.files._gguf import parse
    whole = small_gguf().build()
    with pytest.raises(FileError, match="had .* bytes when it was opened and now ends at 100; expected that nobody changes it"):
        parse(lambda offset, size: whole[offset:min(offset + size, 100)], len(whole), "small.gguf")
