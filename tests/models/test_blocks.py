"""Block drafters against published code (tests/data/blocks.npz, made by golden_blocks.py), by the interpreter and natively, and whole models with them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import make
import numpy as np
import pytest
from golden_blocks import CASES
from oracles.interpreter import Interpreter, Weight
from runs import FORMATS, rounding, written

import skipstone
from skipstone.drafters.block import BlockDrafter
from skipstone.errors import ModelError
from skipstone.files import ModelFile, open_model
from skipstone.models import build_drafter, build_network, taps
from skipstone.models.dflash import DFlash, Selector

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "blocks.npz")


def block(file: ModelFile, drafter: ModelFile | None, name: str, **make_with: Any) -> tuple[np.ndarray, list[int]]:
    """The logits of the rows that draft, and the drafts; the text read in two pieces, the drafter's part of it in three."""
    network = build_network(file, taps=taps(drafter) if drafter else (), **make_with)
    made = build_drafter(network, file, drafter, **make_with)
    prompt, first = GOLDEN[f"{name}.prompt"], int(GOLDEN[f"{name}.first"])
    sequence = network.program.sequence("f32")
    hidden = np.concatenate([network.program.run([(sequence, part)])[1] for part in np.array_split(prompt, 2)])
    read = sequence
    if made.block.context is not None:
        read = made.block.context.sequence("f32")
        for part in np.array_split(hidden[:, network.hidden_size:], 3):
            made.block.context.run([(read, np.zeros(len(part), np.int32))], hidden=part, want="none")
    rows = np.full(made.block.size, made.block.mask, np.int32)
    rows[0] = first
    logits, projected = made.program.run([(None, rows)], borrow=[read])
    used = slice(1 - made.block.shift, made.block.size - made.block.shift)
    drafts, logits = [], logits[used]
    for j, row in enumerate(logits):
        if made.block.selector is None:
            drafts.append(int(row.argmax()))
        else:
            candidates, scores = made.block.selector.scores(row, projected[used][j], drafts[-1] if drafts else first)
            drafts.append(int(candidates[scores.argmax()]))
    return logits, drafts


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in CASES for kind in FORMATS if kind == "safetensors" or CASES[name][1]])
def test_a_block_is_that_of_published_code(name: str, kind: str, tmp_path: Path) -> None:
    target, drafter = (written(tiny, tmp_path, kind) if tiny else None for tiny in CASES[name])
    assert target is not None
    bound = max(1e-4, rounding(target, GOLDEN[f"{name}.prompt"]))
    assert bound < 0.01  # the logits have a spread of 2
    for make_with in (dict(make_weight=Weight, program=partial(Interpreter, dtype=np.float64)), {}):
        logits, drafts = block(target, drafter, name, **make_with)
        assert np.abs(logits - GOLDEN[f"{name}.logits"]).max() <= bound
        assert drafts == GOLDEN[f"{name}.drafts"].tolist()


def test_another_tap_gives_other_drafts(tmp_path: Path) -> None:
    target = written(CASES["dflash"][0], tmp_path, "safetensors")
    for wrong in ((0, 1), (2, 0), (1, 2)):
        (folder := tmp_path / str(wrong)).mkdir()
        logits, _ = block(target, written(make.dflash(32, taps=wrong), folder, "gguf"), "dflash")
        assert np.abs(logits - GOLDEN["dflash.logits"]).max() > 0.1


def test_the_form_of_ik_llama_cpp(tmp_path: Path) -> None:
    """Other names, and the layers as config.json counts them."""
    tiny = make.dflash(32)
    tiny.architecture = "dflash-draft"
    for key, to in (("block_size", "dflash.block_size"), ("tokenizer.ggml.mask_token_id", "dflash.mask_token_id")):
        tiny.keys[to] = tiny.keys.pop(key)
    tiny.keys["dflash.target_layer_ids"] = [i - 1 for i in tiny.keys.pop("target_layers")]
    tiny.names |= {"fc.weight": "dflash_fc.weight", "hidden_norm.weight": "dflash_hidden_norm.weight"}
    target = written(CASES["dflash"][0], tmp_path, "gguf")
    logits, drafts = block(target, written(tiny, tmp_path, "gguf"), "dflash")
    assert np.abs(logits - GOLDEN["dflash.logits"]).max() < 1e-3 and drafts == GOLDEN["dflash.drafts"].tolist()


