"""Texts that a JSON schema, a regular expression or a grammar allows, by `llguidance`.

A choice is made freely first and looked at then: allowed, it is also the choice among the allowed tokens; forbidden, it is made again
under the mask of those. So most tokens cost no mask. Where top_k, top_p or min_p filter, the mask comes first, as what they keep
depends on it.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import ArgumentError

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer

SCHEMA_LIMIT = 1 << 20   # characters of a schema, an expression or a grammar


@dataclass(frozen=True)
class Grammar:
    """What a text must be. kind: the option that said so; source: as llguidance takes it."""

    kind: Literal["json_schema", "regex", "grammar"]
    source: str

    @classmethod
    def of(cls, json_schema: Any = None, regex: Any = None, grammar: Any = None) -> Grammar | None:
        """The one that is not None. ArgumentError for several, and for what is no schema, expression or grammar."""
        given = {"json_schema": json_schema, "regex": regex, "grammar": grammar}
        names = [name for name, value in given.items() if value is not None]
        if not names:
            return None
        if len(names) > 1:
            raise ArgumentError(f"{names[0]} and {names[1]}: both given; expected one of json_schema, regex and grammar")
        kind = names[0]
        value = given[kind]
        if kind == "json_schema":
            source = _schema(value)
        elif not isinstance(value, str) or not value:
            raise ArgumentError(f"{kind}: {value!r:.80}; expected a string that is not empty")
        else:
            source = value
        if len(source) > SCHEMA_LIMIT:
            raise ArgumentError(f"{kind}: {len(source)} characters; expected at most {SCHEMA_LIMIT}")
        return cls(kind, source)   # type: ignore[arg-type]

    def compiled(self) -> str:
        """As an LLMatcher takes it."""
        from llguidance import LLMatcher

        try:
            if self.kind == "json_schema":
                return str(LLMatcher.grammar_from_json_schema(self.source, defaults=_JSON))
            if self.kind == "regex":
                return str(LLMatcher.grammar_from_regex(self.source))
            return str(LLMatcher.grammar_from_lark(_lark(self.source)))
        except ValueError as error:
            raise ArgumentError(f"{self.kind}: {error}") from None


# Spaces as json.dumps puts them: a text on one line, which cannot run on in endless spaces.
_JSON: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def _schema(value: Any) -> str:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ArgumentError(f"json_schema: a string that is no JSON ({error}); expected a schema") from None
    if value is True:
        value = {}
    if not isinstance(value, Mapping):
        raise ArgumentError(f"json_schema: {value!r:.80}; expected a schema: a dict, its JSON text, or True for any JSON")
    try:
        return json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"json_schema: {error}; expected what JSON can hold") from None


def _lark(grammar: str) -> str:
    """Lark as it is; llama.cpp's GBNF, told by its `::=`, translated."""
    if "::=" not in grammar:
        return grammar
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(grammar))
    except Exception as error:   # the translator asserts and indexes
        raise ArgumentError(f"grammar: this GBNF cannot be read ({error or type(error).__name__}); expected GBNF or Lark") from None


NEAR = 16    # tokens
MASKS = 32   # kept of a text, newest last; a draft's is its verification's


