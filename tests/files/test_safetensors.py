"""safetensors headers and indices: one test for each lie."""
from __future__ import annotations

import json

import numpy as np
import pytest
from file_builder import safetensors, small_header

from skipstone.errors import FileError
from skipstone.files import open_model
from skipstone.files.safetensors import BITS, read_safetensors


@pytest.fixture
def write(tmp_path):
    def write(data: bytes, name: str = "model.safetensors"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name
    return write


def changed(**changes):
    """The small header with fields of tensor a.weight replaced."""
    header = small_header()
    header["a.weight"].update(changes)
    return safetensors(header, bytes(40))


LIES = {
    "header of 2^60": (safetensors(small_header(), bytes(40), length=2**60), "header claims 1152921504606846976 bytes; expected at most 100000000"),
    "header beyond the file": (safetensors(small_header(), bytes(40), length=5000), "header claims 5000 bytes, but only"),
    "header of 0": (safetensors(b"", b""), "header starts with b''"),
    "7 bytes": (b"\0" * 7, "the file has 7 bytes"),
    "no object": (safetensors(b"[]"), r"header starts with b'\[\]'"),
    "blank first": (safetensors(b" {}"), "header starts with b' {}'"),
    "no UTF-8": (safetensors(b'{"\xff": 1}'), "not UTF-8"),
    "no JSON": (safetensors(b'{"a": }'), "JSON text is damaged"),
    "nested 100000 deep": (safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "nested too deeply"),
    "name twice": (safetensors(b'{"a": {}, "a": {}}'), "name a is there twice"),
    "dtype twice": (safetensors(b'{"a": {"dtype": "F32", "dtype": "F32"}}'), "name dtype is there twice"),
    "metadata is a list": (safetensors({"__metadata__": []}), "__metadata__ of the header is"),
    "metadata of numbers": (safetensors({"__metadata__": {"a": 1}}), "__metadata__ of the header is"),
    "tensor is a list": (safetensors({"a": [1]}), r"tensor a is described by \[1\]"),
    "no dtype": (safetensors({"a": {"shape": [], "data_offsets": [0, 0]}}), "tensor a has dtype None"),
    "dtype unknown": (changed(dtype="F31"), "tensor a.weight has dtype 'F31'; expected one of F64, F32"),
    "dtype is a list": (changed(dtype=["F32"]), "tensor a.weight has dtype"),
    "shape is a number": (changed(shape=6), "tensor a.weight has shape 6"),
    "shape negative": (changed(shape=[-2, -3]), "tensor a.weight has shape"),
    "shape of floats": (changed(shape=[2.0, 3.0]), "tensor a.weight has shape"),
    "shape of bools": (changed(shape=[True, 6]), "tensor a.weight has shape"),
    "shape of 9 dimensions": (changed(shape=[1] * 8 + [6]), "tensor a.weight has shape .*expected up to 8"),
    "shape of many": (changed(shape=[2] * 900_000), "tensor a.weight has shape"),
    "shape of a million": (changed(shape=[2] * 1_000_000), "the JSON text has over 1000000 values; expected fewer"),
    "product overflows": (changed(shape=[2**62, 2**62, 6]), "tensor a.weight of dtype F32 and shape .* has 24 bytes; expected"),
    "shape and bytes differ": (changed(shape=[2, 4]), "tensor a.weight of dtype F32 and shape .* has 24 bytes; expected 32"),
    "dtype and bytes differ": (changed(dtype="F64"), "tensor a.weight of dtype F64 and shape .* has 24 bytes; expected 48"),
    "half a byte": (changed(dtype="F4", shape=[47]), "has 24 bytes; expected 23.5"),
    "offsets missing": (changed(data_offsets=None), "tensor a.weight has data_offsets None"),
    "offsets of one": (changed(data_offsets=[0]), "tensor a.weight has data_offsets"),
    "offsets reversed": (changed(data_offsets=[24, 0]), r"tensor a.weight has data_offsets \[24, 0\]"),
    "offsets negative": (changed(data_offsets=[-24, 0]), "tensor a.weight has data_offsets"),
    "offsets of 2^66": (changed(data_offsets=[2**66, 2**66 + 24]), "tensor a.weight has data_offsets"),
    "digits without end": (safetensors(b'{"a": {"shape": [' + b"9" * 3000 + b"]}}"), "number of 3000 digits"),
    "overlap": (changed(data_offsets=[16, 40]), "expected it to start at"),
    "hole": (changed(data_offsets=[0, 20], shape=[5]), "tensor b.weight lies at 24 to 40 of 40 .* expected it to start at 20"),
    "beyond the data": (safetensors(small_header(), bytes(39)), "tensor b.weight lies at 24 to 40 of 39 bytes"),
    "more data than tensors": (safetensors(small_header(), bytes(41)), "tensors end at 40, but 41 bytes of data follow"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_named(write, name):
    data, message = LIES[name]
    with pytest.raises(FileError, match=f"model.safetensors: .*{message}") as caught:
        read_safetensors(write(data))
    assert len(str(caught.value)) < 2000


def test_truncation_at_every_byte(write):
    whole = safetensors(small_header(), bytes(40))
    for size in range(len(whole)):
        with pytest.raises(FileError):
            read_safetensors(write(whole[:size]))
    assert len(read_safetensors(write(whole))) == 3


def test_trailing_blanks_in_the_header(write):
    text = json.dumps(small_header()).encode()
    assert len(read_safetensors(write(safetensors(text + b"   ", bytes(40))))) == 3


def test_agrees_with_the_safetensors_package(tmp_path):
    from safetensors.numpy import save_file
    arrays = {"f32": np.arange(6, dtype=np.float32).reshape(2, 3), "f16": np.ones(5, np.float16), "i64": np.arange(4),
              "scalar": np.array(3, np.float32),
              "u8": np.arange(7, dtype=np.uint8), "bool": np.array([True, False])}
    save_file(arrays, tmp_path / "x.safetensors")
    tensors = read_safetensors(tmp_path / "x.safetensors")
    assert {n: (t.shape, t.data.tobytes()) for n, t in tensors.items()} == {n: (a.shape, a.tobytes()) for n, a in arrays.items()}
    assert {n: t.type for n, t in tensors.items()} == {"f32": "F32", "f16": "F16", "i64": "I64", "scalar": "F32", "u8": "U8", "bool": "BOOL"}


def test_small_floats(write):
    header = {name: {"dtype": name, "shape": [8], "data_offsets": [i * 8, i * 8 + 8]} for i, name in enumerate(["F8_E4M3", "F8_E5M2", "F8_E8M0"])}
    header["F4"] = {"dtype": "F4", "shape": [2, 8], "data_offsets": [24, 32]}
    header["F6_E2M3"] = {"dtype": "F6_E2M3", "shape": [8], "data_offsets": [32, 38]}
    tensors = read_safetensors(write(safetensors(header, bytes(38))))
    assert all(t.type == n and t.data.size * 8 == BITS[n] * int(np.prod(t.shape)) for n, t in tensors.items())


# Sharded models.

@pytest.fixture
def sharded(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "small"}')
    for name in "ab":
        header = {f"{name}.weight": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                  f"{name}.bias": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}}
        (tmp_path / f"part-{name}.safetensors").write_bytes(safetensors(header, name.encode() * 8))
    index(tmp_path, {f"{name}.{kind}": f"part-{name}.safetensors" for name in "ab" for kind in ("weight", "bias")})
    return tmp_path


def index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 16}, "weight_map": weight_map}))


