"""Split GGUF models: NAME-00001-of-0000N.gguf and its siblings, found from any one of them."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import FileError
from .gguf import read_gguf
from .messages import shown, shown_value
from .model_file import Tensor

PART = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


def part_paths(path: Path) -> list[Path]:
    """All parts of the split model that `path` belongs to, by name alone; [path] for an ordinary file."""
    match = PART.fullmatch(path.name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return [path]
    return [path.with_name(f"{match['stem']}-{number:05}-of-{match['count']}.gguf") for number in range(1, int(match["count"]) + 1)]


def read_gguf_parts(path: Path) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """The first part's path and keys, and the tensors of all parts. Raises FileError, naming a part that is missing."""
    paths = part_paths(path)
    opened = read_gguf(path)
    count = _count(opened[0], "split.count", path.name, default=1)
    if count <= 1:
        return path, *opened
    if len(paths) != count:
        raise FileError(f"{shown(path.name)}: key split.count says {count} parts; expected a file name that ends in -00001-of-{count:05}.gguf, "
                        "as the parts had when they were made")
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise FileError(f"{shown(path.name)}: {len(missing)} of {count} parts are missing beside it, the first is {shown(missing[0])}; "
                        "expected all parts in one folder")
    metadata: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for number, part in enumerate(paths):
        keys, found = opened if part == path else read_gguf(part)
        for key, expected in ("split.no", number), ("split.count", count):
            if _count(keys, key, part.name) != expected:
                raise FileError(f"{shown(part.name)}: key {key} is {keys[key]}; expected {expected}, as the file's name says")
        twice = tensors.keys() & found.keys()
        if twice:
            raise FileError(f"{shown(part.name)}: tensor {shown(min(twice))} is also in {shown(tensors[min(twice)].source)}; expected it once")
        tensors |= found
        if number == 0:
            metadata = keys
    total = _count(metadata, "split.tensors.count", paths[0].name)
    if total != len(tensors):
        raise FileError(f"{shown(paths[0].name)}: key split.tensors.count is {total}; found {len(tensors)} tensors in the {count} parts. "
                        "Expected parts of the same model")
    return paths[0], metadata, tensors


def _count(metadata: dict[str, Any], key: str, file: str, default: int | None = None) -> int:
    value = metadata.get(key, default)
    if type(value) is not int or value < 0:
        found = "missing" if value is None else shown_value(value)
        raise FileError(f"{shown(file)}: key {key} is {found}; expected a number")
    return value
