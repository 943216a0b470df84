"""The tokenizer of a safetensors folder: tokenizer.json, tokenizer_config.json, and the ids in the model's own files."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from ..errors import FileError
from ..files import ModelFile
from ..files.mapping import read_json, read_whole
from ..files.messages import shown
from . import markers
from ._vocabulary import ALPHABET, byte_level_pieces
from .vocabulary import BYTE_TOKEN, Added, Vocabulary, library_errors

TOKENIZER_LIMIT = 128 << 20         # bytes; Gemma's has 33 MB
CONFIG_LIMIT = 16 << 20
TEMPLATE_LIMIT = 1 << 20


def read_vocabulary(model_file: ModelFile) -> Vocabulary | None:
    """None where the folder has no tokenizer.json. Raises FileError."""
    folder = model_file.path if model_file.path.is_dir() else model_file.path.parent
    if not (folder / "tokenizer.json").exists():
        return None
    rows = _rows(model_file.config)
    vocabulary, ids = _read(folder / "tokenizer.json", rows, model_file.architecture)
    notes = read_json(folder / "tokenizer_config.json", CONFIG_LIMIT) if (folder / "tokenizer_config.json").exists() else {}
    _describe(vocabulary, ids, notes, model_file, rows)
    vocabulary.chat_template = _template(folder, notes)
    return vocabulary


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else {}


def _rows(config: dict[str, Any]) -> int | None:
    """Rows of the embedding: no id may reach beyond."""
    for where in _text_config(config), config:
        rows = where.get("vocab_size")
        if rows is not None:
            if type(rows) is not int or rows < 1:
                raise FileError(f"config.json: vocab_size is {shown(repr(rows))}; expected a number from 1 on")
            return rows
    return None


def _read(path: Path, rows: int | None, architecture: str) -> tuple[Vocabulary, dict[str, int]]:
    """The vocabulary, and ids by token."""
    where = "tokenizer.json"
    with library_errors(where):
        tokenizer = tokenizers.Tokenizer.from_buffer(read_whole(path, TOKENIZER_LIMIT))
        model, normalizer, pre_tokenizer = tokenizer.model, tokenizer.normalizer, tokenizer.pre_tokenizer
        if not isinstance(model, tokenizers.models.BPE):
            raise FileError(f"{where}: the model is {type(model).__name__}; expected BPE, Skipstone knows no other tokenizer")
        model.dropout = None            # a setting for training, which would make the ids random
        ids = tokenizer.get_vocab(with_added_tokens=False)
        added_tokens = tokenizer.get_added_tokens_decoder()
        decoder = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder is not None else {"type": "Fuse"}
        starts_with = _added_start(tokenizer)
    tokens = _by_id(ids, added_tokens, rows)
    pieces = _pieces(tokens, ids, decoder, model)

    added, spelled = [], {}
    for i, token in sorted(added_tokens.items()):
        text = token.content
        if rows is not None and i >= rows:
            continue            # Gemma 3 has a token for images that its text models have no row for
        content = not token.special and not markers.is_marker(text) and not (text == "</s>" and architecture.startswith("gemma3"))
        added.append(Added(i, token, content))
        hidden = token.special and text not in markers.SHOWN
        pieces[i] = b"" if hidden else tokens[i].encode()
        if hidden:
            spelled[i] = text
    ids = ids | {token.content: i for i, token in added_tokens.items() if i < len(pieces)}
    vocabulary = Vocabulary(where, model, normalizer, pre_tokenizer, pieces, added, spelled)
    vocabulary.bos_id, vocabulary.add_bos = starts_with, starts_with is not None
    return vocabulary, ids


def _added_start(tokenizer: tokenizers.Tokenizer) -> int | None:
    """The token that the file's own recipe puts before a text."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    return full[0] if len(full) > len(plain) and full[1:1 + len(plain)] == plain else None


def _by_id(ids: dict[str, int], added: dict[int, tokenizers.AddedToken], rows: int | None) -> list[str]:
    """Tokens by id, "" where there is none."""
    every = {i: token for token, i in ids.items()}
    if len(every) != len(ids):
        raise FileError(f"tokenizer.json: {len(ids)} tokens share {len(every)} ids; expected an id for each")
    if not ids:
        raise FileError("tokenizer.json: the vocabulary is empty; expected tokens")
    highest = max(every)
    limit = rows if rows is not None else 4 * len(ids) + 1024
    if highest >= limit:
        raise FileError(f"tokenizer.json: token {shown(ascii(every[highest]))} has id {highest}; expected ids below {limit}, the model's vocabulary")
    every |= {i: token.content for i, token in added.items() if i < limit}
    tokens = [""] * (max(every) + 1)
    for i, token in every.items():
        tokens[i] = token
    return tokens


