"""Wrong files: each is refused by a ModelError that names the key or tensor, and nothing else ever comes out."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import make
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.interpreter import Interpreter, Weight
from runs import FORMATS, written

from skipstone import FileError, ModelError
from skipstone.files import ModelFile
from skipstone.models import DrafterNetwork, Network, build_drafter, build_network

BAD: list[Any] = [
    None,
    "",
    "many",
    True,
    -1,
    0,
    1,
    7,
    10**9,
    10**30,
    0.5,
    -1.0,
    float("nan"),
    float("inf"),
    -float("inf"),
    1e-300,
    1e300,
    [],
    [1],
    ["a"] * 5,
    [0] * 7,
    [10**9] * 7,
    [None] * 7,
    {},
    {"a": 1},
    [[1]],
    ["full_attention"] * 7,
    "sliding_attention",
]

FAMILIES: dict[str, tuple[Callable[[int], make.Tiny], Callable[[int], make.Tiny] | None]] = {
    **{name: (family, None) for name, family in make.FAMILIES.items()},
    "assistant": (make.gemma4, make.gemma4_assistant),
    "ordered": (make.gemma4e, partial(make.gemma4_assistant, keys_are_values=False, ordered=True)),
}


@pytest.fixture(scope="module", params=[(name, kind) for name in FAMILIES for kind in FORMATS], ids=lambda p: f"{p[0]}-{p[1]}")
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ModelFile, Callable[[ModelFile], Any]]:
    """A right file, and what builds it: a target with its MTP head, or an assistant for a fixed target."""
    name, kind = request.param
    family, assistant = FAMILIES[name]
    folder = tmp_path_factory.mktemp("wrong")
    target = written(family(61), folder, kind)
    if assistant:
        network = build(target)
        return name, written(assistant(62), folder, kind), lambda file: build_drafter(network, target, file, Weight, Interpreter)
    return name, target, build_all


def build(file: ModelFile) -> Network:
    return build_network(file, Weight, Interpreter)


def build_all(file: ModelFile) -> tuple[Network, DrafterNetwork | None]:
    network = build(file)
    return network, build_drafter(network, file, None, Weight, Interpreter)


def refused(make_it: Callable[[], Any]) -> str:
    """The message, once it has shown that it is a sentence that names something."""
    start = time.monotonic()
    with pytest.raises(FileError) as caught:
        make_it()
    assert time.monotonic() - start < 2
    message = str(caught.value)
    assert 20 < len(message) < 2000
    return message


def key_paths(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from key_paths(value, (*path, key))


def with_value(file: ModelFile, path: tuple[str, ...], value: Any) -> ModelFile:
    part = "metadata" if file.format == "gguf" else "config"
    values = copy.deepcopy(getattr(file, part))
    at = values
    for key in path[:-1]:
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return dataclasses.replace(file, **{part: values})


def with_tensor(file: ModelFile, name: str, **change: Any) -> ModelFile:
    tensors = dict(file.tensors)
    if change:
        tensors[name] = dataclasses.replace(tensors[name], **change)
    else:
        del tensors[name]
    return dataclasses.replace(file, tensors=tensors)


def test_right_file(sample: Any) -> None:
    assert sample[2](sample[1]) is not None


def test_every_key_and_bad_value(sample: Any) -> None:
    """A bad value is refused by name, or it is one that the model does not depend on, or not bad here."""
    _, file, make_it = sample
    refusals = 0
    for path in list(key_paths(file.metadata if file.format == "gguf" else file.config)):
        for value in BAD:
            try:
                make_it(with_value(file, path, value))
            except FileError as error:
                message, refusals = str(error), refusals + 1
                assert len(message) < 2000
                assert (
                    path[-1].split(".")[-1] in message or "tensor" in message or "head" in message or "layer" in message or path[0] == "text_config"
                ), (path, value, message)
    assert refusals > 100


def test_required_keys(sample: Any) -> None:
    name, file, make_it = sample
    required = {
        "gguf": [
            "block_count",
            "embedding_length",
            "context_length",
            "attention.head_count",
            "attention.head_count_kv",
            "attention.key_length",
            "feed_forward_length",
            "attention.layer_norm_rms_epsilon",
            *(
                {
                    "qwen3": ["rope.freq_base"],
                    "qwen35": [
                        "rope.freq_base",
                        "rope.dimension_count",
                        "ssm.state_size",
                        "ssm.group_count",
                        "ssm.time_step_rank",
                        "ssm.conv_kernel",
                    ],
                    "gemma3": ["attention.sliding_window"],
                }.get(name, ["attention.sliding_window", "attention.sliding_window_pattern", "attention.key_length_swa"])
            ),
        ],
        "safetensors": [
            "num_hidden_layers",
            "hidden_size",
            "max_position_embeddings",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "intermediate_size",
            "rms_norm_eps",
            "vocab_size",
            *(
                {
                    "qwen3": ["rope_parameters"],
                    "qwen35": ["rope_parameters", "linear_key_head_dim", "linear_num_key_heads", "linear_num_value_heads", "linear_conv_kernel_dim"],
                }.get(name, ["sliding_window"])
            ),
        ],
    }[file.format]
    for key in required:
        path = (f"{file.architecture}.{key}",) if file.format == "gguf" else (("text_config", key) if "text_config" in file.config else (key,))
        message = refused(lambda: make_it(with_value(file, path, None)))
        assert (key in message or key == "rope_parameters" and "rope_theta" in message) and "missing" in message


def test_every_tensor(sample: Any) -> None:
    """Missing, of another shape, of a type that is no weight's: the name is in the message."""
    _, file, make_it = sample
    optional = {"rope_freqs.weight", "lm_head.weight"} | {
        n for n in file.tensors if n.endswith(("nextn.shared_head_norm.weight", "nextn.eh_proj.weight", "mtp.fc.weight"))
    }
    optional |= {"masked_embd_centroids.weight"}  # GGUF files without it have a dense head
    if file.format == "gguf":
        optional |= {"blk.2.attn_v.weight"}  # no global layer has values of its own then
    for name, tensor in file.tensors.items():
        # An output matrix or a value projection that is missing is another design, refused where the configuration says otherwise.
        if name not in optional and not (file.format == "gguf" and name == "output.weight"):
            message = refused(lambda: make_it(with_tensor(file, name)))
            assert name in message or name == "token_embd.weight" or "embed_tokens" in name
        for shape in {tensor.shape + (2,), (tensor.shape[0] + 1, *tensor.shape[1:]), tensor.shape[::-1], (), (0,), (1 << 61, 8)} - {tensor.shape}:
            if [n for n in shape if n != 1] == [n for n in tensor.shape if n != 1] and min(len(shape), len(tensor.shape)) < 2:
                continue  # a vector that is written as a matrix of one row
            if name == "token_embd.weight" and shape == (tensor.shape[0] + 1, *tensor.shape[1:]):
                continue  # GGUF counts the vocabulary there
            message = refused(lambda: make_it(with_tensor(file, name, shape=shape)))
            assert name in message or name == "token_embd.weight"
        for kind in ("I16", "F64", "F8_E8M0", "Q8_K", "?"):
            message = refused(lambda: make_it(with_tensor(file, name, type=kind)))
            assert name in message and kind in message and ("Q4_K" in message or "I64" in message)


