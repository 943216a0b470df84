"""Text to tokens and back: tokenizers, incremental decoding, stop strings."""
