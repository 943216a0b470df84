"""What a network tells of itself."""

from __future__ import annotations

from pathlib import Path

import make
import numpy as np
import pytest
from runs import FORMATS, Run, written

import skipstone


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("family", make.FAMILIES)
def test_facts(family: str, kind: str, tmp_path: Path) -> None:
    tiny = make.FAMILIES[family](81)
    file = written(tiny, tmp_path, kind)
    n = Run(file).network
    assert (n.family, n.hidden_size, n.vocab_size, n.context_length, n.architecture) == (tiny.architecture, 64, make.VOCABULARY, 512, file.architecture)
    assert n.name == (file.path.stem if kind == "gguf" else file.name)
    assert n.program.vocabulary == n.vocab_size and n.program.hidden_width == n.hidden_size


def test_bytes_of_a_pass(tmp_path: Path) -> None:
    """All matrices once, a shared table once, and one row of what is only looked up."""
    tied, untied = (make.qwen3(82, tied=t) for t in (True, False))
    for tiny in (tied, untied):
        matrices = sum(a.nbytes for n, a in tiny.tensors.items() if a.ndim == 2 and n != "model.embed_tokens.weight")
        table = tiny.tensors["model.embed_tokens.weight"].nbytes if tiny is tied else 0
        assert Run(written(tiny, tmp_path / str(tiny is tied), "safetensors")).network.bytes_per_row == matrices + table + 64 * 4


def test_weights_are_shared(tmp_path: Path) -> None:
    """A tied table is one weight, and a drafter's is its target's."""
    run = Run(written(make.qwen35(83), tmp_path, "safetensors"))
    assert run.network.embedding is run.network.head
    ops = {op["kind"]: op for op in run.drafter.spec["ops"]}
    assert ops["embed"]["weight"] is run.network.embedding and ops["head"]["weight"] is run.network.head
    run = Run(written(make.gemma4(84), tmp_path, "safetensors"), written(make.gemma4_assistant(85), tmp_path, "safetensors"))
    ops = {op["kind"]: op for op in run.drafter.spec["ops"]}
    assert ops["embed"]["weight"] is run.network.embedding and ops["embed"]["scale"] == run.network.embedding_scale == 8.0
    assert ops["head"]["weight"] is not run.network.head


@pytest.mark.parametrize("kind", FORMATS)
def test_per_layer_embeddings_stay_in_the_file(kind: str, tmp_path: Path) -> None:
    """A pass reads rows of the table where they lie: it has no layout, and its bytes are those of the mapped file."""
    file = written(make.gemma4e(90, tied=False), tmp_path, kind)
    run = Run(file)
    run.logits(np.arange(40))
    tables = [op["weight"] for op in run.network.spec["ops"] if op["kind"] == "embed"]
    assert [(t.rows, t.columns, t.laid_out_bytes) for t in tables] == [(160, 64, 0), (160, 7 * 32, 0)]
    assert all(w.laid_out_bytes > 0 for op in run.network.spec["ops"] for w in op.get("weights", ()))
    assert all(t.bytes == 4 * t.rows * t.columns for t in tables)
    matrices = sum(w.bytes for op in run.network.spec["ops"] for w in op.get("weights", ())) + run.network.head.bytes
    assert run.network.bytes_per_row == matrices + 4 * (64 + 7 * 32)


def test_bytes_of_an_ordered_head(tmp_path: Path) -> None:
    """The centroids, and of the table three of sixteen clusters."""
    run = Run(
        written(make.gemma4e(91), tmp_path, "gguf"), written(make.gemma4_assistant(92, keys_are_values=False, ordered=True), tmp_path, "gguf")
    )
    matrices = sum(w.bytes for op in run.drafter.spec["ops"] for w in op.get("weights", ()))
    assert run.drafter.bytes_per_row == matrices + 4 * 32 * (16 + 3 * 10) + 4 * 64


def test_quantized_caches_need_heads_of_whole_blocks(tmp_path: Path) -> None:
    file = make.gemma3(93).gguf(tmp_path / "small.gguf")  # heads of 24
    for kv_type in ("q8_0", "q4_0"):
        with pytest.raises(skipstone.ArgumentError, match="small.gguf has heads of 24"):
            skipstone.load(file, kv_type=kv_type)


def test_drafters(tmp_path: Path) -> None:
    mtp = Run(written(make.qwen35(86), tmp_path, "gguf")).drafter
    assert mtp.kind == "mtp" and not mtp.borrows and mtp.program.input_width == mtp.program.hidden_width == 64
    run = Run(written(make.gemma4(87), tmp_path, "gguf"), written(make.gemma4_assistant(88), tmp_path, "gguf"))
    assistant = run.drafter
    assert assistant.kind == "assistant" and assistant.borrows and assistant.program.borrows
    attends = [op for op in assistant.spec["ops"] if op["kind"] == "attend"]
    assert [(op["borrowed_state"], op["window"]) for op in attends] == [(5, 17), (5, 17), (6, 0)]
    assert run.network.last_cache(sliding=True) == 5 and run.network.last_cache(sliding=False) == 6
    assert Run(written(make.qwen35(89, mtp=0), tmp_path, "gguf")).drafter is None
    assert Run(written(make.gemma4(87), tmp_path, "gguf")).drafter is None
