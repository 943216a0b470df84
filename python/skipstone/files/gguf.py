"""GGUF files: the header's tensors checked against the file, and mapped."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import FileError
from . import _gguf
from .gguf_types import REFUSED, TYPES
from .mapping import Source
from .messages import shown, shown_value
from .model_file import Tensor

DEFAULT_ALIGNMENT = 32
ALIGNMENT_LIMIT = 1 << 20
DIMENSION_LIMIT = 1 << 40


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The keys and the tensors of one file. Raises FileError."""
    with Source(path) as source:
        metadata, infos, end = _gguf.parse(source.read, source.size, source.name)
        alignment = _alignment(metadata, source.name)
        data_start = min(-(-end // alignment) * alignment, source.size)     # a file without tensors may end before the padding
        spans = [_span(info, alignment, source.size - data_start, source.name) for info in infos]
        _refuse_overlap(spans, source.name)
        mapped = source.map()
    tensors = {}
    for name, type_name, shape, offset, size in spans:
        view = mapped[data_start + offset:data_start + offset + size]
        tensors[name] = Tensor(name, type_name, shape, view, path.name)
    return metadata, tensors


def _alignment(metadata: dict[str, Any], file: str) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= ALIGNMENT_LIMIT or alignment & (alignment - 1):
        raise FileError(f"{file}: key general.alignment is {shown_value(alignment)}; expected a power of two from 8 to {ALIGNMENT_LIMIT}")
    return alignment


Span = tuple[str, str, tuple[int, ...], int, int]       # name, type, shape, offset and bytes in the data section


def _span(info: tuple[str, tuple[int, ...], int, int], alignment: int, available: int, file: str) -> Span:
    name, dimensions, kind, offset = info
    where = f"{file}: tensor {shown(name)}"
    if kind not in TYPES:
        known = REFUSED.get(kind, "which is no GGUF type that Skipstone knows")
        raise FileError(f"{where} has type {kind}, {known}; expected one of {', '.join(t.name for t in TYPES.values())}. "
                        "Convert the original model again")
    if not all(1 <= n <= DIMENSION_LIMIT for n in dimensions):
        raise FileError(f"{where} has dimensions {list(dimensions)}; expected each from 1 to 2^40")
    type_name, block, block_bytes = TYPES[kind]
    if dimensions[0] % block:
        raise FileError(f"{where} has type {type_name} and rows of {dimensions[0]} weights; expected a multiple of {block}")
    size = block_bytes * (dimensions[0] // block)
    for n in dimensions[1:]:
        size *= n
    if offset % alignment:
        raise FileError(f"{where} starts at offset {offset}; expected a multiple of the alignment {alignment}")
    if offset > available or size > available - offset:
        raise FileError(f"{where} of type {type_name} and dimensions {list(dimensions)} needs {size} bytes at offset {offset}, but the file "
                        f"has only {available} bytes of data; expected a complete file, the download may have been cut off")
    return name, type_name, dimensions[::-1], offset, size


def _refuse_overlap(spans: list[Span], file: str) -> None:
    ordered = sorted(spans, key=lambda span: span[3])
    for (first, _, _, offset, size), (second, _, _, start, _) in zip(ordered, ordered[1:]):
        if start < offset + size:
            raise FileError(f"{file}: tensor {shown(second)} starts at offset {start}, inside tensor {shown(first)} "
                            f"(offset {offset}, {size} bytes); expected tensors that do not overlap")
