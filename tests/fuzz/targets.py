"""What is fuzzed: each target takes any bytes and returns, or raises what must never come out of a reader."""
from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from skipstone.errors import FileError
from skipstone.files import ModelFile, open_model
from skipstone.text.tokenizer import load_tokenizer

FOLDER = Path(tempfile.mkdtemp(prefix="skipstone-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
PROBE = "<bos>hello  w\u00f6rld \u65e5\u672c <|im_start|>\n\n\0 12 e\u0301 </s><|turn>"


def gguf(data: bytes) -> None:
    """A GGUF file: its header, its tensors' places, and its vocabulary if it has one."""
    path = FOLDER / "x.gguf"
    path.write_bytes(data)
    _judge(lambda: _encode(_touch(open_model(path), len(data))))


def safetensors(data: bytes) -> None:
    """A safetensors file beside a right config.json."""
    (FOLDER / "config.json").write_text('{"model_type": "small"}')
    (FOLDER / "model.safetensors").write_bytes(data)
    _judge(lambda: _touch(open_model(FOLDER / "model.safetensors"), len(data)))


def tokenizer(data: bytes) -> None:
    """A tokenizer.json."""
    folder = FOLDER / "tokenizer"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_bytes(data)
    _judge(lambda: _encode(ModelFile(folder, "safetensors", "small", {}, config={"vocab_size": 400})))


def _touch(model: ModelFile, size: int) -> ModelFile:
    for tensor in model.tensors.values():
        assert tensor.data.size <= size
        int(tensor.data.sum())          # every byte is there
    return model


def _encode(model: ModelFile) -> None:
    found = load_tokenizer(model)
    if found is None:
        return
    for special in (False, True):
        ids = found.encode(PROBE, special)
        stream = found.stream(special)
        assert "".join([stream.push(i) for i in ids]) + stream.finish() == found.decode(ids, special)
        assert all(0 <= i < found.vocab_size for i in ids)


def _judge(use: Callable[[], object]) -> None:
    try:
        use()
    except FileError as error:
        message = str(error)
        message.encode()                # can be printed
        if not 0 < len(message) < 2000:
            raise AssertionError(f"a message of {len(message)} letters") from error


TARGETS: dict[str, Callable[[bytes], None]] = {"gguf": gguf, "safetensors": safetensors, "tokenizer": tokenizer}
NATIVE = [sys.modules[f"skipstone.{name}"] for name in ("files._gguf", "text._vocabulary", "text._detokenize")]
