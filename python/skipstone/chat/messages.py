"""Messages and tools, checked and in the one form that templates read: plain JSON values.

    {"role": "user", "content": "text" or [{"type": "text", "text": "text"}, ...]}
    {"role": "assistant", "content": "...", "reasoning_content": "...", "tool_calls": [{"function": {"name": ..., "arguments": {...}}}]}
    {"role": "tool", "name": "...", "tool_call_id": "...", "content": "..."}
"""
from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import ArgumentError

Message = Mapping[str, Any]

DEPTH = 64                                              # of values in values
REASONING = ("reasoning_content", "reasoning", "thinking")      # what people call it; templates read the first


def check_messages(given: Any) -> list[dict[str, Any]]:
    """Messages as templates read them. ArgumentError names the message and key that is wrong."""
    if isinstance(given, str):
        return [{"role": "user", "content": _text(given, "messages")}]
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise ArgumentError(f"messages: found {type(given).__name__}; expected a list of dicts with role and content")
    made = [_message(message, f"messages[{i}]") for i, message in enumerate(given)]
    if not made:
        raise ArgumentError("messages: empty; expected at least one, such as {'role': 'user', 'content': 'Hello'}")
    return made


def check_tools(given: Any) -> list[dict[str, Any]] | None:
    """Tools as {"type": "function", "function": {"name", "description", "parameters"}}; the inner dict alone will do."""
    if given is None:
        return None
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise ArgumentError(f"tools: found {type(given).__name__}; expected a list of dicts")
    made = []
    for i, tool in enumerate(given):
        where = f"tools[{i}]"
        if not isinstance(tool, Mapping):
            raise ArgumentError(f"{where}: found {type(tool).__name__}; expected a dict with name, description and parameters (a JSON schema)")
        tool = plain(tool, where)
        if "function" not in tool:
            tool = {"type": "function", "function": tool}
        function = tool["function"]
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise ArgumentError(f"{where}: there is no name; expected {{'type': 'function', 'function': {{'name': ..., 'parameters': ...}}}}")
        tool.setdefault("type", "function")
        function.setdefault("description", "")
        made.append(tool)
    return made or None


def _message(given: Any, where: str) -> dict[str, Any]:
    if hasattr(given, "message") and isinstance(given.message, Mapping):
        given = given.message                           # a result of chat
    if not isinstance(given, Mapping):
        raise ArgumentError(f"{where}: found {type(given).__name__}; expected a dict with role and content")
    made = plain(given, where)
    role = made.get("role")
    if not isinstance(role, str) or not role:
        raise ArgumentError(f"{where}: role is {role!r:.80}; expected 'system', 'user', 'assistant' or 'tool'")
    made["content"] = _content(made.get("content"), where, empty=role == "assistant")
    reasoning = next((made[name] for name in REASONING if made.get(name) is not None), None)
    if reasoning is not None:
        if not isinstance(reasoning, str):
            raise ArgumentError(f"{where}: reasoning_content is {reasoning!r:.80}; expected a text")
        made["reasoning_content"] = reasoning
    if made.get("tool_calls") is not None:
        if not isinstance(made["tool_calls"], list):
            raise ArgumentError(f"{where}: tool_calls is {made['tool_calls']!r:.80}; expected a list of dicts")
        made["tool_calls"] = [_tool_call(call, f"{where}: tool_calls[{i}]") for i, call in enumerate(made["tool_calls"])]
    return made


def _content(content: Any, where: str, empty: bool) -> Any:
    if content is None and empty:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ArgumentError(f"{where}: content is {content!r:.80}; expected a text, or a list of {{'type': 'text', 'text': ...}}")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ArgumentError(f"{where}: content has a part {part!r:.80}; expected {{'type': 'text', 'text': ...}}: Skipstone reads text only")
    return content


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    """With a dict of arguments, which may come as JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ArgumentError(f"{where}: found {call!r:.80}; expected {{'function': {{'name': ..., 'arguments': {{...}}}}}}")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise ArgumentError(f"{where}: arguments are {function.get('arguments')!r:.80}; expected a dict, or one as JSON text")
    made = {key: value for key, value in call.items() if key not in ("function", "name", "arguments")}
    return {"type": "function", **made, "function": {**function, "arguments": plain(arguments, where)}}


def with_tool_responses(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of tools as a part of the answer that called them, the form of Gemma 4's first templates, which know no role "tool"."""
    made: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] != "tool" or not made or not made[-1].get("tool_calls"):
            made.append(message)
            continue
        answer = made[-1] = {**made[-1], "tool_responses": [*made[-1].get("tool_responses", [])]}
        calls = answer["tool_calls"]
        place = len(answer["tool_responses"])
        called = next((call for call in calls if message.get("tool_call_id") and call.get("id") == message["tool_call_id"]), calls[min(place, len(calls) - 1)])
        answer["tool_responses"].append({"name": message.get("name") or called["function"]["name"], "response": _response(message["content"])})
    return made


def _response(content: Any) -> Any:
    """A JSON object as such, other content as text."""
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    try:
        value = plain(json.loads(text), "content")
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """value made of plain JSON types only: whatever methods it had, a template does not get them."""
    if depth > DEPTH:
        raise ArgumentError(f"{where}: values are nested deeper than {DEPTH}; expected less, and nothing that contains itself")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ArgumentError(f"{where}: found {value}; expected values that JSON knows")
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ArgumentError(f"{where}: found the key {key!r:.80}; expected keys that are texts")
        return {_text(key, where): plain(item, f"{where}.{key}" if depth else f"{where}: {key}", depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise ArgumentError(f"{where}: found {type(value).__name__}; expected texts, numbers, lists and dicts")


def _text(text: str, where: str) -> str:
    text = str.__str__(text)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{where}: character {error.start} is the unpaired surrogate {ascii(text[error.start])}; expected Unicode text") from None
    return text
