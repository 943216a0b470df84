"""safetensors: the header under the rules of the format's own reader, the tensors mapped where they lie.

The rules: a header of at most 100 MB that starts with "{"; offsets in order, without gap or overlap, from 0 to the end of
the file; dtype times shape equal to the bytes.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import FileError
from .mapping import Source, parse_json, read_json
from .messages import shown, shown_value
from .model_file import Tensor

HEADER_LIMIT = 100_000_000
INDEX_LIMIT = 64 << 20
INDEX_VALUES = 500_000
TENSOR_LIMIT = 100_000
RANK_LIMIT = 8
DIMENSION_LIMIT = 1 << 62

# Bits a value. The names are GGUF's where GGUF has the type.
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "C64": 64,
}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file. Raises FileError."""
    with Source(path) as source:
        file = source.name
        if source.size < 8:
            raise FileError(f"{file}: the file has {source.size} bytes; expected a safetensors file, which has at least 10")
        length = int.from_bytes(source.read(0, 8), "little")
        if length > HEADER_LIMIT:
            raise FileError(f"{file}: the header claims {length} bytes; expected at most {HEADER_LIMIT}")
        if length > source.size - 8:
            raise FileError(f"{file}: the header claims {length} bytes, but only {source.size - 8} follow; "
                            "expected a complete file, the download may have been cut off")
        text = source.read(8, length)
        if len(text) < length or not text.startswith(b"{"):
            raise FileError(f"{file}: the header starts with {text[:4]!r}; expected a JSON object")
        header = parse_json(text, file, unique=True, values=10 * TENSOR_LIMIT)
        _check_notes(header.pop("__metadata__", None), file)
        if len(header) > TENSOR_LIMIT:
            raise FileError(f"{file}: the header lists {len(header)} tensors; expected at most {TENSOR_LIMIT}")
        available = source.size - 8 - length
        spans = sorted((_span(name, info, file) for name, info in header.items()), key=lambda span: span[3:])
        at = 0
        for name, dtype, shape, begin, end in spans:
            if begin != at or end > available:
                raise FileError(f"{file}: tensor {shown(name)} lies at {begin} to {end} of {available} bytes of data; expected it to "
                                f"start at {at} and to end inside. The download may have been cut off")
            at = end
        if at != available:
            raise FileError(f"{file}: the tensors end at {at}, but {available} bytes of data follow the header; expected the same")
        mapped = source.map()[8 + length:]
    return {name: Tensor(name, dtype, shape, mapped[begin:end], path.name) for name, dtype, shape, begin, end in spans}


def _check_notes(notes: Any, file: str) -> None:
    if notes is not None and not (isinstance(notes, dict) and all(isinstance(value, str) for value in notes.values())):
        raise FileError(f"{file}: __metadata__ of the header is {shown_value(notes)}; expected names and texts")


def _natural(value: Any, limit: int) -> bool:
    return type(value) is int and 0 <= value <= limit


def _span(name: str, info: Any, file: str) -> tuple[str, str, tuple[int, ...], int, int]:
    where = f"{file}: tensor {shown(name)}"
    if not isinstance(info, dict):
        raise FileError(f"{where} is described by {shown_value(info)}; expected an object with dtype, shape and data_offsets")
    dtype, shape, offsets = info.get("dtype"), info.get("shape"), info.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise FileError(f"{where} has dtype {shown_value(dtype)}; expected one of {', '.join(BITS)}")
    if not isinstance(shape, list) or len(shape) > RANK_LIMIT or not all(_natural(n, DIMENSION_LIMIT) for n in shape):
        raise FileError(f"{where} has shape {shown_value(shape)}; expected up to {RANK_LIMIT} dimensions")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_natural(n, DIMENSION_LIMIT) for n in offsets) or offsets[0] > offsets[1]:
        raise FileError(f"{where} has data_offsets {shown_value(offsets)}; expected [begin, end]")
    bits = BITS[dtype]
    for n in shape:
        bits *= n
    begin, end = offsets
    if bits != 8 * (end - begin):
        raise FileError(f"{where} of dtype {dtype} and shape {shape} has {end - begin} bytes; expected {bits / 8:.15g}")
    return name, dtype, tuple(shape), begin, end


def index_files(index: Path) -> dict[str, str]:
    """The map from tensor to file name in model.safetensors.index.json. Raises FileError."""
    file = shown(index.name)
    weight_map = read_json(index, INDEX_LIMIT, INDEX_VALUES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FileError(f"{file}: weight_map is {shown(repr(weight_map))}; expected an object that names a file for each tensor")
    for name, part in weight_map.items():
        # A plain name: an index must not reach files outside its folder.
        if not isinstance(part, str) or not part.endswith(".safetensors") or set(part) & set("/\\\0:") or part.startswith("."):
            raise FileError(f"{file}: tensor {shown(name)} lies in {shown_value(part)}; expected the plain name of a .safetensors file "
                            "in the same folder")
    return weight_map


def read_sharded(index: Path) -> dict[str, Tensor]:
    """The tensors of a sharded model, each from the file that the index names. Raises FileError, naming a missing shard."""
    file = shown(index.name)
    weight_map = index_files(index)
    shards = sorted(set(weight_map.values()))
    missing = [name for name in shards if not (index.parent / name).is_file()]
    if missing:
        raise FileError(f"{file}: {len(missing)} of {len(shards)} files are missing beside it, the first is {shown(missing[0])}; "
                        "expected all of them in one folder")
    found = {shard: read_safetensors(index.parent / shard) for shard in shards}
    for name, shard in weight_map.items():
        if name not in found[shard]:
            raise FileError(f"{file}: tensor {shown(name)} should be in {shown(shard)}, but is not there; expected an index that fits its files")
    return {name: found[shard][name] for name, shard in weight_map.items()}
