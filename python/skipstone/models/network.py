"""A model as something that runs: its recorded pass and what others need to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .. import _native
from ..errors import ArgumentError, ModelError
from .builder import Builder

if TYPE_CHECKING:
    from ..files import ModelFile
    from .weights import Weights

MakeProgram = Callable[[dict[str, Any]], Any]  # spec -> a native Program or a stand-in for it


@dataclass(frozen=True)
class Network:
    """A target model.

    program: the native Program of `spec`. name, architecture: as the file gives them. hidden_size: width of the rows that a pass
    hands back, after the final norm. vocab_size: width of the logits. context_length: most positions of a text. bytes_per_row:
    weight bytes that a pass over one row reads. embedding, embedding_scale, head: native Weights and the factor, which drafters
    share. family: the name of the description that built it. taps: layers whose outputs follow the hidden rows that a pass hands back, each hidden_size
    wide. weights: all of them, where a drafter is made of them.
    """

    program: Any
    spec: dict[str, Any] = field(repr=False)
    family: str
    name: str
    architecture: str
    hidden_size: int
    vocab_size: int
    context_length: int
    bytes_per_row: int
    embedding: Any = field(repr=False)
    embedding_scale: float
    head: Any = field(repr=False)
    layers: int = 0
    taps: tuple[int, ...] = ()
    weights: Weights | None = field(default=None, repr=False)

    def last_cache(self, sliding: bool) -> int | None:
        """The state (its index in a sequence) of the last sliding or last global layer; None where no layer is of that kind."""
        kinds = [i for i, s in enumerate(self.spec["states"]) if s["kind"] == "kv" and (s["window"] > 0) == sliding]
        return kinds[-1] if kinds else None


@dataclass(frozen=True)
class DrafterNetwork:
    """A drafter's network.

    kind "mtp": appends rows to a Sequence of its own program. kind "assistant": has no state and borrows the target's Sequence.
    Its `hidden` input and output are as wide as the target's hidden rows. kind "block": drafts a whole block in one pass, see `block`.
    """

    kind: Literal["mtp", "assistant", "block"]
    program: Any
    spec: dict[str, Any] = field(repr=False)
    name: str
    architecture: str
    bytes_per_row: int
    block: Block | None = None

    @property
    def borrows(self) -> bool:
        return self.kind != "mtp"


@dataclass(frozen=True)
class Block:
    """How a block drafter drafts: a pass over `size` rows, the newest token and `mask` after it, after a text.

    shift: 0 where row j predicts its own position, the j-th after the newest token; 1 where it predicts the next. context: the program that
    turns the target's tapped rows into what the block's rows read, a cache of its own, and its states; None where they read the target's. selector:
    what chooses among the likeliest tokens, None: nothing does. name: of the kind of drafter.
    """

    name: str
    size: int
    mask: int
    shift: int
    context: Any = field(default=None, repr=False)
    states: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    selector: Any = field(default=None, repr=False)


class Sizes(Protocol):
    """What a description's hyper-parameters tell of any model."""

    @property
    def layers(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def context(self) -> int: ...


def finish(file: ModelFile, b: Builder, sizes: Sizes, family: str, embedding: Any, scale: float, head: Any, program: MakeProgram | None) -> Network:
    """The network whose pass `b` has recorded."""
    made, spec = make_program(file, b, program)
    return Network(
        program=made,
        spec=spec,
        family=family,
        name=title(file),
        architecture=file.architecture,
        hidden_size=sizes.hidden,
        vocab_size=sizes.vocabulary,
        context_length=sizes.context,
        bytes_per_row=bytes_per_row(spec),
        embedding=embedding,
        embedding_scale=scale,
        head=head,
        layers=sizes.layers,
        taps=b.taps,
    )


def make_program(file: ModelFile, builder: Builder, make: MakeProgram | None) -> tuple[Any, dict[str, Any]]:
    """The program and spec of what was recorded; ModelError with the file's name where the runtime cannot run it."""
    spec = builder.spec()
    try:
        return (make or _native.Program)(spec), spec
    except ArgumentError as error:
        raise ModelError(f"{file.name}: {error}") from error
    except ModelError as error:
        raise ModelError(str(error) if file.name in str(error) else f"{file.name}: {error}") from error


def bytes_per_row(spec: dict[str, Any]) -> int:
    """Weight bytes that a pass over one row reads: every matrix once, one row of each embedding table, of a mixture's experts those that a row uses,
    of an ordered head its open clusters."""
    matrices: dict[int, Any] = {}
    gathered = 0
    for op in spec["ops"]:
        if op["kind"] == "embed":
            gathered += op["weight"].bytes // op["weight"].rows
        elif op["kind"] == "ordered_head":
            matrices[id(op["centroids"])] = op["centroids"]
            gathered += op["weight"].bytes // op["centroids"].rows * op["top"]
        elif op["kind"] == "experts":
            gathered += sum(w.bytes // w.experts * op["used"] for w in (op["gate"], op["up"], op["down"]))
        else:
            for weight in [op["weight"]] if op["kind"] == "head" else op.get("weights", ()):
                matrices[id(weight)] = weight
    return gathered + sum(int(w.bytes) for w in matrices.values())


def title(file: ModelFile) -> str:
    """The model's name as the file has it, else the file's or folder's."""
    name = file.metadata.get("general.name") or file.config.get("_name_or_path")
    return name if isinstance(name, str) and name.strip() else (file.path.stem if file.format == "gguf" else file.name)