@pytest.mark.parametrize("name", ["dflash", "dflash2", "orthrus"])
def test_loaded_models_write_the_plain_text(name: str, tmp_path: Path) -> None:
    """By load: beside the model, by path, or in it; a session's drafts are the published ones; greedy, sampled and several at once."""
    target, drafter = CASES[name]
    path = target.safetensors(tmp_path / "model")
    if drafter:
        drafter.safetensors(tmp_path / "model-dflash")
    model = skipstone.load(path, device="cpu", kv_type="f32", threads=2)
    assert isinstance(model.drafter, BlockDrafter) and model.drafter.name == name
    prompt = GOLDEN[f"{name}.prompt"].tolist()
    session = model.session()
    session.forward(prompt)
    assert session.hidden.shape == (len(prompt), 64)
    drafts = GOLDEN[f"{name}.drafts"].tolist()
    for n in (1, 3, 6):
        assert session.draft(n, int(GOLDEN[f"{name}.first"])) == drafts[:n]
    plain = skipstone.load(path, draft=False, device="cpu", kv_type="f32", threads=1)
    for options in ({}, {"temperature": 1.0, "seed": 3}):
        want = [plain.generate(p, max_tokens=40, **options).tokens for p in (prompt, prompt[:9])]
        for length in (1, 3, 15, "auto"):
            assert model.generate([prompt, prompt[:9]], max_tokens=40, draft_tokens=length, **options)[1].tokens == want[1]
            result = model.generate(prompt, max_tokens=40, draft_tokens=length, **options)
            assert result.tokens == want[0]
    if drafter:
        assert skipstone.load(path, draft=tmp_path / "model-dflash", device="cpu").drafter.name == name


def test_layers_where_none_are_listed(tmp_path: Path) -> None:
    """As the published build_target_layer_ids spreads them."""
    from skipstone.models.keys import Keys

    for layers, of, want in ((5, 36, (1, 9, 17, 25, 33)), (5, 64, (1, 16, 31, 46, 61)), (1, 32, (16,)), (5, 40, (1, 10, 19, 28, 37))):
        file = ModelFile(tmp_path, "safetensors", "qwen3", {}, config={**make.dflash(1).config, "num_hidden_layers": layers, "num_target_layers": of, "layer_types": None})
        del file.config["dflash_config"]["target_layer_ids"]
        assert DFlash.read(Keys(file)).taps == want


def test_the_selector_chooses_by_the_token_before() -> None:
    class Table:
        def __init__(self, values: Any) -> None:
            self.values = np.asarray(values, np.float32)

        def rows(self, ids: np.ndarray) -> np.ndarray:
            return self.values[ids]

    selector = Selector(Table([[1], [0], [-1], [5]]), Table([[0], [2], [3], [9]]), 3)
    candidates, scores = selector.scores(np.asarray([1, 2, 3, -9], np.float32), np.asarray([2], np.float32), 0)
    assert candidates.tolist() == [0, 1, 2] and scores.tolist() == [1, 6, 9]