def _pieces(tokens: list[str], ids: dict[str, int], decoder: dict[str, Any], model: tokenizers.models.BPE) -> list[bytes]:
    """The bytes of each token, by the file's own decoder."""
    steps = decoder.get("decoders", []) if decoder.get("type") == "Sequence" else [decoder]
    kinds = [step.get("type") for step in steps]
    unknown = set(kinds) - {"ByteLevel", "Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"}
    spaces = [step for step in steps if step.get("type") == "Replace"]
    if unknown or any(step.get("pattern") != {"String": "\u2581"} or step.get("content") != " " for step in spaces):
        raise FileError(f"tokenizer.json: the decoder has the steps {shown(kinds)}; expected ByteLevel, or U+2581 to space with bytes as <0xXX>")
    if "ByteLevel" in kinds:
        missing = [letter for letter in ALPHABET if letter not in ids]
        if missing:
            raise FileError(f"tokenizer.json: the vocabulary lacks {len(missing)} of the 256 letters for bytes, {ascii(missing[0])} first; expected all")
        return byte_level_pieces(tokens)
    if not (model.byte_fallback and all(f"<0x{byte:02X}>" in ids for byte in range(256))) and model.unk_token not in ids:
        raise FileError("tokenizer.json: the vocabulary has neither all 256 byte tokens nor an unknown token; expected one of both")
    if "Replace" in kinds or "Metaspace" in kinds:
        tokens = [token.replace("\u2581", " ") for token in tokens]
    pieces = [token.encode() for token in tokens]
    if "ByteFallback" in kinds:
        for i, token in enumerate(tokens):
            match = BYTE_TOKEN.fullmatch(token) if token.startswith("<0x") else None
            if match:
                pieces[i] = bytes((int(match[1], 16),))
    return pieces


def _describe(vocabulary: Vocabulary, ids: dict[str, int], notes: dict[str, Any], model_file: ModelFile, rows: int | None) -> None:
    """Beginning and end of text: the union of what tokenizer_config.json, config.json and generation_config.json say."""
    limit = rows if rows is not None else len(vocabulary.pieces)
    config = {**model_file.config, **{k: v for k, v in _text_config(model_file.config).items() if v is not None}}
    sources = [("config.json", model_file.config), ("config.json", _text_config(model_file.config)),
               ("generation_config.json", model_file.generation_config)]
    for file, keys in sources:
        vocabulary.eos_ids.update(_ids(keys, "eos_token_id", file, limit))
        vocabulary.suppressed.update(_ids(keys, "suppress_tokens", file, limit))
    named = _named(notes, "eos_token", ids)
    special = {text for text in vocabulary.spelled.values()}
    ends = [named] + [ids[text] for text in markers.ENDS if text in special]
    if model_file.architecture.startswith("gemma4") and "<|tool_response>" in ids:
        ends.append(ids["<|tool_response>"])        # here the tool answers, not the model
    vocabulary.eos_ids.update(i for i in ends if i is not None)

    bos = _named(notes, "bos_token", ids)
    if bos is None and vocabulary.bos_id is None:
        bos = next(iter(_ids(config, "bos_token_id", "config.json", limit)), None)
    vocabulary.bos_id = bos if bos is not None else vocabulary.bos_id
    wanted = notes.get("add_bos_token")
    if wanted is not None:
        if not isinstance(wanted, bool):
            raise FileError(f"tokenizer_config.json: add_bos_token is {shown(repr(wanted))}; expected true or false")
        vocabulary.add_bos = wanted


def _ids(keys: dict[str, Any], key: str, file: str, limit: int) -> list[int]:
    """A token id, a list of them, or null."""
    value = keys.get(key)
    values = [] if value is None else value if isinstance(value, list) else [value]
    for i in values:
        if type(i) is not int or not (0 <= i < limit or i == -1):
            raise FileError(f"{file}: {key} is {shown(repr(value))}; expected token ids below {limit}")
    return [i for i in values if i >= 0]


def _named(notes: dict[str, Any], key: str, ids: dict[str, int]) -> int | None:
    """The id of a token given by its text, as {"content": text} or as text."""
    value = notes.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    if value is None:
        return None
    if not isinstance(value, str) or value not in ids:
        raise FileError(f"tokenizer_config.json: {key} is {shown(repr(value))}; expected a token of the vocabulary")
    return ids[value]


def _template(folder: Path, notes: dict[str, Any]) -> str | None:
    """The chat template: a file of its own in newer folders, else a text, or a list of named ones, in tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return read_whole(path, TEMPLATE_LIMIT).decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError(f"{path.name}: the file is not UTF-8 (byte {error.start}); expected UTF-8 text") from None
    template = notes.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict) and isinstance(entry.get("name"), str)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise FileError(f"tokenizer_config.json: chat_template is {shown(repr(template))}; expected a text")
    return template
