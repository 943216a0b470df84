"""Fast, exact local decoding of Gemma 4 and Qwen with multi-token prediction.

    import skipstone
    model = skipstone.load("Qwen3.5-4B-Q4_K_M.gguf")
    result = model.generate("def quicksort(", max_tokens=128)
    print(result.text, result.stats)
    print(model.chat([{"role": "user", "content": "Hello"}]).text)

A drafter proposes several tokens a pass, the model verifies them, and the text is the one that the model alone would have
written, token for token. `load` opens a model, `Model` generates, chats and streams, `Session` is the layer below for loops of your
own, `kernels` works on numpy arrays.
"""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import ArgumentError, DeviceError, FileError, ModelError, OutOfMemory, SkipstoneError

if TYPE_CHECKING:
    from . import kernels
    from .decode.batch import Batch, Text
    from .decode.session import Session, forward
    from .decode.stats import Stats
    from .loading import Device, devices, load
    from .chat.answer import ToolCall
    from .model import Model
    from .results import ChatPiece, ChatPrompt, ChatResult, Piece, Result

__all__ = [
    "ArgumentError", "Batch", "ChatPiece", "ChatPrompt", "ChatResult", "Device", "DeviceError", "FileError", "Model", "ModelError", "OutOfMemory", "Piece",
    "Result", "Session", "SkipstoneError", "Stats", "Text", "ToolCall", "__version__", "devices", "forward", "kernels", "load",
]

# Where a name lives; it is imported when first asked for, so that `import skipstone` costs next to nothing.
_HOME = {
    "Batch": ".decode.batch", "ChatPiece": ".results", "ChatPrompt": ".results", "ChatResult": ".results", "Device": ".loading", "Model": ".model",
    "Piece": ".results", "Result": ".results", "Session": ".decode.session", "Stats": ".decode.stats", "Text": ".decode.batch", "ToolCall": ".chat.answer",
    "devices": ".loading", "forward": ".decode.session", "load": ".loading",
}


def __getattr__(name: str) -> Any:
    if name == "kernels":
        value: Any = importlib.import_module(".kernels", __name__)
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name], __name__), name)
    else:
        raise AttributeError(f"module 'skipstone' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
