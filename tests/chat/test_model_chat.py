"""model.chat and model.chat_stream."""
from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from templates import QWEN, TOOLS

from skipstone import ArgumentError, ChatPiece, ChatResult, FileError, Model, Piece, bundled, load
from skipstone.chat.conversation import chat_prompt
from skipstone.decode.stats import Stats

MESSAGES = [{"role": "system", "content": "You write Python."}, {"role": "user", "content": "class Stack:\n    def __init__(self):"}]


@cache
def model(kind: str) -> Model:
    return load(bundled.QWEN35) if kind == "qwen" else load(bundled.GEMMA4, draft=bundled.GEMMA4_ASSISTANT)


@pytest.mark.parametrize("kind", ["qwen", "gemma"])
def test_answer_is_what_the_model_writes(kind: str) -> None:
    options: dict[str, Any] = dict(max_tokens=24, temperature=0.8, seed=5, stop_at_eos=False)
    chatted = model(kind).chat(MESSAGES, **options)
    assert isinstance(chatted, ChatResult)
    plain = model(kind).generate(chat_prompt(model(kind), MESSAGES).ids, draft_tokens=0, **options)
    assert model(kind).chat_prompt(MESSAGES) == chat_prompt(model(kind), MESSAGES)
    assert (chatted.text, chatted.tokens, chatted.finish_reason) == (plain.text, plain.tokens, plain.finish_reason)
    assert chatted.reasoning == "" and chatted.tool_calls == [] and chatted.message == {"role": "assistant", "content": chatted.text}


def test_streams() -> None:
    pieces = list(model("qwen").chat_stream(MESSAGES, max_tokens=24, stop_at_eos=False))
    whole = model("qwen").chat(MESSAGES, max_tokens=24, stop_at_eos=False)
    assert all(isinstance(piece, ChatPiece) for piece in pieces) and len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == whole.text and [t for piece in pieces for t in piece.tokens] == whole.tokens
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1) and pieces[-1].finish_reason == "length" and pieces[-1].stats


@pytest.mark.parametrize("kind", ["qwen", "gemma"])
def test_logprobs(kind: str) -> None:
    """As generate's, one for each token, in pieces and whole, whatever is drafted."""
    options: dict[str, Any] = dict(max_tokens=24, temperature=0.8, seed=5, stop_at_eos=False, logprobs=2)
    plain = model(kind).generate(model(kind).chat_prompt(MESSAGES).ids, draft_tokens=0, **options)
    for drafts in (0, 4, "auto"):
        chatted = model(kind).chat(MESSAGES, draft_tokens=drafts, **options)
        assert (chatted.tokens, chatted.logprobs, chatted.top_logprobs) == (plain.tokens, plain.logprobs, plain.top_logprobs)
    pieces = list(model(kind).chat_stream(MESSAGES, **options))
    assert all(len(piece.logprobs or []) == len(piece.top_logprobs or []) == len(piece.tokens) for piece in pieces)
    assert [x for piece in pieces for x in piece.logprobs or []] == plain.logprobs
    assert model(kind).chat(MESSAGES, max_tokens=2).logprobs is None


def test_template_of_ones_own() -> None:
    made = model("qwen").chat("hi", chat_template="{{ messages[0].content }}", max_tokens=8)
    assert made.tokens == model("qwen").generate("hi", max_tokens=8).tokens


def scripted(monkeypatch: pytest.MonkeyPatch, pieces: list[str]) -> list[dict[str, Any]]:
    """Makes the model write these pieces; the options it is called with."""
    asked: list[dict[str, Any]] = []

    def stream(self: Model, prompt: Any, **options: Any) -> Iterator[Piece]:
        asked.append(options)
        return iter([*(Piece(piece, [1]) for piece in pieces), Piece("", [2], "stop", Stats())])

    monkeypatch.setattr(Model, "stream", stream)
    return asked


def test_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "so\nit is\n</think>\n\nI look.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nUlm\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>"
    asked = scripted(monkeypatch, [answer[i:i + 7] for i in range(0, len(answer), 7)])
    made = model("qwen").chat("How is the weather?", TOOLS, chat_template=QWEN)
    assert (made.text, made.reasoning, made.finish_reason, made.tokens[-1]) == ("I look.", "so\nit is", "stop", 2)
    assert [(call.name, call.arguments) for call in made.tool_calls] == [("weather", {"city": "Ulm", "days": 2})]
    assert asked == [{"max_tokens": 2048}]

    # The answer, put back into the conversation, is what the model wrote.
    messages = [{"role": "user", "content": "How is the weather?"}, made, {"role": "tool", "tool_call_id": "call_0", "content": "rain"}]
    text = chat_prompt(model("qwen"), messages, TOOLS, chat_template=QWEN).text
    assert f"<|im_start|>assistant\n<think>\n{answer}<|im_end|>\n<|im_start|>user\n<tool_response>\nrain\n</tool_response><|im_end|>\n" in text

    made = model("qwen").chat("hi", enable_thinking=False, chat_template=QWEN)      # the prompt closed the reasoning
    assert made.reasoning == "" and made.text.startswith("so\nit is\n</think>")


def test_arguments_are_checked_at_once() -> None:
    other = load(bundled.QWEN35, draft=False)
    for arguments, options, said in (([], {}, "messages"), ("hi", dict(temperature=-1), "temperature"), ("hi", dict(nothing=1), "nothing"), ("hi", dict(tools=1), "tools"),
                                     ("x" * 20000, {}, "context"), ("hi", dict(session=other.session()), "session")):
        with pytest.raises(ArgumentError, match=said):
            model("qwen").chat_stream(arguments, **options)     # type: ignore[arg-type]
    with pytest.raises(FileError, match="tiny-qwen35.*no valid Jinja"):
        model("qwen").chat_stream("hi", chat_template="{{")


def test_session_gives_the_same_answers() -> None:
    """Turn after turn in one session, an earlier turn changed, equal to fresh ones."""
    for kind in ("qwen", "gemma"):
        session = model(kind).session()
        talk: list[Any] = []
        for question in ("def add(a, b):", "class Queue:", "import os"):
            talk.append({"role": "user", "content": question})
            kept = model(kind).chat(talk, session=session, max_tokens=16, stop_at_eos=False)
            assert kept.tokens == model(kind).chat(talk, max_tokens=16, stop_at_eos=False, draft_tokens=0).tokens
            talk.append(kept)
        talk[2] = {"role": "user", "content": "class Stack:"}
        del talk[3:]
        assert model(kind).chat(talk, session=session, max_tokens=16, stop_at_eos=False).tokens == model(kind).chat(talk, max_tokens=16, stop_at_eos=False).tokens
