"""Tokenizers of every kind: ids, text, markers, ends, from GGUF keys and from tokenizer.json alike."""
from __future__ import annotations

import unicodedata

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_vocabularies import (BYTE, CONTROL, USER_DEFINED, alphabet, byte_level, gguf_model, json_model, sentencepiece,
                                sentencepiece_slowly, tokenizer_json)

from skipstone.errors import ArgumentError, FileError
from skipstone.files import Tensor, open_model
from skipstone.text.from_gguf import WORDS
from skipstone.text.tokenizer import load_tokenizer

SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SMALL = {"byte-level": byte_level(), "gemma4": sentencepiece("gemma4"), "llama": sentencepiece("llama")}

HURTING = ["", " ", "  ", "\n", "\r\n", "\t\t \n", " " * 1000, "\n" * 1000, "a" * 1000, "hello world", "  hello\n\n\n  world  ",
           "h\u00e9llo \u65e5\u672c\u8a9e", "e\u0301 o\u0308\u0323",
           "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f44d\U0001f3fd\u2764\ufe0f\U0001f1e9\U0001f1ea", "\0\x01\x7f",
           "\u200b\ufeff\u00a0\u3000", "1234567890 12", "I'm don't WE'LL",
           "\u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926\u0940 \u0627\u0644\u0639\u0631\u0628\u064a\u0629 "
           "\u05e2\u05d1\u05e8\u05d9\u05ea \ud55c\uad6d\uc5b4", "\ufb01\u2460\u212b", "\U00010348", "def f(x):\n\treturn x  # ok\r\n",
           "ababababab", "aaaaaaa"]
MARKED = ["<|im_start|>user\nhello<|im_end|>\n", "<think>hello</think>", "<bos>hello", "<bos>", "x<turn|>\n<|turn>user", "<|channel>hello<eos>",
          "<h1>hello</s>", "<0x0A>", "<|im_", "<unk><pad>", "[PAD]", "\u2581\u2581"]


def tokenizer(kind):
    return load_tokenizer(gguf_model(SMALL[kind], "gemma4" if kind == "gemma4" else "small"))


texts = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(HURTING + MARKED), st.text("ab ehlo\n\u00e9\u65e5x", max_size=12)),
                 max_size=6).map("".join)


@pytest.mark.parametrize("kind", SMALL)
@SETTINGS
@given(text=texts)
def test_content_comes_back(kind, text):
    t = tokenizer(kind)
    ids = t.encode(text)
    expected = unicodedata.normalize("NFC", text) if kind == "byte-level" else text.replace("\u2581", " ")
    assert t.decode(ids) == expected
    assert all(0 <= i < t.vocab_size for i in ids)


@pytest.mark.parametrize("kind", SMALL)
@SETTINGS
@given(text=texts)
def test_content_never_becomes_a_marker(kind, text):
    t = tokenizer(kind)
    tokens, kinds = SMALL[kind]["tokenizer.ggml.tokens"], SMALL[kind]["tokenizer.ggml.token_type"]
    forbidden = {i for i, k in enumerate(kinds) if k == CONTROL or tokens[i].startswith("<|") or tokens[i] in ("<think>", "</think>")}
    assert not forbidden & set(t.encode(text))


@pytest.mark.parametrize("kind", ["gemma4", "llama"])
@SETTINGS
@given(text=st.text("ab ehlow\n\u00e9t\u65e5x\u00fc", max_size=40))
def test_merging_follows_the_definition(kind, text):
    assert tokenizer(kind).encode(text) == sentencepiece_slowly(SMALL[kind], text)


def both(kind, tmp_path):
    keys = SMALL[kind]
    words = WORDS[keys["tokenizer.ggml.pre"]] if kind == "byte-level" else None
    notes = {"eos_token": "<|im_end|>"} if words else {"eos_token": "<eos>", "bos_token": {"content": "<bos>"}, "add_bos_token": True}
    tree = tokenizer_json(keys, words)
    return tokenizer(kind), load_tokenizer(json_model(tmp_path, tree, notes=notes, architecture="gemma4" if kind == "gemma4" else "small")), tree


