"""Answers come apart the same way wherever they are cut into pieces."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skipstone.chat.answer import AnswerReader, Dialect, Part, ToolCall
from skipstone.chat.dialects import GEMMA4, PLAIN, QWEN, dialect_of

TOOLS = {"f": {"type": "object", "properties": {"s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": ["number", "null"]}, "b": {"type": "boolean"},
                                               "o": {"type": "object"}, "a": {"anyOf": [{"type": "array"}, {"type": "null"}]}, "e": {"enum": ["x", "y"]}}}, "g": {}}


def read(dialect: Dialect, pieces: list[str], thinking: bool = False, tools: Any = None) -> Part:
    reader, whole = AnswerReader(dialect, tools, thinking), Part()
    for part in [*(reader.push(piece) for piece in pieces), reader.finish()]:
        whole.text += part.text
        whole.reasoning += part.reasoning
        whole.tool_calls += part.tool_calls
    return whole


def calls(*given: tuple[str, dict[str, Any]]) -> list[ToolCall]:
    return [ToolCall(name, arguments, f"call_{i}") for i, (name, arguments) in enumerate(given)]


JSON = '<tool_call>\n{"name": "f", "arguments": {"s": "a<b", "i": 1}}\n</tool_call>'
TAGS = "<tool_call>\n<function=f>\n<parameter=s>\n a\nb\n</parameter>\n<parameter=i>\n3\n</parameter>\n</function>\n</tool_call>"
TAGGED = ("f", {"s": " a\nb", "i": 3})
GEMMA = '<|tool_call>call:f{i:3,s:<|"|>a,}<tool_call|>b<|"|>}<tool_call|>'

QWEN_ANSWERS: list[tuple[str, bool, Any, Part]] = [
    ("Hello.\n", False, None, Part("Hello.\n")),
    ("<think>\nso\n</think>\n\nHello. ", False, None, Part("Hello. ", "so")),
    ("so\n</think>\n\nHello.", True, None, Part("Hello.", "so")),
    ("\n\n</think>\n\nHello.", True, None, Part("Hello.", "")),
    ("so it was\n", True, None, Part("", "so it was\n")),                        # cut off while thinking
    (f"<think>a</think>\n{JSON}", False, None, Part("", "a", calls(("f", {"s": "a<b", "i": 1})))),
    (f"I look.\n\n{JSON}\n{JSON}\n", False, None, Part("I look.", "", calls(*2 * [("f", {"s": "a<b", "i": 1})]))),
    (f"so</think>I look.\n\n{TAGS}", True, TOOLS, Part("I look.", "so", calls(TAGGED))),
    (TAGS, False, None, Part("", "", calls(("f", {"s": " a\nb", "i": "3"})))),       # no schema: values are texts
    (f"{JSON}Done.", False, None, Part("Done.", "", calls(("f", {"s": "a<b", "i": 1})))),
    (f"Look: {JSON} Done. ", False, None, Part("Look:\n\nDone. ", "", calls(("f", {"s": "a<b", "i": 1})))),
    ("<think>a</think>b<think>c</think>d", False, None, Part("b\n\nd", "a\n\nc")),
    ('<tool_call>{"name": "f", "arguments": "{\\"i\\": 1}"}</tool_call>', False, None, Part("", "", calls(("f", {"i": 1})))),
    ('<tool_call>{"name": "f"}</tool_call>', False, None, Part("", "", calls(("f", {})))),
    ('<tool_call>{"name": "f", "arguments": {"s": "</tool_call>"}}</tool_call>!', False, None, Part("!", "", calls(("f", {"s": "</tool_call>"})))),
    (JSON[:-12], False, None, Part("", "", calls(("f", {"s": "a<b", "i": 1})))),    # the end mark is missing, the call is whole
    ('x <tool_call>\n{"name": "f", "argu', False, None, Part('x\n\n<tool_call>\n{"name": "f", "argu')),
    ("<tool_call>no</tool_call> yes", False, None, Part("<tool_call>no</tool_call> yes")),
    (f"<tool_call>no</tool_call> {JSON} z", False, None, Part("<tool_call>no</tool_call>\n\nz", "", calls(("f", {"s": "a<b", "i": 1})))),
    ("<tool_call>\n<function=f>\n<parameter=s>\nuse </parameter> and <b>\n</parameter>\n</function>\n</tool_call>", False, TOOLS,
     Part("", "", calls(("f", {"s": "use </parameter> and <b>"})))),
    ("<tool_call><function=g></function></tool_call>", False, None, Part("", "", calls(("g", {})))),
    ("<function=f>\n<parameter=i>\n3\n</parameter>\n</function>\n</tool_call>", False, TOOLS, Part("", "", calls(("f", {"i": 3})))),
    ("<function=f>\n<parameter=i>\n3\n</parameter>\n</function> ok", False, TOOLS, Part("ok", "", calls(("f", {"i": 3})))),
    ("<function=h></function> is code", False, TOOLS, Part("<function=h></function> is code")),
    ("<function=f></function> is code", False, None, Part("<function=f></function> is code")),
    ("<function=f>\n", False, TOOLS, Part("<function=f>\n")),
    ("1 < 2 <thin <tool_cal", False, None, Part("1 < 2 <thin <tool_cal")),
    ("use </think> so", False, None, Part("use </think> so")),
]
GEMMA_ANSWERS: list[tuple[str, bool, Any, Part]] = [
    ("Hello.\n", False, None, Part("Hello.\n")),
    ("<|channel>thought\nso\n<channel|>Hello.", False, None, Part("Hello.", "so")),
    ("<|channel>thought\n<channel|>Hello.", False, None, Part("Hello.")),
    ("<|channel>thought<channel|>Hello.", False, None, Part("Hello.")),
    ("<|channel>thoughtful\n<channel|>Hello.", False, None, Part("Hello.", "thoughtful")),
    ("<|channel><channel|>x", False, None, Part("x")),
    ("<|channel>thought", False, None, Part()),
    ("thought\nso<channel|>Hello.", True, None, Part("Hello.", "so")),
    (f"<|channel>thought\nso<channel|>{GEMMA}{GEMMA}", False, None, Part("", "so", calls(*2 * [("f", {"i": 3, "s": "a,}<tool_call|>b"})]))),
    (f"I look. {GEMMA}", False, None, Part("I look.", "", calls(("f", {"i": 3, "s": "a,}<tool_call|>b"})))),
    ("<|tool_call>call:f{}<tool_call|>", False, None, Part("", "", calls(("f", {})))),
    ('<|tool_call>call:f{a:[1,-2.5,1e3,true,null,{b:<|"|><|"|>}],<|"|>k k<|"|>:false,n:None,w:word, "x": "y"}<tool_call|>'.replace(', "x": "y"', ', x: "y\\n"'), False, None,
     Part("", "", calls(("f", {"a": [1, -2.5, 1e3, True, None, {"b": ""}], "k k": False, "n": None, "w": "word", "x": "y\n"})))),
    ("<|tool_call>call:f{i:3}", False, None, Part("", "", calls(("f", {"i": 3})))),
    ("<|tool_call>call:f{i:", False, None, Part("<|tool_call>call:f{i:")),
    ('<|tool_call>call:f{s:<|"|>a}<tool_call|>', False, None, Part('<|tool_call>call:f{s:<|"|>a}<tool_call|>')),
    ("<|tool_call>f(1)<tool_call|> then", False, None, Part("<|tool_call>f(1)<tool_call|> then")),
    ("<|tool_call>call:f{a:" + "[" * 500 + "]" * 500 + "}<tool_call|>", False, None, Part("<|tool_call>call:f{a:" + "[" * 500 + "]" * 500 + "}<tool_call|>")),
]


@pytest.mark.parametrize("dialect, answer", [(QWEN, a) for a in QWEN_ANSWERS] + [(GEMMA4, a) for a in GEMMA_ANSWERS], ids=lambda v: v.name if isinstance(v, Dialect) else v[0][:40])
def test_answers(dialect: Dialect, answer: tuple[str, bool, Any, Part]) -> None:
    text, thinking, tools, expected = answer
    assert read(dialect, [text], thinking, tools) == expected
    assert read(dialect, list(text), thinking, tools) == expected
    for at in range(len(text)):
        assert read(dialect, [text[:at], text[at:]], thinking, tools) == expected


SCRAPS = {
    "qwen": ["<think>", "</think>", "<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=s>", "</parameter>", JSON, TAGS, '{"name": "f", "arguments": {}}', "<", "\n", " ", "a", "\n\nb"],
    "gemma4": ["<|channel>", "<channel|>", "thought", "thought\n", "<|tool_call>", "<tool_call|>", "call:f{", "}", '<|"|>', "i:1", ",", GEMMA, "<", "<|", "\n", " ", "a", "\n\nb"],
}


@pytest.mark.parametrize("dialect", [QWEN, GEMMA4], ids=lambda d: d.name)
@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_cut_gives_the_same(dialect: Dialect, data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(SCRAPS[dialect.name]), max_size=12)))
    thinking, tools = data.draw(st.booleans()), data.draw(st.sampled_from([None, TOOLS]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    whole = read(dialect, [text], thinking, tools)
    assert read(dialect, pieces, thinking, tools) == whole
    assert read(dialect, list(text), thinking, tools) == whole


@given(st.text(alphabet="ab <|>\n/think", max_size=30))
@example("<think")
@settings(deadline=None)
def test_text_without_marks_is_all_text(text: str) -> None:
    for dialect in (QWEN, GEMMA4, PLAIN):
        if dialect.think is None or dialect.think[0] not in text:
            assert read(dialect, list(text)) == Part(text)


def test_text_streams() -> None:
    """What cannot belong to a mark comes out at once."""
    reader = AnswerReader(QWEN)
    assert reader.push("Hello") == Part("Hello") and reader.push(" <") == Part() and reader.push("b> ") == Part(" <b>") and reader.finish() == Part(" ")
    reader = AnswerReader(QWEN, thinking=True)
    assert reader.push("\nI") == Part("", "I") and reader.push(" th</thin") == Part("", " th") and reader.push("k>\n\nA") == Part("A")
    assert reader.push("<tool_call>{") == Part() and reader.push('"name": "f"}</tool_call>') == Part("", "", calls(("f", {})))


def test_values_by_schema() -> None:
    def value(key: str, text: str) -> Any:
        answer = f"<tool_call><function=f><parameter={key}>\n{text}\n</parameter></function></tool_call>"
        return read(QWEN, [answer], tools=TOOLS).tool_calls[0].arguments[key]

    assert [value(*case) for case in (("s", "3"), ("i", "3"), ("n", "2.5"), ("n", "null"), ("b", "true"), ("b", "True"), ("o", '{"a": [1]}'), ("a", "[1, 2]"), ("e", "x"), ("i", "three"),
                                      ("unknown", "3"), ("s", ""), ("s", "\n"))] == ["3", 3, 2.5, None, True, True, {"a": [1]}, [1, 2], "x", "three", "3", "", "\n"]


def test_message_form() -> None:
    assert ToolCall("f", {"x": 1}, "call_0").message == {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def test_dialects() -> None:
    assert dialect_of("{{ '<|tool_call>' }}", "qwen35") is GEMMA4 and dialect_of("<think>", "llama") is QWEN
    assert dialect_of("", "gemma4") is GEMMA4 and dialect_of("", "qwen3") is QWEN and dialect_of("", "gemma3") is PLAIN
