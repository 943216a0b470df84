"""skipstone bench. What it measures is not tested, only that it measures."""
from __future__ import annotations

import pytest
from command_line import assert_one_line_error, skipstone

SMALL = ("--rounds", "1", "--context", "16", "--prompt-tokens", "32")


@pytest.mark.parametrize("model, options, drafted", [
    ("tiny-qwen35", (), True),
    ("tiny-qwen35", ("--no-draft",), False),
    ("tiny-gemma4", ("--draft", "tiny-gemma4-assistant"), True),
], ids=["own head", "no drafter", "assistant"])
def test_json(model: str, options: tuple[str, ...], drafted: bool) -> None:
    done = skipstone("bench", model, *SMALL, *options, "--threads", "1", "--json")
    assert done.code == 0 and done.err == ""
    said = done.json
    assert set(said) == {"model", "architecture", "context", "bytes_per_pass", "prompt_tokens", "prompt_tokens_per_second", "pass_ms",
                         "relative", "read_bytes_per_second", "share_of_read_bandwidth", "decode_tokens_per_second", "drafted", "machine"}
    assert model in said["model"] and said["context"] == 16 and said["prompt_tokens"] == 32 and said["bytes_per_pass"] > 1e6
    assert list(said["pass_ms"]) == list(said["relative"]) == [str(k) for k in range(1, 9)]
    assert all(v > 0 for v in said["pass_ms"].values()) and said["relative"]["1"] == 1
    assert set(said["machine"]) == {"skipstone", "python", "numpy", "cpu", "isa", "usable_cores", "threads", "read_bytes_per_second", "load_average"}
    assert said["machine"]["threads"] == 1 and said["machine"]["read_bytes_per_second"] > 0
    assert (said["drafted"] is not None) == drafted
    if drafted:
        assert set(said["drafted"]) == {"tokens_per_second", "tokens_per_pass", "acceptance"} and said["drafted"]["tokens_per_pass"] >= 1


def test_for_people() -> None:
    done = skipstone("bench", "tiny-qwen35", *SMALL)
    assert done.code == 0 and done.err == ""
    for word in ("rows", "t(k)/t(1)", "prompt of 32", "plain decoding", "drafted", "GB/s"):
        assert word in done.out


@pytest.mark.parametrize("options, word", [
    (("--context", "100000000"), "--context"),
    (("--prompt-tokens", "100000000"), "--prompt-tokens"),
    (("--threads", "0"), "threads"),
], ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_wrong_values(options: tuple[str, ...], word: str) -> None:
    assert_one_line_error(skipstone("bench", "tiny-qwen35", *options), word)


def test_a_drafter_is_no_model() -> None:
    assert_one_line_error(skipstone("bench", "tiny-gemma4-assistant"), "drafter")
