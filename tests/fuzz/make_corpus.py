"""Writes the inputs to start from, tests/fuzz/corpus: small right files of every kind. What fuzzing found is added by hand."""
from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE.parent / "files"), str(HERE.parent / "text")]

from file_builder import Gguf, safetensors, small_gguf, small_header  # noqa: E402
from small_vocabularies import byte_level, sentencepiece, tokenizer_json  # noqa: E402

from skipstone.text.from_gguf import WORDS  # noqa: E402


def typed(keys: dict) -> list:
    kinds = {bool: "bool", str: "str", float: "f32", int: "i32"}
    return [(name, f"[{kinds[type(value[0])]}]" if isinstance(value, list) else kinds[type(value)], value) for name, value in keys.items()]


def put(name: str, data: bytes) -> None:
    path = HERE / "corpus" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


put("gguf/small", small_gguf().build())
put("gguf/version-2", Gguf([("general.architecture", "str", "a")], [("t", [4, 2, 1, 3], "F32", 96)], version=2).build())
put("gguf/alignment", Gguf([("general.architecture", "str", "a"), ("general.alignment", "u32", 8)], [("t", [3], "F16", 6), ("u", [256], "Q4_K", 144)], alignment=8).build())
for kind, words in ("byte-level", byte_level()), ("gemma4", sentencepiece("gemma4")), ("llama", sentencepiece("llama")):
    put(f"gguf/{kind}", Gguf([("general.architecture", "str", "small"), *typed(words)]).build())
put("safetensors/small", safetensors(small_header(), bytes(40)))
put("safetensors/empty", safetensors({}))
for kind, tree in ("byte-level", tokenizer_json(byte_level(), WORDS["qwen35"])), ("gemma4", tokenizer_json(sentencepiece("gemma4"))):
    put(f"tokenizer/{kind}", json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode())
