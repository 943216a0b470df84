"""The README's Python runs as it stands, block after block, and so do its commands."""
from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


def _readme() -> Path | None:
    for folder in Path(__file__).resolve().parents:
        if (folder / "README.md").is_file():
            return folder / "README.md"
    return None


def blocks(text: str, language: str = "python") -> list[tuple[int, str]]:
    """(line number of the first line, source) of each block of a language."""
    return [(text.count("\n", 0, m.start(1)) + 1, m[1]) for m in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def test_blocks() -> None:
    assert blocks("a\n```python\nb\nc\n```\n```sh\nd\n```\n```python\ne\n```\n") == [(3, "b\nc\n"), (10, "e\n")]


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = _readme()
    if path is None:
        pytest.skip("no README.md above the tests")
    found = blocks(path.read_text(encoding="utf-8"))
    assert found, "the README shows no Python"
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    for line, source in found:
        # Empty lines before the source make tracebacks name the README's own lines.
        exec(compile("\n" * (line - 1) + source, str(path), "exec"), namespace)
    assert "Traceback" not in capsys.readouterr().err


def test_commands(tmp_path: Path) -> None:
    """All but the one that needs the network, and the demo, which has tests of its own. chat gets one message by a pipe."""
    path = _readme()
    if path is None:
        pytest.skip("no README.md above the tests")
    lines = [line for _, source in blocks(path.read_text(encoding="utf-8"), "sh") for line in source.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("skipstone ") and "org/repo" not in line]
    assert {"chat", "run", "info", "devices", "bench"} <= {name for name, *_ in commands}
    for arguments in commands:
        if arguments[0] == "chat":
            arguments = [*arguments, "--seed", "1"]      # without one an answer is drawn anew each time, and may be empty
        done = subprocess.run([sys.executable, "-m", "skipstone.cli", *arguments], input=b"def f(x):", capture_output=True, cwd=tmp_path, timeout=300,
                              env={**os.environ, "PYTHONIOENCODING": "utf-8"})
        assert done.returncode == 0 and done.stdout and b"Traceback" not in done.stderr, (arguments, done)
