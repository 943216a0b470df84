"""What a path can be: files of each kind, folders, and all that is neither."""
from __future__ import annotations

import json
import os
import shutil

import pytest
from file_builder import safetensors, small_gguf, small_header

from skipstone.errors import ArgumentError, FileError
from skipstone.files import open_model


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(safetensors(small_header(), bytes(40)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "small", "hidden_size": 8}))
    return tmp_path


def test_folder_with_safetensors(folder):
    model = open_model(folder)
    assert (model.format, model.architecture, model.path, model.metadata) == ("safetensors", "small", folder, {})
    assert model.config == {"model_type": "small", "hidden_size": 8} and model.generation_config == {}
    assert {n: (t.type, t.shape, t.data.size, t.source) for n, t in model.tensors.items()} == {
        "a.weight": ("F32", (2, 3), 24, "model.safetensors"), "b.weight": ("BF16", (8,), 16, "model.safetensors"),
            "empty": ("I64", (0, 4), 0, "model.safetensors")}
    assert not model.tensors["a.weight"].data.flags.writeable


def test_the_file_in_the_folder(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    model = open_model(str(folder / "model.safetensors"))
    assert len(model.tensors) == 3 and model.generation_config == {"eos_token_id": [1, 2]} and model.path == folder / "model.safetensors"


def test_folder_with_one_gguf(tmp_path):
    (tmp_path / "only.gguf").write_bytes(small_gguf().build())
    assert open_model(tmp_path).path == tmp_path / "only.gguf"
    (tmp_path / "second.gguf").write_bytes(small_gguf().build())
    with pytest.raises(FileError, match=r"has 2 models \(only.gguf, second.gguf\); expected one"):
        open_model(tmp_path)


def test_gguf_under_another_name(tmp_path):
    (tmp_path / "sha256-123").write_bytes(small_gguf().build())
    assert open_model(tmp_path / "sha256-123").architecture == "small"


@pytest.mark.parametrize("make", [
    lambda p: p / "absent.gguf",
    lambda p: p / "absent" / "absent.gguf",
    lambda p: p / "a\0b",
    lambda p: p / ("x" * 5000),
    lambda p: p / "\udcff.gguf",
])
def test_paths_that_lead_nowhere(tmp_path, make):
    with pytest.raises(FileError, match="; (expected|check|the folder)") as caught:
        open_model(make(tmp_path))
    assert len(str(caught.value)) < 2000


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileError, match="the folder .*nowhere does not exist either"):
        open_model(tmp_path / "nowhere" / "model.gguf")


def test_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(FileError, match="pipe.gguf: this is no regular file"):
        open_model(tmp_path / "pipe.gguf")


def test_device(tmp_path):
    with pytest.raises(FileError, match="no regular file"):
        open_model("/dev/zero")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_permission(folder):
    (folder / "config.json").chmod(0)
    with pytest.raises(FileError, match="config.json: the file cannot be read"):
        open_model(folder)


def test_loop_of_links(tmp_path):
    (tmp_path / "a.gguf").symlink_to(tmp_path / "b.gguf")
    (tmp_path / "b.gguf").symlink_to(tmp_path / "a.gguf")
    with pytest.raises(FileError):
        open_model(tmp_path / "a.gguf")


@pytest.mark.parametrize("data", [b"", b"GG", b"GGUF", b"PK\3\4 a zip", bytes(100)])
@pytest.mark.parametrize("name", ["x.gguf", "x.safetensors", "x.bin"])
def test_other_files(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FileError, match=name):
        open_model(tmp_path / name)


def test_empty_folder(tmp_path):
    with pytest.raises(FileError, match="the folder has no model; expected a .gguf file, or config.json with model.safetensors"):
        open_model(tmp_path)


@pytest.mark.parametrize("path", [None, 3, b"bytes", 1.5, ["a"]])
def test_no_path(path):
    with pytest.raises(ArgumentError, match="path: found"):
        open_model(path)


def test_no_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(FileError, match="there is no config.json beside the weights"):
        open_model(folder)


JSON_LIES = {
    "empty": (b"", "damaged"),
    "cut": (b'{"model_type": "sm', "damaged"),
    "list": (b"[]", "holds a list; expected an object"),
    "number": (b"3", "holds a number"),
    "null": (b"null", "holds null"),
    "no UTF-8": (b'{"model_type": "\xff"}', "not UTF-8"),
    "nested 100000 deep": (b'{"model_type": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "objects 100000 deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    "a million lists": (b'{"a": [' + b"[]," * 1_000_000 + b"0]}", "over 200000 values"),
    "number of 5000 digits": (b'{"model_type": ' + b"9" * 5000 + b"}", "number of 5000 digits"),
    "too large": (b" " * (4 << 20) + b"{}", "expected at most 4194304"),
    "no architecture": (b"{}", "model_type is missing; expected the architecture's name"),
    "architecture of a wrong type": (b'{"model_type": ["small"]}', r"model_type is \['small'\]; expected the architecture's name"),
    "long architecture": (b'{"model_type": "' + b"x" * 100_000 + b'"}', "model_type is 'xxx"),
}


@pytest.mark.parametrize("name", JSON_LIES)
def test_config_lies(folder, name):
    data, message = JSON_LIES[name]
    (folder / "config.json").write_bytes(data)
    with pytest.raises(FileError, match=f"config.json: .*{message}") as caught:
        open_model(folder)
    assert len(str(caught.value)) < 2000


def test_generation_config_lies(folder):
    (folder / "generation_config.json").write_bytes(b"[1]")
    with pytest.raises(FileError, match="generation_config.json: .*holds a list"):
        open_model(folder)


def test_config_is_a_folder(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(FileError, match="config.json: this is no regular file"):
        open_model(folder)


def test_a_mapping_outlives_the_directory_entry(folder):
    model = open_model(folder)
    shutil.rmtree(folder)
    assert model.tensors["a.weight"].data.tobytes() == bytes(24)
