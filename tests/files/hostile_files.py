"""Whole models with one to three lies about their structure, loaded and used: each works or raises FileError, fast and in little memory.

    python tests/files/hostile_files.py 100000 [FIRST]

File number i is always the same one. A worker that dies is replaced, and its file reported; a file is too much when it takes over
1 s or 64 MiB beyond what the right file of its kind takes.
"""
from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "models"), str(TESTS / "text")]

import make  # noqa: E402
from file_builder import ARRAY, SCALARS, STRING, safetensors  # noqa: E402
from gguf import GGUFReader, GGUFValueType  # noqa: E402
from small_vocabularies import byte_level, sentencepiece, tokenizer_json  # noqa: E402

import skipstone  # noqa: E402
from skipstone.errors import ArgumentError, FileError  # noqa: E402
from skipstone.text.from_gguf import WORDS  # noqa: E402

TIME_LIMIT, MEMORY_LIMIT = 1.0, 64 << 20
NUMBERS = [0, 1, 2, 3, 5, 7, 8, 13, 31, 33, 64, 255, 256, 1000, 65535, 65536, 2**20, 2**24, 2**30, 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**61, 2**62,
           2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
TEXTS = ["", "a", "x" * 600, "\0", "gpt2", "llama", "gemma4", "qwen3", "qwen35", "qwen2", "none", "../../x", "\u65e5", "yarn", "%s%n", "\x1b[31m", "<bos>", "<0x41>"]
VALUES: list[Any] = [None, True, False, -1, 0, 1, 2, 7, 64, 10**9, 2**31, 2**63, 2**64, 10**30, 0.5, -1.0, 1e-300, 1e308, float("nan"), float("inf"), *TEXTS, [], [1], [0] * 4,
                     [10**9] * 4, ["a"], [None], [[]], {}, {"a": 1}, {"type": "Sequence"}, {"rope_type": "yarn"}, "silu", ["full_attention"] * 4]
TYPE_IDS = [*range(50), 100, 2**31, 2**32 - 1]
BYTES = [b"\0", b"\xff", b"\x80", b"\x7f"]


@dataclass
class Tree:
    """A GGUF file in pieces. keys: [name, kind, value]; tensors: [name, dimensions, type id, offset, bytes]. counts: of tensors and keys, if they lie."""

    keys: list[list[Any]]
    tensors: list[list[Any]]
    version: int = 3
    alignment: int = 32
    counts: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)      # what the text of this name claims as its length

    def build(self) -> bytes:
        header = [b"GGUF", struct.pack("<IQQ", self.version, self.counts.get("tensors", len(self.tensors)), self.counts.get("keys", len(self.keys)))]
        for name, kind, value in self.keys:
            header += [self.text(name), self.value(name, kind, value)]
        for name, dimensions, type_id, offset, _ in self.tensors:
            header += [self.text(name), struct.pack("<I", len(dimensions)), *(struct.pack("<Q", n % 2**64) for n in dimensions),
                       struct.pack("<IQ", type_id % 2**32, offset % 2**64)]
        head = b"".join(header)
        return head + bytes(-len(head) % self.alignment) + b"".join(data + bytes(-len(data) % self.alignment) for *_, data in self.tensors)

    def text(self, text: str) -> bytes:
        data = text.encode("utf-8", "surrogatepass")
        return struct.pack("<Q", self.lengths.get(text, len(data)) % 2**64) + data

    def value(self, name: str, kind: str, value: Any) -> bytes:
        if kind == "str":
            return struct.pack("<I", STRING) + self.text(value)
        if kind in SCALARS:
            number, code = SCALARS[kind]
            return struct.pack("<I", number) + scalar(code, value)
        element = kind[1:-1]
        number = STRING if element == "str" else SCALARS[element][0]
        entries = [self.text(v) for v in value] if element == "str" else [scalar(SCALARS[element][1], v) for v in value]
        return struct.pack("<IIQ", ARRAY, number, self.lengths.get("[] " + name, len(value)) % 2**64) + b"".join(entries)


def scalar(code: str, value: Any) -> bytes:
    if code in "fd":
        with contextlib.suppress(OverflowError):
            return struct.pack("<" + code, value)
        return struct.pack("<" + code, float("inf"))
    if code == "?":
        return bytes([int(value) % 256])
    return (int(value) % 256 ** struct.calcsize(code)).to_bytes(struct.calcsize(code), "little")


WORDS_IN_ALL = mock.patch.object(make, "VOCABULARY", 320)      # what the vocabularies of kinds hold


