"""A conversation on the command line: its messages, options and what its / commands do."""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError

if TYPE_CHECKING:
    from ..model import Model
    from ..results import ChatPiece, ChatResult

FILE_LIMIT = 64 << 20
YES, NO = ("on", "yes", "true", "1"), ("off", "no", "false", "0")


class Leave(Exception):
    """The conversation is over."""


class Conversation:
    """messages: as `Model.chat` takes them, the system message first. options: of the next answers."""

    def __init__(self, model: Model, messages: list[dict[str, Any]], options: dict[str, Any], *, enable_thinking: bool | None = None,
                 chat_template: str | None = None, tools: list[dict[str, Any]] | None = None) -> None:
        self.model, self.messages, self.options = model, messages, options
        self.enable_thinking, self.chat_template, self.tools = enable_thinking, chat_template, tools
        self.session = model.session(draft=options.get("draft_tokens") != 0)
        self.last = "There is no answer yet"    # what /stats says of the last one
        self._saved: set[str] = set()

    def ask(self, text: str) -> Iterator[ChatPiece]:
        """The answer to a message, in pieces. Until `answered`, the message is no part of the conversation."""
        return self.answer([*self.messages, {"role": "user", "content": text}])

    def answer(self, messages: list[dict[str, Any]]) -> Iterator[ChatPiece]:
        return self.model.chat_stream(messages, self.tools, self.enable_thinking, chat_template=self.chat_template, session=self.session, **self.options)

    def answered(self, question: str | None, answer: ChatResult | dict[str, Any]) -> None:
        """Question and answer become part of the conversation."""
        if question is not None:
            self.messages.append({"role": "user", "content": question})
        self.messages.append(answer if isinstance(answer, dict) else answer.message)

    def renew_session(self) -> None:
        """After an interruption in the middle of a pass: what the session holds is read again."""
        self.session = self.model.session(draft=self.options.get("draft_tokens") != 0)

    # What the / commands do: each takes what stands after its name and returns what is to be shown.

    def command(self, line: str) -> str:
        """Runs "/name rest". ArgumentError where there is no such command or the rest is wrong; Leave to end."""
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            raise ArgumentError(f"/{name} is no command; /help lists them, and // at the beginning sends a message that begins with /")
        found: Callable[[str], str] = getattr(self, COMMANDS[name][0])
        return found(rest.strip())

    def help(self, rest: str) -> str:
        seen: dict[str, list[str]] = {}
        for name, (method, _) in COMMANDS.items():
            seen.setdefault(method, []).append(name)
        said = {method: about for method, about in COMMANDS.values() if about}
        lines = []
        for method, names in seen.items():
            form, _, about = said[method].partition(": ")
            aliases = f" (also {', '.join(f'/{name}' for name in names[1:])})" if names[1:] else ""
            lines.append(f"  {f'/{names[0]} {form}'.rstrip():<20} {about}{aliases}")
        return "\n".join([*lines, "", '  """ begins and ends a message of several lines; a \\ at the end of a line goes on with the next.',
                          "  Ctrl-C ends an answer or clears the line; Ctrl-D leaves."])

    def reset(self, rest: str) -> str:
        self.messages = [m for m in self.messages[:1] if m["role"] == "system"]
        return "The conversation is empty" + (", but for the system message." if self.messages else ".")

    def system(self, rest: str) -> str:
        present = self.messages[0]["content"] if self.messages and self.messages[0]["role"] == "system" else None
        if not rest:
            return f"System message: {present}" if present is not None else "There is no system message; /system TEXT sets one."
        text = "" if rest in ('""', "''", "none") else rest
        self.messages = [{"role": "system", "content": text}] * bool(text) + self.messages[present is not None:]
        return "The system message is set; it counts from the next answer on." if text else "There is no system message any more."

    def save(self, rest: str) -> str:
        path = _path(rest, "/save")
        if os.path.exists(path) and path not in self._saved:
            raise ArgumentError(f"/save: {path} exists already; choose another name, or remove it first")
        text = json.dumps({"model": self.model.name, "messages": self.messages}, ensure_ascii=False, indent=2)
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise ArgumentError(f"/save: {path} cannot be written ({error.strerror}); expected a file in a folder of yours") from None
        self._saved.add(path)
        return f"Saved {len(self.messages)} messages to {path}."

    def load(self, rest: str) -> str:
        path = _path(rest, "/load")
        self.messages = read_messages(path)
        self._saved.add(path)
        return f"Loaded {len(self.messages)} messages from {path}."

    def figures(self, rest: str) -> str:
        return f"{self.last}\nThe context holds {self.model.context_length:,} tokens."

    def set(self, rest: str) -> str:
        from ..decode.options import Options

        name, _, value = rest.partition(" ")
        if not name:
            return "\n".join(f"  {key} {value}" for key, value in sorted(self.options.items())) or "Every option has its default; /set NAME VALUE changes one."
        try:
            changed = {**self.options, name: json.loads(value) if value else None}
        except ValueError:
            changed = {**self.options, name: value}
        if not value:
            changed.pop(name)
        Options.of(changed, self.model.vocab_size)
        self.options = changed
        return f"{name} is {changed[name]}." if value else f"{name} has its default."

    def think(self, rest: str) -> str:
        if rest and rest not in (*YES, *NO, "auto"):
            raise ArgumentError(f"/think: {rest!r}; expected on, off or auto")
        if rest:
            self.enable_thinking = None if rest == "auto" else rest in YES
        return f"Thinking is {'left to the template' if self.enable_thinking is None else 'on' if self.enable_thinking else 'off'}."

    def undo(self, rest: str) -> str:
        last = max((i for i, m in enumerate(self.messages) if m["role"] == "user"), default=None)
        if last is None:
            raise ArgumentError("/undo: there is no message of yours to take back")
        del self.messages[last:]
        return "Your last message and its answer are taken back."

    def leave(self, rest: str) -> str:
        raise Leave


