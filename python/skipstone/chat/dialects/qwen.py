"""Qwen: <think> for reasoning; tool calls as JSON (Qwen3) or as nested tags (Qwen3-Coder, Qwen3.5 and later).

    <tool_call>                                     <tool_call>
    {"name": "f", "arguments": {"x": 1}}            <function=f>
    </tool_call>                                    <parameter=x>
                                                    1
                                                    </parameter>
                                                    </function>
                                                    </tool_call>
"""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..answer import Dialect, Tools

_FUNCTION = re.compile(r"\s*<function=([^<>\n]+)>(.*)</function>\s*\Z", re.DOTALL)
# A value ends at the first end tag after which another parameter or nothing follows: it may hold tags itself.
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]+)>\n?(.*?)\n?</parameter>\s*(?=<parameter=|\Z)", re.DOTALL)


def parse(body: str, tools: Tools) -> tuple[str, dict[str, Any]] | None:
    return _json(body) if body.lstrip()[:1] == "{" else _tags(body, tools)


def _json(body: str) -> tuple[str, dict[str, Any]] | None:
    try:
        call = json.loads(body)
        arguments = call.get("arguments", call.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
    except (ValueError, RecursionError):
        return None
    name = call.get("name")
    return (name, arguments) if isinstance(name, str) and name and isinstance(arguments, dict) else None


def _tags(body: str, tools: Tools) -> tuple[str, dict[str, Any]] | None:
    function = _FUNCTION.match(body)
    if function is None:
        return None
    name, inside = function[1].strip(), function[2]
    schema = tools.get(name, {})
    arguments: dict[str, Any] = {}
    at = 0
    while inside[at:].strip():
        parameter = _PARAMETER.match(inside, at)
        if parameter is None:
            return None
        key = parameter[1].strip()
        arguments[key] = typed(parameter[2], schema, key)
        at = parameter.end()
    return name, arguments


def typed(text: str, schema: Mapping[str, Any], key: str) -> Any:
    """A value written as text, as the type that the tool's schema gives it; text where it gives none or the value does not fit."""
    properties = schema.get("properties")
    described = properties.get(key) if isinstance(properties, Mapping) else None
    kinds = _kinds(described)
    if not kinds or "string" in kinds:
        return None if "null" in kinds and text == "null" else text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {"true": True, "false": False, "none": None, "null": None}.get(text.strip().lower(), text)
    return value


def _kinds(described: Any) -> set[str]:
    if not isinstance(described, Mapping):
        return set()
    kind = described.get("type")
    kinds = {kind} if isinstance(kind, str) else {k for k in kind if isinstance(k, str)} if isinstance(kind, list) else set()
    for several in ("anyOf", "oneOf"):
        if isinstance(described.get(several), list):
            kinds.update(*(_kinds(one) for one in described[several]))
    if not kinds and isinstance(described.get("enum"), list):
        kinds = {"string"} if any(isinstance(value, str) for value in described["enum"]) else {"number"}
    return kinds


QWEN = Dialect("qwen", think=("<think>", "</think>"), call=("<tool_call>", "</tool_call>"), bare_call=("<function=", "</function>"), parse=parse)
