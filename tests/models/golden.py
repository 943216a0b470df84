"""Writes tests/data/models.npz: what transformers computes for the tiny models of make.py, in float32 on the CPU.

    pip install torch==2.13.0 transformers==5.23.0 gguf && python tests/models/golden.py

Per case NAME: NAME.prompt (rows,), NAME.logits (8, vocabulary) and NAME.hidden (4, width) of its last rows; with a drafter NAME.first, the token
chosen after the prompt, and NAME.drafts (4, vocabulary), the logits of its greedy chain, -infinity where a token is no candidate.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import make
import mixtures
import numpy as np

ROWS, DRAFTS = 60, 4

# name -> (target, drafter)
CASES: dict[str, tuple[make.Tiny, make.Tiny | None]] = {
    "qwen3": (make.qwen3(1), None),
    "qwen3_tied": (make.qwen3(2, tied=True), None),
    "qwen35_1": (make.qwen35(3, key_heads=2, value_heads=2), None),
    "qwen35_2": (make.qwen35(4, key_heads=2, value_heads=4), None),
    "qwen35_3": (make.qwen35(5, key_heads=2, value_heads=6, tied=False), None),
    "qwen35_4": (make.qwen35(6, key_heads=1, value_heads=4), None),
    "gemma3": (make.gemma3(7), None),
    "gemma3_plain": (make.gemma3(13, query_scale=None), None),
    "gemma4": (make.gemma4(8), make.gemma4_assistant(9)),
    "gemma4_values": (make.gemma4(10, keys_are_values=False), make.gemma4_assistant(11, keys_are_values=False)),
    "gemma4_unified": (make.gemma4(12, unified=True), None),
    "gemma4e": (make.gemma4e(14), make.gemma4_assistant(15, keys_are_values=False, ordered=True)),
    "gemma4e_untied": (make.gemma4e(16, tied=False), make.gemma4_assistant(17, keys_are_values=False)),
    "qwen3moe": (mixtures.qwen3moe(14), None),
    "qwen3moe_plain": (mixtures.qwen3moe(15, normalize=False, dense=(1,), per_expert=False), None),
    "qwen35moe": (mixtures.qwen35moe(16), None),
    "qwen35moe_packed": (mixtures.qwen35moe(17, value_heads=6, per_expert_mtp=False), None),
    "qwen3next": (mixtures.qwen3next(18), None),
    "qwen3next_joined": (mixtures.qwen3next(19, value_heads=6, normalize=False, joined=True), None),
    "gemma4moe": (mixtures.gemma4moe(20), make.gemma4_assistant(21)),
    "gemma4moe_values": (mixtures.gemma4moe(26, keys_are_values=False), make.gemma4_assistant(23, keys_are_values=False)),
}
NO_GGUF = {"gemma3", "qwen3moe_plain", "qwen3next_joined"}  # an unusual query scale; dense layers and shares that do not add up to 1


def main() -> None:
    import torch
    import transformers
    from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5DecoderLayer, Qwen3_5RMSNorm
    from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeDecoderLayer
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextDecoderLayer

    def sharing(config: Any) -> list[str | None]:
        """As published, no layer of a target without shared layers stores, and a config in which all share is an error."""
        if 0 < config.num_kv_shared_layers < config.num_hidden_layers:
            return published.fget(config)
        last = {t: i for i, t in enumerate(config.layer_types)}
        return ["reuse" if config.num_kv_shared_layers else "store" if last[t] == i else None for i, t in enumerate(config.layer_types)]

    published = Gemma4TextConfig.kv_sharing_modes
    Gemma4TextConfig.kv_sharing_modes = property(sharing)

    def packed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Per-expert matrices in the form that transformers has in memory."""
        made = {n: a for n, a in tensors.items() if ".experts." not in n or "_proj.weight" not in n}
        for name in [n for n in tensors if n.endswith(".experts.0.gate_proj.weight")]:
            stem = name.removesuffix("0.gate_proj.weight")
            gate, up, down = (
                np.stack([tensors[f"{stem}{e}.{part}_proj.weight"] for e in range(mixtures.E)]) for part in ("gate", "up", "down")
            )
            made[stem + "gate_up_proj"], made[stem + "down_proj"] = np.concatenate([gate, up], axis=1), down
        return made

    def load(tiny: make.Tiny, cls: str, config_cls: str) -> Any:
        config = getattr(transformers, config_cls)(**{k: v for k, v in tiny.text.items() if k != "model_type"})
        config._attn_implementation = "eager"
        model = getattr(transformers, cls)(config).float().eval()
        state = {
            n.replace("model.language_model.", "model.").replace("language_model.model.", "model."): torch.from_numpy(a.copy())
            for n, a in packed(tiny.tensors).items()
            if not n.startswith("mtp.")
        }
        if tiny.text["tie_word_embeddings"]:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        missing = model.load_state_dict(state, strict=False)
        assert not missing.missing_keys and not missing.unexpected_keys, missing
        return model

    def mtp(tiny: make.Tiny, target: Any, prompt: list[int], hidden: torch.Tensor, first: int) -> np.ndarray:
        """The head by transformers' own layer; transformers itself ignores mtp.*."""
        config = target.config
        config.layer_types = [*config.layer_types, "full_attention"]
        layer_cls = {"qwen35": Qwen3_5DecoderLayer, "qwen35moe": Qwen3_5MoeDecoderLayer, "qwen3next": Qwen3NextDecoderLayer}[tiny.architecture]
        layer = layer_cls(config, len(config.layer_types) - 1).float().eval()
        t = {n: torch.from_numpy(a.copy()) for n, a in packed(tiny.tensors).items() if n.startswith("mtp.")}
        layer.load_state_dict({n.removeprefix("mtp.layers.0."): a for n, a in t.items() if n.startswith("mtp.layers.")})

        def norm(name: str, x: torch.Tensor) -> torch.Tensor:
            n = Qwen3_5RMSNorm(x.shape[-1], config.rms_norm_eps)
            n.load_state_dict({"weight": t[name]})
            return n(x)

        tokens, rows, logits = [*prompt[1:], first], hidden[0], []
        for _ in range(DRAFTS):
            e = target.model.embed_tokens(torch.tensor([tokens]))
            x = torch.cat([norm("mtp.pre_fc_norm_embedding.weight", e), norm("mtp.pre_fc_norm_hidden.weight", rows[None])], -1) @ t["mtp.fc.weight"].T
            positions = torch.arange(len(tokens))[None]
            mask = torch.full((len(tokens), len(tokens)), float("-inf")).triu(1)[None, None]
            x = layer(x, position_embeddings=target.model.rotary_emb(x, positions), attention_mask=mask, position_ids=positions)
            x = norm("mtp.norm.weight", x[0] if isinstance(x, tuple) else x)
            logits.append(target.lm_head(x[0, -1]))
            tokens, rows = [*tokens, int(logits[-1].argmax())], torch.cat([rows, x[0, -1:]])
        config.layer_types = config.layer_types[:-1]
        return torch.stack(logits).numpy()

    def assistant(tiny: make.Tiny, target: Any, shared: Any, hidden: torch.Tensor, first: int) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                tiny.safetensors(Path(folder)), dtype=torch.float32, attn_implementation="eager"
            ).eval()
        token, g, logits = first, hidden[:, -1:], []
        for _ in range(DRAFTS):
            e = target.model.embed_tokens(torch.tensor([[token]]))  # scaled by the model itself
            out = model(inputs_embeds=torch.cat([e, g], -1), position_ids=torch.tensor([[hidden.shape[1]]]), shared_kv_states=shared)
            logits.append(out.logits[0, -1])
            if tiny.config["use_ordered_embeddings"]:  # the others have one logit, below all candidates
                logits[-1] = torch.where(logits[-1] > logits[-1].min(), logits[-1], -torch.inf)
            token, g = int(logits[-1].argmax()), out.last_hidden_state
        return torch.stack(logits).numpy()

    made: dict[str, np.ndarray] = {}
    torch.manual_seed(0)
    with torch.no_grad():
        for name, (tiny, drafter) in CASES.items():
            family = tiny.architecture
            stem = {
                "qwen3": "Qwen3",
                "qwen3moe": "Qwen3Moe",
                "qwen3next": "Qwen3Next",
                "qwen35": "Qwen3_5",
                "qwen35moe": "Qwen3_5Moe",
                "gemma3": "Gemma3",
                "gemma4": "Gemma4Unified" if "unified" in name else "Gemma4",
            }[family]
            model = load(tiny, stem + "ForCausalLM", stem + ("TextConfig" if "text_config" in tiny.config else "Config"))
            prompt = (np.frombuffer(name.encode() * ROWS, np.uint8)[:ROWS].astype(np.int64) * np.arange(3, 3 + ROWS) % make.VOCABULARY).tolist()
            out = (
                model.model(torch.tensor([prompt]), use_cache=False, return_shared_kv_states=True)
                if family == "gemma4"
                else model.model(torch.tensor([prompt]), use_cache=False)
            )
            hidden = out.last_hidden_state
            logits = model.lm_head(hidden)[0]
            if cap := tiny.text.get("final_logit_softcapping"):
                logits = cap * torch.tanh(logits / cap)
            made[f"{name}.prompt"], made[f"{name}.logits"], made[f"{name}.hidden"] = (
                np.array(prompt, np.int32),
                logits[-8:].numpy(),
                hidden[0, -4:].numpy(),
            )
            first = int(logits[-1].argmax())
            if family in ("qwen35", "qwen35moe", "qwen3next"):
                made[f"{name}.drafts"] = mtp(tiny, model, prompt, hidden, first)
            elif drafter is not None:
                made[f"{name}.drafts"] = assistant(drafter, model, out.shared_kv_states, hidden, first)
            if f"{name}.drafts" in made:
                made[f"{name}.first"] = np.array(first)
            print(name, logits.std().item())
    np.savez_compressed(Path(__file__).parents[1] / "data" / "models.npz", **made)


if __name__ == "__main__":
    main()
