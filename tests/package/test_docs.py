"""`python -m pydoc skipstone` shows what there is, and everything public says what it is."""
from __future__ import annotations

import inspect
import pydoc
from typing import Any

import pytest

import skipstone

# Modules are described by pydoc of their own.
NAMES = [name for name in skipstone.__all__ if name != "__version__" and not inspect.ismodule(getattr(skipstone, name))]


def test_pydoc() -> None:
    shown = pydoc.plain(pydoc.render_doc(skipstone))
    for name in NAMES:
        assert f"class {name}(" in shown or f"    {name}(" in shown, name
    for method in ("generate(self", "chat(self", "chat_stream(self", "forward(self", "rollback(self"):
        assert method in shown


@pytest.mark.parametrize("module", ["kernels", "bundled", "errors"])
def test_pydoc_of_modules(module: str) -> None:
    assert pydoc.plain(pydoc.render_doc(f"skipstone.{module}"))


@pytest.mark.parametrize("name", NAMES)
def test_docstrings(name: str) -> None:
    thing: Any = getattr(skipstone, name)
    assert (thing.__doc__ or "").strip() and not thing.__doc__.startswith(f"{name}("), "a docstring of its own"
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            if not method.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert (value.__doc__ or "").strip(), f"{name}.{method}"