@functools.cache
@WORDS_IN_ALL
def trees() -> list[Tree]:
    """A right GGUF file of every family, with a vocabulary of each kind."""
    kinds = {GGUFValueType.UINT8: "u8", GGUFValueType.INT8: "i8", GGUFValueType.UINT16: "u16", GGUFValueType.INT16: "i16", GGUFValueType.UINT32: "u32",
             GGUFValueType.INT32: "i32", GGUFValueType.FLOAT32: "f32", GGUFValueType.BOOL: "bool", GGUFValueType.STRING: "str", GGUFValueType.UINT64: "u64",
             GGUFValueType.INT64: "i64", GGUFValueType.FLOAT64: "f64"}
    made = []
    with tempfile.TemporaryDirectory() as folder:
        vocabularies = {"qwen3": byte_level("qwen2"), "qwen35": byte_level(), "gemma3": sentencepiece("llama"), "gemma4": sentencepiece("gemma4"), "gemma4e": sentencepiece("gemma4")}
        for name, words in vocabularies.items():
            path = make.FAMILIES[name](7).gguf(Path(folder) / f"{name}.gguf", "Q8_0")
            reader = GGUFReader(path)
            keys = []
            for key, entry in reader.fields.items():
                if not key.startswith(("GGUF.", "tokenizer.")):
                    of = kinds[entry.types[-1]]
                    keys.append([key, f"[{of}]" if entry.types[0] == GGUFValueType.ARRAY else of, entry.contents()])
            for key, value in words.items():
                first = value[0] if isinstance(value, list) else value
                of = "bool" if isinstance(first, bool) else "str" if isinstance(first, str) else "f32" if isinstance(first, float) else "i32"
                keys.append([key, f"[{of}]" if isinstance(value, list) else of, value])
            tensors, at = [], 0
            for t in reader.tensors:
                data = t.data.tobytes()
                tensors.append([t.name, [int(n) for n in t.shape], int(t.tensor_type), at, data])
                at += -(-len(data) // 32) * 32
            made.append(Tree(keys, tensors))
    return made


def lie_about_a_key(tree: Tree, r: random.Random) -> None:
    at = r.randrange(len(tree.keys))
    name, kind, value = tree.keys[at]
    how = r.randrange(9)
    if how == 0:
        del tree.keys[at]
    elif how == 1:
        tree.keys.insert(r.randrange(len(tree.keys) + 1), copy.deepcopy(tree.keys[at]))
    elif how == 2:
        other = r.choice(tree.keys)
        tree.keys[at][1:], other[1:] = other[1:], tree.keys[at][1:]
    elif how == 3:
        tree.lengths[r.choice([name, "[] " + name, *([value] if kind == "str" else [])])] = r.choice(NUMBERS)
    elif how == 4:
        of = r.choice([*SCALARS, "str"])
        tree.keys[at][1:] = r.choice([[of, r.choice(TEXTS) if of == "str" else r.choice(NUMBERS)],
                                      [f"[{of}]", [r.choice(TEXTS) if of == "str" else r.choice(NUMBERS) for _ in range(r.choice([0, 1, 4, 300]))]]])
    elif kind == "str":
        tree.keys[at][2] = r.choice(TEXTS)
    elif kind in SCALARS:
        tree.keys[at][2] = r.choice([*NUMBERS, -1, 1e-30, float("nan"), float("inf")] if kind in ("f32", "f64") else NUMBERS)
        if how == 5 and kind not in ("f32", "f64", "bool"):
            tree.keys[at][2] = value + r.choice([-2, -1, 1, 2])
    else:
        values = tree.keys[at][2] = list(value)
        place = r.randrange(len(values) + 1)
        if how == 5:
            del values[place:]
        elif how == 6:
            values += values[:place]
        elif values:
            entry = r.choice(TEXTS + values[:20]) if kind == "[str]" else r.choice(NUMBERS)
            values[place % len(values)] = entry
            if how == 7:
                values[r.randrange(len(values))] = entry


def lie_about_a_tensor(tree: Tree, r: random.Random) -> None:
    at = r.randrange(len(tree.tensors))
    tensor = tree.tensors[at]
    how = r.randrange(9)
    if how == 0:
        del tree.tensors[at]
    elif how == 1:
        tree.tensors.insert(r.randrange(len(tree.tensors) + 1), copy.deepcopy(tensor))
    elif how == 2:
        tensor[1][r.randrange(len(tensor[1]))] = r.choice(NUMBERS)
    elif how == 3:
        tensor[1] = r.choice([tensor[1][::-1], tensor[1] + [r.choice(NUMBERS)], tensor[1][:-1], [n * 2 for n in tensor[1]], [n // 2 for n in tensor[1]], tensor[1] + [1]])
    elif how == 4:
        tensor[2] = r.choice(TYPE_IDS)
    elif how == 5:
        tensor[3] = r.choice([*NUMBERS, r.choice(tree.tensors)[3], tensor[3] + 32, tensor[3] - 32, tensor[3] + 1])
    elif how == 6:
        other = r.choice(tree.tensors)
        places = r.sample(range(4), r.randrange(1, 4))
        for i in places:
            tensor[i], other[i] = other[i], tensor[i]
    elif how == 7:
        tensor[0] = r.choice([*TEXTS, tensor[0] + ".bias", tensor[0].replace("weight", "scale"), tensor[0].replace("0", "9"), "blk.4294967295.attn_q.weight"])
    else:
        data = bytearray(tensor[4])
        at = r.randrange(len(data) + 1)
        data[at:at + 64] = r.choice(BYTES) * len(data[at:at + 64])
        tensor[4] = bytes(data)


def lie_about_the_file(tree: Tree, r: random.Random) -> None:
    how = r.randrange(4)
    if how == 0:
        tree.version = r.choice([*NUMBERS[:20], 3 << 24])
    elif how == 1:
        tree.counts[r.choice(["tensors", "keys"])] = r.choice(NUMBERS)
    elif how == 2:
        tree.keys.append(["general.alignment", "u32", r.choice(NUMBERS)])
    else:
        tree.lengths[r.choice([t[0] for t in tree.tensors])] = r.choice(NUMBERS)


def write_gguf(r: random.Random, folder: Path) -> Path:
    tree = copy.deepcopy(r.choice(trees()))
    for _ in range(r.randrange(1, 4)):
        if tree.tensors and tree.keys:
            r.choice([lie_about_a_key, lie_about_a_key, lie_about_a_key, lie_about_a_tensor, lie_about_a_tensor, lie_about_the_file])(tree, r)
    tree.version %= 2**32
    tree.counts = {name: n % 2**64 for name, n in tree.counts.items()}
    data = tree.build()
    (folder / "x.gguf").write_bytes(data[:r.randrange(len(data))] if r.random() < 0.05 else data)
    return folder / "x.gguf"


@functools.cache
@WORDS_IN_ALL
def folders() -> list[dict[str, Any]]:
    """A right safetensors model of every family: the files as JSON trees, "header" and "data" for model.safetensors."""
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for name, family in make.FAMILIES.items():
            path = family(7).safetensors(Path(folder) / name, "BF16")
            data = (path / "model.safetensors").read_bytes()
            length = int.from_bytes(data[:8], "little")
            words = tokenizer_json(byte_level(), WORDS["qwen35"]) if "qwen" in name else tokenizer_json(sentencepiece("gemma4"))
            notes = {"eos_token": "<|im_end|>" if "qwen" in name else "<eos>", "add_bos_token": False, "chat_template": "{{ messages }}"}
            header = json.loads(data[8:8 + length])
            index = {"metadata": {}, "weight_map": dict.fromkeys(header, "model.safetensors")}
            made.append({"header": header, "data": data[8 + length:], "config.json": json.loads((path / "config.json").read_text()), "index": index,
                         "tokenizer.json": json.loads(json.dumps(words)), "tokenizer_config.json": notes, "generation_config.json": {"eos_token_id": [1, 2]}})
    return made


def lie_about_json(tree: Any, r: random.Random) -> None:
    """One node replaced, dropped, repeated or renamed."""
    node = tree
    while isinstance(node, dict | list) and node:
        key = r.choice(list(node)) if isinstance(node, dict) else r.randrange(len(node))
        inner = node[key]
        if not isinstance(inner, dict | list) or not inner or r.random() < 0.2:
            how = r.randrange(6)
            if how == 0:
                del node[key]
            elif how == 1 and isinstance(node, dict):
                node[r.choice([*TEXTS, *node])] = node.pop(key)
            elif how == 2 and isinstance(node, list):
                node[key:key] = [copy.deepcopy(inner)] * r.choice([1, 3, 300])
            elif how == 3:
                other = r.choice(list(node)) if isinstance(node, dict) else r.randrange(len(node))
                node[key], node[other] = node[other], node[key]
            elif how == 4 and type(inner) is int:
                node[key] = inner + r.choice([-2, -1, 1, 2])
            else:
                node[key] = copy.deepcopy(r.choice(VALUES))
            return
        node = inner


def lie_about_text(text: bytes, r: random.Random) -> bytes:
    """Lies that no tree can hold."""
    at = r.randrange(len(text) + 1)
    return r.choice([text[:at], text[:at] + b"[" * 100_000 + text[at:], text[:at] + b'{"a":' * 100_000, text[:at] + r.choice(BYTES) + text[at:], text + text, text.replace(b":", b":1e999,", 1),
                     text[:-1] + b"," + text[1:], b"\xef\xbb\xbf" + text, text.replace(b"1", b"9" * 5000, 1), text[:at] + b"\\ud800" + text[at:]])


def write_folder(r: random.Random, folder: Path) -> Path:
    right = r.choice(folders())
    parts = {name: value if name == "data" else copy.deepcopy(value) for name, value in right.items()}
    sharded = r.random() < 0.2
    texts: dict[str, bytes] = {}
    for _ in range(r.randrange(1, 4)):
        name = r.choice(["header", "header", "config.json", "config.json", "config.json", "tokenizer.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
                         *(["index"] * 3 if sharded else [])])
        if r.random() < 0.06:
            texts[name] = lie_about_text(texts.get(name, json.dumps(parts[name]).encode()), r)
        else:
            lie_about_json(parts[name], r)
    for name, value in parts.items():
        text = texts.get(name) or (b"" if name == "data" else json.dumps(value).encode())
        if name == "header":
            (folder / "model.safetensors").write_bytes(safetensors(text, right["data"][:r.randrange(2**20)] if r.random() < 0.03 else right["data"],
                                                                   r.choice(NUMBERS) if r.random() < 0.03 else None))
        elif name == "index":
            if sharded:
                (folder / "model.safetensors.index.json").write_bytes(text)
        elif name != "data":
            (folder / name).write_bytes(text)
    return folder


def write(number: int, folder: Path) -> Path:
    """File number `number` in an empty folder."""
    r = random.Random(number)
    return r.choice([write_gguf, write_folder])(r, folder)


def use(path: Path) -> str:
    """Loads and generates. "" or the message of a FileError; everything else comes out as it is."""
    try:
        model = skipstone.load(path, threads=1)
        if model.tokenizer is not None:
            with contextlib.suppress(ArgumentError):        # the context may be one token long, which is no lie
                text = "<bos>hello  w\u00f6rld \u65e5<|im_start|>\n\0"
                ids = model.tokenizer.encode(text, special=True)
                assert all(0 <= i < model.tokenizer.vocab_size for i in ids)
                model.tokenizer.decode(ids, special=True)
                model.generate(text, max_tokens=4, seed=1, temperature=1.0)
        with contextlib.suppress(ArgumentError):
            model.generate([3, 1, 2], max_tokens=3, draft_tokens=2)
    except FileError as error:
        message = str(error)
        message.encode()                                    # printable
        assert 0 < len(message) < 2000, len(message)
        return message
    return ""


def peak(action: Callable[[], str]) -> tuple[str, float, int]:
    """What it returns, seconds of a processor, and bytes of memory at the highest beyond those before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    start = time.process_time()             # other programs take none of it
    result = action()
    return result, time.process_time() - start, status("VmHWM") - before


def status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) << 10


def work(first: int, last: int) -> None:
    """Reports each file on a line before and after."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as place:
        for path in [write(i, Path(tempfile.mkdtemp(dir=place))) for i in range(-40, 0)]:
            with contextlib.suppress(Exception):
                use(path)                                   # libraries, thread pool, caches
        for number in range(first, last):
            print("file", number, flush=True)
            folder = Path(tempfile.mkdtemp(dir=place))
            path = write(number, folder)
            try:
                message, seconds, memory = peak(lambda path=path: use(path))
            except BaseException as error:      # noqa: B036
                print("bad", number, f"{type(error).__name__}: {error}"[:300].replace("\n", " "), flush=True)
            else:
                if seconds > TIME_LIMIT or memory > MEMORY_LIMIT:
                    print("much", number, f"{seconds:.2f} s, {memory >> 20} MiB: {message[:200]}", flush=True)
                print("done", number, int(not message), f"{seconds:.3f}", memory, flush=True)
            for each in folder.iterdir():
                each.unlink()
            folder.rmdir()


def main(count: int, first: int = 0) -> int:
    last, bad, loaded, slowest, largest = first + count, 0, 0, 0.0, 0
    while first < last:
        with subprocess.Popen([sys.executable, __file__, "work", str(first), str(last)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            number = first
            for line in child.stdout:
                word, rest = line.split(maxsplit=1)
                if word == "file":
                    number = int(rest)
                elif word == "done":
                    loaded += rest.split()[1] == "1"
                    slowest, largest = max(slowest, float(rest.split()[2])), max(largest, int(rest.split()[3]))
                elif word in ("bad", "much"):
                    bad += 1
                    print(line, end="", flush=True)
        if child.returncode:
            bad += 1
            print("died", number, "exit status", child.returncode, flush=True)
            first = number + 1
        else:
            first = last
    print(f"{bad} of {count} hostile files did worse than FileError; {loaded} loaded; at most {slowest:.2f} s and {largest / 2**20:.1f} MiB")
    return int(bad > 0)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(int(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main(*map(int, sys.argv[1:])))
