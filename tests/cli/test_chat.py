"""skipstone chat: one answer in a pipe, and conversations on a terminal."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from command_line import assert_one_line_error, command, environment, skipstone
from pseudo_terminal import Terminal, on_terminal

from skipstone import ArgumentError, Model, bundled, load
from skipstone.cli.conversation import COMMANDS, Conversation, Leave
from skipstone.cli.terminal import Answer

QUESTION = "def f(x):"
ENDLESS = "import os"                                   # the tiny models repeat themselves without end


@cache
def model() -> Model:
    return load(bundled.QWEN35)


@cache
def expected(question: str = QUESTION, tokens: int = 16) -> str:
    return model().chat(question, max_tokens=tokens).text


@pytest.mark.parametrize("arguments, stdin", [(("-p", QUESTION), ""), (("-p", "-"), QUESTION), ((), QUESTION)], ids=["prompt", "-", "pipe"])
def test_one_answer(arguments: tuple[str, ...], stdin: str) -> None:
    done = skipstone("chat", "tiny-qwen35", *arguments, "--max-tokens", "16", "--temperature", "0", stdin=stdin.encode())
    assert (done.code, done.out, done.err) == (0, expected().rstrip("\n") + "\n", "")


def test_json() -> None:
    done = skipstone("chat", "tiny-qwen35", "-p", QUESTION, "--max-tokens", "16", "--temperature", "0", "--json")
    assert done.code == 0 and done.err == ""
    said = done.json
    assert set(said) == {"model", "text", "reasoning", "tool_calls", "tokens", "finish_reason", "stats"}
    assert (said["text"], said["finish_reason"], said["tool_calls"], len(said["tokens"])) == (expected(), "length", [], 16)
    assert said["stats"]["tokens"] == 16


def test_seed_and_drafting() -> None:
    options = ("chat", "tiny-gemma4", "-p", QUESTION, "--max-tokens", "16", "--seed", "3", "--temperature", "1.2", "--top-k", "40")
    assert skipstone(*options, "--draft", "tiny-gemma4-assistant").out == skipstone(*options, "--no-draft").out


def test_messages_and_template(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": QUESTION}]
    path, template = tmp_path / "talk.json", tmp_path / "template.jinja"
    path.write_text(json.dumps({"messages": talk}))
    whole = model().chat([{"role": "system", "content": "s"}, *talk], max_tokens=8).text
    done = skipstone("chat", "tiny-qwen35", "--messages", str(path), "--system", "s", "--max-tokens", "8", "--temperature", "0", "--json")
    assert done.code == 0 and done.json["text"] == whole
    done = skipstone("chat", "tiny-qwen35", "--messages", "-", "--system", "s", "--max-tokens", "8", "--temperature", "0", "--json", stdin=json.dumps(talk).encode())
    assert done.json["text"] == whole
    template.write_text("{{ messages[-1].content }}{{ tools | tojson if tools }}")
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"name": "f", "parameters": {}}]))
    done = skipstone("chat", "tiny-qwen35", "--messages", str(path), "--template", str(template), "--tools", str(tools), "--max-tokens", "8", "--temperature", "0", "--json")
    assert done.json["text"] == model().chat(talk, [{"name": "f", "parameters": {}}], chat_template=template.read_text(), max_tokens=8).text


def test_mistakes(tmp_path: Path) -> None:
    """Each is one line on standard error."""
    from typer.testing import CliRunner

    from skipstone.cli.main import app

    broken = tmp_path / "broken.jinja"
    broken.write_text("{% if %}")
    (tmp_path / "list.json").write_text("{}")
    for arguments, words in (
        (("-p", ""), ["empty"]), (("-p", "x", "--temperature", "-1"), ["temperature"]), (("-p", "x", "--draft-tokens", "many"), ["draft-tokens"]),
        (("-p", "x", "--template", str(broken)), ["chat template", "line 1"]), (("-p", "x", "--template", "nowhere"), ["nowhere"]), (("-p", "x", "--tools", "nowhere"), ["nowhere"]),
        (("--messages", "nowhere"), ["nowhere"]), (("--messages", str(broken)), ["no JSON"]), (("--messages", str(tmp_path / "list.json")), ["no list of messages"]),
        (("-p", "-", "--messages", "-"), ["standard input"]), (("-p", "x", "--device", "moon"), ["moon"]), (("-p", "x" * 20000,), ["context"]), (("-p", "x", "--draft", ""), ["empty"]),
    ):
        done = CliRunner().invoke(app, ["chat", "tiny-qwen35", *arguments])
        assert done.exit_code == 2 and done.stdout == "" and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.output
        assert all(word in done.stderr for word in words), done.stderr
    assert_one_line_error(skipstone("chat", "nowhere.gguf", "-p", "x"), "nowhere.gguf")
    assert_one_line_error(skipstone("chat", "tiny-qwen35", stdin=b"x\xff"), "standard input")


def conversation(**options: Any) -> Conversation:
    return Conversation(model(), [], {"max_tokens": 4, "temperature": 0.0, **options})


def test_commands(tmp_path: Path) -> None:
    talk = conversation()
    assert all(name in talk.command("/help") for name in COMMANDS)
    assert "no system message" in talk.command("/system")
    talk.command("/system  You write Go. ")
    assert talk.messages == [{"role": "system", "content": "You write Go."}] and talk.command("/system") == "System message: You write Go."
    talk.answered("a", {"role": "assistant", "content": "b"})
    talk.answered("c", {"role": "assistant", "content": "d"})
    talk.command("/undo")
    assert [m["content"] for m in talk.messages] == ["You write Go.", "a", "b"]
    path = tmp_path / "talk.json"
    assert "3 messages" in talk.command(f"/save {path}") and "3 messages" in talk.command(f"/save {path}")
    other = conversation()
    other.command(f"/load {path}")
    assert other.messages == talk.messages and other.command("/reset").startswith("The conversation is empty") and other.messages == talk.messages[:1]
    other.command('/system ""')
    assert other.messages == []
    with pytest.raises(ArgumentError, match="exists already"):
        conversation().command(f"/save {path}")
    assert talk.command("/set top_k 5") == "top_k is 5." and talk.options["top_k"] == 5 and "top_k 5" in talk.command("/set")
    assert talk.command("/set stop END") == "stop is END." and talk.command("/set stop") == "stop has its default." and "stop" not in talk.options
    assert (talk.command("/think off"), talk.enable_thinking) == ("Thinking is off.", False) and talk.command("/think auto") == "Thinking is left to the template."
    assert "no answer yet" in talk.command("/stats")
    for name in ("exit", "quit", "bye"):
        with pytest.raises(Leave):
            talk.command(f"/{name}")


@pytest.mark.parametrize("line, said", [
    ("/nothing", "/nothing is no command"), ("/", "no command"), ("/save", "name"), ("/load", "name"), ("/load /nowhere/x", "cannot be read"), ("/save /nowhere/x", "cannot be written"),
    ("/set temperature -1", "temperature"), ("/set nothing 1", "nothing"), ("/think perhaps", "perhaps"), ("/undo", "no message"),
])
def test_wrong_commands(line: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        conversation().command(line)


class Screen:
    """Stands for a terminal as standard output."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("no_color", ["", "1"])
