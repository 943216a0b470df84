"""Names on the hub: which files they mean, and downloads from a hub on this machine."""
from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub

from skipstone import ArgumentError, FileError, bundled, load
from skipstone.files import hub
from skipstone.files.hub import HubName, choices, choose, hub_name

needs_library = pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="needs huggingface_hub, the extra hub")


@pytest.mark.parametrize("text, name", [
    ("org/repo", HubName("org/repo", None)), ("org/My-Model.v1_x:Q4_K_M", HubName("org/My-Model.v1_x", "Q4_K_M")), ("org/repo:UD-Q4_K_XL", HubName("org/repo", "UD-Q4_K_XL")),
    ("repo", None), ("a/b/c", None), ("org/file.gguf", None), ("org/model.safetensors", None), ("/org/repo", None), ("./repo", None), ("../repo", None), ("~/repo", None),
    ("org/repo:", None), ("org/re po", None), ("", None), ("org/repo\n", None), ("örg/repo", None),
])
def test_names(text: str, name: HubName | None) -> None:
    assert hub_name(text) == name and hub_name(Path(text)) is None


def test_paths_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert hub_name("models/anything") is None and hub_name("other/anything") is not None
    (tmp_path / "org").mkdir()
    assert hub_name("org/repo:Q8_0") is None


FILES = ["README.md", "mmproj-F16.gguf", "imatrix.gguf", "m-Q8_0.gguf", "m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf", "BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf",
         "m-assistant-Q8_0.gguf", "mtp-m-Q4_K_M.gguf"]


@pytest.mark.parametrize("quantization, first", [(None, "m-Q4_K_M.gguf"), ("Q8_0", "m-Q8_0.gguf"), ("q8_0", "m-Q8_0.gguf"), ("Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
                                                 ("UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"), ("BF16", "BF16/m-BF16-00001-of-00002.gguf")])
def test_choice(quantization: str | None, first: str) -> None:
    assert choose(FILES, HubName("o/r", quantization)).files[0] == first


def test_choices() -> None:
    made = {choice.quantization: choice for choice in choices(FILES)}
    assert set(made) == {"Q8_0", "UD-Q4_K_XL", "Q4_K_M", "BF16"} and len(made["BF16"].files) == 2
    assert made["Q8_0"].drafters == ("m-assistant-Q8_0.gguf",) and made["Q4_K_M"].drafters == ("mtp-m-Q4_K_M.gguf",)
    assert choose(["a-assistant-Q8_0.gguf"], HubName("o/r", None)).files == ("a-assistant-Q8_0.gguf",)
    folder = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "pytorch_model.bin", "x/model.safetensors"]
    assert set(choose(folder, HubName("o/r", None)).files) == set(folder[:5])
    assert choose(["weights.gguf"], HubName("o/r", None)).files == ("weights.gguf",)


@pytest.mark.parametrize("files, quantization, said", [
    (["README.md"], None, "no model"), (["model.safetensors"], None, "no model"), (FILES, "Q3_K_S", "expected one of: BF16, Q4_K_M, Q8_0"),
    (["config.json", "model.safetensors"], "Q8_0", "safetensors only"),
])
def test_no_choice(files: list[str], quantization: str | None, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        choose(files, HubName("o/r", quantization))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    import huggingface_hub
    from huggingface_hub import constants

    content = bundled.QWEN35.read_bytes()
    served = FakeHub({"org/tiny": {"README.md": b"#", "tiny-Q4_K_M.gguf": content, "tiny-Q8_0.gguf": b"GGUF"}, "org/empty": {"README.md": b"#"},
                      "org/large": {"large-F32.gguf": bytes(range(256)) * 100_000},
                      "org/parts": {"a-Q8_0-00001-of-00002.gguf": b"one", "a-Q8_0-00002-of-00002.gguf": b"two"},
                      "org/folder": {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"x", "onnx/model.onnx": b"x"}})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    # The library takes its endpoint from the environment when it is imported.
    monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    download, api = huggingface_hub.hf_hub_download, huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file: download(repo, file, cache_dir=tmp_path / "cache", token=False))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api(endpoint=served.endpoint, token=False))
    yield served
    served.close()