# name -> the method and "form: what it does"; a name without that is another name of the same.
COMMANDS: dict[str, tuple[str, str]] = {
    "help": ("help", ": list the commands"), "?": ("help", ""),
    "reset": ("reset", ": begin anew"), "clear": ("reset", ""),
    "system": ("system", "[TEXT]: show or set the system message"),
    "undo": ("undo", ": take back your last message and its answer"),
    "save": ("save", "FILE: write the conversation to a file"),
    "load": ("load", "FILE: go on with a saved conversation"),
    "set": ("set", "[NAME VALUE]: show or change options: temperature, top_p, seed, max_tokens, ..."),
    "think": ("think", "[on|off|auto]: whether the model reasons first"),
    "stats": ("figures", ": speed of the last answer, tokens in use"),
    "exit": ("leave", ": leave"), "quit": ("leave", ""), "bye": ("leave", ""),
}


def read_messages(path: str) -> list[dict[str, Any]]:
    """Messages from a file: a JSON list of them, or an object with such a list. ArgumentError says what is wrong with it."""
    from ..chat.messages import check_messages

    try:
        with open(path, "rb") as file:
            content = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ArgumentError(f"{path}: the file cannot be read ({error.strerror}); expected a saved conversation") from None
    return check_messages(parse_json(content, path, "messages"))


def parse_json(content: bytes | str, where: str, key: str) -> Any:
    """A JSON list, alone or as `key` of an object."""
    if len(content) > FILE_LIMIT:
        raise ArgumentError(f"{where}: more than {FILE_LIMIT >> 20} MiB; expected {key}")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"{where}: no JSON ({str(error)[:80]}); expected a list of {key}") from None
    found = found.get(key) if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise ArgumentError(f"{where}: there is no list of {key}; expected [...] or {{\"{key}\": [...]}}")
    return found


def _path(rest: str, name: str) -> str:
    path = os.path.expanduser(rest)
    if not path:
        raise ArgumentError(f"{name}: there is no file's name; expected {name} FILE")
    return path
