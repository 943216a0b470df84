"""The README's Python runs as it stands, block after block."""
from __future__ import annotations

import re
from pathlib import Path

import pytest


def _readme() -> Path | None:
    for folder in Path(__file__).resolve().parents:
        if (folder / "README.md").is_file():
            return folder / "README.md"
    return None


def blocks(text: str) -> list[tuple[int, str]]:
    """(line number of the first line, source) of each ```python block."""
    return [(text.count("\n", 0, m.start(1)) + 1, m[1]) for m in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


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