def test_values_that_are_not_finite(sample: Any) -> None:
    _, file, make_it = sample
    for name, tensor in file.tensors.items():
        if len(tensor.shape) == 1 or "conv1d" in name:
            data = tensor.data.view(np.float32).copy()
            data[-1] = np.nan
            assert name in refused(lambda: make_it(with_tensor(file, name, data=data.view(np.uint8))))


def test_tensors_that_change_others(sample: Any) -> None:
    _, file, make_it = sample
    name = next(n for n in file.tensors if n.endswith(("attn_q.weight", "q_proj.weight")))
    for suffix in (".bias", ".scale", ".weight_scale_inv", ".weight_packed"):
        other = name.removesuffix(".weight") + suffix
        beside = dataclasses.replace(file.tensors[name], name=other)
        message = refused(lambda: make_it(dataclasses.replace(file, tensors={**file.tensors, other: beside})))
        assert other in message


def test_unknown_tensors(sample: Any) -> None:
    """A tensor of the language model that no table has is refused by name; what is for images, sound or drafting is passed over."""
    _, file, make_it = sample
    some = next(iter(file.tensors.values()))
    for name in {
        "gguf": ["blk.1.attn_sinks.weight", "output_norm.bias", "blk.0.attn_q.lora_a"],
        "safetensors": ["model.layers.1.self_attn.sinks", "model.language_model.layers.0.altup.weight", "model.extra.weight"],
    }[file.format]:
        message = refused(lambda: make_it(dataclasses.replace(file, tensors={**file.tensors, name: some})))
        assert name in message
    for name in {
        "gguf": ["v.blk.0.attn_q.weight", "mm.0.weight", "rope_factors_long.weight", "blk.0.attn_q.input_scale"],
        "safetensors": ["model.vision_tower.x.weight", "model.embed_audio.y", "model.visual.blocks.0.norm1.weight", "lm_head.weight"],
    }[file.format]:
        if name not in file.tensors:
            make_it(dataclasses.replace(file, tensors={**file.tensors, name: some}))


