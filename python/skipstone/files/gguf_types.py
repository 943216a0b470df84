"""GGUF's tensor types by id: the formats Skipstone knows, the plain number types, and names for the ids it refuses."""
from __future__ import annotations

from typing import NamedTuple

from .. import _native


class Type(NamedTuple):
    name: str
    block: int      # weights a block
    bytes: int      # bytes a block


# Number types that only small helper tensors use; there are no kernels for them.
PLAIN = {24: Type("I8", 1, 1), 25: Type("I16", 1, 2), 26: Type("I32", 1, 4), 27: Type("I64", 1, 8), 28: Type("F64", 1, 8)}

TYPES = {t["id"]: Type(t["name"], t["block"], t["bytes"]) for t in _native.types()} | PLAIN

REFUSED = {
    4: "Q4_2, which GGUF no longer has", 5: "Q4_3, which GGUF no longer has",
    9: "Q8_1, which is for activations only", 15: "Q8_K, which is for activations only",
    31: "Q4_0_4_4, which GGUF no longer has", 32: "Q4_0_4_8, which GGUF no longer has", 33: "Q4_0_8_8, which GGUF no longer has",
    36: "IQ4_NL_4_4, which GGUF no longer has", 37: "IQ4_NL_4_8, which GGUF no longer has", 38: "IQ4_NL_8_8, which GGUF no longer has",
}
