"""The engines that compare_cpu.py and compare_gpu.py measure, behind one interface, and random models as files for those that need files."""
from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Engine(Protocol):
    """vocabulary: tokens. decode reads `ids` at position `at` and returns when the logits can be read: of all rows up to LOGITS rows, else of the last."""

    vocabulary: int

    def decode(self, ids: list[int], at: int) -> None: ...
    def back_to(self, length: int) -> bool: ...
    def clear(self) -> None: ...


LAYERS_WORD = 4         # of llama_model_params: n_gpu_layers, after two pointers; all of them by default
LOGITS = 16
BATCH = 512


def open_engine(name: str, path: str, device: str, threads: int, context: int, library: str | None) -> Engine:
    if name == "skipstone":
        return Skipstone(path, threads) if device == "cpu" else SkipstoneOnCard(path, device)
    if name == "ik":
        return IkLlamaCpp(path, threads, context)
    if name == "native":
        return LlamaCpp(ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL), path, threads, context, all_layers=device != "cpu")
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise SystemExit("llama.cpp is not installed: pip install xllamacpp")
    return LlamaCpp(ctypes.CDLL(str(next(Path(spec.origin).parent.glob("*.so")))), path, threads, context)


class Skipstone:
    def __init__(self, path: str, threads: int) -> None:
        import skipstone

        self.model = skipstone.load(path, draft=False, device="cpu", threads=threads)
        self.vocabulary = self.model.vocab_size
        self.clear()

    def decode(self, ids: list[int], at: int) -> None:
        self.session.forward(ids, logits="all" if len(ids) <= LOGITS else "last")

    def back_to(self, length: int) -> bool:
        self.session.rollback(length)
        return True

    def clear(self) -> None:
        self.session = self.model.session(draft=False)


class SkipstoneOnCard(Skipstone):
    """A pass ends with the tokens that the card has chosen, as in decoding: no logits leave it."""

    def __init__(self, path: str, device: str) -> None:
        import skipstone

        self.model = skipstone.load(path, draft=False, device=device)
        self.vocabulary = self.model.vocab_size
        self.clear()

    def decode(self, ids: list[int], at: int) -> None:
        tokens = np.array(ids, np.int32)
        self.model.program.run([(self.sequence, tokens)], want="choice", rows="all" if len(ids) <= LOGITS else "last", threads=self.model.threads)

    def back_to(self, length: int) -> bool:
        self.sequence.rollback(length)
        return True

    def clear(self) -> None:
        self.sequence = self.model.program.sequence(self.model.kv_type)


class _Blob(ctypes.Structure):
    """Parameters that llama.cpp hands out and takes by value; only the first fields are looked at, so the size need only be large enough."""

    _fields_ = [("words", ctypes.c_uint32 * 256)]


class _Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p), ("pos", ctypes.POINTER(ctypes.c_int32)),
                ("n_seq_id", ctypes.POINTER(ctypes.c_int32)), ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8))]


class _Batches(ABC):
    """Decoding in batches, the same for both families of libraries."""

    batch: Any

    @abstractmethod
    def run(self, batch: Any) -> int:
        """0 where the batch was decoded."""

    @abstractmethod
    def wait(self) -> None:
        """Until the logits of the last row can be read."""

    def decode(self, ids: list[int], at: int) -> None:
        for start in range(0, len(ids), BATCH):
            part = ids[start:start + BATCH]
            b = self.batch
            b.n_tokens = len(part)
            for i, token in enumerate(part):
                b.token[i], b.pos[i], b.n_seq_id[i] = token, at + start + i, 1
                b.seq_id[i][0] = 0
                b.logits[i] = 1 if len(ids) <= LOGITS or start + i == len(ids) - 1 else 0
            result = self.run(b)
            if result:
                raise RuntimeError(f"llama_decode: {result}")
        self.wait()


class LlamaCpp(_Batches):
    """A llama.cpp library by its C interface."""

    def __init__(self, library: ctypes.CDLL, path: str, threads: int, context: int, all_layers: bool = False) -> None:
        self.c, pointer, number = library, ctypes.c_void_p, ctypes.c_int32
        for name, result, arguments in (
            ("model_default_params", _Blob, []), ("model_load_from_file", pointer, [ctypes.c_char_p, _Blob]), ("context_default_params", _Blob, []),
            ("init_from_model", pointer, [pointer, _Blob]), ("set_n_threads", None, [pointer, number, number]), ("model_get_vocab", pointer, [pointer]),
            ("vocab_n_tokens", number, [pointer]), ("batch_init", _Batch, [number, number, number]), ("decode", number, [pointer, _Batch]),
            ("get_logits_ith", pointer, [pointer, number]), ("get_memory", pointer, [pointer]), ("synchronize", None, [pointer]),
            ("memory_seq_rm", ctypes.c_bool, [pointer, number, number, number]), ("memory_clear", None, [pointer, ctypes.c_bool])):
            function = getattr(library, "llama_" + name)
            function.restype, function.argtypes = result, arguments
        if hasattr(library, "ggml_backend_load_all"):
            library.ggml_backend_load_all()
        library.llama_backend_init()
        placing = library.llama_model_default_params()
        if not all_layers:
            placing.words[LAYERS_WORD] = 0
        self.model = library.llama_model_load_from_file(path.encode(), placing)
        if not self.model:
            raise SystemExit("llama.cpp cannot load the model")
        settings = library.llama_context_default_params()
        settings.words[0], settings.words[1], settings.words[2] = context, BATCH, BATCH          # n_ctx, n_batch, n_ubatch
        self.context = library.llama_init_from_model(self.model, settings)
        if not self.context:
            raise SystemExit("llama.cpp cannot make a context")
        library.llama_set_n_threads(self.context, threads, threads)
        self.vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model))
        self.memory, self.batch = library.llama_get_memory(self.context), library.llama_batch_init(BATCH, 0, 1)

    def run(self, batch: Any) -> int:
        return int(self.c.llama_decode(self.context, batch))

    def wait(self) -> None:
        self.c.llama_synchronize(self.context)
        self.c.llama_get_logits_ith(self.context, self.batch.n_tokens - 1)

    def back_to(self, length: int) -> bool:
        return bool(self.c.llama_memory_seq_rm(self.memory, 0, length, -1))

    def clear(self) -> None:
        self.c.llama_memory_clear(self.memory, True)


