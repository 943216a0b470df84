"""Writes tests/data/blocks.npz: what published code computes for the tiny block drafters of make.py, in float32 on the CPU.

    pip install torch==2.13.0 transformers==5.23.0 gguf && pip install --no-deps dflash==0.1.0 && python tests/models/golden_blocks.py

DFlash and DFlash2 are those of the dflash package. No package has Orthrus' model: its block is computed here, by the layers of transformers' Qwen3 with the second
weights in them, as its description has it. Per case NAME: NAME.prompt (rows,), NAME.first, the token chosen after it, NAME.logits (drafts, vocabulary) of the block's
rows that draft, NAME.drafts (drafts,), the greedy choice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import make
import numpy as np

ROWS = 60

# name -> (target, drafter; None: the target's own)
CASES: dict[str, tuple[make.Tiny, make.Tiny | None]] = {
    "dflash": (make.qwen3(31), make.dflash(32)),
    "dflash_both_ways": (make.qwen3(33, tied=True), make.dflash(34, causal=False, softcap=10.0, taps=(1, 1))),
    "dflash_causal": (make.qwen3(35), make.dflash(36, causal=True)),
    "dflash2": (make.qwen3(37), make.dflash(38, second=True, causal=False)),
    "orthrus": (make.qwen3(39, orthrus=True), None),
}


def main() -> None:
    import torch
    import transformers
    from dflash.model import DFlash2DraftModel, DFlashDraftModel, _make_cache, _raw_input_embeddings, extract_context_feature
    from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb, repeat_kv

    def state(tensors: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {n: torch.from_numpy(a.copy()) for n, a in tensors.items()}

    def target(tiny: make.Tiny) -> Any:
        config = transformers.Qwen3Config(**{k: v for k, v in tiny.config.items() if k not in ("model_type", "architectures")})
        config._attn_implementation = "eager"
        model = transformers.Qwen3ForCausalLM(config).float().eval()
        own = {n: a for n, a in state(tiny.tensors).items() if "_diff" not in n}
        if tiny.config["tie_word_embeddings"]:
            own["lm_head.weight"] = own["model.embed_tokens.weight"]
        missing = model.load_state_dict(own, strict=False)
        assert not missing.missing_keys and not missing.unexpected_keys, missing
        return model

    def dflash(tiny: make.Tiny, model: Any, states: Any, first: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        config = transformers.Qwen3Config(**{k: v for k, v in tiny.config.items() if k not in ("model_type", "architectures")})
        config._attn_implementation = "eager"
        second = tiny.config["architectures"][0] == "DFlash2DraftModel"
        drafter = (DFlash2DraftModel if second else DFlashDraftModel)(config).float().eval()
        own = {n + ".weight" if n.endswith("codebook") else n: a for n, a in state(tiny.tensors).items()}
        drafter.load_state_dict(own)
        taps = extract_context_feature(states, drafter.target_layer_ids)
        block = torch.full((1, drafter.block_size), drafter.mask_token_id)
        block[0, 0] = first
        noise = _raw_input_embeddings(model, block, 1.0)
        cache = _make_cache(config)
        # As dflash_generate does it: the text in two calls, the block of the first thrown away.
        cut = rows - 3
        drafter(target_hidden=taps[:, :cut], noise_embedding=noise, position_ids=torch.arange(cut + block.shape[1])[None], past_key_values=cache, use_cache=True)
        cache.crop(-block.shape[1])
        hidden = drafter(target_hidden=taps[:, cut:], noise_embedding=noise, position_ids=torch.arange(cut, rows + block.shape[1])[None], past_key_values=cache, use_cache=True)
        logits = drafter.compute_logits(hidden[:, 1:], model.lm_head)
        if second:
            return logits[0], drafter.propose(hidden[:, 1:], torch.tensor([first]), model.lm_head, 0.0)[0][0]
        return logits[0], logits[0].argmax(-1)

    def orthrus(tiny: make.Tiny, model: Any, cache: Any, first: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Every layer with its second weights; keys are the cache's, then the block's own, and all rows see all of them."""
        size, c, t = tiny.config["block_size"], model.config, state(tiny.tensors)
        block = torch.tensor([[first] + [tiny.config["mask_token_id"]] * (size - 1)])
        x = model.model.embed_tokens(block)
        cos, sin = model.model.rotary_emb(x, torch.arange(rows, rows + size)[None])
        for i, layer in enumerate(model.model.layers):
            n = layer.input_layernorm(x)

            def heads(part: str) -> torch.Tensor:
                y = (n @ t[f"model.layers.{i}.self_attn.{part}_proj_diff.weight"].T).view(1, size, -1, c.head_dim)
                if part != "v":
                    y = y / torch.sqrt(y.pow(2).mean(-1, keepdim=True) + c.rms_norm_eps) * t[f"model.layers.{i}.self_attn.{part}_norm_diff.weight"]
                return y.transpose(1, 2)

            q, k = apply_rotary_pos_emb(heads("q"), heads("k"), cos, sin)
            k, v = torch.cat([cache.layers[i].keys, k], 2), torch.cat([cache.layers[i].values, heads("v")], 2)
            groups = c.num_attention_heads // c.num_key_value_heads
            o = torch.softmax(q @ repeat_kv(k, groups).transpose(2, 3) * c.head_dim**-0.5, -1) @ repeat_kv(v, groups)
            x = x + o.transpose(1, 2).reshape(1, size, -1) @ t[f"model.layers.{i}.self_attn.o_proj_diff.weight"].T
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        logits = model.lm_head(model.model.norm(x))[0, :-1]
        return logits, logits.argmax(-1)

    made: dict[str, np.ndarray] = {}
    torch.manual_seed(0)
    with torch.no_grad():
        for name, (tiny, drafter) in CASES.items():
            model = target(tiny)
            prompt = (np.frombuffer(name.encode() * ROWS, np.uint8)[:ROWS].astype(np.int64) * np.arange(3, 3 + ROWS) % make.VOCABULARY).tolist()
            out = model(torch.tensor([prompt]), use_cache=True, output_hidden_states=True)
            first = int(out.logits[0, -1].argmax())
            given = (out.hidden_states, dflash) if drafter else (out.past_key_values, orthrus)
            logits, drafts = given[1](drafter or tiny, model, given[0], first, ROWS)
            made[f"{name}.prompt"], made[f"{name}.first"] = np.array(prompt, np.int32), np.array(first)
            made[f"{name}.logits"], made[f"{name}.drafts"] = logits.numpy(), drafts.numpy().astype(np.int32)
            print(name, logits.std().item(), drafts.tolist(), logits.argmax(-1).tolist())
    np.savez_compressed(Path(__file__).parents[1] / "data" / "blocks.npz", **made)


if __name__ == "__main__":
    main()
