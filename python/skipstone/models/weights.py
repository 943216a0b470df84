"""A model's tensors by their canonical names, those of GGUF, from a file of either format.

A description lists its tensors as `Name`s: what they are called in both formats and which shape the hyper-parameters demand.
`Weights` finds and checks all of them first, and only then makes native weights of them, one for a tensor, however often it is
used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import _native
from ..errors import ModelError, OutOfMemory, SkipstoneError

if TYPE_CHECKING:
    from ..files import ModelFile, Tensor

MakeWeight = Callable[[str, int, int, np.ndarray], Any]  # type, rows, columns, bytes -> a native Weight or a stand-in for it

# Where safetensors checkpoints keep the language model: Gemma 4 and Qwen3.5, Gemma 3, text-only, re-saves without a class around it.
PREFIXES = ("model.language_model.", "language_model.model.", "model.", "")
TOP_PREFIXES = ("", "model.", "language_model.")  # of what stands beside it: lm_head, mtp

# A tensor beside a weight that changes what the weight means. To skip it would give a model that runs and talks nonsense.
COMPANIONS = (
    ".bias",
    ".scale",
    ".scales",
    ".biases",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_scale_2",
    ".weight_packed",
    ".qweight",
    ".lora_A.weight",
)


@dataclass(frozen=True)
class Name:
    """One tensor of a table.

    gguf: its name in GGUF and in the description. safetensors: its name there after the prefix, or from a leading "/" on at the
    top of the checkpoint. shape: (rows, columns) of a matrix, else of a vector. kind: "norm" marks the vectors of which some families'
    safetensors store the difference to 1. optional: may be absent.
    """

    gguf: str
    safetensors: str
    shape: tuple[int, ...]
    kind: Literal["matrix", "vector", "norm"] = "matrix"
    optional: bool = False


def matrix(gguf: str, safetensors: str, rows: int, columns: int, optional: bool = False) -> Name:
    return Name(gguf, safetensors, (rows, columns), "matrix", optional)


def vector(gguf: str, safetensors: str, *shape: int) -> Name:
    return Name(gguf, safetensors, shape, "vector")


def norm(gguf: str, safetensors: str, length: int, optional: bool = False) -> Name:
    return Name(gguf, safetensors, (length,), "norm", optional)


def layer(index: int, names: Iterable[Name], gguf: str = "blk.{}.", safetensors: str = "layers.{}.") -> list[Name]:
    """The names of a layer's table as those of layer `index`."""
    return [Name(gguf.format(index) + n.gguf, safetensors.format(index) + n.safetensors, n.shape, n.kind, n.optional) for n in names]


