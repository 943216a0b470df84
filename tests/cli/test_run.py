"""skipstone run."""
from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from command_line import assert_one_line_error, command, environment, skipstone

from skipstone import bundled, load, loading
from skipstone.cli import run
from skipstone.cli.output import printable
from skipstone.results import Piece

PROMPT = "class Stack:\n    def __init__(self):\n"


@pytest.fixture(scope="module")
def expected() -> str:
    return load(bundled.QWEN35, draft=False).generate(PROMPT, max_tokens=32, draft_tokens=0).text


@pytest.mark.parametrize("options", [
    (), ("--no-draft",), ("--draft-tokens", "3"), ("--draft-tokens", "0"), ("--draft-tokens", "auto"), ("--threads", "1"),
    ("--draft", str(bundled.QWEN35)), ("--draft", "ngram"), ("--draft", "ngram", "--draft-tokens", "7"),
], ids=lambda options: " ".join(o.rpartition("/")[2] for o in options) or "plain")
def test_text(expected: str, options: tuple[str, ...]) -> None:
    done = skipstone("run", "tiny-qwen35", "-p", PROMPT, "--max-tokens", "32", *options)
    assert done.code == 0
    assert done.out == expected + "\n"
    assert "32 tokens" in done.err and len(done.err.splitlines()) == 1


def test_path_and_standard_input(expected: str) -> None:
    done = skipstone("run", str(bundled.QWEN35), "--prompt", "-", "--max-tokens", "32", stdin=PROMPT.encode())
    assert done.code == 0 and done.out == expected + "\n"


def test_json(expected: str) -> None:
    done = skipstone("run", "tiny-qwen35", "-p", PROMPT, "--max-tokens", "32", "--draft-tokens", "3", "--json")
    assert done.code == 0 and done.err == ""
    said = done.json
    assert set(said) == {"model", "text", "tokens", "finish_reason", "stats"}
    assert said["text"] == expected and len(said["tokens"]) == 32 and all(isinstance(t, int) for t in said["tokens"])
    assert said["finish_reason"] == "length"
    stats = said["stats"]
    assert {"prompt_tokens", "tokens", "passes", "decode_seconds", "draft_seconds", "drafted", "accepted", "threads", "seed", "tokens_per_second",
            "prompt_tokens_per_second", "tokens_per_pass", "acceptance"} <= set(stats)
    assert stats["tokens"] == 32 and stats["passes"] < 31 and stats["tokens_per_pass"] == 31 / stats["passes"]
    assert len(stats["acceptance"]) == len(stats["drafted"]) == len(stats["accepted"]) == 3


def test_sampled_text_is_the_same_drafted(expected: str) -> None:
    options = ("--max-tokens", "24", "--temperature", "0.9", "--top-p", "0.95", "--top-k", "50", "--min-p", "0.01", "--repeat-penalty", "1.1",
               "--seed", "7")
    plain = skipstone("run", "tiny-gemma4", "-p", PROMPT, *options, "--no-draft")
    drafted = skipstone("run", "tiny-gemma4", "-p", PROMPT, *options, "--draft", "tiny-gemma4-assistant")
    assert plain.code == drafted.code == 0
    assert plain.out == drafted.out != expected + "\n"
    assert "accepted by position" in drafted.err and "accepted" not in plain.err


def test_stop() -> None:
    done = skipstone("run", "tiny-qwen35", "-p", PROMPT, "--max-tokens", "64", "--stop", "zzz", "--stop", "self", "--json")
    assert done.code == 0 and done.json["finish_reason"] == "stop" and "self" not in done.json["text"]


def test_prompt_from_a_pipe(expected: str) -> None:
    assert skipstone("run", "tiny-qwen35", "-n", "32", stdin=PROMPT.encode()).out == skipstone("run", "tiny-qwen35", "-p", PROMPT, "-n", "32").out
    assert_one_line_error(skipstone("run", "tiny-qwen35"), "prompt", "empty")


def test_grammars(tmp_path: Path) -> None:
    schema, gbnf = tmp_path / "schema.json", tmp_path / "answer.gbnf"
    schema.write_text('{"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3}')
    gbnf.write_text('root ::= "yes" | "no"')
    for given in (str(schema), schema.read_text()):
        numbers = skipstone("run", "tiny-qwen35", "-p", "# JSON:\n", "--json-schema", given, "--draft-tokens", "4").out
        assert 2 <= len(json.loads(numbers)) <= 3 and all(isinstance(n, int) for n in json.loads(numbers))
    assert skipstone("run", "tiny-qwen35", "-p", "x", "--grammar", str(gbnf)).out in ("yes\n", "no\n")
    assert skipstone("chat", "tiny-qwen35", "-p", "x", "--regex", "[a-c]{3}", "--seed", "1").out.strip(" abc\n") == ""
    assert_one_line_error(skipstone("run", "tiny-qwen35", "-p", "x", "--json-schema", "nowhere.json"), "--json-schema", "nowhere.json")
    assert_one_line_error(skipstone("run", "tiny-qwen35", "-p", "x", "--grammar", "start: ("), "grammar")


