"""From messages to a prompt's token ids, and from the pieces of a text to an answer's parts."""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from ..results import ChatPiece, ChatPrompt, Piece
from .answer import AnswerReader, Tools
from .dialects import dialect_of
from .messages import check_messages, check_tools, plain, with_tool_responses
from .template import render

if TYPE_CHECKING:
    from ..decode.session import Session
    from ..model import Model

MOST_TOKENS = 2048          # of an answer, where the caller does not say

# How templates ask for messages that hold a tool's result.
ROLE_TOOL = re.compile(r"""role['"]?\]?\s*(?:==|!=)\s*['"]tool['"]""")

# What templates get from us; other variables are the caller's.
GIVEN = frozenset(("messages", "tools", "documents", "add_generation_prompt", "enable_thinking", "bos_token", "eos_token"))


def chat_prompt(model: Model, messages: Any, tools: Any = None, enable_thinking: bool | None = None,
                template_variables: Mapping[str, Any] | None = None, chat_template: str | None = None) -> ChatPrompt:
    """Renders a conversation up to where the model's answer begins, and encodes it. See `Model.chat` for arguments and errors."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ArgumentError(f"messages: {model.name} has no tokenizer; expected a model file with one")
    template = tokenizer.chat_template if chat_template is None else chat_template
    if not isinstance(template, str) or not template.strip():
        raise ArgumentError(f"messages: {model.name} has no chat template, as a base model has none; give one by chat_template=... (--template), "
                            "or use generate with a prompt")
    if enable_thinking not in (None, True, False):
        raise ArgumentError(f"enable_thinking: {enable_thinking!r}; expected True, False or None, which leaves it to the template")
    checked = check_messages(messages)
    if "tool_responses" in template and not ROLE_TOOL.search(template):
        checked = with_tool_responses(checked)
    variables: dict[str, Any] = {"messages": checked, "tools": check_tools(tools), "documents": None, "add_generation_prompt": True}
    if enable_thinking is not None:
        variables["enable_thinking"] = bool(enable_thinking)
    for name, value in (template_variables or {}).items():
        if not isinstance(name, str) or not name.isidentifier() or name in GIVEN or name.startswith("_"):
            raise ArgumentError(f"template_variables: {name!r}; expected names of a template's own variables, such as 'preserve_thinking'")
        variables[name] = plain(value, f"template_variables[{name!r}]")
    special = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    own = {name: tokenizer.token_text(id) for name, id in special.items() if id is not None}
    rendered = render(template, variables, own, model.name)
    return ChatPrompt(rendered.text, tokenizer.encode_marked(rendered.text, rendered.own), _thinking(rendered.text, template, model.architecture))


def _thinking(text: str, template: str, architecture: str) -> bool:
    """Whether a prompt ends inside of reasoning, so that the answer goes on with it."""
    dialect = dialect_of(template, architecture)
    end = text.rstrip()
    return dialect.think is not None and (end.endswith(dialect.think[0]) or bool(dialect.heading) and end.endswith(dialect.think[0] + dialect.heading))


def chat_pieces(model: Model, messages: Any, tools: Any = None, enable_thinking: bool | None = None, *,
                template_variables: Mapping[str, Any] | None = None, chat_template: str | None = None, session: Session | None = None,
                **options: Any) -> Iterator[ChatPiece]:
    """The answer in pieces; the last one has finish_reason and stats. Arguments are checked before the first piece is asked for."""
    prompt = chat_prompt(model, messages, tools, enable_thinking, template_variables, chat_template)
    assert model.tokenizer is not None
    options = {"max_tokens": MOST_TOKENS, **options}
    if session is not None and session.model is not model:
        raise ArgumentError("session: it belongs to another model; expected one that this model made")
    source = model if session is None else session
    dialect = dialect_of(chat_template or model.tokenizer.chat_template or "", model.architecture)
    reader = AnswerReader(dialect, schemas(tools), prompt.thinking)
    return _read(reader, source.stream(prompt.ids, **options))


def schemas(tools: Any) -> Tools:
    """Each tool's parameters by its name."""
    made = {}
    for tool in check_tools(tools) or []:
        parameters = tool["function"].get("parameters")
        made[tool["function"]["name"]] = parameters if isinstance(parameters, dict) else {}
    return made


def _read(reader: AnswerReader, pieces: Iterable[Piece]) -> Iterator[ChatPiece]:
    for piece in pieces:
        part = reader.push(piece.text)
        if piece.finish_reason:
            rest = reader.finish()
            part.text, part.reasoning = part.text + rest.text, part.reasoning + rest.reasoning
            part.tool_calls += rest.tool_calls
        yield ChatPiece(part.text, part.reasoning, part.tool_calls, piece.tokens, piece.finish_reason, piece.stats,
                        piece.logprobs, piece.top_logprobs)
