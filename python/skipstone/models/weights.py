"""A model's tensors by their canonical names, those of GGUF, from a file of either format.

A description lists its tensors as `Name`s: what they are called in both formats and which shape the hyper-parameters demand.
`Weights` finds and checks all of them first, and only then makes native weights of them, one for a tensor, however often it is
used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import _native
from ..errors import FileError, ModelError, OutOfMemory, SkipstoneError
from . import scales
from .builder import Scaled
from .packed import Packed, tensors_of

if TYPE_CHECKING:
    from ..files import ModelFile, Tensor

# type, rows, columns, bytes or a list of them, one for each expert, maybe scales and their columns -> a native Weight or a stand-in for it
MakeWeight = Callable[..., Any]

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


INTEGERS: dict[str, Any] = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8")}


@dataclass(frozen=True)
class Name:
    """One tensor of a table.

    gguf: its name in GGUF and in the description. safetensors: its name there after the prefix, or from a leading "/" on at the
    top of the checkpoint. shape: (rows, columns) of a matrix, else of a vector. kind: "norm" marks the vectors of which some families'
    safetensors store the difference to 1, "integers" vectors of I32 or I64, "experts" a matrix for each expert of a mixture, (experts, rows, columns),
    "table" a matrix that is only ever read row by row.
    optional: may be absent. source: where the matrix is not a tensor of its own.
    """

    gguf: str
    safetensors: str
    shape: tuple[int, ...]
    kind: Literal["matrix", "vector", "norm", "integers", "experts", "table"] = "matrix"
    optional: bool = False
    source: Gathered | Fused | None = None

    def within(self, gguf: str, safetensors: str) -> Name:
        """The same with what stands before its names."""
        source = self.source
        if isinstance(source, Fused):
            source = replace(source, gguf=gguf + source.gguf if source.gguf else "", safetensors=safetensors + source.safetensors)
        elif source is not None:
            source = replace(source, gguf=gguf + source.gguf)
        return replace(self, gguf=gguf + self.gguf, safetensors=safetensors + self.safetensors, source=source)


@dataclass(frozen=True)
class Gathered:
    """A matrix made of `rows` of a tensor that has `of` rows; gguf: that tensor's name."""

    gguf: str
    rows: tuple[int, ...]
    of: int


@dataclass(frozen=True)
class Fused:
    """The other form of a mixture's experts: one tensor (experts, of, columns), an expert's matrix begins at its row `first`. In GGUF it is the
    form with gate and up in one tensor, in safetensors any but one tensor for each expert; "" where there is none."""

    gguf: str
    safetensors: str
    first: int
    of: int


def matrix(gguf: str, safetensors: str, rows: int, columns: int, optional: bool = False) -> Name:
    return Name(gguf, safetensors, (rows, columns), "matrix", optional)


def table(gguf: str, safetensors: str, rows: int, columns: int) -> Name:
    return Name(gguf, safetensors, (rows, columns), "table")


def vector(gguf: str, safetensors: str, *shape: int) -> Name:
    return Name(gguf, safetensors, shape, "vector")


def integers(gguf: str, safetensors: str, length: int) -> Name:
    return Name(gguf, safetensors, (length,), "integers")


def gathered(gguf: str, source: str, safetensors: str, rows: tuple[int, ...], of: int, columns: int) -> Name:
    """Some rows of a larger tensor, whose names are `source` and `safetensors`."""
    return Name(gguf, safetensors, (len(rows), columns), "matrix", source=Gathered(source, rows, of))


def experts(gguf: str, safetensors: str, shape: tuple[int, int, int], fused: Fused) -> Name:
    """safetensors: the name of one expert's matrix, with {} for its number."""
    return Name(gguf, safetensors, shape, "experts", source=fused)


def norm(gguf: str, safetensors: str, length: int, optional: bool = False) -> Name:
    return Name(gguf, safetensors, (length,), "norm", optional)


def layer(index: int, names: Iterable[Name], gguf: str = "blk.{}.", safetensors: str = "layers.{}.") -> list[Name]:
    """The names of a layer's table as those of layer `index`."""
    return [n.within(gguf.format(index), safetensors.format(index)) for n in names]


class Table:
    """A matrix in the file of which rows are read as they are needed."""

    def __init__(self, tensor: Tensor) -> None:
        self._type, self._columns = tensor.type, int(tensor.shape[1])
        self._data = tensor.data.reshape(int(tensor.shape[0]), -1)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """float32 (ids, columns)"""
        values = _native.dequantize(self._type, np.ascontiguousarray(self._data[ids]).reshape(-1))
        _native.check_mapped(self._data)
        return np.asarray(values, np.float32).reshape(len(ids), self._columns)


