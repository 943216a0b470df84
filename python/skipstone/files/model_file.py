"""What every reader returns: the tensors of a model, where they lie, and what the files say about them."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor, still in its file."""

    name: str
    type: str                   # "Q4_K", "F32", "BF16", "I64", ...: GGUF's spelling, safetensors' for types GGUF lacks
    shape: tuple[int, ...]      # row-major, as numpy has it: (rows, columns) for a matrix
    data: np.ndarray            # uint8, 1-D, read-only view of the mapped file
    source: str                 # name of the file, for messages


@dataclass(frozen=True, eq=False)
class ModelFile:
    """An opened model: one file, or the parts of a split one, or a folder. Nothing is loaded but the headers."""

    path: Path                          # the first file, or the folder
    format: str                         # "gguf" or "safetensors"
    architecture: str                   # GGUF's general.architecture, config.json's model_type
    tensors: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)              # GGUF's keys: int, float, bool, str or a list of those
    config: dict[str, Any] = field(default_factory=dict)                # config.json
    generation_config: dict[str, Any] = field(default_factory=dict)     # generation_config.json, {} if absent

    @property
    def name(self) -> str:
        """The last part of the path, for messages."""
        return self.path.name or str(self.path)
