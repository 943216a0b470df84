"""The tokenizer of a GGUF file, from its own keys."""
from __future__ import annotations

from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from ..errors import FileError
from ..files import ModelFile
from ..files.messages import shown, shown_value
from . import markers
from ._vocabulary import ALPHABET, byte_level_pieces, merges_from_scores, check_merges
from .vocabulary import BYTE_TOKEN, Added, Vocabulary, library_errors

TOKEN_LIMIT = 512       # letters

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# The words inside which byte-level merges happen. They differ in the combining marks, which qwen35 counts as letters.
WORDS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen35": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
WORDS["deepseek-r1-qwen"] = WORDS["qwen2"]


def read_vocabulary(model_file: ModelFile) -> Vocabulary | None:
    """None where the file says that it has no vocabulary. Raises FileError."""
    return _Reader(model_file).vocabulary()


def read_ends(model_file: ModelFile) -> Vocabulary | None:
    """As read_vocabulary, but only what begins and ends a text, and the template: without the merges, which take most of the time."""
    reader = _Reader(model_file)
    if reader.value("tokenizer.ggml.model", str) in (None, "none", "no_vocab"):
        return None
    reader.read_tokens()
    vocabulary = Vocabulary(reader.file, models.BPE(), None, None, [], [], dict(enumerate(reader.tokens)))
    reader.describe(vocabulary, reader.value("tokenizer.ggml.model", str))
    return vocabulary


