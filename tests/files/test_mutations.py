"""Valid files with one to three lies: each opens, with tensors inside the file, or raises FileError. Nothing else."""
from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
from file_builder import Gguf, safetensors, small_gguf, small_header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipstone.errors import FileError
from skipstone.files import open_model
from skipstone.files.gguf_types import TYPES
from skipstone.files.safetensors import BITS

SETTINGS = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
HOSTILE = [0, 1, 2, 3, 7, 8, 9, 12, 13, 31, 33, 255, 256, 65535, 65536, 2**20, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1,
           2**63, 2**64 - 32, 2**64 - 1]
BLOCKS = {"F32": (1, 4), "F16": (1, 2), "Q4_0": (32, 18), "Q8_0": (32, 34), "Q4_K": (256, 144), "I32": (1, 4)}

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
values = st.one_of(
    st.tuples(st.just("str"), names), st.tuples(st.just("u32"), st.integers(0, 2**32 - 1)), st.tuples(st.just("i64"), st.integers(-2**63, 2**63 - 1)),
    st.tuples(st.just("bool"), st.booleans()), st.tuples(st.just("f32"), st.floats(width=32)),
                   st.tuples(st.just("[str]"), st.lists(names, max_size=5)),
    st.tuples(st.just("[i32]"), st.lists(st.integers(-2**31, 2**31 - 1), max_size=5)),
                   st.tuples(st.just("[bool]"), st.lists(st.booleans(), max_size=5)))


@st.composite
def tensors(draw):
    made = []
    for name in draw(st.lists(names, max_size=5, unique=True)):
        type_name = draw(st.sampled_from(sorted(BLOCKS)))
        block, size = BLOCKS[type_name]
        dimensions = [block * draw(st.integers(1, 2)), *draw(st.lists(st.integers(1, 3), max_size=3))]
        made.append((name, dimensions, type_name, size * math.prod(dimensions) // block))
    return made


@st.composite
def ggufs(draw):
    keys = {"general.architecture": ("str", "small"), **draw(st.dictionaries(names, values, max_size=6))}
    return Gguf([(name, *value) for name, value in keys.items()], draw(tensors()), version=draw(st.sampled_from([2, 3])))


@st.composite
def lied_to(draw, gguf):
    """One to three fields replaced, swapped, dropped or repeated."""
    fields = gguf.fields()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(fields) - 1))
        how = draw(st.sampled_from(["number", "number", "number", "near", "bytes", "swap", "drop", "repeat"]))
        chosen = fields[at]
        if how == "number" and chosen.is_number:
            size = len(chosen.data)
            chosen.data = (draw(st.sampled_from(HOSTILE)) % 256**size).to_bytes(size, "little")
        elif how == "near" and chosen.is_number:
            size = len(chosen.data)
            chosen.data = ((int.from_bytes(chosen.data, "little") + draw(st.integers(-40, 40))) % 256**size).to_bytes(size, "little")
        elif how == "bytes":
            chosen.data = draw(st.binary(min_size=len(chosen.data), max_size=len(chosen.data)))
        elif how == "swap":
            other = fields[draw(st.integers(0, len(fields) - 1))]
            chosen.data, other.data = other.data, chosen.data
        elif how == "drop":
            del fields[at]
        else:
            fields.insert(at, copy.copy(chosen))
        if not fields:
            break
    data = gguf.assemble(fields)
    return data[:draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


def check(path: Path, size: int) -> None:
    try:
        model = open_model(path)
    except FileError as error:
        assert 0 < len(str(error)) < 2000
        str(error).encode()         # no surrogates, so that it can be printed
        return
    for tensor in model.tensors.values():
        weights = math.prod(tensor.shape)
        known = next((t for t in TYPES.values() if t.name == tensor.type), None)
        expected = weights * BITS[tensor.type] // 8 if known is None or model.format == "safetensors" else weights // known.block * known.bytes
        assert tensor.data.size == expected <= size
        int(tensor.data.sum())      # every byte is there


@SETTINGS
@given(gguf=ggufs())
def test_the_trees_are_valid(tmp_path, gguf):
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf.build())
    model = open_model(path)
    assert model.metadata.keys() == {name for name, _, _ in gguf.keys}
    for name, kind, value in gguf.keys:
        assert repr(model.metadata[name]) == repr(value)        # repr, so that NaN equals itself
    assert [(t.name, t.type, list(t.shape[::-1]), t.data.size) for t in model.tensors.values()] == [(n, t, d, s) for n, d, t, s in gguf.tensors]