@pytest.mark.parametrize("kind", ["byte-level", "gemma4"])
def test_gguf_and_json_agree(kind, tmp_path):
    t, u, tree = both(kind, tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert (t.bos_id, t.add_bos, t.eos_ids) == (u.bos_id, u.add_bos, u.eos_ids)
    for text in HURTING + MARKED:
        for special in (False, True):
            ids = t.encode(text, special)
            assert ids == u.encode(text, special), (text, special)
            assert t.decode(ids) == u.decode(ids) and t.decode(ids, special=True) == u.decode(ids, special=True)
        plain = library.encode(text, add_special_tokens=False).ids
        assert ids == [t.bos_id] * t.add_bos + plain


@pytest.mark.parametrize("pre", WORDS)
def test_words(pre):
    t = load_tokenizer(gguf_model(byte_level(pre)))
    library = tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS[pre]), "isolated")
    cut = [word for word, _ in library.pre_tokenize_str("I'll  go\u0301\n\n12 x!?\n")]
    assert cut == ["I", "'ll", " ", *([" go\u0301"] if pre == "qwen35" else [" go", "\u0301\n\n"]), *(["\n\n"] if pre == "qwen35" else []), "1", "2",
                   " x", "!?\n"]
    assert t.decode(t.encode("I'll  go")) == "I'll  go"


def test_special_tokens_and_the_first_token():
    t = tokenizer("gemma4")
    ids = {token: i for i, token in enumerate(SMALL["gemma4"]["tokenizer.ggml.tokens"])}
    assert t.add_bos and t.bos_id == ids["<bos>"]
    assert t.encode("or", special=True) == [ids["<bos>"], ids["or"]]
    assert t.encode("<bos>or", special=True) == [ids["<bos>"], ids["<bos>"], ids["or"]]     # as transformers and llama.cpp
    assert t.encode_prompt("<bos>or") == t.encode_prompt("or") == [ids["<bos>"], ids["or"]]
    assert t.encode_prompt("<bos><bos>or") == [ids["<bos>"], ids["<bos>"], ids["or"]] and t.encode_prompt("") == [ids["<bos>"]]
    assert t.encode("", special=True) == [ids["<bos>"]] and t.encode("") == []
    # The file calls <|turn> an ordinary token; it is a marker all the same.
    assert t.encode("<|turn>a<turn|>", special=True) == [ids["<bos>"], ids["<|turn>"], ids["a"], ids["<turn|>"]]
    assert t.encode("<h1>") == [ids["<h1>"]]            # an HTML tag marks nothing
    assert ids["</s>"] in t.encode("</s>")
    assert ids["</s>"] not in tokenizer("llama").encode("</s>") and ids["</s>"] in tokenizer("llama").encode("</s>", special=True)


def test_space_prefix():
    keys = sentencepiece("llama", add_space_prefix=True)
    t = load_tokenizer(gguf_model(keys))
    assert t.decode(t.encode("word")) == " word" and t.encode("") == []
    del keys["tokenizer.ggml.add_space_prefix"]          # the default of this kind
    assert load_tokenizer(gguf_model(keys)).encode("word") == t.encode("word")


def test_ends():
    ids = {token: i for i, token in enumerate(SMALL["gemma4"]["tokenizer.ggml.tokens"])}
    assert tokenizer("gemma4").eos_ids == {ids["<eos>"], ids["<turn|>"], ids["<|tool_response>"]}     # </s> is user-defined
    assert tokenizer("llama").eos_ids == {ids["<eos>"], ids["<turn|>"]}
    words = {token: i for i, token in enumerate(SMALL["byte-level"]["tokenizer.ggml.tokens"])}
    assert tokenizer("byte-level").eos_ids == {words["<|im_end|>"], words["<|endoftext|>"]}
    keys = byte_level(eot_token_id=5, eom_token_id=6, eos_token_id=0xFFFFFFFF)
    assert load_tokenizer(gguf_model(keys)).eos_ids == {5, 6, words["<|im_end|>"], words["<|endoftext|>"]}