class _Reader:
    def __init__(self, model_file: ModelFile) -> None:
        self.file = shown(model_file.name)
        self.keys = model_file.metadata
        embedding = model_file.tensors.get("token_embd.weight")
        self.rows = embedding.shape[0] if embedding is not None and len(embedding.shape) == 2 else None

    def error(self, key: str, found: str, expected: str) -> FileError:
        return FileError(f"{self.file}: key {key} {found}; expected {expected}")

    def value(self, key: str, kind: type, default: Any = None) -> Any:
        value = self.keys.get(key, default)
        if value is not None and type(value) is not kind:
            raise self.error(key, f"is {shown_value(value)}", f"a value of type {kind.__name__}")
        return value

    def array(self, key: str, kind: type, length: int | None = None) -> list[Any]:
        values = self.value(key, list)
        if values is None:
            raise self.error(key, "is missing", "an array")
        if values and type(values[0]) is not kind:      # all entries of a GGUF array have one type
            raise self.error(key, f"is an array of {type(values[0]).__name__}", f"an array of {kind.__name__}")
        if length is not None and len(values) != length:
            raise self.error(key, f"has {len(values)} entries", f"{length}, one for each token")
        return values

    def id(self, key: str) -> int | None:
        value = self.value(key, int)
        if value is None or value in (-1, 0xFFFFFFFF):      # both are written for "none"
            return None
        if not 0 <= value < len(self.tokens):
            raise self.error(key, f"is token {value}", f"an id below {len(self.tokens)}, the length of the vocabulary")
        return value

    def vocabulary(self) -> Vocabulary | None:
        kind = self.value("tokenizer.ggml.model", str)
        if kind in (None, "none", "no_vocab"):
            return None
        if kind not in ("gpt2", "gemma4", "llama"):
            raise self.error("tokenizer.ggml.model", f"is {shown_value(kind)}", "gpt2, gemma4 or llama: Skipstone knows no other tokenizer")
        self.read_tokens()
        if kind == "gpt2":
            vocabulary = self.byte_level()
        else:
            vocabulary = self.sentencepiece(score_driven=kind == "llama")
        self.describe(vocabulary, kind)
        return vocabulary

    def read_tokens(self) -> None:
        """Sets tokens, kinds (their types) and ids (token -> id; empty tokens have no entry)."""
        key = "tokenizer.ggml.tokens"
        tokens = self.array(key, str)
        if not tokens:
            raise self.error(key, "is empty", "a vocabulary")
        if self.rows is not None and len(tokens) > self.rows:
            raise self.error(key, f"has {len(tokens)} tokens, but token_embd.weight has {self.rows} rows", "a row for each token")
        kinds = self.array("tokenizer.ggml.token_type", int, len(tokens)) if "tokenizer.ggml.token_type" in self.keys else [NORMAL] * len(tokens)
        wrong = next((i for i, value in enumerate(kinds) if not 0 <= value <= BYTE), None)
        if wrong is not None:
            raise self.error(f"tokenizer.ggml.token_type[{wrong}]", f"is {kinds[wrong]}", "a type from 0 to 6")
        ids = {token: i for i, token in enumerate(tokens)}
        if len(ids) != len(tokens):
            for i, token in enumerate(tokens):
                if token and ids[token] != i:
                    raise self.error(f"{key}[{i}]", f"is {shown_value(token)}, and so is [{ids[token]}]", "each token once")
        ids.pop("", None)
        longest = max(ids, key=len, default="")
        if len(longest) > TOKEN_LIMIT:
            raise self.error(f"{key}[{ids[longest]}]", f"has {len(longest)} letters", f"at most {TOKEN_LIMIT}")
        kinds = list(kinds)
        for text in markers.KNOWN & ids.keys():
            if kinds[ids[text]] in (0, NORMAL):
                kinds[ids[text]] = USER_DEFINED if text in markers.SHOWN else CONTROL
        self.tokens, self.kinds, self.ids = tokens, kinds, ids

    def byte_level(self) -> Vocabulary:
        key = "tokenizer.ggml.pre"
        pre = self.value(key, str)
        if pre not in WORDS:
            raise self.error(key, f"is {shown_value(pre)}", f"one of {', '.join(WORDS)}: Skipstone knows no other rule to cut text into words")
        missing = [letter for letter in ALPHABET if letter not in self.ids]
        if missing:
            raise self.error("tokenizer.ggml.tokens", f"lacks {len(missing)} of the 256 letters for bytes, {ascii(missing[0])} first", "all of them")
        pieces = byte_level_pieces(self.tokens)
        splitting = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(WORDS[pre]), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        return self.assemble(self.given_merges(), pieces, normalizers.NFC(), splitting, {})

    def sentencepiece(self, score_driven: bool) -> Vocabulary:
        pieces = [token.replace("\u2581", " ").encode() for token in self.tokens]
        complete = 0
        for i, kind in enumerate(self.kinds):
            if kind == BYTE:
                match = BYTE_TOKEN.fullmatch(self.tokens[i])
                if match is None:
                    raise self.error(f"tokenizer.ggml.tokens[{i}]", f"is {shown_value(self.tokens[i])}, a byte token", "<0x00> to <0xFF>")
                pieces[i] = bytes((int(match[1], 16),))
                complete += 1
        unknown = self.id("tokenizer.ggml.unknown_token_id")
        if complete < 256 and not (unknown is not None and self.tokens[unknown]):
            raise self.error("tokenizer.ggml.tokens", f"has {complete} byte tokens and no unknown token",
                             "256 byte tokens, for letters that have no token")
        merges = self.derived_merges() if score_driven else self.given_merges()
        steps: list[Any] = [normalizers.Replace(" ", "\u2581")]
        if score_driven and self.value("tokenizer.ggml.add_space_prefix", bool, True):
            steps.insert(0, normalizers.Prepend("\u2581"))
        options = {"byte_fallback": True, "fuse_unk": True, "unk_token": self.tokens[unknown] if unknown is not None else None}
        return self.assemble(merges, pieces, normalizers.Sequence(steps), None, options)

    def special(self) -> set[str]:
        """What no merge may make: tokens that are no text, and tokens that mark structure."""
        return {token for token, i in self.ids.items() if self.kinds[i] in (UNKNOWN, CONTROL, UNUSED, BYTE)
                or self.kinds[i] == USER_DEFINED and markers.is_marker(token)}

    def given_merges(self) -> list[tuple[str, str]]:
        key = "tokenizer.ggml.merges"
        return check_merges(self.array(key, str), self.ids, self.special(), f"{self.file}: key {key}")

    def derived_merges(self) -> list[tuple[str, str]]:
        key = "tokenizer.ggml.scores"
        scores = np.array(self.array(key, float, len(self.tokens)))
        order = np.argsort(-scores, kind="stable").tolist()
        return merges_from_scores(self.tokens, order, self.ids.keys() - self.special(), f"{self.file}: key tokenizer.ggml.tokens")

    def assemble(self, merges: list[tuple[str, str]], pieces: list[bytes], normalizer: Any, splitting: Any, options: dict[str, Any]) -> Vocabulary:
        added, spelled = [], {}
        for i, kind in enumerate(self.kinds):
            if kind in (UNKNOWN, CONTROL, USER_DEFINED):
                text = self.tokens[i]
                hidden = kind != USER_DEFINED and text not in markers.VISIBLE
                added.append(Added(i, AddedToken(text, normalized=False), kind == USER_DEFINED and not markers.is_marker(text)))
                pieces[i] = b"" if hidden else text.encode()
                if hidden:
                    spelled[i] = text
            elif kind == UNUSED:
                pieces[i] = b""
        where = f"{self.file}: keys tokenizer.ggml.*"
        with library_errors(where):
            model = models.BPE(self.ids, merges, **options)
        return Vocabulary(where, model, normalizer, splitting, pieces, added, spelled)

    def describe(self, vocabulary: Vocabulary, kind: str) -> None:
        """Beginning and end of text, and the chat template."""
        vocabulary.bos_id = self.id("tokenizer.ggml.bos_token_id")
        # Gemma 4 files of the first days deny it wrongly.
        vocabulary.add_bos = self.value("tokenizer.ggml.add_bos_token", bool, kind == "llama") or kind == "gemma4"
        named = [self.id(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
        ends = [self.ids[text] for text in markers.ENDS if text in self.ids and self.kinds[self.ids[text]] == CONTROL]
        if kind == "gemma4" and "<|tool_response>" in self.ids:
            ends.append(self.ids["<|tool_response>"])       # here the tool answers, not the model
        vocabulary.eos_id = named[0]
        vocabulary.eos_ids = {i for i in named + ends if i is not None}
        if "tokenizer.ggml.suppress_tokens" in self.keys:
            vocabulary.suppressed = set(self.array("tokenizer.ggml.suppress_tokens", int))
            outside = [i for i in vocabulary.suppressed if not 0 <= i < len(self.tokens)]
            if outside:
                raise self.error("tokenizer.ggml.suppress_tokens", f"names token {outside[0]}", f"ids below {len(self.tokens)}")
        vocabulary.chat_template = self.value("tokenizer.chat_template", str)
        if kind == "llama":
            # In Gemma 3 this is user-defined, in older vocabularies it ends the text; either way content must not become it.
            for added in vocabulary.added:
                added.content = added.content and added.token.content != "</s>"
