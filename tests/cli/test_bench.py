"""skipstone bench. What it measures is not tested, only that it measures."""
from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

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
    assert set(said) == {"load", "model", "architecture", "context", "bytes_per_pass", "prompt_tokens", "prompt_tokens_per_second", "pass_ms",
                         "relative", "read_bytes_per_second", "share_of_read_bandwidth", "share_of_copy_bandwidth", "decode_tokens_per_second", "drafted", "machine"}
    assert model in said["model"] and said["context"] == 16 and said["prompt_tokens"] == 32 and said["bytes_per_pass"] > 1e6
    assert list(said["pass_ms"]) == list(said["relative"]) == [str(k) for k in range(1, 9)]
    assert all(v > 0 for v in said["pass_ms"].values()) and said["relative"]["1"] == 1
    assert set(said["machine"]) == {"skipstone", "python", "numpy", "cpu", "isa", "usable_cores", "threads", "read_bytes_per_second", "load_average"}
    assert said["machine"]["threads"] == 1 and said["machine"]["read_bytes_per_second"] > 0
    assert set(said["load"]) == {"seconds", "weights_seconds", "bytes", "bytes_per_second", "peak_bytes"}
    assert 0 < said["load"]["weights_seconds"] < said["load"]["seconds"] and said["load"]["peak_bytes"] > said["load"]["bytes"] > 1e6
    assert (said["drafted"] is not None) == drafted
    if drafted:
        assert set(said["drafted"]) == {"tokens_per_second", "tokens_per_pass", "acceptance", "simulated", "times_plain", "draft_share"}
        assert said["drafted"]["tokens_per_pass"] >= 1 and said["drafted"]["simulated"] is None and 0 <= said["drafted"]["draft_share"] < 1


def test_for_people() -> None:
    done = skipstone("bench", "tiny-qwen35", *SMALL)
    assert done.code == 0 and done.err == ""
    for word in ("loaded in", "of memory", "rows", "t(k)/t(1)", "prompt of 32", "plain decoding", "drafted", "GB/s"):
        assert word in done.out


@pytest.mark.parametrize("options, word", [
    (("--context", "100000000"), "--context"),
    (("--prompt-tokens", "100000000"), "--prompt-tokens"),
    (("--threads", "0"), "threads"),
    (("--random", "qwen3-8b"), "one model"),
    (("--type", "Q8_0"), "--random"),
    (("--plot", "picture.png"), ".svg"),
    (("--acceptance", "0.5,0.6"), "--acceptance"),
    (("--acceptance", "often"), "--acceptance"),
    (("--acceptance", "0.5", "--no-draft"), "no drafter"),
    (("--plot", "/nowhere/picture.svg"), "folder"),
], ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_wrong_values(options: tuple[str, ...], word: str) -> None:
    assert_one_line_error(skipstone("bench", "tiny-qwen35", *options), word)


@pytest.mark.parametrize("options, word", [(("--random", "qwen9"), "qwen3-8b"), (("--random", "qwen3-8b", "--type", "Q9"), "Q4_K_M"), ((), "one model")])
def test_wrong_random_models(options: tuple[str, ...], word: str) -> None:
    assert_one_line_error(skipstone("bench", *options), word)


def test_simulated_acceptance() -> None:
    """Drafts count as right at the wished rates, whatever the model would say; what came of each pass adds up."""
    done = skipstone("bench", "tiny-qwen35", *SMALL, "--acceptance", "1,1,0", "--json")
    said = done.json["drafted"]
    assert said["simulated"] == [1, 1, 0] and said["acceptance"] == [1, 1, 0] and said["tokens_per_pass"] == pytest.approx(3, abs=0.1)
    middle = skipstone("bench", "tiny-qwen35", *SMALL, "--acceptance", "0.8,0.5", "--json").json["drafted"]
    assert middle["acceptance"] == pytest.approx([0.8, 0.5], abs=0.15) and middle["tokens_per_pass"] == pytest.approx(2.3, abs=0.3)
    assert "drawn from the given rates" in skipstone("bench", "tiny-qwen35", *SMALL, "--acceptance", "0.8").out


def test_plot(tmp_path: Path) -> None:
    picture = tmp_path / "out.svg"
    done = skipstone("bench", "tiny-qwen35", *SMALL, "--plot", str(picture), "--json")
    assert done.code == 0 and done.json["drafted"]
    texts = {element.text for element in ElementTree.parse(picture).iter() if element.tag.endswith("text")}
    assert {"milliseconds a pass", "rows a second (both axes logarithmic)"} <= texts and any("weights read once" in str(t) for t in texts)


def test_a_drafter_is_no_model() -> None:
    assert_one_line_error(skipstone("bench", "tiny-gemma4-assistant"), "drafter")
