"""What generating returns."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .chat.answer import ToolCall
from .decode.stats import Stats

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Piece:
    """A part of a streamed text: what could be released since the part before it.

    text: whole characters only. tokens: the ids chosen since the part before. The last part has a finish_reason and stats.
    logprobs, top_logprobs: as Result's, of these tokens.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason | None = None
    stats: Stats | None = None
    logprobs: list[float] | None = None
    top_logprobs: list[dict[int, float]] | None = None


@dataclass(frozen=True)
class Result:
    """A generated text.

    text: without the prompt, without the stop string that ended it. tokens: the ids chosen, the end-of-text token included.
    finish_reason: "stop" after an end-of-text token, a stop string or the end of a grammar, "length" where max_tokens or the context
    ended it, "cancelled" where the caller did (texts of a batch).
    logprobs: with the option of that name, the natural logarithm of each token's probability. top_logprobs: at each place the
    likeliest ids with theirs, likeliest first.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    stats: Stats
    logprobs: list[float] | None = None
    top_logprobs: list[dict[int, float]] | None = None

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Result:
        """The text whose pieces these are, the last included."""
        given = list(pieces)
        last = given[-1]
        assert last.finish_reason is not None and last.stats is not None
        return cls("".join(p.text for p in given), [t for p in given for t in p.tokens], last.finish_reason, last.stats, *_logprobs(given))


def _logprobs(given: Sequence[Piece] | Sequence[ChatPiece]) -> tuple[list[float] | None, list[dict[int, float]] | None]:
    """Of all pieces together; None where the option was not given."""
    if given[-1].logprobs is None:
        return None, None
    return [x for p in given for x in p.logprobs or ()], [x for p in given for x in p.top_logprobs or ()]


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation as the model reads it. text: rendered, for people; ids: its tokens; thinking: it ends inside of reasoning, with
    which the answer then begins. Encoding text anew would give other ids where a message spells a special token.
    """

    text: str
    ids: list[int]
    thinking: bool


@dataclass(frozen=True)
class ChatPiece:
    """A part of a streamed answer: what became certain since the part before it.

    text, reasoning: more of each. tool_calls: those that became complete. tokens: the ids chosen since the part before. The last
    part has a finish_reason and stats. logprobs, top_logprobs: as Result's, of these tokens.
    """

    text: str
    reasoning: str
    tool_calls: list[ToolCall]
    tokens: list[int]
    finish_reason: FinishReason | None = None
    stats: Stats | None = None
    logprobs: list[float] | None = None
    top_logprobs: list[dict[int, float]] | None = None


@dataclass(frozen=True)
class ChatResult:
    """An answer.

    text: for the user, without reasoning, tool calls and their marks. reasoning: what the model wrote while thinking. tool_calls:
    each with name, arguments (a dict) and id. tokens, finish_reason, stats, logprobs, top_logprobs: as in Result; they are of all
    tokens, those of marks, reasoning and calls included.
    """

    text: str
    reasoning: str
    tool_calls: list[ToolCall]
    tokens: list[int]
    finish_reason: FinishReason
    stats: Stats
    logprobs: list[float] | None = None
    top_logprobs: list[dict[int, float]] | None = None

    @classmethod
    def of(cls, pieces: Iterable[ChatPiece]) -> ChatResult:
        """The answer whose pieces these are, the last included."""
        given = list(pieces)
        last = given[-1]
        assert last.finish_reason is not None and last.stats is not None
        return cls("".join(p.text for p in given), "".join(p.reasoning for p in given), [c for p in given for c in p.tool_calls],
                   [t for p in given for t in p.tokens], last.finish_reason, last.stats, *_logprobs(given))

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, to be put after the others before the next question."""
        made: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            made["reasoning_content"] = self.reasoning
        if self.tool_calls:
            made["tool_calls"] = [call.message for call in self.tool_calls]
        return made


@dataclass(frozen=True)
class LoadStats:
    """What loading took. seconds: in all. weights_seconds: of them without the tokenizer. bytes: of the file's tensors."""

    seconds: float
    weights_seconds: float
    bytes: int

    @property
    def bytes_per_second(self) -> float:
        """How fast the weights were read and laid out."""
        return self.bytes / self.weights_seconds if self.weights_seconds else 0.0
