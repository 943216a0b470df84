"""What a user gets: one version everywhere, types, the bundled models, and nothing too large."""
from __future__ import annotations

import importlib
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import skipstone
from skipstone import bundled

PACKAGE = Path(skipstone.__file__).resolve().parent


def _source_tree() -> Path | None:
    """The folder of pyproject.toml that this file belongs to."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "pyproject.toml").is_file():
            return folder
    return None


def test_version() -> None:
    """The distribution's version where the imported package is an installed one, else the one that a build would take."""
    assert re.fullmatch(r"\d+\.\d+\.\d+([abrc.+].*)?", skipstone.__version__)
    try:
        distribution = importlib.metadata.distribution("skipstone")
    except importlib.metadata.PackageNotFoundError:
        distribution = None
    if distribution is not None and Path(str(distribution.locate_file("skipstone"))).resolve() == PACKAGE:
        assert distribution.version == skipstone.__version__
        return
    root = _source_tree()
    if root is None:
        pytest.skip("neither an installed distribution nor a source tree with pyproject.toml")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    source = root / project["tool"]["scikit-build"]["metadata"]["version"]["input"]
    assert source.resolve() == PACKAGE / "_version.py"
    # scikit-build-core reads the version with a pattern of this kind and does not run the file.
    assert re.findall(r'^__version__\s*=\s*"([^"]+)"$', source.read_text(encoding="utf-8"), re.MULTILINE) == [skipstone.__version__]


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_native.pyi").is_file()


def test_native_parts_are_beside_the_package() -> None:
    for name in ("_native", "files._gguf", "text._detokenize", "text._vocabulary"):
        module = importlib.import_module(f"skipstone.{name}")
        assert Path(module.__file__ or "").resolve().is_relative_to(PACKAGE), name
    assert (PACKAGE / "libskipstone_core.so").is_file()


@pytest.mark.parametrize("name", [
    "kernels", "bundled", "errors", "loading", "model", "results", "decode.session", "decode.stats", "drafters", "files", "models", "text.tokenizer",
    "cli.main",
])
def test_modules_import(name: str) -> None:
    assert importlib.import_module(f"skipstone.{name}").__file__


def test_bundled_models() -> None:
    assert bundled.NAMES
    for path in bundled.NAMES.values():
        assert path.is_file() and path.is_relative_to(PACKAGE)
        with path.open("rb") as file:
            assert file.read(4) == b"GGUF"
    assert {bundled.QWEN35, bundled.GEMMA4, bundled.GEMMA4_ASSISTANT} == set(bundled.NAMES.values())
    folder = PACKAGE / "bundled"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 25e6
    assert {path for path in folder.glob("*.gguf")} == set(bundled.NAMES.values()), "a model that has no name"
