"""Loading: which files beside a model are taken for its drafter, and what is refused."""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import skipstone
from skipstone.loading import companions

BUNDLED = Path(skipstone.__file__).parent / "bundled"


@pytest.mark.parametrize(("model", "others", "expected"), [
    ("gemma-4-12b-it-Q8_0.gguf", ["gemma-4-12b-it-assistant-Q4_K_M.gguf", "gemma-4-12b-it-assistant-Q8_0.gguf", "gemma-4-12b-assistant-Q8_0.gguf"],
     ["gemma-4-12b-it-assistant-Q8_0.gguf", "gemma-4-12b-it-assistant-Q4_K_M.gguf"]),
    ("tiny-Q4_K_M.gguf", ["tinymoe-assistant-Q4_K_M.gguf", "tiny-assistant-Q4_K_M.txt", "tiny-Q8_0.gguf", "assistant.gguf"], []),
    ("Qwen3.6-27B-UD-Q4_K_XL.gguf", ["mtp-Qwen3.6-27B-Q8_0.gguf", "mtp-Qwen3.6-35B-Q8_0.gguf"], ["mtp-Qwen3.6-27B-Q8_0.gguf"]),
    ("Qwen3.6-27B-IQ4_XS-00001-of-00002.gguf", ["Qwen3.6-27B-mtp-bf16.gguf", "Qwen3.6-27B-IQ4_XS-00002-of-00002.gguf"], ["Qwen3.6-27B-mtp-bf16.gguf"]),
    ("plain.gguf", ["plain-assistant.gguf", "PLAIN-Assistant-F16.gguf"], ["plain-assistant.gguf", "PLAIN-Assistant-F16.gguf"]),
])
def test_companion_files(tmp_path: Path, model: str, others: list[str], expected: list[str]) -> None:
    for name in [model, *others]:
        (tmp_path / name).touch()
    assert [path.name for path in companions(tmp_path / model)] == expected


def test_companion_folders(tmp_path: Path) -> None:
    for name in ("gemma-4", "gemma-4-assistant", "gemma-4-12b-assistant"):
        (tmp_path / name).mkdir()
    (tmp_path / "gemma-4-assistant.gguf").touch()
    assert [path.name for path in companions(tmp_path / "gemma-4")] == ["gemma-4-assistant"]


def test_a_bundled_model_finds_its_drafter() -> None:
    assert skipstone.load(BUNDLED / "tiny-qwen35-Q4_K_M.gguf").drafter.name == "mtp"
    assert skipstone.load(str(BUNDLED / "tiny-gemma4-Q4_K_M.gguf")).drafter.name == "gemma4_assistant"
    assert skipstone.load(BUNDLED / "tiny-gemma4-Q4_K_M.gguf", draft=False).drafter is None
    named = skipstone.load(BUNDLED / "tiny-gemma4-Q4_K_M.gguf", draft=BUNDLED / "tiny-gemma4-assistant-Q4_K_M.gguf")
    assert named.drafter.name == "gemma4_assistant"


def test_a_companion_that_does_not_fit_is_told_and_left_alone(tmp_path: Path) -> None:
    shutil.copy(BUNDLED / "tiny-gemma4-Q4_K_M.gguf", tmp_path / "one-Q4_K_M.gguf")
    (tmp_path / "one-assistant-Q3_K.gguf").write_bytes(b"GGUF and nothing else")
    with pytest.warns(UserWarning, match="one-assistant-Q3_K.gguf"):
        assert skipstone.load(tmp_path / "one-Q4_K_M.gguf").drafter is None
    with pytest.raises(skipstone.FileError):
        skipstone.load(tmp_path / "one-Q4_K_M.gguf", draft=tmp_path / "one-assistant-Q3_K.gguf")
    shutil.copy(BUNDLED / "tiny-gemma4-assistant-Q4_K_M.gguf", tmp_path / "one-assistant-Q4_0.gguf")
    with pytest.warns(UserWarning, match="one-assistant-Q3_K.gguf"):
        assert skipstone.load(tmp_path / "one-Q4_K_M.gguf").drafter is not None   # the next one fits


@pytest.mark.parametrize(("arguments", "error", "said"), [
    ({"draft": BUNDLED / "tiny-gemma4-assistant-Q4_K_M.gguf"}, skipstone.ModelError, "tiny-gemma4-assistant"),
    ({"draft": BUNDLED / "tiny-gemma4-Q4_K_M.gguf"}, skipstone.ModelError, "tiny-gemma4"),
    ({"draft": "nowhere.gguf"}, skipstone.FileError, "nowhere.gguf"),
    ({"draft": True}, skipstone.ArgumentError, "draft"),
    ({"draft": None}, skipstone.ArgumentError, "draft"),
    ({"device": "cuda:77"}, skipstone.DeviceError, "cpu"),
    ({"device": "tpu"}, skipstone.DeviceError, "cpu"),
    ({"threads": 0}, skipstone.ArgumentError, "threads"),
    ({"threads": 1.5}, skipstone.ArgumentError, "threads"),
    ({"kv_type": "q5_0"}, skipstone.ArgumentError, "f16, bf16, f32, q8_0, q4_0"),
    ({"context": 0}, skipstone.ArgumentError, "context"),
    ({"context": 10**9}, skipstone.ArgumentError, "context"),
])
def test_wrong_arguments_are_named(arguments: dict, error: type, said: str) -> None:
    with pytest.raises(error, match=said) as raised:
        skipstone.load(BUNDLED / "tiny-qwen35-Q4_K_M.gguf", **arguments)
    assert len(str(raised.value)) < 2000


def test_what_a_model_tells_of_itself() -> None:
    m = skipstone.load(BUNDLED / "tiny-qwen35-Q4_K_M.gguf", context=100, threads=1, kv_type="f32")
    assert (m.name, m.architecture, m.device, m.threads, m.kv_type, m.context_length) == ("tiny-qwen35-Q4_K_M", "qwen35", "cpu", 1, "f32", 100)
    assert m.vocab_size == 4096 and m.hidden_width == 256 and "tiny-qwen35" in repr(m)
    assert m.config["qwen35.block_count"] >= 8 and not any(key.startswith("tokenizer.") for key in m.config)
    assert m.tokenizer.decode(m.tokenizer.encode("def f(x):\n    return x")) == "def f(x):\n    return x"


def test_devices_tells_what_runs_here() -> None:
    (cpu,) = skipstone.devices()
    assert cpu.name == "cpu" and cpu.threads >= 1 and cpu.isa in cpu.isas and cpu.description
