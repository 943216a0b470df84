"""The engines behind their one interface: what the peers' libraries are asked, by fakes of them, and by the real ones where they are installed."""
from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import skipstone
from skipstone import bundled
from skipstone.files import open_model

SMALL = "random:qwen3-0.6b:Q4_K_M"


class FakeLibrary:
    """The functions of libllama that a comparison calls: takes down the batches, and what is done to the memory."""

    def __init__(self, peers: ModuleType, vocabulary: int = 5000, missing: str = "") -> None:
        self.peers, self.vocabulary, self.missing = peers, vocabulary, missing
        self.batches: list[list[tuple[int, int, int]]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.result = 0
        self._functions: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "ggml_backend_load_all":
            raise AttributeError(name)
        return self._functions.setdefault(name, self._function(name.removeprefix("llama_")))

    def _function(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            if name in ("model_default_params", "context_default_params"):
                return self.peers._Blob()
            if name in ("model_load_from_file", "init_from_model", "get_memory", "model_get_vocab"):
                return None if name == self.missing else 1
            if name == "vocab_n_tokens":
                return self.vocabulary
            if name == "batch_init":
                return self._batch(arguments[0])
            if name == "decode":
                b = arguments[1]
                self.batches.append([(b.token[i], b.pos[i], b.logits[i]) for i in range(b.n_tokens)])
                assert all(b.n_seq_id[i] == 1 and b.seq_id[i][0] == 0 for i in range(b.n_tokens))
                return self.result
            return True

        call.restype = call.argtypes = None         # type: ignore[attr-defined]
        return call

    def _batch(self, n: int) -> Any:
        b = self.peers._Batch()
        self.kept = [(ctypes.c_int32 * n)(), (ctypes.c_int32 * n)(), (ctypes.c_int32 * n)(), (ctypes.c_int8 * n)(), [(ctypes.c_int32 * 1)() for _ in range(n)]]
        b.token, b.pos, b.n_seq_id, b.logits = (ctypes.cast(a, t) for a, t in zip(
            self.kept[:4], [ctypes.POINTER(ctypes.c_int32)] * 3 + [ctypes.POINTER(ctypes.c_int8)], strict=True))
        self.rows = (ctypes.POINTER(ctypes.c_int32) * n)(*[ctypes.cast(row, ctypes.POINTER(ctypes.c_int32)) for row in self.kept[4]])
        b.seq_id = ctypes.cast(self.rows, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        return b


@pytest.fixture
def library(peers: ModuleType) -> FakeLibrary:
    return FakeLibrary(peers)


def test_llama_cpp(peers: ModuleType, library: FakeLibrary) -> None:
    engine = peers.LlamaCpp(library, "model.gguf", threads=3, context=2048)
    assert engine.vocabulary == 5000
    assert ("set_n_threads", 1, 3, 3) in library.calls
    [settings] = [call[2] for call in library.calls if call[0] == "init_from_model"]
    assert list(settings.words[:3]) == [2048, 512, 512]
    engine.decode([7, 8, 9], 100)                                   # few rows: logits of all
    assert library.batches.pop() == [(7, 100, 1), (8, 101, 1), (9, 102, 1)]
    engine.decode(list(range(1000)), 0)                             # a prompt: in batches, logits of the last row alone
    assert [len(batch) for batch in library.batches] == [512, 488]
    rows = [row for batch in library.batches for row in batch]
    assert [row[:2] for row in rows] == [(i, i) for i in range(1000)] and [row[2] for row in rows] == [0] * 999 + [1]
    assert library.calls[-2:] == [("synchronize", 1), ("get_logits_ith", 1, 487)]       # the time ends where the last row can be read
    assert engine.back_to(128) is True and library.calls[-1] == ("memory_seq_rm", 1, 0, 128, -1)
    engine.clear()
    assert library.calls[-1] == ("memory_clear", 1, True)
    library.result = 1
    with pytest.raises(RuntimeError, match="llama_decode: 1"):
        engine.decode([1], 0)


@pytest.mark.parametrize("missing, message", [("model_load_from_file", "cannot load the model"), ("init_from_model", "cannot make a context")])
def test_llama_cpp_that_does_not_come_up(peers: ModuleType, missing: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        peers.LlamaCpp(FakeLibrary(peers, missing=missing), "model.gguf", 1, 128)


def test_ik_llama_cpp(peers: ModuleType, library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    def remembered(name: str, result: Any = None) -> Any:
        def call(*arguments: Any) -> Any:
            made[name] = arguments
            return result
        return call

    model_settings, context_settings = SimpleNamespace(), SimpleNamespace()
    api = SimpleNamespace(
        llama_backend_init=remembered("backend"), llama_model_default_params=lambda: model_settings, llama_context_default_params=lambda: context_settings,
        llama_model_load_from_file=remembered("load", 1), llama_init_from_model=remembered("init", 1), llama_model_get_vocab=remembered("vocab", 1),
        llama_vocab_n_tokens=remembered("tokens", 6000), llama_batch_init=library._function("batch_init"), llama_decode=library._function("decode"),
        llama_get_logits_ith=remembered("logits"), llama_kv_cache_clear=remembered("clear"))
    native = ctypes.CDLL(None)
    native.llama_kv_cache_seq_rm = SimpleNamespace(restype=None, argtypes=None)         # type: ignore[attr-defined]
    package = ModuleType("ik_llama_cpp")
    package._ctypes_api, package._lib_loader = api, SimpleNamespace(library=native)     # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ik_llama_cpp", package)
    engine = peers.open_engine("ik", "model.gguf", "cpu", 2, 700, None)
    assert made["load"] == (b"model.gguf", model_settings)
    assert model_settings.repack_tensors is True and model_settings.use_mmap is False and model_settings.n_gpu_layers == 0      # what its speed depends on
    assert (context_settings.n_ctx, context_settings.n_threads, context_settings.n_threads_batch) == (700, 2, 2)
    engine.decode([4, 5], 9)
    assert library.batches == [[(4, 9, 1), (5, 10, 1)]] and made["logits"] == (1, 1)
    engine.remove = remembered("remove", 1)
    assert engine.back_to(3) is True and made["remove"] == (1, 0, 3, -1)
    engine.clear()
    assert made["clear"] == (1,)


def test_skipstone(peers: ModuleType) -> None:
    engine = peers.open_engine("skipstone", str(bundled.GEMMA4), "cpu", 1, 128, None)
    engine.decode(list(range(20, 60)), 0)
    assert engine.vocabulary == engine.model.vocab_size and engine.session.length == 40
    assert engine.back_to(30) is True and engine.session.length == 30
    engine.clear()
    assert engine.session.length == 0


def test_versions(peers: ModuleType) -> None:
    found = peers.versions("/somewhere/libllama.so")
    assert "libllama.so" in found["native"] and "/somewhere" not in found["native"]
    assert "native" not in peers.versions(None)


def test_a_file_stays_where_it_is(peers: ModuleType, tmp_path: Path) -> None:
    assert peers.as_file(str(bundled.QWEN35), tmp_path) == str(bundled.QWEN35) and not list(tmp_path.iterdir())


def test_a_random_model_is_written_for_the_peers(peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tensors byte for byte, without the drafting head."""
    from skipstone.files.shapes import SHAPES, Shape, qwen35

    whole = qwen35(4, 256, 2, 1, 16, 512, tied=True)
    tensors = tuple((name, (512, size[1]) if name == "token_embd.weight" else size) for name, size in whole.tensors)
    monkeypatch.setitem(SHAPES, "small", Shape(whole.architecture, whole.keys, tensors))
    path = peers.as_file("random:small:Q4_K_M", tmp_path)
    written = {t.name: t for t in gguf.GGUFReader(path).tensors}
    from skipstone.files.random_model import open_random

    source = open_random("random:small:Q4_K_M")
    layers = source.metadata[f"{source.architecture}.block_count"] - source.metadata.get(f"{source.architecture}.nextn_predict_layers", 0)
    wanted = {name: t for name, t in source.tensors.items() if not name.startswith(f"blk.{layers}.")}
    assert layers == 4 and set(written) == set(wanted) and len(wanted) < len(source.tensors)
    for name, tensor in wanted.items():
        assert written[name].tensor_type.name == tensor.type and tuple(reversed(written[name].shape)) == tuple(tensor.shape)
        assert np.array_equal(np.asarray(written[name].data).view(np.uint8).reshape(-1), np.asarray(tensor.data).view(np.uint8).reshape(-1)), name
    again = open_model(path)
    assert again.metadata[f"{again.architecture}.block_count"] == 4
    ids = [3, 5, 7]
    one, other = (skipstone.load(name, draft=False, device="cpu", threads=1).session().forward(ids) for name in (path, "random:small:Q4_K_M"))
    assert np.array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("engine, package", [("llama", "xllamacpp"), ("ik", "ik_llama_cpp")])
def test_the_real_ones(engine: str, package: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    script = Path(__file__).resolve().parents[2] / "bench/compare_cpu.py"
    output = tmp_path / "out.json"
    done = subprocess.run([sys.executable, str(script), SMALL, "--threads", "1", "--rounds", "1", "--context", "32", "--prompt-tokens", "40", "--engines", engine,
                           "--output", str(output)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(json.loads(output.read_text())["runs"][0]["engines"]) == {engine}, done.stderr[-2000:]