class IkLlamaCpp(_Batches):
    """ik_llama.cpp through its wheel's own declarations, weights repacked at load, which its speed depends on."""

    def __init__(self, path: str, threads: int, context: int) -> None:
        from ik_llama_cpp import _ctypes_api as api

        self.api = api
        api.llama_backend_init()
        settings = api.llama_model_default_params()
        settings.repack_tensors, settings.use_mmap, settings.n_gpu_layers = True, False, 0
        self.model = api.llama_model_load_from_file(path.encode(), settings)
        if not self.model:
            raise SystemExit("ik_llama.cpp cannot load the model")
        wanted = api.llama_context_default_params()
        wanted.n_ctx, wanted.n_batch, wanted.n_ubatch = context, BATCH, BATCH
        wanted.n_threads = wanted.n_threads_batch = threads
        self.context = api.llama_init_from_model(self.model, wanted)
        if not self.context:
            raise SystemExit("ik_llama.cpp cannot make a context")
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.batch = api.llama_batch_init(BATCH, 0, 1)
        self.remove = self._library().llama_kv_cache_seq_rm
        self.remove.restype, self.remove.argtypes = ctypes.c_bool, [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]

    def _library(self) -> ctypes.CDLL:
        """The wheel declares no call that shortens the cache; its library has one."""
        from ik_llama_cpp import _lib_loader

        return next(v for module in (_lib_loader, self.api) for v in vars(module).values() if isinstance(v, ctypes.CDLL))

    def run(self, batch: Any) -> int:
        return int(self.api.llama_decode(self.context, batch))

    def wait(self) -> None:
        self.api.llama_get_logits_ith(self.context, self.batch.n_tokens - 1)

    def back_to(self, length: int) -> bool:
        return bool(self.remove(self.context, 0, length, -1))

    def clear(self) -> None:
        self.api.llama_kv_cache_clear(self.context)


def versions(library: str | None) -> dict[str, str]:
    """Of the peers' packages that are installed."""
    found = {"native": f"llama.cpp built for this machine ({Path(library).name})"} if library else {}
    for engine, package in (("llama", "xllamacpp"), ("ik", "ik-llama-cpp-python")):
        try:
            found[engine] = f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def picture(document: dict[str, Any], run: dict[str, Any]) -> Any:
    """What cli/plot.py draws of one run."""
    from skipstone.cli.plot import Picture

    names = {"skipstone": "Skipstone", "ik": "ik_llama.cpp", "llama": "llama.cpp", "native": "llama.cpp, built natively"}
    ordered = sorted(run["engines"], key=lambda name: list(names).index(name))
    curves = {names[n]: {int(k): float(ms) for k, ms in run["engines"][n]["ms"].items()} for n in ordered}
    about = document["file"].partition(" (")[0]
    return Picture(f"{about}: {run['threads']} thread{'s' if run['threads'] > 1 else ''}", curves, document["bytes_row"] / run["read_loop_GBs"][1] / 1e6,
                   {names[n]: run["engines"][n]["prompt_tokens_s"] for n in ordered})


def as_file(model: str, folder: Path) -> str:
    """The path of a model, or of a random one that is written into `folder`."""
    from skipstone.files.random_model import PREFIX, open_random

    if not model.startswith(PREFIX):
        return model
    return str(write(open_random(model), folder / f"{model.removeprefix(PREFIX).replace(':', '-')}.gguf"))


def write(file: Any, path: Path) -> Path:
    """An opened GGUF model as a file again, without a drafting head, which the peers do not run here."""
    import gguf

    writer = gguf.GGUFWriter(path, file.architecture)
    layers = file.metadata[f"{file.architecture}.block_count"] - file.metadata.get(f"{file.architecture}.nextn_predict_layers", 0)
    for key, value in file.metadata.items():
        if key == "general.architecture" or key.endswith(".nextn_predict_layers"):
            continue
        value = layers if key.endswith(".block_count") else value
        kind = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}[type(value)]
        kind(key, value)
    writer.add_vocab_size(file.tensors["token_embd.weight"].shape[0])
    for tensor in file.tensors.values():
        if tensor.name.startswith(f"blk.{layers}."):
            continue
        if tensor.type == "F32":
            writer.add_tensor(tensor.name, tensor.data.view(np.float32).reshape(tensor.shape))
        else:
            writer.add_tensor(tensor.name, tensor.data.reshape(*tensor.shape[:-1], -1), raw_dtype=gguf.GGMLQuantizationType[tensor.type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