def test_a_layer_too_many(sample: Any) -> None:
    """The configuration counts fewer layers than the file holds."""
    name, file, make_it = sample
    layers = {"assistant": 2, "ordered": 2, "qwen3": 2, "qwen35": 4, "gemma3": 6, "gemma4": 6, "gemma4e": 6}[name]
    if file.format == "gguf":
        metadata = {
            k: v[:-1]
            if isinstance(v, list) and k.startswith(file.architecture) and len(v) == file.metadata[f"{file.architecture}.block_count"]
            else v
            for k, v in file.metadata.items()
        }
        other = dataclasses.replace(file, metadata={**metadata, f"{file.architecture}.block_count": layers + (name == "qwen35")})
        if shared := other.metadata.get(f"{file.architecture}.attention.shared_kv_layers"):
            other.metadata[f"{file.architecture}.attention.shared_kv_layers"] = shared - 1
    else:
        text = file.config.get("text_config", file.config)
        other = with_value(file, ("text_config", "num_hidden_layers") if "text_config" in file.config else ("num_hidden_layers",), layers)
        if "layer_types" in text:
            at = other.config.get("text_config", other.config)
            at["layer_types"] = at["layer_types"][:layers]
            at["num_kv_shared_layers"] = max(at.get("num_kv_shared_layers", 0) - 1, 0)
    message = refused(lambda: make_it(other))  # Gemma 4 takes the last layer for a global one, and finds its shapes wrong first
    assert (any(f".{i}." in message for i in (layers - 1, layers, layers + 1)) or name == "gemma4e" and "per_layer" in message) and "tensor" in message


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_anything_under_any_key(sample: Any, data: st.DataObject) -> None:
    """Random JSON under a random key, several times: built or refused."""
    _, file, make_it = sample
    json = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(BAD),
        lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
    for _ in range(data.draw(st.integers(1, 3))):
        paths = list(key_paths(file.metadata if file.format == "gguf" else file.config))
        file = with_value(file, data.draw(st.sampled_from(paths)), data.draw(json))
    try:
        make_it(file)
    except FileError as error:
        assert len(str(error)) < 2000


# What is well formed but cannot be run: family, format, change, words of the message.
REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("gemma4e", "gguf", {"gemma4.attention.shared_kv_layers": 5}, "global layer before those that share"),
    ("gemma4e", "gguf", {"gemma4.attention.shared_kv_layers": 7}, "sliding layer before those that share"),
    ("gemma4e", "gguf", {"gemma4.attention.head_count_kv": [2, 2, 2, 2, 2, 1, 2]}, "of one shape; layer 5 has 1"),
    ("gemma4e", "gguf", {"gemma4.feed_forward_length": 96}, "blk.3.ffn_gate.weight"),
    ("gemma4", "gguf", {"gemma4.expert_count": 8}, "gemma4.expert_used_count is missing"),
    ("gemma4", "gguf", {"gemma4.embedding_length_per_layer_input": 16}, "per_layer_token_embd.weight is missing"),
    ("gemma4e", "gguf", {"gemma4.embedding_length_per_layer_input": 0}, "per_layer_token_embd.weight"),
    ("gemma4e", "gguf", {"gemma4.embedding_length_per_layer_input": 31}, "per_layer_token_embd.weight has shape (160, 224); expected (160, 217)"),
    ("gemma4", "gguf", {"gemma4.rope.scaling.type": "yarn"}, "yarn"),
    ("gemma4", "gguf", {"gemma4.rope.dimension_count": 8}, "rope.dimension_count"),
    ("gemma4", "gguf", {"gemma4.attention.value_length": 16}, "value_length"),
    ("gemma4", "safetensors", {"enable_moe_block": True}, "num_experts is missing"),
    ("gemma4", "safetensors", {"hidden_size_per_layer_input": 16}, "vocab_size_per_layer_input is 0"),
    ("gemma4e", "safetensors", {"hidden_size_per_layer_input": 0}, "embed_tokens_per_layer.weight"),
    ("gemma4e", "safetensors", {"hidden_size_per_layer_input": None}, "expected (160, 1792)"),
    ("gemma4e", "safetensors", {"vocab_size_per_layer_input": 100}, "160, as vocab_size"),
    ("gemma4e", "safetensors", {"num_kv_shared_layers": 5}, "global layer before those that share"),
    ("gemma4e", "safetensors", {"use_double_wide_mlp": False}, "layers.3.mlp.gate_proj.weight"),
    ("gemma4", "safetensors", {"use_bidirectional_attention": "all"}, "both directions"),
    ("gemma4", "safetensors", {"hidden_activation": "gelu"}, "'gelu'"),
    ("gemma4", "safetensors", {"attention_bias": True}, "biases"),
    ("gemma4", "safetensors", {"per_layer_config": {"2": {"sliding_window": 8}}}, "sliding_window"),
    ("gemma4", "safetensors", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "yarn"),
    ("gemma3", "safetensors", {"use_bidirectional_attention": True}, "both directions"),
    ("gemma3", "safetensors", {"attn_logit_softcapping": 50.0}, "soft cap in attention"),
    ("gemma3", "safetensors", {"hidden_activation": "silu"}, "'silu'"),
    ("gemma3", "gguf", {"gemma3.rope.scaling.type": "yarn"}, "yarn"),
    ("qwen3", "safetensors", {"use_sliding_window": True}, "sliding windows"),
    ("qwen3", "safetensors", {"attention_bias": True}, "biases"),
    ("qwen3", "safetensors", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}}, "yarn"),
    ("qwen3", "gguf", {"qwen3.rope.dimension_count": 8}, "rope.dimension_count"),
    ("qwen35", "safetensors", {"attn_output_gate": False}, "output gate"),
    ("qwen35", "safetensors", {"output_gate_type": "sigmoid"}, "'sigmoid'"),
    ("qwen35", "safetensors", {"linear_value_head_dim": 32}, "value heads of 32"),
    ("qwen35", "safetensors", {"mtp_num_hidden_layers": 2}, "2 layers"),
    ("qwen35", "safetensors", {"mtp_use_dedicated_embeddings": True}, "mtp.embed_tokens.weight"),
    ("qwen35", "safetensors", {"num_experts": 8}, "num_experts_per_tok is missing"),
    ("qwen35", "gguf", {"qwen35.ssm.inner_size": 128}, "ssm.inner_size"),
    ("qwen35", "gguf", {"qwen35.ssm.time_step_rank": 3}, "ssm.time_step_rank"),
]


