"""Random models: as large and of the same types as the released models' files, and run like any file."""
from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import skipstone
from skipstone import _native
from skipstone.cli.info import describe
from skipstone.errors import ArgumentError
from skipstone.files import open_model, random_model
from skipstone.files.shapes import SHAPES, Shape, gemma4, qwen35

# Tensors and millions of weights of the released models.
RELEASED = {"qwen3-0.6b": (310, 596), "qwen3-8b": (399, 8191), "qwen3.5-27b": (866, 27321), "gemma3-270m": (236, 268), "gemma4-12b": (667, 11907),
            "gemma4-12b-assistant": (49, 423), "gemma4-26b-a4b": (658, 25233)}


def cut(shape: Shape) -> Shape:
    """With a vocabulary of 512."""
    return Shape(shape.architecture, shape.keys, tuple((name, (512, size[1]) if name == "token_embd.weight" else size) for name, size in shape.tensors))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "small-qwen", cut(qwen35(4, 256, 2, 1, 16, 512, tied=True)))
    monkeypatch.setitem(SHAPES, "small-gemma", cut(gemma4(6, 256, 2, 2, 1, 512)))
    monkeypatch.setitem(SHAPES, "small-gemma-assistant", cut(gemma4(4, 128, 2, 2, 1, 512, every=4, backbone=256)))


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what looks at sizes alone."""
    monkeypatch.setattr(random_model, "_random_bytes", lambda kind, size: np.zeros(size, np.uint8))      # pages that nobody touches take none


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize("name", RELEASED)
def test_sizes(name: str) -> None:
    said = describe(open_model(f"random:{name}"))
    assert (said["tensors"], round(said["weights"] / 1e6)) == RELEASED[name]


@pytest.mark.usefixtures("no_memory")
def test_types_of_a_mix() -> None:
    """Those of the released gemma-3-270m in Q4_K_M."""
    kinds = Counter(t.type for t in open_model("random:gemma3-270m:Q4_K_M").tensors.values())
    assert kinds == {"Q5_0": 81, "Q4_K": 27, "Q8_0": 10, "Q6_K": 9, "F32": 109}


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_one_that_runs(name: str) -> None:
    said = describe(open_model(f"random:{name}:Q8_0"))
    assert said["runs"], said["reason"]


@pytest.mark.parametrize("type", [t["name"] for t in _native.types()])
def test_weights_are_sane(type: str) -> None:
    values = _native.dequantize(type, random_model.random_matrix(type, 64, 1024))
    assert np.isfinite(values).all() and 1e-4 < values.std() < 10


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name, drafter", [("small-qwen", "mtp"), ("small-gemma", "assistant")])
def test_runs_with_its_drafter(name: str, drafter: str) -> None:
    model = skipstone.load(f"random:{name}:Q8_0", threads=1)
    assert model.drafter is not None and drafter in type(model.drafter).__name__.lower() and model.tokenizer is None
    assert model.load_stats is not None and model.load_stats.bytes > model.bytes / 2
    ids = list(range(20, 40))
    assert model.generate(ids, max_tokens=12, draft_tokens=0).tokens == model.generate(ids, max_tokens=12, draft_tokens=3).tokens
    assert np.isfinite(model.session().forward(ids)).all()


@pytest.mark.usefixtures("small")
def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors of a type share one piece of memory."""
    monkeypatch.chdir(tmp_path)
    file = open_model("random:small-qwen:Q8_0")
    assert np.shares_memory(file.tensors["blk.0.ffn_up.weight"].data, file.tensors["blk.1.ffn_up.weight"].data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, words", [
    ("random:qwen9", ("qwen9", "qwen3-8b")), ("random:", ("''", "qwen3-8b")), ("random:qwen3-8b:Q9", ("Q9", "Q4_K_M")), ("random:qwen3-8b:I32", ("I32", "Q8_0")),
])
def test_unknown(name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ArgumentError) as caught:
        open_model(name)
    assert all(word in str(caught.value) for word in words)


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("random:qwen3-8b").write_bytes(b"no GGUF")
    with pytest.raises(skipstone.FileError, match="starts with"):
        open_model("random:qwen3-8b")
