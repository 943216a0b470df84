"""What runs in the process for templates, in this one: what it answers is what the other gives, and here sanitizers watch it as well."""
from __future__ import annotations

from typing import Any

import pytest
from templates import CONVERSATIONS, GEMMA, QWEN, TOOLS
from test_sandbox import ESCAPES, NESTED

from skipstone.chat import worker
from skipstone.chat.messages import check_messages, check_tools
from skipstone.chat.template import render

OWN = {"bos_token": "<bos>"}


def answer(source: str, variables: dict[str, Any], output: int = 1 << 20) -> dict[str, Any]:
    return worker._answer({"template": source, "variables": variables, "own": OWN, "seconds": 0, "memory": 0, "output": output}, {})


@pytest.mark.parametrize("source", [QWEN, GEMMA], ids=["qwen", "gemma"])
def test_the_same_in_both_processes(source: str) -> None:
    for messages in CONVERSATIONS:
        for tools in (None, TOOLS):
            variables = {"messages": check_messages(messages), "tools": check_tools(tools), "add_generation_prompt": True}
            there, here = render(source, variables, OWN, "x"), answer(source, variables)
            assert here["text"] == there.text and [tuple(run) for run in here["own"]] == there.own


def test_refusals() -> None:
    variables = {"messages": [{"role": "user", "content": "hi"}]}
    said = {source: answer(source, variables).get("error") for source in ESCAPES}
    assert set(said.values()) <= {"security", "failed"}, said
    assert {name: answer(source, variables)["error"] for name, source in NESTED.items()} == dict.fromkeys(NESTED, "depth")
    assert answer("{% if %}", variables)["error"] == "syntax" and answer("{{ raise_exception('no') }}", variables)["error"] == "refused"
    assert answer("{% for i in range(1000) %}{{ 'a' * 100 }}{% endfor %}", variables, output=1000)["error"] == "output"