def test_unknown_file() -> None:
    assert_one_line_error(skipstone("run", "no such file.gguf", "-p", "x"), "no such file.gguf")
    assert_one_line_error(skipstone("run", "", "-p", "x"), "empty")


def test_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "no [model].gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)))
    assert_one_line_error(skipstone("run", str(path), "-p", "x"), "no [model].gguf")


@pytest.mark.parametrize("options, word", [
    (("--draft-tokens", "16"), "draft_tokens"), (("--draft-tokens", "-1"), "draft-tokens"), (("--draft-tokens", "many"), "draft-tokens"),
    (("--draft-tokens", "²"), "draft-tokens"), (("--draft-tokens", "9" * 5000), "draft-tokens"),
    (("--temperature", "-1"), "temperature"), (("--temperature", "nan"), "temperature"), (("--repeat-penalty", "0"), "repeat_penalty"),
    (("--top-k", "-1"), "top_k"), (("--top-p", "2"), "top_p"), (("--min-p", "-1"), "min_p"), (("--seed", "-1"), "seed"), (("--stop", ""), "stop"),
    (("--max-tokens", "-1"), "max_tokens"), (("--threads", "0"), "threads"), (("--kv-type", "f64"), "kv_type"), (("--context", "0"), "context"),
    (("--context", "999999999"), "context"), (("--draft", "nowhere"), "nowhere"), (("--draft", ""), "empty"),
    (("--draft", "x", "--no-draft"), "--no-draft"),
], ids=lambda v: " ".join(v)[:24] if isinstance(v, tuple) else "")
def test_wrong_values(options: tuple[str, ...], word: str) -> None:
    assert_one_line_error(skipstone("run", "tiny-qwen35", "-p", "x", *options), word)


@pytest.mark.parametrize("options", [("--threads", "two"), ("--temperature", "warm"), ("--max-tokens", "1.5")], ids=" ".join)
def test_values_that_are_no_numbers(options: tuple[str, ...]) -> None:
    done = skipstone("run", "tiny-qwen35", "-p", "x", *options)
    assert done.code == 2 and done.out == "" and options[0] in done.err and "Traceback" not in done.err


def test_prompt_that_is_no_text() -> None:
    done = skipstone("run", "tiny-qwen35", "-p", "-", stdin=b"x\xff", PYTHONIOENCODING="utf-8:surrogateescape")
    assert_one_line_error(done, "surrogate")
    assert_one_line_error(skipstone("run", "tiny-qwen35", "-p", "-", stdin=b"x\xff"), "standard input")


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["streamed", "json"])
def test_output_that_cannot_hold_the_text(form: tuple[str, ...]) -> None:
    """At this temperature bytes outside of ASCII come out."""
    options = ("run", "tiny-qwen35", "-p", "# é", "--max-tokens", "200", "--temperature", "3", "--seed", "1", *form)
    wide, narrow = skipstone(*options), skipstone(*options, PYTHONIOENCODING="ascii")
    assert wide.code == narrow.code == 0 and narrow.out.isascii() and not wide.out.isascii()
    if form:
        assert narrow.json["text"] == wide.json["text"]
    else:
        assert narrow.out == "".join(c if c.isascii() else "?" for c in wide.out)


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\tb\n\x1b[31mé\x07\x9b\r漢\U0001f600") == "a\tb\n\ufffd[31mé\ufffd\ufffd\ufffd漢\U0001f600"


@pytest.mark.skipif(not hasattr(os, "pipe2"), reason="needs signals and pipes as Linux has them")
def test_interrupt() -> None:
    """Ctrl-C ends the text, not with a traceback; what was written stays."""
    import fcntl

    full = load(bundled.QWEN35).generate(PROMPT, max_tokens=4000).text
    assert len(full) > 8000
    process = subprocess.Popen(command("run", "tiny-qwen35", "-p", PROMPT, "--max-tokens", "4000"), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(SKIPSTONE_ISA="generic"))
    assert process.stdout and process.stderr
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)          # the rest of the text does not fit: it cannot have ended
    start = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out = (start + process.stdout.read()).decode("utf-8")
    complaint = process.stderr.read().decode("utf-8")
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=120) == 130
    assert out.endswith("\n") and full.startswith(out[:-1]) and len(out) < len(full)
    assert complaint.startswith("interrupted after ") and len(complaint.splitlines()) == 1


@pytest.mark.parametrize("as_json", [False, True], ids=["streamed", "json"])
def test_interrupt_tells_what_was_written(as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted:
        name = "slow"

        def stream(self, prompt: str, **options: object) -> Iterator[Piece]:
            yield Piece("ab", [1, 2])
            yield Piece("c", [3])
            raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load", lambda *arguments, **options: Interrupted())
    with pytest.raises(typer.Exit) as exit:
        run.command("tiny-qwen35", "x", as_json=as_json)
    assert exit.value.exit_code == 130
    said = capsys.readouterr()
    if as_json:
        assert json.loads(said.out) == {"model": "slow", "text": "abc", "tokens": [1, 2, 3], "finish_reason": "interrupted", "stats": None}
    else:
        assert said.out == "abc\n" and said.err == "interrupted after 3 tokens\n"
