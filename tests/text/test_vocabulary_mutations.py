"""Valid vocabularies with one to three lies: each loads and works, or raises FileError. Nothing else."""
from __future__ import annotations

import copy
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_vocabularies import byte_level, gguf_model, json_model, sentencepiece, tokenizer_json

from skipstone.errors import FileError
from skipstone.text.from_gguf import WORDS
from skipstone.text.tokenizer import load_tokenizer

SETTINGS = settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
PROBE = "<bos>hello  w\u00f6rld \u65e5\u672c <|im_start|>\n\n\0 12 e\u0301 </s><|turn>"
HOSTILE = [None, True, False, -1, 0, 1, 2**31, 2**32, 2**63, 1.5, math.nan, "", " ", "a", "a b", "<bos>", "<0x41>", "\u65e5", "\0", "x" * 600, [],
           ["a"], [[]], [1, 2], {}, {"type": "Sequence"},
           {"type": "ByteLevel"}, {"String": " "}, {"Regex": "(a|"}, "BPE", "gpt2", "llama", "gemma4", "qwen2"]


def use(model) -> None:
    try:
        t = load_tokenizer(model)
        if t is None:
            return
        for special in (False, True):
            ids = t.encode(PROBE, special)
            stream = t.stream(special)
            assert "".join([stream.push(i) for i in ids]) + stream.finish() == t.decode(ids, special)
            assert all(0 <= i < t.vocab_size for i in ids)
        assert t.bos_id is None or t.bos_id >= 0
    except FileError as error:
        assert 0 < len(str(error)) < 2000
        str(error).encode()


@pytest.mark.parametrize("keys", [byte_level(), sentencepiece("gemma4"), sentencepiece("llama")], ids=["byte-level", "gemma4", "llama"])
@SETTINGS
@given(data=st.data())
def test_keys_with_lies(keys, data):
    keys = copy.deepcopy(keys)
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(keys)))
        how = data.draw(st.sampled_from(["entry", "entry", "entry", "cut", "value", "drop"]))
        value = keys[key]
        if how == "entry" and isinstance(value, list) and value:
            kind = type(value[0])       # a GGUF array has entries of one type
            value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.sampled_from([v for v in [*HOSTILE, *value[:40]] if type(v) is kind]))
        elif how == "cut" and isinstance(value, list):
            del value[data.draw(st.integers(0, len(value))):]
        elif how == "value":
            keys[key] = copy.deepcopy(data.draw(st.sampled_from([v for v in HOSTILE if v is not None and not isinstance(v, dict)])))
        elif how == "drop":
            del keys[key]
    use(gguf_model(keys))


@pytest.mark.parametrize("kind", ["byte-level", "gemma4"])
@SETTINGS
@given(data=st.data())
def test_tokenizer_json_with_lies(kind, tmp_path, data):
    tree = tokenizer_json(byte_level(), WORDS["qwen35"]) if kind == "byte-level" else tokenizer_json(sentencepiece("gemma4"))
    tree = json.loads(json.dumps(tree))         # no node is shared
    for _ in range(data.draw(st.integers(1, 3))):
        node = tree
        while isinstance(node, dict | list) and node:
            key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.integers(0, 3)) == 0:
                if data.draw(st.booleans()):
                    node[key] = copy.deepcopy(data.draw(st.sampled_from(HOSTILE)))
                else:
                    del node[key]
                break
            node = node[key]
    notes = data.draw(st.sampled_from([None, {}, {"eos_token": "<eos>"}, {"bos_token": 3}, {"add_bos_token": True}]))
    config = data.draw(st.sampled_from([{}, {"vocab_size": 400}, {"vocab_size": 5}, {"text_config": []}, {"eos_token_id": [1]}]))
    use(json_model(tmp_path, tree, config, notes=notes))
