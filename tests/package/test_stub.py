"""The stub of the native module names what the module has, no more and no less."""
from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from skipstone import _native

STUB = Path(_native.__file__).with_name("_native.pyi")


def _stubbed() -> dict[str, ast.FunctionDef | ast.ClassDef]:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")}


def _public(thing: Any) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_")}


def _methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {member.name: member for member in node.body if isinstance(member, ast.FunctionDef)}


def _stub_parameters(function: ast.FunctionDef) -> list[tuple[str, bool]]:
    """(name, has a default) of each parameter, keyword-only ones last."""
    a = function.args
    optional = len(a.args) - len(a.defaults)
    return [(p.arg, i >= optional) for i, p in enumerate(a.args)] + [(p.arg, d is not None) for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]


def _native_parameters(doc: str) -> list[tuple[str, bool]]:
    """The same from the first line of what pybind11 writes as a function's docstring."""
    inside = re.match(r"\w+\((.*)\) -> ", doc.splitlines()[0])
    assert inside, doc
    text, depth, parts = inside[1], 0, [""]
    for c in text:
        depth += (c in "[(") - (c in "])")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    found = [part.strip() for part in parts if part.strip() not in ("", "*", "/")]
    return [(part.split(":")[0], " = " in part) for part in found]


def test_names() -> None:
    assert set(_stubbed()) == _public(_native)


@pytest.mark.parametrize("name", sorted(n for n in _public(_native) if isinstance(getattr(_native, n), type)))
def test_members(name: str) -> None:
    node, native = _stubbed()[name], getattr(_native, name)
    assert isinstance(node, ast.ClassDef)
    methods = _methods(node)
    assert {m for m in methods if not m.startswith("_")} == _public(native)
    for member, function in methods.items():
        is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in function.decorator_list)
        assert is_property == isinstance(getattr(native, member), property), member
        if not is_property:
            assert _stub_parameters(function) == _native_parameters(getattr(native, member).__doc__), member


@pytest.mark.parametrize("name", sorted(n for n in _public(_native) if not isinstance(getattr(_native, n), type)))
def test_functions(name: str) -> None:
    node = _stubbed()[name]
    assert isinstance(node, ast.FunctionDef)
    assert _stub_parameters(node) == _native_parameters(getattr(_native, name).__doc__)


def test_keys_of_a_type() -> None:
    (comment,) = re.findall(r"^# Keys: (.*)$", STUB.read_text(encoding="utf-8"), re.MULTILINE)
    keys = re.sub(r"\(.*?\)", "", comment).rstrip(".").replace(" ", "").split(",")
    for described in _native.types():
        assert list(described) == keys