def change(folder: Path, **values: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config["dflash_config"] |= {k: v for k, v in values.items() if k in config["dflash_config"]}
    config |= {k: v for k, v in values.items() if k not in config["dflash_config"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


WRONG = [
    (dict(target_layer_ids=[0, 3]), "layer 3"),
    (dict(target_layer_ids=[0, -1]), r"target_layer_ids\[1\]"),
    (dict(target_layer_ids=[]), "target_layer_ids"),
    (dict(target_layer_ids=[0, 1, 1]), "fc.weight"),
    (dict(mask_token_id=160), "mask"),
    (dict(mask_token_id=None), "mask_token_id"),
    (dict(block_size=1), "block_size"),
    (dict(vocab_size=161), "vocabulary"),
    (dict(num_target_layers=4), "layers 4"),
    (dict(hidden_size=32), "hidden size|fc.weight"),
    (dict(num_hidden_layers=2, layer_types=["full_attention"] * 2), "layers.2.input_layernorm"),
    (dict(sliding_window=None), "sliding_window"),
    (dict(attention_bias=True), "attention_bias"),
    (dict(rope_parameters={"rope_type": "yarn", "rope_theta": 1.0, "factor": 2.0}), "yarn"),
    (dict(architectures=["DSparkDraftModel"]), "DFlash"),
]


@pytest.mark.parametrize(("values", "named"), WRONG, ids=[" ".join(v) for v, _ in WRONG])
def test_a_drafter_that_does_not_fit_is_refused_by_name(values: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = make.qwen3(31).safetensors(tmp_path / "model")
    drafter = change(make.dflash(32).safetensors(tmp_path / "drafter"), **values)
    with pytest.raises(ModelError, match=named):
        skipstone.load(path, draft=drafter, device="cpu")


def test_tensors_of_other_drafters_are_refused_by_name(tmp_path: Path) -> None:
    path = make.qwen3(31).safetensors(tmp_path / "model")
    for tensor in ("markov_head.markov_w1.weight", "confidence_head.proj.weight", "layers.0.self_attn.q_proj.bias", "strange.weight"):
        tiny = make.dflash(32)
        tiny.norm(tensor, "", 64)
        with pytest.raises(ModelError, match=tensor):
            skipstone.load(path, draft=tiny.safetensors(tmp_path / "drafter"), device="cpu")


def test_a_drafter_is_no_model_and_the_other_way_round(tmp_path: Path) -> None:
    folder = make.dflash(32).safetensors(tmp_path / "drafter")
    with pytest.raises(ModelError, match="is a drafter's"):
        skipstone.load(folder, device="cpu")
    with pytest.raises(ModelError, match="holds no drafter"):
        skipstone.load(make.qwen3(31).safetensors(tmp_path / "model"), draft=make.qwen3(32).safetensors(tmp_path / "other"), device="cpu")
    network = build_network(open_model(tmp_path / "model"))
    with pytest.raises(ModelError, match="draft=PATH"):
        build_drafter(network, open_model(tmp_path / "model"), open_model(folder))


@pytest.mark.parametrize("kind", FORMATS)
def test_info_tells_what_they_are(kind: str, tmp_path: Path) -> None:
    from skipstone.cli.info import describe

    for tiny, said in ((make.dflash(32), "DFlash"), (make.dflash(32, second=True), "DFlash2")):
        (folder := tmp_path / said).mkdir()
        found = describe(written(tiny, folder, kind))
        assert found["runs"] and "drafter" in found["reason"] and found["drafter"] == f"is a drafter: {said}" and found["parameters"]["rows of a block of drafts"] == 7
    if kind == "safetensors":
        assert "Orthrus" in describe(written(make.qwen3(39, orthrus=True), tmp_path, kind))["drafter"]
        wrong = describe(open_model(change(make.dflash(32).safetensors(tmp_path / "wrong"), block_size=1)))
        assert not wrong["runs"] and "block_size" in wrong["reason"]


def test_caches_of_blocks_of_values(tmp_path: Path) -> None:
    """The drafter's heads of 24 cannot be kept in blocks of 32: its cache stays in half precision."""
    tiny = make.qwen35(41)   # heads of 32
    model = skipstone.load(tiny.safetensors(tmp_path / "model"), draft=change(make.dflash(32).safetensors(tmp_path / "drafter"), num_target_layers=5), device="cpu", kv_type="q8_0")
    prompt = GOLDEN["dflash.prompt"].tolist()
    assert model.generate(prompt, max_tokens=20, draft_tokens=4).tokens == model.generate(prompt, max_tokens=20, draft_tokens=0).tokens
