"""Which files beside a model are taken for its drafter."""
from __future__ import annotations

from pathlib import Path

import pytest

from skipstone.loading import companions


@pytest.mark.parametrize(("model", "others", "expected"), [
    ("gemma-4-12b-it-Q8_0.gguf", ["gemma-4-12b-it-assistant-Q4_K_M.gguf", "gemma-4-12b-it-assistant-Q8_0.gguf", "gemma-4-12b-assistant-Q8_0.gguf"],
     ["gemma-4-12b-it-assistant-Q8_0.gguf", "gemma-4-12b-it-assistant-Q4_K_M.gguf"]),
    ("tiny-Q4_K_M.gguf", ["tinymoe-assistant-Q4_K_M.gguf", "tiny-assistant-Q4_K_M.txt", "tiny-Q8_0.gguf", "assistant.gguf"], []),
    ("Qwen3.6-27B-UD-Q4_K_XL.gguf", ["mtp-Qwen3.6-27B-Q8_0.gguf", "mtp-Qwen3.6-35B-Q8_0.gguf"], ["mtp-Qwen3.6-27B-Q8_0.gguf"]),
    ("Qwen3.6-27B-IQ4_XS-00001-of-00002.gguf", ["Qwen3.6-27B-mtp-bf16.gguf", "Qwen3.6-27B-IQ4_XS-00002-of-00002.gguf"], ["Qwen3.6-27B-mtp-bf16.gguf"]),
    ("plain.gguf", ["plain-assistant.gguf", "PLAIN-Assistant-F16.gguf"], ["plain-assistant.gguf", "PLAIN-Assistant-F16.gguf"]),
])
def test_companion_files(tmp_path: Path, model: str, others: list[str], expected: list[str]) -> None:
    for name in [model, *others]:
        (tmp_path / name).touch()
    assert [path.name for path in companions(tmp_path / model)] == expected


def test_companion_folders(tmp_path: Path) -> None:
    for name in ("gemma-4", "gemma-4-assistant", "gemma-4-12b-assistant"):
        (tmp_path / name).mkdir()
    (tmp_path / "gemma-4-assistant.gguf").touch()
    assert [path.name for path in companions(tmp_path / "gemma-4")] == ["gemma-4-assistant"]