@needs_library
def test_download_and_cache(fake: FakeHub) -> None:
    name = HubName("org/tiny", None)
    assert hub.find(name) is None and fake.requests == []
    path = hub.pull(name)
    assert path.name == "tiny-Q4_K_M.gguf" and path.read_bytes() == bundled.QWEN35.read_bytes()
    fake.close()
    asked = len(fake.requests)
    assert hub.find(name) == hub.find(HubName("org/tiny", "q4_k_m")) == path and hub.find(HubName("org/tiny", "Q8_0")) is None
    model = load("org/tiny:Q4_K_M")
    assert model.architecture == "qwen35" and model.drafter is not None and len(fake.requests) == asked
    assert hub.resolve(str(path)) == str(path)


@needs_library
def test_interrupted_download_goes_on(fake: FakeHub) -> None:
    fake.broken.add("large-F32.gguf")                       # the library keeps blocks of 10 MB
    assert hub.pull(HubName("org/large", None)).read_bytes() == fake.repositories["org/large"]["large-F32.gguf"]
    assert [request for request in fake.requests if request.endswith("bytes=10485760-")], fake.requests


@needs_library
@pytest.mark.parametrize("left", ["the beginning", "another beginning", "all", "too much"])
def test_download_goes_on_in_another_process(fake: FakeHub, tmp_path: Path, left: str) -> None:
    """What an ended process left behind is used; the whole is checked."""
    content = fake.repositories["org/large"]["large-F32.gguf"]
    folder = tmp_path / "cache" / "models--org--large" / "blobs"
    folder.mkdir(parents=True)
    part = folder / f"{hashlib.sha256(content).hexdigest()}.part"
    part.write_bytes({"the beginning": content[:9_000_000], "another beginning": b"x" * 9_000_000, "all": content, "too much": content + b"x"}[left])
    if left == "another beginning":
        with pytest.raises(FileError, match="do not fit together"):
            hub.pull(HubName("org/large", None))
        assert not part.exists()
        fake.requests.clear()
    assert hub.pull(HubName("org/large", None)).read_bytes() == content
    asked = [request.rpartition(" ")[2] for request in fake.requests if request.startswith("GET /org/")]
    assert asked == {"the beginning": ["bytes=9000000-"], "all": []}.get(left, ["/org/large/resolve/main/large-F32.gguf"])
    assert [path.name for path in folder.iterdir()] == [part.stem]


@needs_library
def test_parts_and_folders(fake: FakeHub, tmp_path: Path) -> None:
    first = hub.pull(HubName("org/parts", "Q8_0"))
    assert first.name == "a-Q8_0-00001-of-00002.gguf" and hub.find(HubName("org/parts", None)) == first
    os.remove(first.with_name("a-Q8_0-00002-of-00002.gguf"))
    assert hub.find(HubName("org/parts", None)) is None             # not whole
    folder = hub.pull(HubName("org/folder", None))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"] and hub.find(HubName("org/folder", None)) == folder
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors", "b": "missing.safetensors"}}')
    assert hub.find(HubName("org/folder", None)) is None


@needs_library
def test_what_goes_wrong(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.gated.add("org/parts")
    for name, kind, said in (("org/nothing", ArgumentError, "nor such a repository"), ("org/empty", ArgumentError, "no model"), ("org/parts", ArgumentError, "licence"),
                             ("org/tiny:Q2_K", ArgumentError, "expected one of: Q4_K_M, Q8_0"), ("org/a--b", ArgumentError, "no name that the hub knows")):
        with pytest.raises(kind, match=said):
            load(name)
    fake.close()
    with pytest.raises(FileError, match="cannot be reached"):
        load("org/tiny")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ArgumentError, match=r"pip install 'skipstone\[hub\]'"):
        load("org/tiny")
