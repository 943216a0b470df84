"""Text to token ids and back, the same for a GGUF file's own vocabulary and for a tokenizer.json."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError, FileError, OutOfMemory
from ..files import ModelFile
from ..files.messages import shown
from . import from_gguf, from_json
from ._detokenize import Detokenizer, decode
from .vocabulary import Encoder, MarkerFinder, Vocabulary


class Tokenizer:
    """The tokenizer of a model.

    vocab_size: ids that have a token (the model may have more rows). bos_id: the token before a text, or None; add_bos:
    whether the model wants it. eos_ids: the tokens that end a text, from all the files that name some; eos_id: the one that
    chat templates know as eos_token, or None. suppressed: tokens that must not be generated. chat_template: the file's template, Jinja, or None.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._content = Encoder(vocabulary, [a for a in vocabulary.added if a.content])
        self._full = Encoder(vocabulary, vocabulary.added)
        self._markers = MarkerFinder(vocabulary.added)
        self._pieces = vocabulary.pieces
        self._spelled = vocabulary.spelled
        self._all_pieces: list[bytes] | None = None
        self.vocab_size = len(vocabulary.pieces)
        self.bos_id = vocabulary.bos_id
        self.add_bos = vocabulary.add_bos and vocabulary.bos_id is not None
        self.eos_id = vocabulary.eos_id
        self.eos_ids = frozenset(vocabulary.eos_ids)
        self.suppressed = frozenset(vocabulary.suppressed)
        self.chat_template = vocabulary.chat_template
        self.library_cache: dict[Any, Any] = {}   # what decode/constraint.py makes of this tokenizer

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The ids of a text.

        special=False: content. No token is put before it, and what is spelled like a control token or another mark of
        structure (a turn, a tool call, thinking) is ordinary text, so that content cannot pretend to be one.
        special=True: those become their tokens, and the model's first token, if it wants one, comes before the text: also before a text that
        spells it itself, as in the reference tokenizers. (`generate` and chat do not double it.)
        Raises ArgumentError for what is no Unicode text.
        """
        if not isinstance(text, str):
            raise ArgumentError(f"text: found {type(text).__name__}; expected a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ArgumentError(f"text: character {error.start} is the unpaired surrogate {ascii(text[error.start])}; "
                                "expected Unicode text") from None
        if not special:
            return self._content.encode(text)
        ids = self._full.encode(text)
        return [self.bos_id, *ids] if self.add_bos and self.bos_id is not None else ids

    def encode_prompt(self, text: str) -> list[int]:
        """As encode(text, special=True), with the first token once where the text spells it itself, as rendered templates do."""
        ids = self.encode(text, special=True)
        return ids[1:] if self.add_bos and ids[1:2] == [self.bos_id] else ids

    def encode_marked(self, text: str, own: Iterable[tuple[int, int]]) -> list[int]:
        """The ids of a rendered conversation: control tokens and marks of structure only where the template wrote them itself.

        own: (start, end) of the runs of characters that are the template's, in order. The same as encode_prompt(text)
        where no message spells such a token. Raises ArgumentError for what is no Unicode text.
        """
        ids: list[int] = []
        at = 0
        for start, end, id in self._markers.find(text, own):
            ids += self.encode(text[at:start]) if start > at else []
            ids.append(id)
            at = end
        ids += self.encode(text[at:]) if at < len(text) else []
        if self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of tokens. Control tokens are left out unless special=True; ids beyond the vocabulary have no text.

        Bytes that are no UTF-8 become U+FFFD. Raises ArgumentError for what is no id.
        """
        return decode(self._table(special), ids)

    def stream(self, special: bool = False) -> Detokenizer:
        """The same one token at a time: push(id) and finish() return text that together equals decode() of all ids."""
        return Detokenizer(self._table(special))

    def token_text(self, id: int) -> str:
        """One token for display: a control token's spelling, U+FFFD for bytes that are no whole character."""
        return decode(self._table(True), [id])

    def token_bytes(self, id: int) -> bytes:
        """What one token adds to a text, b"" for control tokens and ids beyond the vocabulary."""
        if id < 0:
            raise ArgumentError(f"id: found {id}; expected a token id, an integer from 0 on")
        return self._pieces[id] if id < self.vocab_size else b""

    def _table(self, special: bool) -> list[bytes]:
        if not special:
            return self._pieces
        if self._all_pieces is None:
            pieces = list(self._pieces)
            for i, text in self._spelled.items():
                pieces[i] = text.encode()
            self._all_pieces = pieces
        return self._all_pieces


@dataclass(frozen=True)
class Ends:
    """What can be told of a tokenizer without building it. tokens: how many there are; stops: spelling of each end of a text, by id."""

    tokens: int
    stops: dict[int, str]
    chat_template: str | None


def read_ends(model_file: ModelFile) -> Ends | None:
    """The ends of an opened model's texts, as its Tokenizer would have them; None where its files have no tokenizer. Raises FileError."""
    read = from_gguf.read_ends if model_file.format == "gguf" else from_json.read_ends
    vocabulary = read(model_file)
    if vocabulary is None:
        return None
    return Ends(len(vocabulary.spelled), {i: vocabulary.spelled.get(i, "") for i in sorted(vocabulary.eos_ids)}, vocabulary.chat_template)


def load_tokenizer(model_file: ModelFile) -> Tokenizer | None:
    """The tokenizer of an opened model, or None where its files have none. Raises FileError."""
    try:
        read = from_gguf.read_vocabulary if model_file.format == "gguf" else from_json.read_vocabulary
        vocabulary = read(model_file)
        return None if vocabulary is None else Tokenizer(vocabulary)
    except OSError as error:
        raise FileError(f"{shown(model_file.name)}: the tokenizer cannot be read ({shown(error)}); expected readable files") from None
    except UnicodeEncodeError as error:
        raise FileError(f"{shown(model_file.name)}: the tokenizer's files hold the unpaired surrogate {ascii(error.object[error.start])}; "
                        "expected Unicode text") from None
    except MemoryError as error:
        if isinstance(error, OutOfMemory):
            raise
        raise OutOfMemory(f"{shown(model_file.name)}: not enough memory to build the tokenizer") from None
