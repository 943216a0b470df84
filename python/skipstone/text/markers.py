"""Tokens that mark structure: what ends a text, what user text must never become, what is shown although it is special."""
from __future__ import annotations

# Ends of a text or of a turn, where the vocabulary has them as control tokens.
ENDS = ("<|im_end|>", "<|endoftext|>", "<turn|>", "<end_of_turn>", "<eos>", "</s>")

# Gemma 4's marks of channels and tool calls. Some files call them special, others user-defined; a reader of tool calls
# needs to see them either way.
SHOWN = frozenset(("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'))

# Those and Qwen's, which some files call special too.
VISIBLE = SHOWN | frozenset(("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"))

# Matched as one token even where a file gives them no special type.
KNOWN = SHOWN | frozenset((
    "<|turn>", "<turn|>", "<|think|>", "<|tool>", "<tool|>", "<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>",
))

_NAMED = KNOWN | frozenset((
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<unk>", "<mask>",
))


def is_marker(text: str) -> bool:
    """Whether an added token marks structure, so that content with the same spelling must not become it.

    The other added tokens (runs of spaces, HTML tags) are ordinary text that has a token of its own.
    """
    return text in _NAMED or text.startswith("<|") or text.endswith("|>")