class Weights:
    """The tensors of `file` that `names` lists.

    weights[name] is a native Weight or, of vectors, a float32 array of one dimension. norm_offset: what the family's safetensors leave out of
    its norms' weights. ModelError names a tensor that is missing or of the wrong shape or type.
    """

    def __init__(self, file: ModelFile, names: Iterable[Name], make_weight: MakeWeight | None = None, norm_offset: float = 0.0) -> None:
        self._file, self._source, self._make = file, file.name, make_weight or _native.Weight
        self._safetensors = file.format == "safetensors"
        self._offset = norm_offset if self._safetensors else 0.0
        self._prefix = next((p for p in PREFIXES if p + "embed_tokens.weight" in file.tensors), PREFIXES[0]) if self._safetensors else ""
        self._types = {t["name"]: int(t["block"]) for t in _native.types()}
        self._found: dict[str, tuple[Name, Tensor]] = {}
        self._made: dict[str, Any] = {}
        for name in names:  # a table may be longer than the file is; it ends at the first that is missing
            self._check(name)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            entry, tensor = self._found[name]
            self._made[name] = self._matrix(tensor) if entry.kind == "matrix" else self._vector(entry, tensor)
        return self._made[name]

    def layer(self, index: int) -> Layer:
        return Layer(self, f"blk.{index}.")

    def _check(self, name: Name) -> None:
        candidates = self._candidates(name)
        tensor = next((self._file.tensors[c] for c in candidates if c in self._file.tensors), None)
        if tensor is None:
            if name.optional:
                return
            elsewhere = (
                f" (looked under the prefixes {', '.join(p for p in PREFIXES if p)} and none)"
                if name.safetensors == "embed_tokens.weight" and self._safetensors
                else ""
            )
            raise ModelError(f"{self._source}: tensor {candidates[0]} is missing{elsewhere}; expected shape {name.shape}")
        found = tuple(int(n) for n in tensor.shape)
        same = found == name.shape if name.kind == "matrix" else [n for n in found if n != 1] == [n for n in name.shape if n != 1]
        if not same:
            raise ModelError(f"{self._source}: tensor {tensor.name} has shape {found}; expected {name.shape}")
        if tensor.type not in self._types:
            raise ModelError(
                f"{self._source}: tensor {tensor.name} has type {tensor.type}, which Skipstone cannot run; expected one of "
                f"{', '.join(sorted(self._types))}. Convert the file or choose another"
            )
        if name.shape[-1] % self._types[tensor.type]:
            raise ModelError(
                f"{self._source}: tensor {tensor.name} of type {tensor.type} has rows of {name.shape[-1]}; "
                f"expected a multiple of {self._types[tensor.type]}"
            )
        base = tensor.name.removesuffix(".weight")
        for companion in COMPANIONS:
            if base + companion in self._file.tensors and base + companion != tensor.name:
                raise ModelError(
                    f"{self._source}: tensor {base + companion} stands beside {tensor.name}, and Skipstone cannot apply it; "
                    "expected a file without it"
                )
        self._found[name.gguf] = name, tensor

    def _candidates(self, name: Name) -> list[str]:
        if not self._safetensors:
            return [name.gguf]
        if name.safetensors.startswith("/"):
            return [p + name.safetensors[1:] for p in TOP_PREFIXES]
        return [self._prefix + name.safetensors]

    def _matrix(self, tensor: Tensor) -> Any:
        rows, columns = (int(n) for n in tensor.shape)
        try:
            return self._make(tensor.type, rows, columns, tensor.data)
        except (MemoryError, OutOfMemory):
            raise
        except (SkipstoneError, ValueError, TypeError) as error:
            raise ModelError(f"{self._source}: tensor {tensor.name} of type {tensor.type} and shape {tuple(tensor.shape)}: {error}") from error

    def _vector(self, name: Name, tensor: Tensor) -> np.ndarray:
        try:
            values = np.asarray(_native.dequantize(tensor.type, tensor.data), np.float32).reshape(-1)
        except (SkipstoneError, ValueError, TypeError) as error:
            raise ModelError(f"{self._source}: tensor {tensor.name} of type {tensor.type}: {error}") from error
        if not np.isfinite(values).all():
            raise ModelError(f"{self._source}: tensor {tensor.name} holds values that are not finite; expected finite numbers")
        return values + np.float32(self._offset) if name.kind == "norm" and self._offset else values


class Layer:
    """One layer's tensors as attributes: w.attn_q is blk.N.attn_q.weight; w["nextn.eh_proj"] where the name has a dot."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        self._weights, self._prefix = weights, prefix

    def __getitem__(self, name: str) -> Any:
        return self._weights[self._full(name)]

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def __contains__(self, name: str) -> bool:
        return self._full(name) in self._weights

    def _full(self, name: str) -> str:
        return next((n for n in self._spellings(name) if n in self._weights), self._prefix + name + ".weight")

    def _spellings(self, name: str) -> Iterator[str]:
        for suffix in (".weight", "", ".bias"):
            yield self._prefix + name + suffix


def no_more_layers(file: ModelFile, layers: int, key: str) -> None:
    """ModelError where the file holds a layer beyond the `layers` that `key` counts: run without it, the model would talk nonsense."""
    names = [f"blk.{layers}.attn_norm.weight"] if file.format == "gguf" else [f"{p}layers.{layers}.input_layernorm.weight" for p in PREFIXES]
    for name in names:
        if name in file.tensors:
            raise ModelError(f"{file.name}: tensor {name} exists, but key {key} counts {layers} layers; expected none beyond")


def tied(file: ModelFile, declared: bool | None) -> bool:
    """Does the head use the embedding table? declared: the configuration's word, None where it has none."""
    if file.format == "gguf":
        return "output.weight" not in file.tensors
    return declared if declared is not None else not any(p + "lm_head.weight" in file.tensors for p in TOP_PREFIXES)
