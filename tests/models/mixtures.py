"""Tiny mixtures of experts, made of the dense models of make.py: as safetensors with packed or per-expert tensors, and as the public converter writes them to GGUF."""

from __future__ import annotations

import make
import numpy as np

E, USED, F, SHARED = 5, 2, 32, 64


def add_experts(made: make.Tiny, hf: str, to: str, H: int, per_expert: bool, block: str = "mlp.experts.") -> None:
    """Experts whose outputs count as much as the dense block's. Packed tensors are drawn a part at a time, so that both forms have the same values."""
    parts = {"gate": (F, H), "up": (F, H), "down": (H, F)}
    drawn = {
        name: [make.values(f"{hf}{block}{e}.{name}", made.seed, shape, 0.0, 1.5 * shape[1] ** -0.5) for e in range(E)] for name, shape in parts.items()
    }
    if per_expert:
        for name, matrices in drawn.items():
            for e, matrix in enumerate(matrices):
                made.tensors[f"{hf}{block}{e}.{name}_proj.weight"] = matrix
                made.names[f"{hf}{block}{e}.{name}_proj.weight"] = f"{to}ffn_{name}_exps.weight#{e}"
        return
    made.tensors[hf + block + "gate_up_proj"] = np.concatenate([np.stack(drawn["gate"]), np.stack(drawn["up"])], axis=1)
    made.tensors[hf + block + "down_proj"] = np.stack(drawn["down"])
    made.names[hf + block + "gate_up_proj"] = to + "ffn_gate_up_exps.weight"
    made.names[hf + block + "down_proj"] = to + "ffn_down_exps.weight"


def qwen_block(made: make.Tiny, hf: str, to: str, per_expert: bool, shared: bool) -> None:
    """In place of a layer's dense block."""
    H = made.text["hidden_size"]
    for part in ("gate", "up", "down"):
        del made.tensors[hf + f"mlp.{part}_proj.weight"]
    made.matrix(hf + "mlp.gate.weight", to + "ffn_gate_inp.weight", E, H, 3.0)
    add_experts(made, hf, to, H, per_expert)
    if shared:
        made.matrix(hf + "mlp.shared_expert_gate.weight", to + "ffn_gate_inp_shexp.weight", 1, H, 2.0)
        made.matrix(hf + "mlp.shared_expert.gate_proj.weight", to + "ffn_gate_shexp.weight", SHARED, H)
        made.matrix(hf + "mlp.shared_expert.up_proj.weight", to + "ffn_up_shexp.weight", SHARED, H)
        made.matrix(hf + "mlp.shared_expert.down_proj.weight", to + "ffn_down_shexp.weight", H, SHARED)


def count_experts(made: make.Tiny, shared: bool) -> None:
    made.text.update(num_experts=E, num_experts_per_tok=USED, moe_intermediate_size=F)
    made.keys.update(expert_count=E, expert_used_count=USED, expert_feed_forward_length=F)
    if shared:
        made.text["shared_expert_intermediate_size"] = SHARED
        made.keys["expert_shared_feed_forward_length"] = SHARED


