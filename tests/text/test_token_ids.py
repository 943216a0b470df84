"""Ids of hurting texts equal those of the references: the `tokenizers` library for the bundled models, llama.cpp for gemma-3-270m."""
from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "oracles"))
from tokenizer_ids import DATA, unpacked  # noqa: E402

from skipstone import bundled  # noqa: E402
from skipstone.files import open_model  # noqa: E402
from skipstone.text.tokenizer import Tokenizer, load_tokenizer  # noqa: E402

GEMMA3 = os.environ.get("SKIPSTONE_GEMMA3_270M", "")


@pytest.fixture(scope="module")
def expected() -> dict[str, list[list[int]]]:
    with np.load(DATA) as data:
        return {name: unpacked(data, name) for name in data.files if not name.endswith("_ends")}


def texts(expected: dict[str, list[list[int]]]) -> list[str]:
    return [bytes(text).decode() for text in expected["texts"]]


def loaded(path: str | Path) -> Tokenizer:
    tokenizer = load_tokenizer(open_model(path))
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize("family", ["gemma4", "qwen35"])
def test_bundled(family, expected):
    tokenizer = loaded(bundled.GEMMA4 if family == "gemma4" else bundled.QWEN35)
    for text, ids in zip(texts(expected), expected[family], strict=True):
        start = [tokenizer.bos_id] if tokenizer.add_bos else []
        assert tokenizer.encode(text, special=True) == [*start, *ids], ascii(text)


@pytest.mark.parametrize("family", ["gemma4", "qwen35"])
def test_text_comes_back_whole_and_token_by_token(family, expected):
    tokenizer = loaded(bundled.GEMMA4 if family == "gemma4" else bundled.QWEN35)
    for text in texts(expected):
        plain = unicodedata.normalize("NFC", text) if family == "qwen35" else text.replace("\u2581", " ")
        for special in (False, True):
            ids = tokenizer.encode(text, special)
            stream = tokenizer.stream(special)
            assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids, special)
        assert tokenizer.decode(tokenizer.encode(text)) == plain
        start = "<bos>" if tokenizer.add_bos else ""
        assert tokenizer.decode(tokenizer.encode(text, special=True), special=True) == start + plain


@pytest.mark.peer
@pytest.mark.skipif(not GEMMA3, reason="SKIPSTONE_GEMMA3_270M names no gemma-3-270m GGUF file")
def test_gemma3_270m(expected):
    tokenizer = loaded(GEMMA3)
    for text, ids, content in zip(texts(expected), expected["gemma3"], expected["gemma3_content"], strict=True):
        assert tokenizer.encode(text, special=True) == [tokenizer.bos_id, *ids], ascii(text)
        assert tokenizer.encode(text) == content, ascii(text)
