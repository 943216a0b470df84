"""A vocabulary as both kinds of files give it, and the encoders made from it."""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tokenizers

from ..errors import FileError, OutOfMemory, SkipstoneError
from ..files.messages import shown


BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")       # how SentencePiece spells a byte that has no letter


@dataclass
class Added:
    """A token that is found in the text before merging starts."""

    id: int
    token: tokenizers.AddedToken
    content: bool           # whether ordinary text may become it


@dataclass
class Vocabulary:
    """What a tokenizer is made of. pieces: the bytes each id stands for, b"" for control tokens; spelled: those tokens' names."""

    where: str                              # file or key, for messages
    model: tokenizers.models.BPE
    normalizer: Any
    pre_tokenizer: Any
    pieces: list[bytes]
    added: list[Added]
    spelled: dict[int, str]
    bos_id: int | None = None
    add_bos: bool = False
    eos_id: int | None = None               # the one that templates know by name
    eos_ids: set[int] = field(default_factory=set)
    suppressed: set[int] = field(default_factory=set)
    chat_template: str | None = None


class Encoder:
    """The `tokenizers` pipeline with some of the added tokens."""

    def __init__(self, vocabulary: Vocabulary, added: Iterable[Added]) -> None:
        self.where = vocabulary.where
        with library_errors(self.where):
            self._tokenizer = tokenizers.Tokenizer(vocabulary.model)
            self._tokenizer.normalizer = vocabulary.normalizer
            self._tokenizer.pre_tokenizer = vocabulary.pre_tokenizer
            added = sorted((a for a in added if a.token.content), key=lambda a: a.id)
            self._tokenizer.add_tokens([a.token for a in added])
            # The library numbers tokens that the model lacks itself, in the order given.
            numbered = {self._tokenizer.token_to_id(a.token.content): a.id for a in added}
        self._ids = {number: id for number, id in numbered.items() if number != id}

    def encode(self, text: str) -> list[int]:
        with library_errors(self.where):
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [self._ids.get(id, id) for id in ids] if self._ids else ids


class MarkerFinder:
    """Finds the added tokens that content may not become, in text of which only parts may hold them."""

    def __init__(self, added: Iterable[Added]) -> None:
        self._tokens = {a.token.content: a for a in added if not a.content and a.token.content}
        self._lengths = sorted({len(text) for text in self._tokens}, reverse=True)
        self._starts = re.compile("|".join(map(re.escape, sorted({text[0] for text in self._tokens}))) or "(?!)")

    def find(self, text: str, runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        """(start, end, id) of each, the first and longest first, whole in one of the runs (start, end) of `text`, which are in order."""
        for begin, end in runs:
            at = begin
            while match := self._starts.search(text, at, end):
                at = match.start()
                found = self._longest(text, at, end)
                if found is None:
                    at += 1
                    continue
                start, stop, token = at, at + len(found.token.content), found.token
                while token.lstrip and start > begin and text[start - 1].isspace():
                    start -= 1
                while token.rstrip and stop < end and text[stop].isspace():
                    stop += 1
                yield start, stop, found.id
                at = begin = stop

    def _longest(self, text: str, at: int, end: int) -> Added | None:
        for length in self._lengths:
            found = self._tokens.get(text[at:at + length]) if at + length <= end else None
            if found is None:
                continue
            around = text[at - 1:at] + text[at + length:at + length + 1] if at else text[length:length + 1]
            if not (found.token.single_word and any(letter.isalnum() or letter == "_" for letter in around)):
                return found
        return None


@contextmanager
def library_errors(where: str) -> Iterator[None]:
    """Turns whatever the `tokenizers` library raises about a vocabulary into FileError."""
    try:
        yield
    except (SkipstoneError, KeyboardInterrupt, SystemExit):
        raise
    except MemoryError:
        raise OutOfMemory(f"{where}: not enough memory to build the tokenizer") from None
    except BaseException as error:
        # A panic of the Rust code is no Exception, and its class cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise FileError(f"{where}: the tokenizers library refuses it ({shown(error, 300)}); expected a valid vocabulary") from None
