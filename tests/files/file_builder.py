"""Small GGUF and safetensors files, and lies about them.

A GGUF file is built as a list of named fields (a count, a length, a name, a dimension, an offset ...), so that a lie
replaces exactly one of them and leaves the rest of the file as it was.
"""
from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

SCALARS = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"), "f32": (6, "f"),
           "bool": (7, "?"), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d")}
STRING, ARRAY = 8, 9
TYPE_IDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "Q4_K": 12, "I32": 26}


@dataclass
class Field:
    name: str           # "count of keys", "length of NAME", ...
    data: bytes

    @property
    def is_number(self) -> bool:
        return len(self.data) in (4, 8) and not self.name.startswith("text")


@dataclass
class Gguf:
    """keys: (name, kind, value) with kind "u32", "str", "[i32]", "[str]", ...; tensors: (name, dimensions, type, bytes)."""

    keys: list[tuple[str, str, Any]] = field(default_factory=list)
    tensors: list[tuple[str, list[int], str, int]] = field(default_factory=list)
    version: int = 3
    alignment: int = 32

    def fields(self) -> list[Field]:
        made = [Field("text magic", b"GGUF"), Field("version", struct.pack("<I", self.version)),
                Field("count of tensors", struct.pack("<Q", len(self.tensors))), Field("count of keys", struct.pack("<Q", len(self.keys)))]
        for name, kind, value in self.keys:
            made += self._text(name, "key " + name)
            made += self._value(name, kind, value)
        at = 0
        for name, dimensions, type_name, size in self.tensors:
            made += self._text(name, "tensor " + name)
            made.append(Field(f"rank of {name}", struct.pack("<I", len(dimensions))))
            made += [Field(f"dimension {i} of {name}", struct.pack("<Q", n)) for i, n in enumerate(dimensions)]
            made.append(Field(f"type of {name}", struct.pack("<I", TYPE_IDS[type_name])))
            made.append(Field(f"offset of {name}", struct.pack("<Q", at)))
            at += -(-size // self.alignment) * self.alignment
        return made

    def _text(self, text: str, name: str) -> list[Field]:
        data = text.encode("utf-8", "surrogatepass")
        return [Field(f"length of {name}", struct.pack("<Q", len(data))), Field(f"text {name}", data)]

    def _value(self, name: str, kind: str, value: Any) -> list[Field]:
        if kind == "str":
            return [Field(f"kind of {name}", struct.pack("<I", STRING)), *self._text(value, f"value of {name}")]
        if kind in SCALARS:
            number, code = SCALARS[kind]
            return [Field(f"kind of {name}", struct.pack("<I", number)), Field(f"value of {name}", struct.pack("<" + code, value))]
        element = kind[1:-1]
        number = STRING if element == "str" else SCALARS[element][0]
        made = [Field(f"kind of {name}", struct.pack("<I", ARRAY)), Field(f"element kind of {name}", struct.pack("<I", number)),
                Field(f"count of {name}", struct.pack("<Q", len(value)))]
        for i, entry in enumerate(value):
            made += self._text(entry, f"{name}[{i}]") if element == "str" else [Field(f"{name}[{i}]", struct.pack("<" + SCALARS[element][1], entry))]
        return made

    def build(self, **lies: Any) -> bytes:
        """The file. Each lie replaces a field: by bytes, or by a number of the field's size. Spaces in names are written "_"."""
        fields = self.fields()
        for name, lie in lies.items():
            found = [f for f in fields if f.name.replace(" ", "_").replace(".", "_") == name]
            assert len(found) == 1, (name, [f.name for f in fields])
            found[0].data = lie if isinstance(lie, bytes) else int(lie).to_bytes(len(found[0].data), "little", signed=lie < 0)
        return self.assemble(fields)

    def assemble(self, fields: list[Field]) -> bytes:
        header = b"".join(f.data for f in fields)
        data = b"".join(bytes([i % 251]) * size + bytes(-size % self.alignment) for i, (_, _, _, size) in enumerate(self.tensors))
        return header + bytes(-len(header) % self.alignment) + data


def small_gguf(**changes: Any) -> Gguf:
    """Two tensors and one key of every kind."""
    keys = [("general.architecture", "str", "small"), ("small.count", "u32", 7), ("small.names", "[str]", ["a", "bc", ""]),
            ("small.sizes", "[i32]", [1, -2, 3]), ("small.flag", "bool", True), ("small.flags", "[bool]", [True, False]),
            ("small.eps", "f32", 0.5), ("small.wide", "f64", 0.25), ("small.u8", "u8", 255), ("small.i8", "i8", -1), ("small.u16", "u16", 65535),
            ("small.i16", "i16", -2), ("small.i32", "i32", -3), ("small.u64", "u64", 2**63), ("small.i64", "i64", -(2**62))]
    tensors = [("token_embd.weight", [64, 3], "Q8_0", 3 * 2 * 34), ("output_norm.weight", [5], "F32", 20)]
    return Gguf(**{"keys": keys, "tensors": tensors, **changes})


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """header: an object for JSON, or its bytes. length: what the file claims instead of the header's size."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def small_header() -> dict[str, Any]:
    """Three tensors of 24, 16 and 0 bytes."""
    return {"__metadata__": {"format": "pt"},
            "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "b.weight": {"dtype": "BF16", "shape": [8], "data_offsets": [24, 40]},
            "empty": {"dtype": "I64", "shape": [0, 4], "data_offsets": [40, 40]}}
