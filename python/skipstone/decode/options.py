"""The options of a generation, checked."""
from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict

from ..errors import ArgumentError
from .constraint import Constraint, Grammar

MOST_LOGPROBS = 100
MOST_DRAFTS = 15   # a verify pass has at most 16 rows


class OptionsDict(TypedDict, total=False):
    """The options of generate and stream by name; `Options` says what they mean."""

    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Iterable[str] | None
    stop_at_eos: bool
    draft_tokens: int | Literal["auto"]
    logprobs: int | None
    json_schema: Mapping[str, Any] | str | Literal[True] | None
    regex: str | None
    grammar: str | None


@dataclass(frozen=True)
class Options:
    """How a text is generated. Filters apply in this order: logit_bias, repeat_penalty, frequency_penalty, presence_penalty,
    temperature, top_k, top_p, min_p.

    max_tokens         most tokens to generate; None: until the context is full
    temperature        0: always the likeliest token
    top_k              only the k likeliest tokens; 0: all
    top_p              only the likeliest tokens that together have this probability; 1: all
    min_p              only tokens with this share of the likeliest token's probability; 0: all
    repeat_penalty     logits of tokens of the text, prompt included: positive ones divided by it, others multiplied; 1: none
    presence_penalty   subtracted from the logits of generated tokens
    frequency_penalty  subtracted from them for each time they were generated
    logit_bias         token id -> added to its logit; -inf forbids it
    seed               0 .. 2^64 - 1; the same seed gives the same text. None: a random one, told in the stats
    stop               a string or strings that end the text; they are not part of it
    stop_at_eos        an end-of-text token ends the text
    draft_tokens       how many tokens are drafted a pass, 0 to 15; "auto": what measures fastest. The text is the same for all.
    logprobs           n: also the log probabilities of the chosen tokens and of the n likeliest at each place, 0 to 100: log-softmax of the
                       model's logits, before any of the above. None: without
    json_schema        the text is JSON that this schema (a dict or its JSON text) allows; True: any JSON
    regex              the text matches this regular expression from its beginning to its end
    grammar            the text is in this grammar: Lark as llguidance has it, or llama.cpp's GBNF
                       At most one of the three. Forbidden tokens count as logits of -infinity, before the filters. The text ends ("stop")
                       where nothing more may follow; cut short ("length"), it is the beginning of an allowed one.
    """

    max_tokens: int | None = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    stop: str | Iterable[str] | None = None
    stop_at_eos: bool = True
    draft_tokens: int | Literal["auto"] = "auto"
    logprobs: int | None = None
    json_schema: Mapping[str, Any] | str | Literal[True] | None = None
    regex: str | None = None
    grammar: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any], vocabulary: int) -> Options:
        """Options from names and values. ArgumentError names what is wrong; vocabulary bounds the ids of logit_bias."""
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise ArgumentError(f"{name}: not an option; expected one of {', '.join(known)}")
        options = cls(**given)
        checked: dict[str, Any] = {}
        if options.max_tokens is not None:
            checked["max_tokens"] = integer("max_tokens", options.max_tokens, 0, None)
        checked["temperature"] = number("temperature", options.temperature, lambda x: 0 <= x <= 1e30, "0 or more")
        checked["top_k"] = integer("top_k", options.top_k, 0, 2**31 - 1)
        checked["top_p"] = number("top_p", options.top_p, lambda x: 0 < x <= 1, "more than 0, at most 1")
        checked["min_p"] = number("min_p", options.min_p, lambda x: 0 <= x <= 1, "0 to 1")
        checked["repeat_penalty"] = number("repeat_penalty", options.repeat_penalty, lambda x: 1e-30 <= x <= 1e30, "more than 0")
        for name in ("presence_penalty", "frequency_penalty"):
            checked[name] = number(name, getattr(options, name), lambda x: abs(x) <= 1e30, "a finite number")
        checked["logit_bias"] = bias(options.logit_bias, vocabulary)
        checked["seed"] = secrets.randbits(63) if options.seed is None else integer("seed", options.seed, 0, 2**64 - 1)
        checked["stop"] = stop_strings(options.stop)
        if not isinstance(options.stop_at_eos, bool):
            raise ArgumentError(f"stop_at_eos: {options.stop_at_eos!r}; expected True or False")
        if options.draft_tokens != "auto":
            checked["draft_tokens"] = integer("draft_tokens", options.draft_tokens, 0, MOST_DRAFTS, "or 'auto'")
        if options.logprobs is not None:
            checked["logprobs"] = integer("logprobs", options.logprobs, 0, min(MOST_LOGPROBS, vocabulary))
        Grammar.of(options.json_schema, options.regex, options.grammar)
        return cls(**{**{f.name: getattr(options, f.name) for f in fields(cls)}, **checked})

    def with_seed(self, step: int) -> Options:
        """The same with the seed that comes `step` after this one."""
        return replace(self, seed=((self.seed or 0) + step) % 2**64)

    @property
    def filters(self) -> bool:
        """Whether some of the likeliest tokens alone can be chosen."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)

    def constraint(self, vocabulary: int, tokenizer: Any) -> Constraint | None:
        """The grammar that the text must follow, at its beginning."""
        grammar = Grammar.of(self.json_schema, self.regex, self.grammar)
        return Constraint(grammar, tokenizer, vocabulary) if grammar else None

    def sampler(self, vocabulary: int, tokenizer: Any) -> Any:
        """The native sampler for these options. Ids that the tokenizer (None: without one) does not know or suppresses are never chosen."""
        from .. import _native

        return _native.Sampler(
            vocabulary, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p,
            repeat_penalty=self.repeat_penalty, presence_penalty=self.presence_penalty, frequency_penalty=self.frequency_penalty,
            logit_bias=sorted((self.logit_bias or {}).items()), limit=tokenizer.vocab_size if tokenizer else 0,
            suppressed=sorted(t for t in tokenizer.suppressed if 0 <= t < vocabulary) if tokenizer else [], seed=self.seed or 0)


def integer(name: str, value: Any, least: int, most: int | None, also: str = "") -> int:
    """value as an int within bounds; ArgumentError names the argument. Takes numpy's integers, but neither bool nor float."""
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        found = int(value)
        if found >= least and (most is None or found <= most):
            return found
    bounds = f"{least} or more" if most is None else f"{least} to {most}"
    raise ArgumentError(f"{name}: {value!r}; expected an integer, {bounds}{' ' + also if also else ''}")


def number(name: str, value: Any, fits: Any, expected: str) -> float:
    try:
        found = float(value) if not isinstance(value, str | bytes) else math.nan
    except (TypeError, ValueError):
        found = math.nan
    if not fits(found):   # NaN fits nothing
        raise ArgumentError(f"{name}: {value!r}; expected {expected}")
    return found


def bias(given: Any, vocabulary: int) -> dict[int, float] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ArgumentError(f"logit_bias: {type(given).__name__}; expected a mapping from token ids to numbers")
    return {integer("logit_bias: token", token, 0, vocabulary - 1):
            number(f"logit_bias[{token}]", value, lambda x: x == -math.inf or abs(x) <= 1e30, "a number, or -inf") for token, value in given.items()}


def stop_strings(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str):
        given = (given,)
    try:
        found = tuple(given)
    except TypeError:
        found = (None,)
    for s in found:
        if not isinstance(s, str) or not s:
            raise ArgumentError(f"stop: {s!r}; expected a string that is not empty, or several")
    return found
