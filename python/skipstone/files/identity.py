"""Which model a file holds: a hash for what must not be mixed up between models, as a session's caches."""
from __future__ import annotations

import hashlib
import json

from .model_file import ModelFile

SAMPLE = 64   # bytes from the middle of each tensor: files of one shape differ there


def identity(file: ModelFile) -> str:
    """SHA-256 over what the file says of the model, the table of its tensors (names, types, shapes) and samples of their data."""
    digest = hashlib.sha256(json.dumps([file.architecture, file.metadata, file.config], sort_keys=True, default=str).encode())
    for name in sorted(file.tensors):
        tensor = file.tensors[name]
        middle = len(tensor.data) // 2
        digest.update(json.dumps([name, tensor.type, list(tensor.shape)]).encode())
        digest.update(tensor.data[middle:middle + SAMPLE].tobytes())
    return digest.hexdigest()
