"""Model files. They come from strangers: every number in them is checked against the file before it is used, and whatever
is wrong raises FileError, which names the file and what was found and expected. Weights are mapped, never copied.
"""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, FileError, OutOfMemory, SkipstoneError
from .mapping import Source, read_json
from .messages import shown, shown_value
from .model_file import ModelFile, Tensor
from .random_model import PREFIX, open_random
from .safetensors import index_files, read_safetensors, read_sharded
from .shards import part_paths, read_gguf_parts

__all__ = ["ModelFile", "Tensor", "open_model"]

CONFIG_LIMIT = 4 << 20
ARCHITECTURE_LIMIT = 64      # letters
INDEX = "model.safetensors.index.json"


def open_model(path: str | os.PathLike[str]) -> ModelFile:
    """Opens a model: a .gguf file or any part of a split one, a folder with config.json and safetensors (single or with an
    index), a folder with one GGUF model, or a .safetensors file beside its config.json. "random:SHAPE:TYPE" is a model with random
    weights (random_model.py).

    Only headers are read; the tensors are read-only views of the mapped files. Raises FileError.
    """
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise ArgumentError(f"path: found {type(path).__name__}; expected a str or a path")
    path = Path(path)
    try:
        return _open(path)
    except SkipstoneError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"{shown(path, 300)}: the path cannot be used ({shown(error)}); expected a readable file or folder") from None
    except MemoryError:
        raise OutOfMemory(f"{shown(path.name)}: not enough memory to read the headers") from None


def _open(path: Path) -> ModelFile:
    if str(path).startswith(PREFIX) and not path.exists():
        return open_random(str(path))
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".gguf":
        return _open_gguf(path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    with Source(path) as source:
        start = source.read(0, 4)
    if start == b"GGUF":
        return _open_gguf(path)
    raise FileError(f"{shown(path.name)}: the file starts with {start!r}; expected a GGUF file (b'GGUF'), a .safetensors file or a folder with one")


def _open_gguf(path: Path) -> ModelFile:
    first, metadata, tensors = read_gguf_parts(path)
    architecture = _architecture(metadata, "general.architecture", first.name)
    return ModelFile(first, "gguf", architecture, tensors, metadata)


def _open_folder(folder: Path) -> ModelFile:
    index, single = folder / INDEX, folder / "model.safetensors"
    if index.is_file():
        return _described(folder, folder, read_sharded(index))
    if single.is_file():
        return _described(folder, folder, read_safetensors(single))
    weights = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors" and p.is_file())
    ggufs = sorted({part_paths(p)[0] for p in folder.iterdir() if p.suffix == ".gguf" and p.is_file()})
    found = weights + ggufs
    if not found:
        raise FileError(f"{shown(folder, 300)}: the folder has no model; expected a .gguf file, or config.json with model.safetensors or {INDEX}")
    if len(found) > 1:
        names = ", ".join(shown(p.name) for p in found[:8]) + (", ..." if len(found) > 8 else "")
        raise FileError(f"{shown(folder, 300)}: the folder has {len(found)} models ({names}); expected one. Name the file instead of the folder")
    return _open_safetensors(found[0]) if weights else _open_gguf(found[0])


def _open_safetensors(path: Path) -> ModelFile:
    index = path.parent / INDEX
    if index.is_file() and path.name in index_files(index).values():
        return _described(path.parent, path.parent, read_sharded(index))
    return _described(path, path.parent, read_safetensors(path))


def _described(path: Path, folder: Path, tensors: dict[str, Tensor]) -> ModelFile:
    """Adds what the JSON files beside safetensors say."""
    if not (folder / "config.json").exists():
        raise FileError(f"{shown(folder, 300)}: there is no config.json beside the weights; expected one that describes the model")
    config = read_json(folder / "config.json", CONFIG_LIMIT)
    architecture = _architecture(config, "model_type", "config.json")
    generation: dict[str, Any] = {}
    if (folder / "generation_config.json").exists():
        generation = read_json(folder / "generation_config.json", CONFIG_LIMIT)
    return ModelFile(path, "safetensors", architecture, tensors, config=config, generation_config=generation)


def _architecture(keys: dict[str, Any], key: str, file: str) -> str:
    value = keys.get(key)
    if not isinstance(value, str) or not 1 <= len(value) <= ARCHITECTURE_LIMIT:
        found = "missing" if value is None else shown_value(value)
        raise FileError(f"{shown(file)}: key {key} is {found}; expected the architecture's name")
    return value
