"""Sessions in files.

Layout: MAGIC, a version (uint32), the length of the header (uint32), the header (JSON), the text's ids (int32), blocks of the model's
states, blocks of the drafter's, and the SHA-256 of all before. Numbers are little-endian. A file comes from anywhere: every count
is checked against the model and the file's size before anything is made of it, and the checksum before the session changes.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..errors import ArgumentError, DeviceError, FileError
from ..files.mapping import Source, parse_json
from ..files.messages import shown

if TYPE_CHECKING:
    from ..model import Model
    from .session import Session

MAGIC, VERSION = b"SKIPSTONE-SESSION", 1
HEADER_LIMIT = 1 << 20
DIGEST = 32
PIECE = 1 << 24   # bytes read at a time where nothing is kept
_START = struct.Struct("<17sII")


@dataclass
class Packed:
    """A drafter's state for a file: counts go to the header, blocks (uint8 or float32 arrays) follow the model's."""

    counts: dict[str, Any]
    sizes: list[int]
    blocks: Iterable[np.ndarray]


def sequence_blocks(sequence: Any, sizes: Iterable[int]) -> Iterator[np.ndarray]:
    """The blocks of a native Sequence, one at a time; sizes: what its program's block_bytes says for its points."""
    for index, size in enumerate(sizes):
        block = np.empty(size, np.uint8)
        sequence.write_block(index, block)
        yield block


def points_of(value: Any, length: int, file: str) -> list[tuple[int, int]]:
    """The points of a sequence of `length` tokens, as the header has them. FileError for anything else."""
    fits = isinstance(value, list) and 1 <= len(value) <= 64 and all(isinstance(p, list) and len(p) == 2 and all(_is_count(n, length) for n in p) for p in value)
    if not fits or value[-1][0] != length:
        raise FileError(f"{file}: points are {shown(repr(value))}; expected up to 64 pairs of lengths, the last of {length} tokens")
    return [(int(a), int(b)) for a, b in value]


def count_of(header: dict[str, Any], name: str, most: int, file: str) -> int:
    """A whole number of the header, 0 to most. FileError for anything else."""
    value = header.get(name)
    if not _is_count(value, most):
        raise FileError(f"{file}: {name} is {shown(repr(value))}; expected a whole number up to {most}")
    return int(value)   # type: ignore[arg-type]


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def save(session: Session, path: str | os.PathLike[str]) -> None:
    """See Session.save."""
    model, target = session.model, _path(path)
    _needs_processor(model, "saved")
    session._settle()
    points = session._sequence.points
    sizes = model.program.block_bytes(model.kv_type, points)
    drafter = session._drafter.pack(session._text) if session._drafter else None
    described = None
    if drafter and model.drafter:
        described = {"name": model.drafter.name, "identity": model.drafter.identity, "bytes": sum(drafter.sizes), **drafter.counts}
    header = json.dumps({"model": model.name, "identity": model.identity, "kv_type": model.kv_type, "tokens": session.length, "points": points,
                         "drafter": described}).encode()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    digest = hashlib.sha256()
    try:
        with contextlib.ExitStack() as undo, open(temporary, "xb") as file:
            undo.callback(lambda: temporary.unlink(missing_ok=True))
            start = (_START.pack(MAGIC, VERSION, len(header)), header, np.asarray(session._text, "<i4").tobytes())
            for part in chain(start, _bytes(sequence_blocks(session._sequence, sizes)), _bytes(drafter.blocks if drafter else ())):
                digest.update(part)
                file.write(part)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, target)
            undo.pop_all()
    except OSError as error:
        raise ArgumentError(f"path: {shown(str(target), 300)} cannot be written ({error.strerror or error}); expected a place for a file") from None


def _bytes(blocks: Iterable[np.ndarray]) -> Iterator[bytes | memoryview]:
    for block in blocks:
        yield np.ascontiguousarray(block).reshape(-1).view(np.uint8).data


