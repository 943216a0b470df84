"""Expected token ids of hurting texts, from the references: makes tests/data/token_ids.npz, or compares a file with llama.cpp at once.

    python tests/oracles/tokenizer_ids.py make tiny-gemma4/tokenizer.json tiny-qwen35/tokenizer.json gemma-3-270m.gguf
    python tests/oracles/tokenizer_ids.py compare gemma-3-270m.gguf 3000 SEED

tokenizer.json is read by the `tokenizers` library, which is what transformers' fast tokenizers run; GGUF by llama.cpp (xllamacpp).
"""
from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "text"))
from hurting import hurting  # noqa: E402

DATA = Path(__file__).parents[1] / "data" / "token_ids.npz"
COUNT = 700


class LlamaCpp:
    """llama.cpp's tokenizer of a GGUF file, by the library inside the xllamacpp wheel."""

    def __init__(self, path: str) -> None:
        class Params(ctypes.Structure):         # passed by value; larger than any version's, the defaults are all that is needed
            _fields_ = [("bytes", ctypes.c_uint8 * 512)]

        spec = importlib.util.find_spec("xllamacpp")
        assert spec is not None and spec.origin is not None, "pip install xllamacpp"
        lib = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("*.so"))))
        lib.llama_backend_init()
        lib.llama_model_default_params.restype = Params
        lib.llama_model_load_from_file.argtypes, lib.llama_model_load_from_file.restype = [ctypes.c_char_p, Params], ctypes.c_void_p
        lib.llama_model_get_vocab.argtypes, lib.llama_model_get_vocab.restype = [ctypes.c_void_p], ctypes.c_void_p
        ints = ctypes.POINTER(ctypes.c_int32)
        lib.llama_tokenize.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ints, ctypes.c_int32, ctypes.c_bool, ctypes.c_bool]
        self.lib, self.vocab = lib, lib.llama_model_get_vocab(lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params()))

    def encode(self, text: str, special: bool) -> list[int]:
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        count = self.lib.llama_tokenize(self.vocab, data, len(data), ids, len(ids), False, special)
        assert count >= 0, text
        return list(ids[:count])


def packed(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([i for ids in lists for i in ids], np.uint32), np.cumsum([0, *map(len, lists)]).astype(np.uint32)


def unpacked(data: np.lib.npyio.NpzFile, name: str) -> list[list[int]]:
    ids, ends = data[name].tolist(), data[name + "_ends"]
    return [ids[a:b] for a, b in zip(ends, ends[1:])]


def make(gemma4: str, qwen35: str, gemma3: str) -> None:
    import tokenizers

    texts = hurting(COUNT)
    arrays = {"texts": [list(text.encode()) for text in texts]}
    for name, path in ("gemma4", gemma4), ("qwen35", qwen35):
        library = tokenizers.Tokenizer.from_file(path)
        arrays[name] = [library.encode(text, add_special_tokens=False).ids for text in texts]
    llamacpp = LlamaCpp(gemma3)
    arrays["gemma3"] = [llamacpp.encode(text, special=True) for text in texts]
    arrays["gemma3_content"] = [llamacpp.encode(text, special=False) for text in texts]
    flat: dict[str, np.ndarray] = {}
    for name, lists in arrays.items():
        flat[name], flat[name + "_ends"] = packed(lists)
    np.savez_compressed(DATA, **flat)      # type: ignore[arg-type]


def compare(path: str, count: str = "3000", seed: str = "1") -> None:
    from skipstone.files import open_model
    from skipstone.text.tokenizer import load_tokenizer

    llamacpp, ours = LlamaCpp(path), load_tokenizer(open_model(path))
    assert ours is not None
    texts = hurting(int(count), int(seed))
    for special in True, False:
        start = [ours.bos_id] if special and ours.add_bos else []
        different = [text for text in texts if ours.encode(text, special) not in ((ids := llamacpp.encode(text, special)), start + ids)]
        print(f"special={special}: {len(different)} of {len(texts)} texts differ {list(map(ascii, different[:3]))}")


if __name__ == "__main__":
    {"make": make, "compare": compare}[sys.argv[1]](*sys.argv[2:])
