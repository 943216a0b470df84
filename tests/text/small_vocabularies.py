"""Small vocabularies of each kind, as GGUF keys and as a tokenizer.json, and the slow, obvious way to use them."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skipstone.files import ModelFile
from skipstone.files.mapping import read_json

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def alphabet() -> list[str]:
    """GPT-2's letter for each byte, in the order of the bytes."""
    printable = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


MERGES = ["h e", "l l", "ll o", "he llo", "\u0120 w", "o r", "\u0120w or", "d e", "de f", "\u0120 \u0120", "\u0120\u0120 \u0120\u0120", "1 2",
          "\u00c3 \u00a9", "a b", "ab ab"]
MARKERS = {"<|endoftext|>": CONTROL, "<|im_start|>": CONTROL, "<|im_end|>": CONTROL, "<think>": USER_DEFINED, "</think>": USER_DEFINED,
           "[PAD]": UNUSED}


def byte_level(pre: str = "qwen35", **changes: Any) -> dict[str, Any]:
    """A byte-level vocabulary: 256 bytes, a token for each merge, then the markers."""
    tokens = alphabet() + [merge.replace(" ", "") for merge in MERGES] + list(MARKERS)
    kinds = [NORMAL] * (256 + len(MERGES)) + list(MARKERS.values())
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds,
            "tokenizer.ggml.merges": list(MERGES), "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"), "tokenizer.ggml.add_bos_token": False,
            "tokenizer.chat_template": "{{ messages }}", **{f"tokenizer.ggml.{k}": v for k, v in changes.items()}}


PIECES = ["he", "ll", "lo", "llo", "hello", SPACE + "w", "or", SPACE + "wor", "ab", "aba", "bab", "abab", "aa", "aaa", "aaaa", SPACE + SPACE,
          "\u00e9t", "\n\n", "x\n"]
LETTERS = list("abcdehlorstwx019.,") + [SPACE, "\u00e9", "\n", "<", ">", "|", "\u65e5"]
SPECIAL = {"<pad>": CONTROL, "<eos>": CONTROL, "<bos>": CONTROL, "<unk>": CONTROL, "<|turn>": NORMAL, "<turn|>": CONTROL, "<|channel>": USER_DEFINED,
           "<h1>": USER_DEFINED, "<|tool_response>": USER_DEFINED, "</s>": USER_DEFINED}


def sentencepiece(model: str, **changes: Any) -> dict[str, Any]:
    """A vocabulary with bytes for letters it lacks: model "gemma4" (with merges) or "llama" (with scores)."""
    special = list(SPECIAL)
    tokens = special + [f"<0x{byte:02X}>" for byte in range(256)] + LETTERS + PIECES
    kinds = list(SPECIAL.values()) + [BYTE] * 256 + [NORMAL] * (len(LETTERS) + len(PIECES))
    ordinary = len(special) + 256
    keys = {"model": model, "tokens": tokens, "token_type": kinds,
            "scores": [-1000.0] * ordinary + [-float(i) for i in range(len(LETTERS) + len(PIECES), 0, -1)],
            "bos_token_id": special.index("<bos>"), "eos_token_id": special.index("<eos>"), "unknown_token_id": special.index("<unk>"),
            "add_bos_token": True, "add_space_prefix": False}
    if model == "gemma4":
        keys["merges"] = merges_of(set(LETTERS) | set(PIECES))
        keys["add_bos_token"] = False           # files of the first days; the model wants it all the same
    return {f"tokenizer.ggml.{k}": v for k, v in {**keys, **changes}.items()}


def merges_of(vocabulary: set[str]) -> list[str]:
    """One merge for each piece: its first split into two tokens."""
    made = []
    for piece in PIECES:
        at = next(at for at in range(1, len(piece)) if piece[:at] in vocabulary and piece[at:] in vocabulary)
        made.append(f"{piece[:at]} {piece[at:]}")
    return made


def gguf_model(keys: dict[str, Any], architecture: str = "small") -> ModelFile:
    return ModelFile(Path("small.gguf"), "gguf", architecture, {}, metadata={"general.architecture": architecture, **keys})


def json_model(folder: Path, tokenizer: Any, config: dict[str, Any] | None = None, generation: dict[str, Any] | None = None,
               notes: Any = None, architecture: str = "small") -> ModelFile:
    """A folder with tokenizer.json (an object, or text) and tokenizer_config.json; weights are not looked at."""
    (folder / "tokenizer.json").write_text(tokenizer if isinstance(tokenizer, str) else json.dumps(tokenizer))
    if notes is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(notes))
    (folder / "config.json").write_text(json.dumps({"model_type": architecture, **(config or {})}))
    return ModelFile(folder, "safetensors", architecture, {}, config=read_json(folder / "config.json", 1 << 20), generation_config=generation or {})


def tokenizer_json(keys: dict[str, Any], words: str | None = None) -> dict[str, Any]:
    """The tokenizer.json that says the same as the GGUF keys. words: the regular expression of a byte-level vocabulary."""
    tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": kind != USER_DEFINED or token in ("<|channel>", "<|tool_response>")}
             for i, (token, kind) in enumerate(zip(tokens, kinds)) if kind in (UNKNOWN, CONTROL, USER_DEFINED) or token == "<|turn>"]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
             "byte_fallback": False, "ignore_merges": False, "vocab": {t: i for i, t in enumerate(tokens)},
             "merges": [merge.split(" ") for merge in keys["tokenizer.ggml.merges"]]}
    tree = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "post_processor": None, "model": model}
    if words is not None:
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False}
        model["vocab"] = {t: i for i, t in enumerate(tokens) if kinds[i] == NORMAL}
        return {**tree, "normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "decoder": level}
    model.update(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    steps = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return {**tree, "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
            "decoder": {"type": "Sequence", "decoders": steps}}


def merge_slowly(symbols: list[str], rank: Any) -> list[str]:
    """Merges the best adjacent pair, the leftmost of equals, until none is left. rank(left, right): lower is better, None for no merge."""
    symbols = list(symbols)
    while True:
        ranked = [(rank(left, right), at) for at, (left, right) in enumerate(zip(symbols, symbols[1:])) if rank(left, right) is not None]
        if not ranked:
            return symbols
        at = min(ranked)[1]
        symbols[at:at + 2] = [symbols[at] + symbols[at + 1]]


def sentencepiece_slowly(keys: dict[str, Any], text: str) -> list[int]:
    """The ids of content without markers, by the definition."""
    tokens = keys["tokenizer.ggml.tokens"]
    ids = {token: i for i, token in enumerate(tokens)}
    if keys["tokenizer.ggml.model"] == "llama":
        scores = keys["tokenizer.ggml.scores"]
        pieces = set(LETTERS) | set(PIECES)
        symbols = merge_slowly(list(text.replace(" ", SPACE)), lambda a, b: -scores[ids[a + b]] if a + b in pieces else None)
    else:
        order = {tuple(merge.split(" ")): i for i, merge in enumerate(keys["tokenizer.ggml.merges"])}
        symbols = merge_slowly(list(text.replace(" ", SPACE)), lambda a, b: order.get((a, b)))
    found = []
    for symbol in symbols:
        found += [ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return found