def test_answers_on_the_screen(no_color: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    out = Answer()
    for text, reasoning in (("", "so"), ("", "\x1b]0;title\x07"), ("Yes\x9b31m.\r", ""), (" \x1b[2J", "")):
        out.write(text, reasoning)
    out.note("[interrupted]")
    out.finish()
    marks = {"\x1b[2m": "", "\x1b[0m": ""} if not no_color else {}
    plain = screen.text
    for mark in marks:
        assert mark in plain
        plain = plain.replace(mark, "")
    assert not set(plain) & set("\x1b\x07\x9b\r")
    assert ("[thinking]\nso" in plain and "[end of thinking]" in plain) == bool(no_color) and "\n\nYes\ufffd31m.\ufffd \ufffd[2J\n[interrupted]\n" in plain


@on_terminal
def test_conversation(tmp_path: Path) -> None:
    """Answers, a Ctrl-C in the middle of one, commands, the history of the time before.

    The plain kernels, whose bits are the same, take long enough for an answer that it can be interrupted on a busy machine too."""
    terminal = Terminal(tmp_path, "chat", "tiny-qwen35", "--temperature", "0", "--max-tokens", "4000", SKIPSTONE_ISA="generic")
    terminal.wait(">>> ")
    terminal.type(f"{ENDLESS}\n")
    terminal.wait(ENDLESS)
    terminal.wait("\r\n")
    terminal.wait("\n")                                     # some of the answer
    terminal.type("\x03")
    terminal.wait("[interrupted]")
    terminal.wait(">>> ")
    terminal.type("/stats\n")
    assert "interrupted after" in terminal.wait("The context holds")
    terminal.type("/set max_tokens 5\n")
    terminal.wait("max_tokens is 5.")
    terminal.wait(">>> ")
    terminal.type(f'"""{QUESTION}\nend"""\n')
    terminal.wait("[ended by max_tokens or the context]")
    terminal.wait(">>> ")
    terminal.type(f"/save {tmp_path}/talk.json\n")
    terminal.wait("Saved 4 messages")
    terminal.wait(">>> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    talk = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [m["content"] for m in talk[::2]] == [ENDLESS, f"{QUESTION}\nend"]
    full = model().chat(ENDLESS, max_tokens=4000).text
    assert talk[1]["content"] and full.startswith(talk[1]["content"]) and len(talk[1]["content"]) < len(full)
    assert talk[3]["content"] == model().chat(talk[:3], max_tokens=5).text

    terminal = Terminal(tmp_path, "chat", "tiny-qwen35", columns=30, NO_COLOR="1")
    terminal.wait(">>> ")
    terminal.type("\x1b[A")                                 # up: the last line of the time before
    terminal.wait("/save ")
    terminal.type("\x15/exit\n")
    assert terminal.end() == 0 and "\x1b[3" not in terminal.seen
    assert (tmp_path / "skipstone" / "chat_history").stat().st_mode & 0o077 == 0


@on_terminal
def test_without_history(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "chat", "tiny-qwen35", "--no-history")
    terminal.wait(">>> ")
    terminal.type("/nothing\n")
    terminal.wait("error:")
    terminal.wait(">>> ")
    terminal.type("/exit\n")
    assert terminal.end() == 0 and not (tmp_path / "skipstone").exists()


@on_terminal
def test_interrupt_in_a_pipe() -> None:
    import fcntl

    process = subprocess.Popen(command("chat", "tiny-qwen35", "-p", ENDLESS, "--max-tokens", "4000", "--temperature", "0"), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(SKIPSTONE_ISA="generic"))
    assert process.stdout and process.stderr
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    start = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out = (start + process.stdout.read()).decode("utf-8")
    complaint = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=120) == 130 and complaint == b"" and model().chat(ENDLESS, max_tokens=4000).text.startswith(out[:-1])
