"""What the commands have in common."""
from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import command, environment, skipstone as run_skipstone

import skipstone
from skipstone.cli import main

CLI = Path(main.__file__).parent
COMMANDS = ["demo", "run", "chat", "bench", "kernels", "info", "devices", "pull"]
NOT_COMMANDS = {"__init__", "__main__", "main", "output", "conversation", "interrupts", "terminal", "plot", "plan_table"}


def test_version() -> None:
    done = run_skipstone("--version")
    assert (done.code, done.out, done.err) == (0, f"skipstone {skipstone.__version__}\n", "")


def test_help_lists_the_commands() -> None:
    done = run_skipstone("--help")
    assert done.code == 0
    listed = re.findall(r"^│ ([a-z]\S*) ", done.out.partition("Commands")[2], re.MULTILINE)
    assert listed == [c.name for c in main.app.registered_commands] == COMMANDS
    assert {path.stem for path in CLI.glob("*.py")} - NOT_COMMANDS == set(COMMANDS), "a file a command"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name: str) -> None:
    done = run_skipstone(name, "--help")
    assert done.code == 0 and "--json" in done.out and done.err == ""


@pytest.mark.parametrize("arguments", [
    ("nothing",), ("devices", "extra"), ("info",), ("info", "tiny-qwen35", "--bogus"), ("run",), ("demo", "--rounds", "0"),
    ("bench", "tiny-qwen35", "--rounds", "0"), ("bench", "tiny-qwen35", "--context", "x"),
], ids=" ".join)
def test_misuse(arguments: tuple[str, ...]) -> None:
    done = run_skipstone(*arguments)
    assert done.code == 2 and done.out == "" and "Usage" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("no_color", ["", "1"], ids=["pipe", "pipe and NO_COLOR"])
@pytest.mark.parametrize("arguments", [
    ("--help",), ("info", "tiny-gemma4"), ("devices",), ("demo", "--rounds", "1"), ("info", "no file"),
    ("run", "tiny-qwen35", "-p", "x", "--max-tokens", "4"),
], ids=" ".join)
def test_no_escape_codes_in_a_pipe(arguments: tuple[str, ...], no_color: str) -> None:
    done = run_skipstone(*arguments, NO_COLOR=no_color)
    assert "\x1b" not in done.out + done.err


def _on_a_terminal(*arguments: str, **variables: str) -> str:
    """What a command writes to a terminal."""
    import pty

    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(command(*arguments), stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.STDOUT,
                                   env=environment(TERM="xterm-256color", **variables))
    finally:
        os.close(theirs)
    seen = b""
    try:
        while select.select([ours], [], [], 120)[0]:
            piece = os.read(ours, 65536)
            if not piece:
                break
            seen += piece
    except OSError:
        pass                                            # Linux tells the end of a terminal so
    finally:
        os.close(ours)
        process.wait(timeout=120)
    return seen.decode("utf-8")


COLOURS = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_no_colour_on_a_terminal() -> None:
    assert COLOURS.search(_on_a_terminal("devices")), "none without NO_COLOR either: nothing is tested"
    assert not COLOURS.search(_on_a_terminal("devices", NO_COLOR="1"))


@pytest.mark.parametrize("arguments", [
    ("info", "tiny-qwen35", "--tensors"), ("info", "tiny-qwen35", "--tensors", "--json"), ("run", "tiny-qwen35", "-p", "x"), ("devices", "--json"),
], ids=" ".join)
def test_reader_that_goes_away(arguments: tuple[str, ...]) -> None:
    process = subprocess.Popen(command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout and process.stderr
    process.stdout.close()
    complaint = process.stderr.read().decode("utf-8")
    process.stderr.close()
    process.wait(timeout=120)
    assert "Traceback" not in complaint and "BrokenPipe" not in complaint and "Exception" not in complaint


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [
    ("info", "tiny-qwen35"), ("info", "tiny-qwen35", "--json"), ("run", "tiny-qwen35", "-p", "x", "--max-tokens", "2"),
], ids=" ".join)
def test_full_disk(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command(*arguments), stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=120)
    assert done.returncode == 1
    assert done.stderr.decode("utf-8").startswith("error: ") and done.stderr.count(b"\n") == 1
