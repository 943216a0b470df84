// What a variant's table holds after its name, in the order of struct Kernels.
rms_norm, rope, silu_gate, gelu_gate, sigmoid_gate, add_rows, scale_row, softcap, largest, quantize, store_kv, takes_tiles ? fewest_tile_rows : 0, lay_out_row, matmul, attention_chunk, attention_join,
causal_conv, l2_norm, delta_rule, gated_norm, choose_experts, weighted_sum,
