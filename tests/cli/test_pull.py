"""skipstone pull, and names of the hub in place of paths, with a hub on this machine."""
from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import assert_one_line_error, skipstone

from skipstone import bundled

pytestmark = pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="needs huggingface_hub, the extra hub")


@pytest.fixture(scope="module")
def fake() -> Iterator[Any]:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "files"))
    from fake_hub import FakeHub

    served = FakeHub({"org/tiny": {"tiny-Q4_K_M.gguf": bundled.QWEN35.read_bytes(), "tiny-Q8_0.gguf": b"GGUF", "mtp-tiny-Q8_0.gguf": b"GGUF"}})
    yield served
    served.close()


def test_pull(fake: Any, tmp_path: Path) -> None:
    there = {"HF_ENDPOINT": fake.endpoint, "HF_HOME": str(tmp_path), "HF_TOKEN": "", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = skipstone("pull", "org/tiny", "--list", "--json", **there)
    assert done.code == 0 and [(c["quantization"], c["files"], c["drafters"]) for c in done.json["choices"]] == [
        ("Q8_0", ["tiny-Q8_0.gguf"], ["mtp-tiny-Q8_0.gguf"]), ("Q4_K_M", ["tiny-Q4_K_M.gguf"], ["mtp-tiny-Q8_0.gguf"])]
    done = skipstone("pull", "org/tiny:q4_k_m", **there)
    assert done.code == 0 and "\x1b" not in done.out + done.err and "downloaded" in done.err and len(done.err.splitlines()) == 1, done.err
    path = Path(done.out.removesuffix("\n"))
    assert path.read_bytes() == bundled.QWEN35.read_bytes()

    offline = {**there, "HF_ENDPOINT": "http://127.0.0.1:9"}
    said = skipstone("pull", "org/tiny", "--json", **offline)
    assert said.code == 0 and said.json == {"name": "org/tiny", "path": str(path), "bytes": path.stat().st_size, "downloaded": False}
    assert skipstone("info", "org/tiny:Q4_K_M", "--json", **offline).json["path"] == str(path)
    assert_one_line_error(skipstone("pull", "org/tiny:Q2_K", **there), "Q2_K", "expected one of: Q4_K_M, Q8_0")


def test_no_names(tmp_path: Path) -> None:
    assert_one_line_error(skipstone("pull", "nothing"), "org/repo:QUANT")
    assert_one_line_error(skipstone("pull", str(tmp_path)), "not a name on the hub")
