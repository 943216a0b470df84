"""skipstone info."""
from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from command_line import assert_one_line_error, skipstone

from skipstone import bundled, load

KEYS = {"path", "format", "architecture", "name", "parameters", "weights", "tensors", "bytes", "types", "runs", "reason", "tokenizer",
        "vocabulary", "chat_template", "drafter", "stop_tokens", "answers", "places"}
MODELS = {"tiny-qwen35": ("qwen35", "has its own multi-token prediction head"), "tiny-gemma4": ("gemma4", None),
          "tiny-gemma4-assistant": ("gemma4-assistant", "is a drafter: an assistant for Gemma 4")}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_json(name: str) -> None:
    done = skipstone("info", name, "--json")
    assert done.code == 0 and done.err == ""
    said: dict[str, Any] = done.json
    assert set(said) == KEYS
    assert Path(said["path"]) == bundled.NAMES[name] and said["format"] == "gguf"
    assert (said["architecture"], said["drafter"]) == MODELS[name]
    assert said["runs"] is True
    assert said["parameters"]["hidden size"] > 0 and said["parameters"]["layers"] > 0
    assert sum(t["tensors"] for t in said["types"].values()) == said["tensors"]
    assert sum(t["bytes"] for t in said["types"].values()) == said["bytes"] < os.path.getsize(bundled.NAMES[name])
    assert "Q4_K" in said["types"] and said["weights"] > 1e6


def test_tokenizer_is_told() -> None:
    said = skipstone("info", "tiny-qwen35", "--json").json
    assert said["tokenizer"] and said["vocabulary"] > 256 and len(said["chat_template"] or "0" * 64) == 64


@pytest.mark.parametrize("name", ["tiny-qwen35", "tiny-gemma4"])
def test_ends_and_template(name: str) -> None:
    """As the loaded model has them."""
    said = skipstone("info", name, "--json").json
    tokenizer = load(bundled.NAMES[name], draft=False).tokenizer
    assert tokenizer is not None and tokenizer.chat_template is not None
    assert said["stop_tokens"] == {str(i): tokenizer.token_text(i) for i in sorted(tokenizer.eos_ids)} and said["vocabulary"] == tokenizer.vocab_size
    assert said["chat_template"] == hashlib.sha256(tokenizer.chat_template.encode()).hexdigest() and said["answers"] == {"tiny-qwen35": "qwen", "tiny-gemma4": "gemma4"}[name]
    assert said["places"][0]["device"] == "cpu" and said["places"][0]["fits"] is True
    for text in said["stop_tokens"].values():
        assert text in skipstone("info", name).out


@pytest.mark.parametrize("name", sorted(MODELS))
def test_tensors(name: str) -> None:
    said = skipstone("info", name, "--tensors", "--json").json
    assert set(said) == KEYS | {"tensor_list"} and len(said["tensor_list"]) == said["tensors"]
    assert sum(t["bytes"] for t in said["tensor_list"]) == said["bytes"]
    lines = skipstone("info", name, "--tensors").out.splitlines()
    for tensor in said["tensor_list"]:
        assert f"{tensor['name']}  {tensor['type']}  {tuple(tensor['shape'])}" in lines


@pytest.mark.parametrize("name", sorted(MODELS))
def test_for_people(name: str) -> None:
    done = skipstone("info", str(bundled.NAMES[name]))
    assert done.code == 0 and done.err == ""
    assert done.out.startswith(bundled.NAMES[name].name)
    for word in ("architecture " + MODELS[name][0], "M weights in", "Q4_K", "tokenizer: ", "drafting: ", "runs on this version"):
        assert word in done.out


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes only on POSIX")
def test_names_of_any_bytes(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/a [red]\xff.gguf"
    os.symlink(bundled.QWEN35, path)
    for form in ((), ("--json",)):
        done = skipstone("info", os.fsdecode(path), *form)
        assert done.code == 0 and "a [red]?.gguf" in done.out and done.err == ""


def test_garbage(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(4096)
    for content in (b"", b"GGUF", noise, b"GGUF\x03\0\0\0" + noise, bundled.QWEN35.read_bytes()[:100_000]):
        path = tmp_path / "garbage.gguf"
        path.write_bytes(content)
        assert_one_line_error(skipstone("info", str(path)), "garbage.gguf")
        assert_one_line_error(skipstone("info", str(path), "--json"), "garbage.gguf")


def test_nothing_there(tmp_path: Path) -> None:
    assert_one_line_error(skipstone("info", str(tmp_path / "nothing.gguf")), "nothing.gguf")
    assert_one_line_error(skipstone("info", str(tmp_path)), "no model")


def test_a_model_that_cannot_run(tmp_path: Path) -> None:
    """Its headers are told all the same, with the reason."""
    content = bundled.QWEN35.read_bytes()
    old, new = b"general.architecture\x08\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00qwen35", b"qwen99"
    assert content.count(old) == 1
    path = tmp_path / "strange.gguf"
    path.write_bytes(content.replace(old, old[:-6] + new))
    said = skipstone("info", str(path), "--json").json
    assert said["runs"] is False and "qwen99" in said["reason"]
    assert "does not run on this version: " in skipstone("info", str(path)).out


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "strange.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("a\x1b]0;title\x07\x1b[2J[red]b")
    writer.add_tensor("t\x1b[31m", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    done = skipstone("info", str(path), "--tensors")
    assert done.code == 0 and not set("\x1b\x07") & set(done.out + done.err)
    assert "a\ufffd]0;title\ufffd\ufffd[2J[red]b" in done.out and "t\ufffd[31m  F32" in done.out
    assert skipstone("info", str(path), "--json").json["name"] == "a\x1b]0;title\x07\x1b[2J[red]b"


def test_tokenizer_of_a_folder(tmp_path: Path) -> None:
    """Its size counts ids, so that a token both in the model and added counts once."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "strange"}))
    (tmp_path / "tokenizer.json").write_text(json.dumps({
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "<end>": 2}}, "added_tokens": [{"id": 2, "content": "<end>"}, {"id": 7, "content": "<x>"}]}))
    said = skipstone("info", str(tmp_path), "--json").json
    assert (said["tokenizer"], said["vocabulary"], said["runs"]) == ("tokenizer.json", 4, False)
    assert "tokenizer: tokenizer.json, 4 tokens" in skipstone("info", str(tmp_path)).out
    (tmp_path / "tokenizer.json").write_text("[]")
    assert_one_line_error(skipstone("info", str(tmp_path)), "tokenizer.json")
