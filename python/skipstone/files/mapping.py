"""Opening files of strangers: regular files only, read in bounded pieces or mapped read-only, every failure a FileError."""
from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np

from .. import _native
from ..errors import FileError, OutOfMemory
from .messages import shown

VALUES_LIMIT = 200_000      # of a JSON text: each becomes a Python object of 50 to 250 bytes


class Source:
    """An open regular file. Use it in a `with` block; a mapping made from it stays valid after the block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = shown(path.name)
        try:
            # Without O_NONBLOCK a named pipe would wait here for a writer.
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from None
        try:
            status = os.fstat(self._file)
        except OSError as error:
            os.close(self._file)
            raise unreadable(path, error) from None
        if not stat.S_ISREG(status.st_mode):
            os.close(self._file)
            raise FileError(f"{shown(path)}: this is no regular file; expected a model file")
        self.size = status.st_size

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on; fewer only where the file ends."""
        parts = []
        while size > 0:
            try:
                part = os.pread(self._file, size, offset)
            except OSError as error:
                raise unreadable(self.path, error) from None
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def map(self) -> np.ndarray:
        """The whole file, uint8, read-only, not copied. Bytes that the file loses later read as zeros, and then checks raise FileError."""
        if self.size == 0:
            return np.frombuffer(b"", np.uint8)
        try:
            return _native.map_file(self._file, self.size, self.name)
        except OSError as error:
            raise OutOfMemory(f"{self.name}: {self.size} bytes could not be mapped ({error.strerror}); "
                              "expected that much address space, see ulimit -v") from None


def unreadable(path: Path, error: Exception) -> FileError:
    if isinstance(error, FileNotFoundError):
        parent = path.parent
        hint = "check the spelling" if parent.is_dir() else f"the folder {shown(parent, 200)} does not exist either"
        return FileError(f"{shown(path, 300)}: there is no such file or folder; {hint}")
    reason = error.strerror if isinstance(error, OSError) else error
    return FileError(f"{shown(path, 300)}: the file cannot be read ({reason}); expected a readable file")


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"the name {shown(name)} is there twice in one object")
        result[name] = value
    return result


def parse_json(text: bytes, file: str, unique: bool = False, values: int = VALUES_LIMIT) -> dict[str, Any]:
    """A JSON object. Raises FileError for anything else. unique: refuse a name that occurs twice in one object. values: most of them.

    Values are counted by commas and brackets, before any memory is taken; those within texts count as well.
    """
    if text.count(b",") + text.count(b"{") + text.count(b"[") > values:
        raise FileError(f"{file}: the JSON text has over {values} values; expected fewer")
    try:
        value = json.loads(text.decode("utf-8"), parse_int=_integer, object_pairs_hook=_once if unique else None)
    except RecursionError:
        raise FileError(f"{file}: the JSON text is nested too deeply; expected a few levels") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{file}: the JSON text is not UTF-8 (byte {error.start}: {error.reason}); expected UTF-8") from None
    except ValueError as error:
        raise FileError(f"{file}: the JSON text is damaged ({shown(error, 200)}); expected valid JSON") from None
    if not isinstance(value, dict):
        raise FileError(f"{file}: the JSON text holds {_kind(value)}; expected an object")
    return value


def read_whole(path: Path, limit: int) -> bytes:
    with Source(path) as source:
        if source.size > limit:
            raise FileError(f"{source.name}: the file has {source.size} bytes; expected at most {limit}")
        return source.read(0, source.size)


def read_json(path: Path, limit: int, values: int = VALUES_LIMIT) -> dict[str, Any]:
    """limit: most bytes; values: as in parse_json."""
    return parse_json(read_whole(path, limit), shown(path.name), values=values)


def _kind(value: object) -> str:
    return {list: "a list", str: "a string", bool: "a bool", int: "a number", float: "a number", type(None): "null"}[type(value)]