@pytest.mark.parametrize(("family", "kind", "change", "words"), REFUSED, ids=[f"{f}-{k}-{'-'.join(c)}" for f, k, c, _ in REFUSED])
def test_refused_by_name(family: str, kind: str, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    file = written(make.FAMILIES[family](63), tmp_path, kind)
    for key, value in change.items():
        nested = kind == "safetensors" and "text_config" in file.config
        file = with_value(file, ("text_config", key) if nested else (key,), value)
    message = refused(lambda: build_all(file))
    assert words in message
    assert next(iter(change)).split(".")[-1] in message or "tensor" in message or "expert" in message


@pytest.mark.parametrize(
    "architecture",
    [
        "qwen4exp",
        "gemma3n",
        "diffusion_gemma",
        "gemma4_mtp",
        "llama",
        "x" * 64,
        "gemma4-assistant",
        "gemma4_assistant",
        "",
    ],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_architectures(architecture: str, kind: str, tmp_path: Path) -> None:
    file = written(make.gemma4(64), tmp_path, kind)
    config = {**file.config, "architectures": ["SomethingElse"]} if file.config else {}
    message = refused(lambda: build(dataclasses.replace(file, architecture=architecture, config=config)))
    assert architecture[:50] in message and ("gemma4" in message or "drafter" in message)


def test_refused_architecture_is_not_rescued_by_its_class(tmp_path: Path) -> None:
    file = written(make.gemma4(64), tmp_path, "safetensors")
    assert "gemma3n" in refused(lambda: build(dataclasses.replace(file, architecture="gemma3n")))


@pytest.mark.parametrize("cls", ["DFlashDraftModel", "Qwen3ForSequenceClassification", "Gemma4EmbeddingModel"])
def test_classes_that_are_no_language_models(cls: str, tmp_path: Path) -> None:
    """They carry a known model_type."""
    file = written(make.qwen3(64), tmp_path, "safetensors")
    assert cls in refused(lambda: build(dataclasses.replace(file, config={**file.config, "architectures": [cls]})))


@pytest.mark.parametrize("kind", FORMATS)
def test_pairing(kind: str, tmp_path: Path) -> None:
    """An assistant fits one target: its width, vocabulary, heads and window."""
    target_file = written(make.gemma4(65), tmp_path, kind)
    target, file = build(target_file), written(make.gemma4_assistant(66), tmp_path, kind)

    def pair(drafter: ModelFile, network: Network = target) -> str:
        return refused(lambda: build_drafter(network, target_file, drafter, Weight, Interpreter))

    assert "hidden size" in (message := pair(written(make.gemma4_assistant(67, backbone=96), tmp_path, kind))) and "96" in message
    assert "vocabulary" in pair(file, dataclasses.replace(target, vocab_size=161))
    for key, gguf_key, value, words in (
        ("sliding_window", "attention.sliding_window", 17, "window in sliding layers 17"),
        ("head_dim", "attention.key_length_swa", 32, "head size in sliding layers 32"),
        ("global_head_dim", "attention.key_length", 64, "head size in global layers 64"),
        ("num_key_value_heads", "attention.head_count_kv", 4, "key/value heads in sliding layers 4"),
    ):
        changed = with_value(file, (f"gemma4-assistant.{gguf_key}",) if kind == "gguf" else ("text_config", key), value)
        if kind == "gguf" and "key_length" in gguf_key:
            for other in (gguf_key.replace("key", "value"), gguf_key.replace("attention.key_length", "rope.dimension_count")):
                changed = with_value(changed, (f"gemma4-assistant.{other}",), value)
        assert words in pair(changed)
    qwen = written(make.qwen35(68), tmp_path, kind)
    assert "Gemma 4" in pair(file, build(qwen))
    assert "MTP head" in pair(qwen)
    assert "no drafter" in pair(written(make.qwen3(69), tmp_path, kind))
    no_global = dataclasses.replace(target, spec={**target.spec, "states": [s for s in target.spec["states"] if s["window"]]})
    assert "global layers" in pair(file, no_global)


def test_ordered_head(tmp_path: Path) -> None:
    """What a head of ordered embeddings needs: clusters of one size, and each token in one of them."""
    target_file = written(make.gemma4e(73), tmp_path, "safetensors")
    target, file = build(target_file), written(make.gemma4_assistant(74, keys_are_values=False, ordered=True), tmp_path, "safetensors")

    def pair(drafter: ModelFile) -> str:
        return refused(lambda: build_drafter(target, target_file, drafter, Weight, Interpreter))

    assert "num_centroids" in (message := pair(with_value(file, ("num_centroids",), 7))) and "160" in message
    assert "num_centroids is missing" in pair(with_value(file, ("num_centroids",), None))
    assert "centroid_intermediate_top_k is 17, but key num_centroids counts 16" in pair(with_value(file, ("centroid_intermediate_top_k",), 17))
    assert "masked_embedding.centroids.weight" in pair(with_value(file, ("num_centroids",), 32))
    order = file.tensors["masked_embedding.token_ordering"]
    for place, wrong in ((3, -1), (5, 160), (9, int(order.data.view(np.int64)[8]))):
        data = order.data.view(np.int64).copy()
        data[place] = wrong
        assert "token_ordering does not hold each token" in pair(with_tensor(file, order.name, data=data.view(np.uint8)))
    assert "per_layer_input" in pair(with_value(file, ("text_config", "hidden_size_per_layer_input"), 8))


def test_some_values_missing(tmp_path: Path) -> None:
    """A value projection that only some global layers have is missing in the others."""
    file = written(make.gemma4(75, keys_are_values=False), tmp_path, "gguf")
    assert "blk.6.attn_v.weight" in refused(lambda: build(with_tensor(file, "blk.6.attn_v.weight")))


def test_mtp_head_of_another_model(tmp_path: Path) -> None:
    file = written(make.qwen35(70), tmp_path, "gguf")
    target = build(file)
    for other in (dataclasses.replace(target, hidden_size=128), dataclasses.replace(target, vocab_size=99)):
        assert "hidden size 64" in refused(lambda: build_drafter(other, file, file, Weight, Interpreter))


def test_companion_as_a_model(tmp_path: Path) -> None:
    file = written(make.qwen35(71), tmp_path, "gguf")
    alone = dataclasses.replace(file, tensors={n: t for n, t in file.tensors.items() if n.startswith("blk.5.") or not n.startswith("blk.")})
    assert "MTP head alone" in refused(lambda: build(alone))


def test_the_runtime_names_the_file(tmp_path: Path) -> None:
    """What only the runtime can know is wrong still comes with the file's name."""
    from skipstone import ArgumentError

    file = written(make.qwen3(72), tmp_path, "gguf")
    for error in (ArgumentError, ModelError):

        def fails(*_: Any, error: type[Exception] = error) -> Any:
            raise error("it does not fit")

        for make_with in (dict(make_weight=fails), dict(make_weight=Weight, program=fails)):
            message = refused(lambda: build_network(file, **make_with))
            assert file.name in message and "it does not fit" in message