class Weights:
    """The tensors of `file` that `names` lists.

    weights[name] is a native Weight or, of vectors, a float32 array of one dimension, of integers an int64 array, of tables a Table. norm_offset: what the family's safetensors leave out of
    its norms' weights. ModelError names a tensor that is missing or of the wrong shape or type.
    """

    def __init__(self, file: ModelFile, names: Iterable[Name], make_weight: MakeWeight | None = None, norm_offset: float = 0.0) -> None:
        self._file, self._source, self._make = file, file.name, make_weight or _native.Weight
        self._tensors = tensors_of(file)
        self._safetensors = file.format == "safetensors"
        self._offset = norm_offset if self._safetensors else 0.0
        self._prefix = next((p for p in PREFIXES if p + "embed_tokens.weight" in self._tensors), PREFIXES[0]) if self._safetensors else ""
        self._types = {t["name"]: int(t["block"]) for t in _native.types()}
        self._found: dict[str, tuple[Name, list[Tensor]]] = {}  # several: an expert each
        self._known: set[str] = set()  # tensors found so far
        self._factors: dict[str, float] = {}  # of matrices whose products a tensor beside them scales
        self._beside: set[str] = set()  # those tensors
        self._scales: dict[str, scales.Scales] = {}  # by the tensor that they belong to
        self._made: dict[str, Any] = {}
        for name in names:  # a table may be longer than the file is; it ends at the first that is missing
            self._check(name)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            entry, tensors = self._found[name]
            if entry.kind in ("matrix", "experts"):
                self._made[name] = self._matrix(entry, tensors)
            elif entry.kind == "table":
                self._made[name] = Table(tensors[0])
            elif entry.kind == "integers":
                self._made[name] = tensors[0].data.view(INTEGERS[tensors[0].type]).astype(np.int64)
            else:
                self._made[name] = self._vector(entry, tensors[0])
            if name in self._factors:
                self._made[name] = Scaled(self._made[name], self._factors[name])
        return self._made[name]

    @property
    def known(self) -> set[str]:
        """The tensors of the file that the tables name, and those that belong to them."""
        return self._known

    def name_in_file(self, name: str) -> str:
        return self._found[name][1][0].name

    def layer(self, index: int) -> Layer:
        return Layer(self, f"blk.{index}.")

    def _check(self, name: Name) -> None:
        if isinstance(name.source, Fused):
            self._check_experts(name, name.source)
            return
        candidates = self._candidates(name)
        tensor = next((self._tensors[c] for c in candidates if c in self._tensors), None)
        if tensor is None:
            if name.optional:
                return
            elsewhere = (
                f" (looked under the prefixes {', '.join(p for p in PREFIXES if p)} and none)"
                if name.safetensors == "embed_tokens.weight" and self._safetensors
                else ""
            )
            raise ModelError(f"{self._source}: tensor {candidates[0]} is missing{elsewhere}; expected shape {name.shape}")
        whole = (name.source.of, name.shape[1]) if name.source is not None else name.shape
        if name.kind == "matrix" and not self._safetensors:
            self._check_factor(name, tensor.name.removesuffix(".weight") + ".scale")
        self._known.add(tensor.name)
        if name.kind == "integers":
            self._check_shape(tensor, whole, exact=False)
            if tensor.type not in INTEGERS:
                raise ModelError(f"{self._source}: tensor {tensor.name} has type {tensor.type}; expected {' or '.join(INTEGERS)}")
        else:
            self._check_tensor(tensor, whole, exact=name.kind in ("matrix", "table") and whole[0] > 1, scaled=name.kind == "matrix")
            if isinstance(tensor, Packed) and tensor.factor != 1:
                self._factors[name.gguf] = tensor.factor
        self._found[name.gguf] = name, [tensor]

    def _check_factor(self, name: Name, beside: str) -> None:
        """GGUF files of NVFP4 matrices have one factor for all products of a matrix, in a tensor beside it."""
        if (tensor := self._tensors.get(beside)) is None or beside in self._known - self._beside:
            return
        self._check_tensor(tensor, (1,), exact=False)
        if tensor.data.nbytes != 4 or tensor.type != "F32":
            raise ModelError(f"{self._source}: tensor {beside} of type {tensor.type} and {tensor.data.nbytes} bytes; expected one F32 number")
        self._beside.add(beside)
        self._factors[name.gguf] = float(self._vector(name, tensor)[0])

    def _check_experts(self, name: Name, fused: Fused) -> None:
        """One tensor of all experts, alone or with others' rows beside them, or, in safetensors, one for each expert."""
        count, rows, columns = name.shape
        together = self._prefixed(fused.safetensors) if self._safetensors else [fused.gguf]
        tensor = next((self._tensors[c] for c in together if c in self._tensors), None)
        if tensor is not None:
            self._check_tensor(tensor, (count, fused.of, columns), scaled=True)
            self._found[name.gguf] = name, [tensor]
            return
        if not self._safetensors:
            if name.gguf not in self._tensors:
                or_fused = f", or {fused.gguf} of shape {(count, fused.of, columns)}" if fused.gguf else ""
                raise ModelError(f"{self._source}: tensor {name.gguf} is missing; expected shape {name.shape}{or_fused}")
            self._check_tensor(self._tensors[name.gguf], name.shape, scaled=True)
            self._found[name.gguf] = replace(name, source=replace(fused, first=0, of=rows)), [self._tensors[name.gguf]]
            return
        spelled = self._prefixed(name.safetensors)
        pattern = next((p for p in spelled if p.format(0) in self._tensors), spelled[0])
        tensors: list[Tensor] = []
        for e in range(count):
            if (one := self._tensors.get(pattern.format(e))) is None:
                missing = pattern.format(e) if tensors else f"{together[0]} (or {pattern.format(e)} and so on)"
                shape = (rows, columns) if tensors else (count, fused.of, columns)
                raise ModelError(f"{self._source}: tensor {missing} is missing; expected shape {shape}, {count} experts")
            self._check_tensor(one, (rows, columns), scaled=True)
            if isinstance(one, Packed) and one.factor != 1:
                self._scales[one.name] = scales.Scales(np.full((1, rows, 1), one.factor, np.float32), columns)
            if tensors and one.type != tensors[0].type:
                raise ModelError(
                    f"{self._source}: tensor {one.name} has type {one.type}; expected {tensors[0].type}, which {tensors[0].name} has: "
                    "all experts of a layer in one type"
                )
            tensors.append(one)
        if pattern.format(count) in self._tensors:
            raise ModelError(f"{self._source}: tensor {pattern.format(count)} exists, but the configuration counts {count} experts; expected none beyond")
        self._found[name.gguf] = name, tensors

    def _check_shape(self, tensor: Tensor, shape: tuple[int, ...], exact: bool = True) -> None:
        """exact: dimensions of 1 count."""
        found = tuple(int(n) for n in tensor.shape)
        if found != shape if exact else [n for n in found if n != 1] != [n for n in shape if n != 1]:
            raise ModelError(f"{self._source}: tensor {tensor.name} has shape {found}; expected {shape}")

    def _check_tensor(self, tensor: Tensor, shape: tuple[int, ...], exact: bool = True, scaled: bool = False) -> None:
        """scaled: may have scales beside it."""
        self._check_shape(tensor, shape, exact)
        wide = scaled and tensor.type in scales.FLOAT8
        if isinstance(tensor, Packed) and not scaled:
            raise ModelError(f"{self._source}: tensor {tensor.parts[0]} is packed; expected {tensor.name} in F32, F16 or BF16")
        if tensor.type not in self._types and not wide:
            raise ModelError(
                f"{self._source}: tensor {tensor.name} has type {tensor.type}, which Skipstone cannot run; expected one of "
                f"{', '.join(sorted(self._types))}. Convert the file or choose another"
            )
        if wide and tensor.data.nbytes != np.prod(shape, dtype=np.int64):
            raise ModelError(f"{self._source}: tensor {tensor.name} of type {tensor.type} and shape {shape} has {tensor.data.nbytes} bytes")
        if not wide and shape[-1] % self._types[tensor.type]:
            raise ModelError(
                f"{self._source}: tensor {tensor.name} of type {tensor.type} has rows of {shape[-1]}; "
                f"expected a multiple of {self._types[tensor.type]}"
            )
        self._known.add(tensor.name)
        if isinstance(tensor, Packed):
            self._known.update(tensor.parts)
            if tensor.factors is not None:
                self._scales[tensor.name] = tensor.factors
        if scaled and (found := scales.beside(self._file, tensor)) is not None and found.name not in self._known:
            self._scales[tensor.name] = scales.read(self._file, tensor, found)
            self._known.add(found.name)
        base = tensor.name.removesuffix(".weight")
        for companion in COMPANIONS:
            if base + companion in self._tensors and base + companion not in self._known:  # what the table names comes first
                raise ModelError(
                    f"{self._source}: tensor {base + companion} stands beside {tensor.name}, and Skipstone cannot apply it; "
                    "expected a file without it"
                )

    def _candidates(self, name: Name) -> list[str]:
        if not self._safetensors:
            return [name.source.gguf if name.source is not None else name.gguf]
        return self._prefixed(name.safetensors)

    def _prefixed(self, name: str) -> list[str]:
        """What a tensor of that name in the tables may be called in a safetensors file."""
        return [p + name[1:] for p in TOP_PREFIXES] if name.startswith("/") else [self._prefix + name]

    def _matrix(self, name: Name, tensors: list[Tensor]) -> Any:
        tensor = tensors[0]
        rows, columns = name.shape[-2:]
        try:
            if getattr(self._make, "headers_only", False) and (isinstance(tensor, Packed) or tensor.type in scales.FLOAT8):
                return self._make(*self._described(name, tensor.type), *self._factors_of(name, tensors))
            type, data = tensor.type, _bytes_of(name, tensors)
            if type in scales.FLOAT8:
                data = [scales.widened(type, d) for d in data] if isinstance(data, list) else scales.widened(type, data)
                type = "BF16"
                for t in tensors:
                    _native.check_mapped(t.data)
            return self._make(type, rows, columns, data, *self._factors_of(name, tensors))
        except (MemoryError, OutOfMemory):
            raise
        except (SkipstoneError, ValueError, TypeError) as error:
            raise ModelError(f"{self._source}: tensor {tensor.name} of type {tensor.type} and shape {tuple(tensor.shape)}: {error}") from error

    def _described(self, name: Name, type: str) -> tuple[str, int, int, Any]:
        """What stands for a matrix that would have to be converted, for those who want to know its size alone."""
        type = "BF16" if type in scales.FLOAT8 else type
        block, bytes = next((t["block"], t["bytes"]) for t in _native.types() if t["name"] == type)
        *experts, rows, columns = name.shape
        one = np.broadcast_to(np.uint8(0), (rows * columns // block * bytes,))
        return type, rows, columns, [one] * experts[0] if experts else one

    def _factors_of(self, name: Name, tensors: list[Tensor]) -> tuple[np.ndarray, int] | tuple[()]:
        """Factors of the matrix's rows, and the columns that one is for; nothing where all are 1."""
        known = [self._scales.get(t.name) for t in tensors]
        parts = [s for s in known if s is not None]
        if not parts or all((s.factors == 1).all() for s in parts):
            return ()
        if len(parts) < len(known):
            without = tensors[known.index(None)].name
            raise ModelError(f"{self._source}: tensor {without} has no scales beside it, other experts of the layer do; expected all or none")
        if len({s.columns for s in parts}) > 1:
            raise ModelError(f"{self._source}: tensor {tensors[0].name} and other experts of the layer have scales of different shapes; expected one")
        factors = np.concatenate([s.factors for s in parts])
        if isinstance(name.source, Gathered):
            factors = factors[:, list(name.source.rows)]
        elif isinstance(name.source, Fused) and len(tensors[0].shape) == 3:
            factors = factors[:, name.source.first : name.source.first + name.shape[1]]
        return np.ascontiguousarray(factors).reshape(-1), parts[0].columns

    def _vector(self, name: Name, tensor: Tensor) -> np.ndarray:
        try:
            values = np.asarray(_native.dequantize(tensor.type, tensor.data), np.float32).reshape(-1)
            _native.check_mapped(tensor.data)
        except FileError:
            raise
        except (SkipstoneError, ValueError, TypeError) as error:
            raise ModelError(f"{self._source}: tensor {tensor.name} of type {tensor.type}: {error}") from error
        if not np.isfinite(values).all():
            raise ModelError(f"{self._source}: tensor {tensor.name} holds values that are not finite; expected finite numbers")
        return values + np.float32(self._offset) if name.kind == "norm" and self._offset else values


def _bytes_of(name: Name, tensors: list[Tensor]) -> np.ndarray | list[np.ndarray]:
    """A matrix's rows, or for each expert those of its matrix."""
    source, data = name.source, tensors[0].data
    if isinstance(source, Gathered):
        return data.reshape(source.of, -1)[list(source.rows)].reshape(-1)
    if not isinstance(source, Fused):
        return data
    if len(tensors) > 1 or len(tensors[0].shape) == 2:
        return [t.data for t in tensors]
    row_bytes = len(data) // (name.shape[0] * source.of)
    begins = [(e * source.of + source.first) * row_bytes for e in range(name.shape[0])]
    return [data[begin : begin + name.shape[1] * row_bytes] for begin in begins]


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
