"""Files that become shorter while they are mapped: an error that names the file, never a signal that ends the process."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from file_builder import safetensors, small_gguf

import skipstone
from skipstone import _native, bundled
from skipstone.errors import FileError
from skipstone.files import open_model


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copy(bundled.QWEN35, tmp_path / "shrinks.gguf"))


def test_lost_bytes_are_zeros_and_an_error(copied):
    model = open_model(copied)
    tensor = max(model.tensors.values(), key=lambda t: t.data.ctypes.data)
    os.truncate(copied, 100_000)
    assert not tensor.data.any()
    with pytest.raises(FileError, match=r"^shrinks.gguf: the file became shorter, .*expected that nobody changes it. Load it again$"):
        _native.check_mapped(tensor.data)


def test_other_files_are_whole(copied):
    other = open_model(bundled.GEMMA4)
    model = open_model(copied)
    os.truncate(copied, 0)
    assert not max(model.tensors.values(), key=lambda t: t.data.ctypes.data).data.any()
    for tensor in other.tensors.values():
        _native.check_mapped(tensor.data)
    del model       # its place in the list is used again
    again = open_model(bundled.QWEN35)
    for tensor in again.tensors.values():
        _native.check_mapped(tensor.data)


@pytest.mark.parametrize("size", [0, 4096, 300_000, 3_000_000])
def test_between_opening_and_building(copied, size):
    """Whoever reads lost bytes first says so: a norm while the model is built, or the first pass."""
    import skipstone.loading as loading

    opened = loading.open_model

    def open_and_shrink(path):
        model = opened(path)
        os.truncate(copied, size)
        return model

    with pytest.MonkeyPatch.context() as patch, pytest.raises(FileError, match="shrinks.gguf: the file became shorter"):
        patch.setattr(loading, "open_model", open_and_shrink)
        skipstone.load(copied).generate("def f(", max_tokens=4)


def test_while_it_decodes(copied):
    """The embedding's rows are read from the file in each pass. Once lost, every later pass fails too: never a wrong token."""
    model = skipstone.load(copied)
    expected = skipstone.load(bundled.QWEN35).generate("def f(", max_tokens=8).tokens
    assert model.generate("def f(", max_tokens=8).tokens == expected
    os.truncate(copied, 0)
    for _ in range(2):
        with pytest.raises(FileError, match="shrinks.gguf: the file became shorter"):
            model.generate("class Stack:\n    def __init__(self", max_tokens=8)


def test_shorter_than_it_was_when_opened(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    with path.open("rb") as file, pytest.raises(FileError, match="^x: the file became shorter while it was opened, it has 100 bytes; expected 101$"):
        _native.map_file(file.fileno(), 101, "x")
    with pytest.raises(OSError):
        _native.map_file(-1, 100, "x")


FAULT = "import mmap; f = open(path, 'r+b'); m = mmap.mmap(f.fileno(), 0); os.truncate(path, 0); m[0]"
SENT = "os.kill(os.getpid(), signal.SIGBUS)"
TRACEBACK, PYTHON = "import faulthandler; faulthandler.enable()", "signal.signal(signal.SIGBUS, lambda *a: os._exit(7))"


@pytest.mark.parametrize(("before", "after", "fault", "expected"), [
    ("", "", FAULT, -signal.SIGBUS), ("", "", SENT, -signal.SIGBUS), (TRACEBACK, "", FAULT, -signal.SIGBUS), (TRACEBACK, "", SENT, -signal.SIGBUS),
    ("", TRACEBACK + "; open_model(path)", FAULT, -signal.SIGBUS), ("", TRACEBACK + "; open_model(path)", SENT, -signal.SIGBUS), (PYTHON, "", SENT, 7)])
def test_faults_elsewhere_go_on_to_others(tmp_path, before, after, fault, expected):
    """A mapping that is not ours, and the signal sent by hand: the process ends as it would without us, or the earlier handler decides."""
    (tmp_path / "x.gguf").write_bytes(small_gguf().build())
    lines = ["import os, resource, signal, sys, time", "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))", before, "from skipstone.files import open_model",
             "path = sys.argv[1]; kept = open_model(path)", after, fault, "time.sleep(5)"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines), str(tmp_path / "x.gguf")], capture_output=True, text=True, timeout=60)
    assert done.returncode == expected, done.stderr
    assert ("Fatal Python error: Bus error" in done.stderr) == (TRACEBACK in before + after)


def test_safetensors(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "small"}')
    header = {"a": {"dtype": "F32", "shape": [50_000], "data_offsets": [0, 200_000]}}
    (tmp_path / "model.safetensors").write_bytes(safetensors(header, b"\1" * 200_000))
    tensor = open_model(tmp_path).tensors["a"]
    os.truncate(tmp_path / "model.safetensors", 5000)
    assert tensor.data[:4096].all() and not tensor.data[-1]
    with pytest.raises(FileError, match="^model.safetensors: the file became shorter"):
        _native.check_mapped(tensor.data)