class Constraint:
    """Where one generated text stands in its grammar. Counts are of generated tokens."""

    def __init__(self, grammar: Grammar, tokenizer: Tokenizer | None, vocabulary: int) -> None:
        if tokenizer is None:
            raise ArgumentError(f"{grammar.kind}: the model has no tokenizer; expected one that knows the tokens' texts")
        if not tokenizer.eos_ids:
            raise ArgumentError(f"{grammar.kind}: the tokenizer names no token that ends a text; expected one")
        self._kind = grammar.kind
        self._matcher = _matcher(grammar, tokenizer, vocabulary)
        self._consumed: list[int] = []
        self._words = (vocabulary + 31) // 32
        self._masks: dict[int, np.ndarray] = {}   # by how many tokens were taken before
        self._narrow = -NEAR                      # where a mask was asked for last
        self._check(f"expected a {grammar.kind} that llguidance can follow")

    @property
    def complete(self) -> bool:
        """Nothing more may follow."""
        return bool(self._matcher.is_stopped())

    def take(self, count: int, tokens: Sequence[int]) -> int:
        """The text goes on after its first `count` tokens with as many of `tokens` as are allowed there: how many that are."""
        consumed, same = self._consumed, 0
        held = min(len(consumed) - count, len(tokens))
        while same < held and consumed[count + same] == tokens[same]:
            same += 1
        if count + same < len(consumed):
            self._back(count + same)
        if same == len(tokens) or self._matcher.is_stopped():
            return same
        rest = list(tokens[same:]) if same else list(tokens)
        taken = self._matcher.try_consume_tokens(rest)
        consumed += rest if taken == len(rest) else rest[:taken]
        return int(same + taken)

    def _back(self, count: int) -> None:
        """Gives back what was taken after the first `count` tokens."""
        self._matcher.rollback(len(self._consumed) - count)
        del self._consumed[count:]
        if self._masks:
            self._masks = {at: mask for at, mask in self._masks.items() if at <= count}

    @property
    def narrow(self) -> bool:
        """Whether a choice was forbidden not long ago; drafts are worth judging there."""
        return len(self._consumed) - self._narrow < NEAR

    def mask(self) -> np.ndarray:
        """uint32, a bit for each token that may follow what was taken."""
        self._narrow = len(self._consumed)
        known = self._masks.get(self._narrow)
        if known is None:
            known = np.zeros(self._words, np.uint32)
            self._matcher.unsafe_compute_mask_ptr(known.ctypes.data, known.nbytes)
            self._check("expected one that some text fits")
            if len(self._masks) >= MASKS:
                self._masks = {at: mask for at, mask in self._masks.items() if at > len(self._consumed) - MASKS}
            self._masks[len(self._consumed)] = known
        return known

    def forced(self, most: int) -> list[int]:
        """Up to `most` tokens that likely follow what was taken, as the grammar leaves no choice about their text; drafts, no more. Looked
        for only where the last token was chosen under a mask: elsewhere the grammar is wide, and looking would be wasted."""
        if most <= 0 or len(self._consumed) - 1 not in self._masks or self.complete:
            return []
        return list(self._matcher.compute_ff_tokens()[:most])

    @property
    def taken(self) -> int:
        """How many tokens were taken, what is drafted included."""
        return len(self._consumed)

    def judge(self, count: int, lazily: bool) -> Any:
        """A judge for a sampler whose text has `count` generated tokens, all taken: see Sampler.set_judge. What is drafted is taken,
        and given back by the next `take`."""
        taken = count

        def judge(before: int, chosen: int) -> np.ndarray | None:
            nonlocal taken
            if len(self._consumed) < taken:
                self.take(taken - 1, [before])   # was chosen again under the mask
            if self.complete or len(self._consumed) < taken:
                return None
            taken += 1
            return None if lazily and self.take(taken - 1, [chosen]) else self.mask()

        return judge

    def _check(self, expected: str) -> None:
        if self._matcher.is_error():
            said = str(self._matcher.get_error()).strip().split("\n")[0]
            raise ArgumentError(f"{self._kind}: {said}; {expected}")


MATCHERS = 32   # kept for each model; they share what they learn with their copies, which makes masks about twice as fast


def _matcher(grammar: Grammar, tokenizer: Tokenizer, vocabulary: int) -> Any:
    """An LLMatcher at the beginning of the grammar."""
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

    cache = tokenizer.library_cache   # of this module alone: ("tokenizer", vocabulary) and (grammar, vocabulary)
    key = ("tokenizer", vocabulary)
    if key not in cache:
        cache[key] = LLTokenizer(TokenizerWrapper(_Pieces(tokenizer)), n_vocab=vocabulary, eos_token=sorted(tokenizer.eos_ids))
    made = cache.pop((grammar, vocabulary), None) or LLMatcher(cache[key], grammar.compiled(), log_level=0)
    cache[grammar, vocabulary] = made   # last used, last
    for old in [k for k in cache if k[0] != "tokenizer"][:-MATCHERS]:
        cache.pop(old, None)
    return made.deep_copy()


ENCODED, ENCODED_LENGTH = 4096, 256   # texts that stay encoded, and their length: what a grammar leaves no choice about comes again and again


class _Pieces:
    """A tokenizer as llguidance asks for it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = min(tokenizer.eos_ids), tokenizer.bos_id
        texts = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.special_token_ids = [i for i, text in enumerate(texts) if not text]
        self.tokens = [text or tokenizer.token_text(i).encode() or b"<%d>" % i for i, text in enumerate(texts)]
        self._encode = lru_cache(ENCODED)(self._encoded)

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text) if len(text) < ENCODED_LENGTH else self._encoded(text)

    def _encoded(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