def test_ends_of_a_folder(tmp_path):
    tree = tokenizer_json(SMALL["byte-level"], WORDS["qwen35"])
    model = json_model(tmp_path, tree, config={"eos_token_id": 3, "text_config": {"eos_token_id": 4, "vocab_size": 500}},
                       generation={"eos_token_id": [5, 6], "suppress_tokens": [7]},
                       notes={"eos_token": {"content": "<|im_end|>"},
                              "chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]})
    t = load_tokenizer(model)
    ids = {a["content"]: a["id"] for a in tree["added_tokens"]}
    assert t.eos_ids == {3, 4, 5, 6, ids["<|im_end|>"], ids["<|endoftext|>"]} and t.suppressed == {7} and t.chat_template == "d"
    assert t.bos_id is None and not t.add_bos
    (tmp_path / "chat_template.jinja").write_text("own file")
    assert load_tokenizer(model).chat_template == "own file"


def test_first_token_from_the_post_processor(tmp_path):
    tree = tokenizer_json(SMALL["gemma4"])
    tree["post_processor"] = {"type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                              "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
                              "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}
    t = load_tokenizer(json_model(tmp_path, tree))
    assert t.bos_id == 2 and t.add_bos
    assert not load_tokenizer(json_model(tmp_path, tree, notes={"add_bos_token": False})).add_bos


def test_settings_for_training_are_switched_off(tmp_path):
    tree = tokenizer_json(SMALL["gemma4"])
    tree["model"]["dropout"] = 0.9
    tree["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tree["padding"] = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
                       "pad_token": "<pad>"}
    t = load_tokenizer(json_model(tmp_path, tree))
    for _ in range(5):
        assert t.encode("hello hello hello") == tokenizer("gemma4").encode("hello hello hello")


def test_tokens_without_a_row_are_never_chosen(tmp_path):
    """Gemma 3 has a token for images behind the rows of its text models."""
    tree = tokenizer_json(SMALL["gemma4"])
    rows = len(tree["model"]["vocab"])
    tree["added_tokens"].append({**tree["added_tokens"][0], "id": rows, "content": "<image_soft_token>"})
    t = load_tokenizer(json_model(tmp_path, tree, config={"vocab_size": rows}))
    assert max(t.encode("<image_soft_token>", special=True)) < rows and t.vocab_size == rows
    assert rows in load_tokenizer(json_model(tmp_path, tree, config={"vocab_size": rows + 1})).encode("<image_soft_token>", special=True)


def test_added_tokens_keep_their_ids(tmp_path):
    """Only some of the added tokens are content; the library would number those anew."""
    tree = tokenizer_json(SMALL["byte-level"], WORDS["qwen35"])
    last = max(a["id"] for a in tree["added_tokens"])
    tree["added_tokens"].append({**tree["added_tokens"][0], "id": last + 1, "content": "<custom>", "special": False})
    t = load_tokenizer(json_model(tmp_path, tree))
    number = t.encode("<custom>")[0]
    assert [number] == t.encode("<custom>", special=True) and t.decode([number]) == "<custom>"
    assert t.encode("<|im_end|>", special=True) != t.encode("<|im_end|>")


def test_decode():
    t = tokenizer("gemma4")
    ids = {token: i for i, token in enumerate(SMALL["gemma4"]["tokenizer.ggml.tokens"])}
    assert t.decode([ids["<bos>"], ids["hello"], ids["<turn|>"], ids["<|channel>"]]) == "hello<|channel>"
    assert t.decode([ids["<bos>"], ids["hello"]], special=True) == "<bos>hello"
    assert t.decode([ids["<0xE2>"], ids["<0x82>"], ids["<0xAC>"]]) == "\u20ac"
    assert t.decode([ids["<0xE2>"], ids["<0x82>"], ids["a"], ids["<0xFF>"]]) == "\ufffda\ufffd"
    assert t.decode([t.vocab_size, 10**6, ids["a"]]) == "a"           # padded rows of the model
    assert t.token_text(ids["<bos>"]) == "<bos>" and t.token_text(ids["<0xE2>"]) == "\ufffd" and t.token_text(10**6) == ""
    assert t.token_bytes(ids["<0xE2>"]) == b"\xe2" and t.token_bytes(ids["<bos>"]) == b"" and t.token_bytes(10**6) == b""
    assert tokenizer("byte-level").decode([alphabet().index("\u0120")]) == " "


@pytest.mark.parametrize("ids", [[-1], [2**70], [-(2**70)], ["a"], [None], [1.5]])
def test_decode_of_no_ids(ids):
    with pytest.raises(ArgumentError, match="ids: found"):
        tokenizer("gemma4").decode(ids)


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", b"bytes", None, 3])
@pytest.mark.parametrize("special", [False, True])
def test_encode_of_no_text(text, special):
    with pytest.raises(ArgumentError, match="text: (character [01] is the unpaired surrogate|found)"):
        tokenizer("byte-level").encode(text, special)


@pytest.mark.parametrize("kind", SMALL)
def test_a_megabyte(kind):
    t = tokenizer(kind)
    text = "def hello(world):\n    return 12  # \u00e9\u65e5\n" * 25_000
    assert t.decode(t.encode(text)) == text


@pytest.mark.parametrize("kind", ["none", "no_vocab", None])
def test_no_vocabulary(kind, tmp_path):
    assert load_tokenizer(gguf_model({"tokenizer.ggml.model": kind} if kind else {})) is None
    model = json_model(tmp_path, {})
    (tmp_path / "tokenizer.json").unlink()
    assert load_tokenizer(model) is None


def without(keys, name):
    return {k: v for k, v in keys.items() if k != f"tokenizer.ggml.{name}"}


def at(name, index, value, model="gemma4"):
    """A vocabulary with one entry of an array replaced."""
    keys = byte_level() if model == "gpt2" else sentencepiece(model)
    values = list(keys[f"tokenizer.ggml.{name}"])
    values[index] = value
    return {**keys, f"tokenizer.ggml.{name}": values}


GGUF_LIES = {
    "another kind": (byte_level(model="bert"), "key tokenizer.ggml.model is 'bert'; expected gpt2, gemma4 or llama"),
    "kind is a number": (byte_level(model=3), "key tokenizer.ggml.model is 3"),
    "another pre": (byte_level(pre="llama-bpe"), "key tokenizer.ggml.pre is 'llama-bpe'; expected one of qwen2, qwen35"),
    "no pre": (without(byte_level(), "pre"), "key tokenizer.ggml.pre is None"),
    "no tokens": (without(byte_level(), "tokens"), "key tokenizer.ggml.tokens is missing"),
    "empty tokens": (byte_level(tokens=[]), "key tokenizer.ggml.tokens is empty"),
    "tokens are numbers": (byte_level(tokens=[1, 2]), "key tokenizer.ggml.tokens is an array of int; expected an array of str"),
    "tokens are one text": (byte_level(tokens="abc"), "key tokenizer.ggml.tokens is 'abc'; expected a value of type list"),
    "a token twice": (at("tokens", 270, "hello"), r"key tokenizer.ggml.tokens\[270\] is 'hello', and so is \[\d+\]; expected each token once"),
    "a token of 513 letters": (at("tokens", 300, "x" * 513), r"key tokenizer.ggml.tokens\[300\] has 513 letters; expected at most 512"),
    "a byte is missing": (at("tokens", 65, "xyz", "gpt2"), "lacks 1 of the 256 letters for bytes, 'A' first"),
    "byte token -1": (at("tokens", 10, "<0x-1>"), r"key tokenizer.ggml.tokens\[10\] is '<0x-1>', a byte token; expected <0x00> to <0xFF>"),
    "byte token 256": (at("tokens", 10, "<0x100>"), r"tokens\[10\] is '<0x100>', a byte token"),
    "types too short": (byte_level(token_type=[1] * 10), "key tokenizer.ggml.token_type has 10 entries; expected 277, one for each token"),
    "types are texts": (byte_level(token_type=["1"] * 277), "key tokenizer.ggml.token_type is an array of str"),
    "type 7": (at("token_type", 3, 7), r"key tokenizer.ggml.token_type\[3\] is 7; expected a type from 0 to 6"),
    "type -1": (at("token_type", 3, -1), r"token_type\[3\] is -1"),
    "no scores": (without(sentencepiece("llama"), "scores"), "key tokenizer.ggml.scores is missing"),
    "scores too short": (sentencepiece("llama", scores=[0.0]), "key tokenizer.ggml.scores has 1 entries; expected 310"),
    "scores are numbers": (sentencepiece("llama", scores=[1] * 310), "key tokenizer.ggml.scores is an array of int; expected an array of float"),
    "no merges": (without(byte_level(), "merges"), "key tokenizer.ggml.merges is missing"),
    "merge of one": (at("merges", 2, "llo"), r"key tokenizer.ggml.merges\[2\] is 'llo'; expected two tokens"),
    "merge of a blank": (at("merges", 2, " "), r"merges\[2\] is ' '; expected two tokens"),
    "merge is empty": (at("merges", 2, ""), r"merges\[2\] is ''; expected two tokens"),
    "merge with nothing behind": (at("merges", 2, "a "), r"merges\[2\] is 'a ', but '' is no token"),
    "merge of no token": (at("merges", 2, "zz a"), r"merges\[2\] is 'zz a', but 'zz' is no token of the vocabulary"),
    "merge to no token": (at("merges", 2, "a x"), r"merges\[2\] is 'a x', but 'ax' is no token of the vocabulary"),
    "bos outside": (byte_level(bos_token_id=277), "key tokenizer.ggml.bos_token_id is token 277; expected an id below 277"),
    "eos outside": (byte_level(eos_token_id=2**31), "key tokenizer.ggml.eos_token_id is token 2147483648"),
    "eos negative": (byte_level(eos_token_id=-5), "key tokenizer.ggml.eos_token_id is token -5"),
    "eos is a text": (byte_level(eos_token_id="1"), "key tokenizer.ggml.eos_token_id is '1'; expected a value of type int"),
    "unknown outside": (sentencepiece("gemma4", unknown_token_id=10**6), "key tokenizer.ggml.unknown_token_id is token 1000000"),
    "add_bos is a number": (byte_level(add_bos_token=1), "key tokenizer.ggml.add_bos_token is 1; expected a value of type bool"),
    "template is a number": ({**byte_level(), "tokenizer.chat_template": 1}, "key tokenizer.chat_template is 1"),
    "suppressed outside": (byte_level(suppress_tokens=[1, 1000]), "key tokenizer.ggml.suppress_tokens names token 1000"),
}


@pytest.mark.parametrize("name", GGUF_LIES)
def test_a_lie_in_the_keys_is_named(name):
    keys, message = GGUF_LIES[name]
    with pytest.raises(FileError, match=f"small.gguf: .*{message}") as caught:
        load_tokenizer(gguf_model(keys))
    assert len(str(caught.value)) < 2000


def test_neither_bytes_nor_unknown_token():
    keys = sentencepiece("gemma4")
    keys["tokenizer.ggml.token_type"] = [1 if kind == BYTE else kind for kind in keys["tokenizer.ggml.token_type"]]
    load_tokenizer(gguf_model(keys))
    del keys["tokenizer.ggml.unknown_token_id"]
    with pytest.raises(FileError, match="has 0 byte tokens and no unknown token"):
        load_tokenizer(gguf_model(keys))


def test_more_tokens_than_rows():
    model = gguf_model(byte_level())
    model.tensors["token_embd.weight"] = Tensor("token_embd.weight", "F32", (276, 8), None, "small.gguf")
    with pytest.raises(FileError, match="has 277 tokens, but token_embd.weight has 276 rows"):
        load_tokenizer(model)


def test_empty_tokens_are_holes():
    keys = byte_level(tokens=[*byte_level()["tokenizer.ggml.tokens"], "", ""],
                      token_type=[*byte_level()["tokenizer.ggml.token_type"], USER_DEFINED, 1])
    t = load_tokenizer(gguf_model(keys))
    assert t.vocab_size == 279 and t.decode([277, 278]) == "" and t.encode("hello") == tokenizer("byte-level").encode("hello")


def test_tokens_too_long_to_derive_merges_from():
    """Looking at every way to cut a token takes the square of its length: bounded, for all tokens together."""
    long = ["a" * 500 + f"{i:06}" for i in range(1200)]
    keys = sentencepiece("llama")
    keys["tokenizer.ggml.tokens"] += long
    keys["tokenizer.ggml.token_type"] += [1] * 1200
    keys["tokenizer.ggml.scores"] += [0.0] * 1200
    with pytest.raises(FileError, match="tokens that are too long on the whole"):
        load_tokenizer(gguf_model(keys))


def changed(path, value):
    """The small tokenizer.json with one node replaced."""
    tree = tokenizer_json(SMALL["gemma4"])
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


def added(**changes):
    """The small tokenizer.json with the entry of <h1> changed."""
    tree = tokenizer_json(SMALL["gemma4"])
    next(entry for entry in tree["added_tokens"] if entry["content"] == "<h1>").update(changes)
    return tree


def replacing(old, new):
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
JSON_LIES = {
    "empty": ("", "the JSON text is damaged"),
    "no object": ("[]", "the JSON text holds a list"),
    "nested 100000 deep": ('{"model": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    "another model": (changed(["model"], {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}), "model.type is 'WordLevel'; expected 'BPE'"),
    "no model": (changed(["model"], None), "model.vocab is {}; expected tokens"),
    "model is a list": (changed(["model"], []), r"model is \[\]; expected a value of type dict"),
    "vocabulary is a list": (changed(["model", "vocab"], ["a"]), r"model.vocab is \['a'\]; expected a value of type dict"),
    "ids are texts": (changed(["model", "vocab"], {"a": "0"}), "token 'a' has id '0'; expected ids below 310"),
    "id is a bool": (changed(["model", "vocab", "a"], True), "token 'a' has id True"),
    "id negative": (changed(["model", "vocab", "a"], -1), "token 'a' has id -1; expected ids below 310"),
    "id 2^40": (changed(["model", "vocab", "a"], 2**40), "token 'a' has id 1099511627776; expected ids below 310, the model's vocabulary"),
    "id beyond the rows": (changed(["model", "vocab", "a"], 310), "token 'a' has id 310; expected ids below 310, the model's vocabulary"),
    "id twice": (changed(["model", "vocab", "a"], 0), "310 tokens share 309 ids"),
    "merges are one text": (changed(["model", "merges"], "a b"), "model.merges is 'a b'; expected a value of type list"),
    "merge of no token": (changed(["model", "merges", 0], ["zz", "a"]), r"model.merges\[0\] is \['zz', 'a'\], but 'zz' is no token"),
    "merge to no token": (changed(["model", "merges", 0], "a x"), r"model.merges\[0\] is 'a x', but 'ax' is no token"),
    "merge of three": (changed(["model", "merges", 0], ["a", "b", "c"]), r"model.merges\[0\] is \['a', 'b', 'c'\]; expected two tokens"),
    "merge of numbers": (changed(["model", "merges", 0], [1, 2]), r"model.merges\[0\] is \[1, 2\]; expected two tokens"),
    "prefix of subwords": (changed(["model", "continuing_subword_prefix"], "######"), "model.continuing_subword_prefix is '######'; expected none"),
    "suffix of words": (changed(["model", "end_of_word_suffix"], "</w>"), "model.end_of_word_suffix is '</w>'; expected none"),
    "unknown token unknown": (changed(["model", "unk_token"], "<nothing>"), "model.unk_token is '<nothing>'; expected a token of the vocabulary"),
    "byte_fallback is a number": (changed(["model", "byte_fallback"], 1), "model.byte_fallback is 1; expected a value of type bool"),
    "added token is a text": (changed(["added_tokens", 0], "<pad>"), "an entry of added_tokens is '<pad>'; expected an object"),
    "added token without id": (added(id=None), "an entry of added_tokens is .*; expected content and id"),
    "added token of another id": (added(id=3), "the added token '<h1>' has id 3; expected an id of its own"),
    "added token twice": (added(content="<eos>"), "the added token '<eos>' has id 7; expected an id of its own"),
    "added token with a flag of a wrong type": (added(lstrip="yes"), "the added token '<h1>'.lstrip is 'yes'; expected a value of type bool"),
    "added surrogate": (added(content="\ud800", id=309), "expected an id of its own"),
    "letters that grow to 10^12": (changed(["normalizer"], {"type": "Sequence", "normalizers": [replacing("a", "a" * 1000)] * 4}),
                                   "normalizer is .*expected NFC"),
    "many steps that double": (changed(["normalizer"], {"type": "Sequence", "normalizers": [replacing("a", "aa")] * 40}),
                               "normalizer.normalizers is 'a list of 40'; expected at most 4"),
    "replaces nothing": (changed(["normalizer"], replacing("", "ab")), "normalizer.pattern is {'String': ''}; expected a text"),
    "replaces by an expression": (changed(["normalizer"], {"type": "Replace", "pattern": {"Regex": "a*"}, "content": "b"}),
                                  "normalizer.pattern is .*; expected a text"),
    "puts a novel first": (changed(["normalizer"], {"type": "Prepend", "prepend": "x" * 1_000_000}), "normalizer is .*expected NFC"),
    "precompiled": (changed(["normalizer"], {"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "normalizer is .*expected NFC"),
    "sequence in a sequence": (changed(["normalizer"], {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}),
                               "normalizer is .*expected NFC"),
    "normalizer without a type": (changed(["normalizer"], {"normalizers": []}), "normalizer is .*expected an object with a type"),
    "sequence of no list": (changed(["normalizer"], {"type": "Sequence", "normalizers": {}}),
                            "normalizer.normalizers is {}; expected a value of type list"),
    "bad expression": (changed(["pre_tokenizer"], {"type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Isolated", "invert": False}),
                       "pre_tokenizer: the tokenizers library refuses it"),
    "long expression": (changed(["pre_tokenizer"], {"type": "Split", "pattern": {"Regex": "a" * 5000}, "behavior": "Isolated", "invert": False}),
                        "pre_tokenizer.pattern is .*at most 4096 letters"),
    "another behavior": (changed(["pre_tokenizer"], {"type": "Split", "pattern": {"String": "a"}, "behavior": "Odd", "invert": False}),
                         "pre_tokenizer is .*expected Split or ByteLevel"),
    "another pre-tokenizer": (changed(["pre_tokenizer"], {"type": "UnicodeScripts"}), "pre_tokenizer is .*expected Split or ByteLevel"),
    "another decoder": (changed(["decoder"], {"type": "WordPiece", "prefix": "##", "cleanup": True}), "decoder is .*expected ByteLevel, or Replace"),
    "decoder that replaces": (changed(["decoder"], replacing("a", "b")), "decoder is .*expected ByteLevel, or Replace"),
    "decoder for bytes, words not": (changed(["decoder"], LEVEL), r"decoder is \['ByteLevel'\]; expected ByteLevel in neither"),
    "words for bytes, decoder not": (changed(["pre_tokenizer"], LEVEL), "decoder is .*; expected ByteLevel too"),
    "byte-level without the bytes": (changed(["decoder"], LEVEL) | {"pre_tokenizer": LEVEL}, "the vocabulary lacks .* of the 256 letters"),
    "neither bytes nor unknown": (changed(["model", "unk_token"],
                                          None) | {"model": {**changed(["model", "unk_token"], None)["model"], "byte_fallback": False}},
                                  "neither all 256 byte tokens nor an unknown"),
    "post-processor of a wrong type": (changed(["post_processor"], []), r"post_processor is \[\]; expected an object with a type"),
    "first token unknown": (changed(["post_processor"], {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<nothing>"}}]}),
                            "post_processor.single is .*; expected a token of the vocabulary"),
}


@pytest.mark.parametrize("name", JSON_LIES)
def test_a_lie_in_tokenizer_json_is_named(name, tmp_path):
    tree, message = JSON_LIES[name]
    with pytest.raises(FileError, match=f"^tokenizer.json: .*({message})") as caught:
        load_tokenizer(json_model(tmp_path, tree, config={"vocab_size": 310}))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(("config", "generation", "notes", "message"), [
    ({"vocab_size": "many"}, {}, None, "config.json: vocab_size is 'many'"),
    ({"vocab_size": 0}, {}, None, "config.json: vocab_size is 0"),
    ({"eos_token_id": 310}, {}, None, "config.json: eos_token_id is 310; expected token ids below 310"),
    ({"text_config": {"eos_token_id": -2}}, {}, None, "config.json: eos_token_id is -2"),
    ({"bos_token_id": "<bos>"}, {}, None, "config.json: bos_token_id is '<bos>'"),
    ({}, {"eos_token_id": [1, [2]]}, None, r"generation_config.json: eos_token_id is \[1, \[2\]\]"),
    ({}, {"eos_token_id": True}, None, "generation_config.json: eos_token_id is True"),
    ({}, {"suppress_tokens": [2**40]}, None, "generation_config.json: suppress_tokens is"),
    ({}, {}, {"eos_token": "<nothing>"}, "tokenizer_config.json: eos_token is '<nothing>'"),
    ({}, {}, {"bos_token": ["<bos>"]}, "tokenizer_config.json: bos_token is"),
    ({}, {}, {"add_bos_token": "yes"}, "tokenizer_config.json: add_bos_token is 'yes'"),
    ({}, {}, {"chat_template": 3}, "tokenizer_config.json: chat_template is 3"),
    ({}, {}, {"chat_template": [{"name": "default", "template": []}]}, r"tokenizer_config.json: chat_template is \[\]"),
    ({}, {}, [], "tokenizer_config.json: the JSON text holds a list"),
    ({}, {}, {"chat_template": "\ud800"}, "the tokenizer's files hold the unpaired surrogate"),
])
def test_a_lie_in_the_other_files_is_named(tmp_path, config, generation, notes, message):
    tree = tokenizer_json(SMALL["gemma4"])
    with pytest.raises(FileError, match=message):
        load_tokenizer(json_model(tmp_path, tree, {"vocab_size": 310, **config}, generation, notes))


def test_half_a_surrogate_pair_in_a_token(tmp_path):
    tree = tokenizer_json(SMALL["gemma4"])
    tree["model"]["vocab"]["\ud800"] = 310
    with pytest.raises(FileError, match="the tokenizer's files hold the unpaired surrogate"):
        load_tokenizer(json_model(tmp_path, tree))


def test_template_is_no_text(tmp_path):
    model = json_model(tmp_path, tokenizer_json(SMALL["gemma4"]))
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(FileError, match="chat_template.jinja: the file is not UTF-8"):
        load_tokenizer(model)


def test_a_panic_of_the_library_is_an_error():
    from skipstone.text.vocabulary import library_errors
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(FileError, match="x: the tokenizers library refuses it \\(boom\\)"), library_errors("x"):
        raise panic("boom")
    with pytest.raises(KeyboardInterrupt), library_errors("x"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["tiny-qwen35-Q4_K_M", "tiny-gemma4-Q4_K_M"])
def test_bundled(name):
    """The packaged vocabularies, on text that hurts."""
    import skipstone
    from pathlib import Path
    t = load_tokenizer(open_model(Path(skipstone.__file__).parent / "bundled" / f"{name}.gguf"))
    qwen = "qwen" in name
    for text in HURTING + MARKED:
        expected = unicodedata.normalize("NFC", text) if qwen else text.replace("\u2581", " ")
        assert t.decode(t.encode(text)) == expected
    assert t.vocab_size == 4096 and len(t.eos_ids) == 2 and t.add_bos is not qwen
    chat = "<|im_start|>user\nhi<|im_end|>\n" if qwen else "<bos><|turn>user\nhi<turn|>\n"
    ids = t.encode_prompt(chat)
    assert set(ids) & t.eos_ids and t.decode(ids, special=True) == chat and "<" not in t.decode(ids)


def test_more_merges_than_a_vocabulary_has():
    """Every beginning of a run of one letter joins every other: the merges grow with the square of the tokens."""
    runs = ["a" * n for n in range(5, 400)]
    keys = sentencepiece("llama")
    keys["tokenizer.ggml.tokens"] += runs
    keys["tokenizer.ggml.token_type"] += [1] * len(runs)
    keys["tokenizer.ggml.scores"] += [0.0] * len(runs)
    with pytest.raises(FileError, match="key tokenizer.ggml.tokens gives over 6916 merges for 705 tokens; expected about two for each"):
        load_tokenizer(gguf_model(keys))
