"""The models that come with the package: tiny, trained on Python source, in the exact layout of the released ones.

    model = skipstone.load(bundled.QWEN35)      # with the MTP head that is in the file
    model = skipstone.load(bundled.GEMMA4)      # with the assistant beside it

They are for trying things out and for tests: they write plausible Python, and know nothing else.
"""
from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

QWEN35 = _FOLDER / "tiny-qwen35-Q4_K_M.gguf"                        # Qwen3.5 dense, 10.5 M parameters, with its MTP head
GEMMA4 = _FOLDER / "tiny-gemma4-Q4_K_M.gguf"                        # Gemma 4 dense, 10.7 M parameters
GEMMA4_ASSISTANT = _FOLDER / "tiny-gemma4-assistant-Q4_K_M.gguf"    # the drafter made for it, 3.5 M parameters

# The names under which the command line knows them.
NAMES = {"tiny-qwen35": QWEN35, "tiny-gemma4": GEMMA4, "tiny-gemma4-assistant": GEMMA4_ASSISTANT}