def test_sharded(sharded):
    for path in sharded, sharded / "part-b.safetensors":
        model = open_model(path)
        assert {n: (t.data.tobytes(), t.source) for n, t in model.tensors.items()} == {
            f"{n}.{k}": (n.encode() * 4, f"part-{n}.safetensors") for n in "ab" for k in ("weight", "bias")}
        assert model.path == sharded


def test_a_missing_shard_is_named(sharded):
    (sharded / "part-b.safetensors").unlink()
    with pytest.raises(FileError, match="1 of 2 files are missing beside it, the first is part-b.safetensors"):
        open_model(sharded)


def test_a_tensor_that_its_shard_lacks(sharded):
    index(sharded, {"a.weight": "part-b.safetensors"})
    with pytest.raises(FileError, match="tensor a.weight should be in part-b.safetensors, but is not there"):
        open_model(sharded)


@pytest.mark.parametrize("name", ["../part-a.safetensors", "../../etc/x.safetensors", "/etc/passwd.safetensors", "sub/part-a.safetensors",
                                  "..\\a.safetensors",
                                  "c:a.safetensors", "a\0.safetensors", ".safetensors", "..", "", "config.json", 3, None, ["part-a.safetensors"]])
def test_shards_must_be_plain_names(sharded, name):
    index(sharded, {"a.weight": name})
    with pytest.raises(FileError, match="tensor a.weight lies in .*expected the plain name of a .safetensors file in the same folder"):
        open_model(sharded)


@pytest.mark.parametrize("weight_map", [None, [], {}, "part-a.safetensors", 5])
def test_no_weight_map(sharded, weight_map):
    index(sharded, weight_map)
    with pytest.raises(FileError, match="model.safetensors.index.json: weight_map is"):
        open_model(sharded)