class _Reader:
    """Reads a file from its beginning on, and its checksum on the way."""

    def __init__(self, source: Source) -> None:
        self.source, self.name, self.at, self.digest = source, source.name, 0, hashlib.sha256()

    def take(self, size: int) -> bytes:
        data = self.source.read(self.at, size)
        if len(data) < size:
            self.fail(f"the file ends after {self.at + len(data)} bytes; expected {self.at + size} or more. It was cut short")
        self.at += size
        self.digest.update(data)
        return data

    def blocks(self, sizes: Iterable[int]) -> Iterator[np.ndarray]:
        for size in sizes:
            yield np.frombuffer(self.take(size), np.uint8)

    def skip(self, size: int) -> None:
        while size > 0:
            size -= len(self.take(min(size, PIECE)))

    def fail(self, what: str) -> NoReturn:
        raise FileError(f"{self.name}: {what}")

    def header(self) -> dict[str, Any]:
        magic, version, size = _START.unpack(self.take(_START.size))
        if magic != MAGIC:
            self.fail(f"the file starts with {magic[:8]!r}; expected a session that Session.save wrote")
        if version != VERSION:
            self.fail(f"version {version} of the session format; this Skipstone reads version {VERSION}")
        if size > HEADER_LIMIT:
            self.fail(f"a header of {size} bytes; expected at most {HEADER_LIMIT}")
        return parse_json(self.take(size), self.name, unique=True)


def load(session: Session, path: str | os.PathLike[str]) -> None:
    """See Session.load."""
    model = session.model
    _needs_processor(model, "loaded")
    with Source(_path(path)) as source:
        reader = _Reader(source)
        header = reader.header()
        _belongs(model, header, reader)
        tokens = count_of(header, "tokens", model.context_length, reader.name)
        points = points_of(header.get("points"), tokens, reader.name)
        try:
            sizes = model.program.block_bytes(model.kv_type, points)
        except ArgumentError as error:
            reader.fail(f"{error}; expected the counts of a session")
        described = header.get("drafter")
        if not (described is None or isinstance(described, dict)):
            reader.fail("drafter is no object; expected one or null")
        extra = count_of(described, "bytes", source.size, reader.name) if described else 0
        expected = reader.at + 4 * tokens + sum(sizes) + extra + DIGEST
        if source.size != expected:
            reader.fail(f"the file has {source.size} bytes; expected {expected}. It is damaged or was cut short")

        text = np.frombuffer(reader.take(4 * tokens), "<i4")
        if tokens and not 0 <= int(text.min()) <= int(text.max()) < model.vocab_size:
            reader.fail(f"token ids from {text.min()} to {text.max()}; expected ids of the vocabulary, 0 to {model.vocab_size - 1}")
        sequence = model.program.sequence(model.kv_type)
        sequence.keep_marks(session._marks)
        try:
            sequence.set_points(points)
        except ArgumentError as error:
            reader.fail(f"{error}; expected the counts of a session")
        for index, block in enumerate(reader.blocks(sizes)):
            sequence.read_block(index, block)
        drafter = model.drafter.begin() if session._drafter and model.drafter else None
        ours = drafter is not None and described is not None and model.drafter is not None and described.get("identity") == model.drafter.identity
        if ours and drafter is not None and described is not None:
            needed = drafter.sizes(described, tokens, reader.name)
            if sum(needed) != extra:
                reader.fail(f"{extra} bytes of the drafter's state; expected {sum(needed)}")
            drafter.unpack(described, list(reader.blocks(needed)))
        else:
            reader.skip(extra)   # another drafter's: this one reads the text again before its first draft
        if source.read(reader.at, DIGEST) != reader.digest.digest():
            reader.fail("the checksum does not fit; the file is damaged")
    session._text, session._sequence, session._drafter, session._hidden = text.tolist(), sequence, drafter, session._hidden[:0]


def _belongs(model: Model, header: dict[str, Any], reader: _Reader) -> None:
    if header.get("identity") != model.identity:
        reader.fail(f"the session belongs to {shown(repr(header.get('model')))}, to another file of it or to another device; "
                    f"expected one of this {model.name}. Read the text again")
    if header.get("kv_type") != model.kv_type:
        reader.fail(f"kv_type is {shown(repr(header.get('kv_type')))}; expected {model.kv_type!r}, as the model was loaded with")


def _path(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes) or not os.fspath(path):
        raise ArgumentError(f"path: {path!r:.80}; expected a str or a path")
    return Path(path)


def _needs_processor(model: Model, what: str) -> None:
    if not hasattr(model.program, "block_bytes"):
        raise DeviceError(f"sessions on {model.device} cannot be {what} yet; load the model with device='cpu'")
