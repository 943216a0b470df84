"""Encoding a text of which only some runs may hold special tokens."""
from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabularies import CONTROL, USER_DEFINED, byte_level, gguf_model, json_model, sentencepiece, tokenizer_json

from skipstone.text.tokenizer import Tokenizer, load_tokenizer

SCRAPS = ["<|im_end|>", "<|im_start|>", "<think>", "</think>", "<|turn>", "<turn|>", "<bos>", "<h1>", "<|", "|>", "<", ">", " ", "\n", "hello", "a", "é", "x "]


@cache
def tokenizer(kind: str) -> Tokenizer:
    made = load_tokenizer(gguf_model(byte_level() if kind == "gpt2" else sentencepiece(kind)))
    assert made is not None
    return made


@pytest.mark.parametrize("kind", ["gpt2", "gemma4", "llama"])
@given(st.lists(st.sampled_from(SCRAPS), max_size=10).map("".join))
@settings(max_examples=200)
def test_all_own_is_as_usual(kind: str, text: str) -> None:
    assert tokenizer(kind).encode_marked(text, [(0, len(text))]) == tokenizer(kind).encode_prompt(text)


@pytest.mark.parametrize("kind", ["gpt2", "gemma4", "llama"])
@given(st.lists(st.sampled_from(SCRAPS), max_size=10).map("".join))
@settings(max_examples=100)
def test_nothing_own_is_content(kind: str, text: str) -> None:
    made = tokenizer(kind)
    assert made.encode_marked(text, []) == [made.bos_id] * made.add_bos + (made.encode(text) if text else [])


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(SCRAPS)), max_size=10))
@settings(max_examples=200)
def test_only_own_runs_hold_marks(parts: list[tuple[bool, str]]) -> None:
    """Every mark in the ids stands whole in a run that is the template's, and none of those is missing."""
    made = tokenizer("gpt2")
    text, runs, marks = "", [], {"<|im_end|>", "<|im_start|>", "<think>", "</think>"}
    for mine, same in itertools.groupby(parts, key=lambda part: part[0]):
        run = "".join(scrap for _, scrap in same)
        if mine and run:
            runs.append((len(text), len(text) + len(run)))
        text += run
    expected = []
    for start, end in runs:
        expected += [id for id in made.encode(text[start:end], special=True) if made.token_text(id) in marks]
    found = made.encode_marked(text, runs)
    assert [id for id in found if made.token_text(id) in marks] == expected and made.decode(found, special=True) == made.decode(made.encode(text), special=True)


@pytest.mark.parametrize("flags", [{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True}], ids=str)
def test_tokens_that_take_the_space_around_them(flags: dict[str, bool], tmp_path: Path) -> None:
    tree: dict[str, Any] = tokenizer_json(sentencepiece("gemma4"))
    for entry in tree["added_tokens"]:
        if entry["content"] == "<turn|>":
            entry.update(flags)
    made = load_tokenizer(json_model(tmp_path, tree))
    assert made is not None
    for text in ("a <turn|> a", "a  <turn|>\n\n b", "<turn|>", " <turn|> <turn|> ", "a<turn|>b", "a <turn|>b", "a<turn|> b", "_<turn|>.", "<turn|><turn|>"):
        assert made.encode_marked(text, [(0, len(text))]) == made.encode(text, special=True), text


@pytest.mark.parametrize("kind", [CONTROL, USER_DEFINED])
def test_thinking_is_seen_whatever_its_type(kind: int) -> None:
    keys = byte_level()
    keys["tokenizer.ggml.token_type"] = [kind if token in ("<think>", "</think>") else old
                                         for token, old in zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"])]
    made = load_tokenizer(gguf_model(keys))
    assert made is not None and made.decode(made.encode("<think>a</think><|im_end|>", special=True)) == "<think>a</think>"