@settings(SETTINGS, max_examples=800)
@given(data=st.data())
def test_gguf_with_lies(tmp_path, data):
    path = tmp_path / "x.gguf"
    written = data.draw(lied_to(data.draw(ggufs())))
    path.write_bytes(written)
    check(path, len(written))


@pytest.mark.parametrize("value", HOSTILE)
def test_every_number_of_a_file(tmp_path, value):
    """Each number of the small file, one after the other, replaced by each hostile one."""
    gguf = small_gguf()
    for at, original in enumerate(gguf.fields()):
        if original.is_number:
            fields = gguf.fields()
            size = len(original.data)
            fields[at].data = (value % 256**size).to_bytes(size, "little")
            written = gguf.assemble(fields)
            (tmp_path / "x.gguf").write_bytes(written)
            check(tmp_path / "x.gguf", len(written))


HOSTILE_JSON = [None, True, -1, 0, 1, 7, 40, 2**31, 2**53, 2**63, 2**64, 2**100, 1.5, 1e308, math.nan, math.inf, "", "F32", "I64", "x" * 5000,
                "\ud800", "\0",
                [], [0, 0], [0, 24], [24, 0], [[]], [1] * 100, {}, {"dtype": "F32"}, {"a": {"b": {}}}]


@st.composite
def damaged_json(draw, tree):
    """A JSON object with one to three nodes replaced, dropped or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        node, steps = tree, 0
        while isinstance(node, dict | list) and node:
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            deeper = node[key]
            if not isinstance(deeper, dict | list) or not deeper or draw(st.integers(0, 2)) == 0:
                how = draw(st.sampled_from(["replace", "replace", "drop", "rename"]))
                if how == "replace":
                    node[key] = copy.deepcopy(draw(st.sampled_from(HOSTILE_JSON)))
                elif how == "drop":
                    del node[key]
                elif isinstance(node, dict):
                    node[draw(st.sampled_from(["", "a.weight", "b.weight", "__metadata__", "dtype", "x" * 300]))] = node.pop(key)
                break
            node, steps = deeper, steps + 1
    return tree


@SETTINGS
@given(data=st.data())
def test_safetensors_with_lies(tmp_path, data):
    header = data.draw(damaged_json(small_header()))
    config = data.draw(st.one_of(st.just({"model_type": "small"}), damaged_json({"model_type": "small", "vocab_size": 3})))
    length = data.draw(st.one_of(st.none(), st.none(), st.sampled_from(HOSTILE)))
    written = safetensors(header, bytes(data.draw(st.sampled_from([40, 40, 39, 41, 0]))), length)
    (tmp_path / "model.safetensors").write_bytes(written)
    (tmp_path / "config.json").write_text(json.dumps(config))
    check(tmp_path, len(written))


@SETTINGS
@given(data=st.data())
def test_index_with_lies(tmp_path, data):
    (tmp_path / "config.json").write_text('{"model_type": "small"}')
    (tmp_path / "a.safetensors").write_bytes(safetensors(small_header(), bytes(40)))
    index = {"metadata": {}, "weight_map": {"a.weight": "a.safetensors", "b.weight": "a.safetensors", "empty": "a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(data.draw(damaged_json(index))))
    check(tmp_path, 1000)