def qwen3moe(seed: int = 0, normalize: bool = True, dense: tuple[int, ...] = (), per_expert: bool = True) -> make.Tiny:
    """dense: layers without experts, which GGUF has not."""
    made = make.qwen3(seed)
    made.architecture = "qwen3moe"
    made.config.update(architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", norm_topk_prob=normalize, mlp_only_layers=list(dense))
    made.config["decoder_sparse_step"] = 1
    count_experts(made, shared=False)
    for i in range(made.config["num_hidden_layers"]):
        if i not in dense:
            qwen_block(made, f"model.layers.{i}.", f"blk.{i}.", per_expert, shared=False)
    return made


def qwen35moe(seed: int = 0, key_heads: int = 2, value_heads: int = 4, per_expert_mtp: bool = True) -> make.Tiny:
    made = make.qwen35(seed, key_heads, value_heads, tied=False)
    made.architecture = "qwen35moe"
    made.config.update(architectures=["Qwen3_5MoeForConditionalGeneration"], model_type="qwen3_5_moe")
    made.text["model_type"] = "qwen3_5_moe_text"
    del made.text["intermediate_size"], made.keys["feed_forward_length"]
    count_experts(made, shared=True)
    layers = made.text["num_hidden_layers"]
    for i in range(layers):
        qwen_block(made, f"model.language_model.layers.{i}.", f"blk.{i}.", per_expert=False, shared=True)
    qwen_block(made, "mtp.layers.0.", f"blk.{layers}.", per_expert_mtp, shared=True)
    return made


def qwen3next(seed: int = 0, key_heads: int = 2, value_heads: int = 4, normalize: bool = True, joined: bool = False) -> make.Tiny:
    """joined: the GGUF file has q, k, v and z in one matrix too, as old ones do."""
    made = make.qwen35(seed, key_heads, value_heads, tied=False)
    text = made.text
    H, d = text["hidden_size"], text["linear_key_head_dim"]
    layers, V = text["num_hidden_layers"], value_heads * d
    made.architecture, made.deal, made.joined = "qwen3next", None, joined
    made.config = {**text, "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "norm_topk_prob": normalize, "decoder_sparse_step": 1}
    made.config["rope_parameters"] = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.25}
    del made.config["intermediate_size"], made.keys["feed_forward_length"], made.config["mtp_num_hidden_layers"], made.keys["rope.dimension_sections"]
    for names in (made.tensors, made.names):
        for name in [n for n in names if n.startswith("model.language_model.")]:
            names[name.replace("model.language_model.", "model.")] = names.pop(name)
    count_experts(made, shared=True)
    for i, kind in enumerate(text["layer_types"]):
        hf, to = f"model.layers.{i}.", f"blk.{i}."
        if kind == "linear_attention":
            for part in ("qkv", "z", "a", "b"):
                del made.tensors[hf + f"linear_attn.in_proj_{part}.weight"]
            made.matrix(hf + "linear_attn.in_proj_qkvz.weight", to + "ssm_in.weight", 2 * key_heads * d + 2 * V, H)
            made.matrix(hf + "linear_attn.in_proj_ba.weight", to + "ssm_ba.weight", 2 * value_heads, H)
        qwen_block(made, hf, to, per_expert=i % 2 == 0, shared=True)
    qwen_block(made, "mtp.layers.0.", f"blk.{layers}.", per_expert=True, shared=True)
    return made


def gemma4moe(seed: int = 0, keys_are_values: bool = True) -> make.Tiny:
    made = make.gemma4(seed, keys_are_values)
    H = made.text["hidden_size"]
    made.text.update(enable_moe_block=True, num_experts=E, top_k_experts=USED, moe_intermediate_size=F)
    made.keys.update(expert_count=E, expert_used_count=USED, expert_feed_forward_length=F)
    made.fused = True
    for i in range(made.text["num_hidden_layers"]):
        hf, to = f"model.language_model.layers.{i}.", f"blk.{i}."
        made.norm(hf + "post_feedforward_layernorm_1.weight", to + "post_ffw_norm_1.weight", H)
        made.norm(hf + "pre_feedforward_layernorm_2.weight", to + "pre_ffw_norm_2.weight", H)
        made.norm(hf + "post_feedforward_layernorm_2.weight", to + "post_ffw_norm_2.weight", H)
        made.matrix(hf + "router.proj.weight", to + "ffn_gate_inp.weight", E, H, 20.0)
        made.vector(hf + "router.scale", to + "ffn_gate_inp.scale", (H,), 1.0, 0.4)
        made.vector(hf + "router.per_expert_scale", to + "ffn_down_exps.scale", (E,), 1.0, 0.4)
        add_experts(made, hf, to, H, per_expert=False, block="experts.")
    return made


MIXTURES = {"qwen3moe": qwen3moe, "qwen35moe": qwen35moe, "qwen3next": qwen3next, "gemma4moe": gemma4moe}
