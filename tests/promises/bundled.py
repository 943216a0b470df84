"""The models inside the package, loaded once a number of threads."""
from __future__ import annotations

from functools import cache
from pathlib import Path

import skipstone

FOLDER = Path(skipstone.__file__).parent / "bundled"
NAMES = ("tiny-qwen35-Q4_K_M", "tiny-gemma4-Q4_K_M")   # with an MTP head inside, with an assistant beside
PROMPTS = ("class Matrix:\n    def __init__(self, rows", "# parse a date\nimport re\n", "try:\n    value = int(", "def test_", '"""Module for')


@cache
def bundled(name: str, threads: int = 2, drafted: bool = True, kv_type: str = "f16") -> skipstone.Model:
    model = skipstone.load(FOLDER / f"{name}.gguf", threads=threads, draft="auto" if drafted else False, kv_type=kv_type)
    assert (model.drafter is not None) == drafted
    return model
