"""Random JSON schemas, and whether a value fits one: enough of the standard for what is made here, written apart from llguidance."""
from __future__ import annotations

from typing import Any

import numpy as np

NAMES = ["name", "id", "tags", "value", "kind", "x", "with space", "äö", "a\"b", "nested"]


def random_schema(random: np.random.Generator, depth: int = 0) -> dict[str, Any]:
    """A schema whose values are short, so that most texts end; the outermost is an object or a list."""
    kinds = ["object", "array"] if depth == 0 else ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern"] + ["object", "array", "anyOf"] * (depth < 3)
    kind = kinds[random.integers(0, len(kinds))]
    if kind == "object":
        names = [NAMES[i] for i in random.permutation(len(NAMES))[:random.integers(1, 5)]]
        required = [n for n in names if random.random() < 0.7]
        return {"type": "object", "properties": {n: random_schema(random, depth + 1) for n in names}, "required": required, "additionalProperties": False}
    if kind == "array":
        least = int(random.integers(0, 3))
        return {"type": "array", "items": random_schema(random, depth + 1), "minItems": least, "maxItems": least + int(random.integers(0, 3))}
    if kind == "anyOf":
        return {"anyOf": [random_schema(random, depth + 1) for _ in range(random.integers(2, 4))]}
    if kind == "string":
        least = int(random.integers(0, 4))
        return {"type": "string", "minLength": least, "maxLength": least + int(random.integers(0, 10))}
    if kind == "pattern":
        return {"type": "string", "pattern": ["^[a-c]{2,4}$", "^[0-9]+-[xyz]$", "^(on|off)$"][random.integers(0, 3)], "maxLength": 12}
    if kind in ("integer", "number"):
        least = int(random.integers(-50, 50))
        return {"type": kind, "minimum": least, "maximum": least + int(random.integers(1, 200))} if kind == "integer" or random.random() < 0.5 else {"type": kind}
    if kind == "enum":
        return {"enum": [["red", "green", "blue"], [1, 2, 30], ["a", 1, None, True], ["\n", "\\", "é"]][random.integers(0, 4)]}
    if kind == "const":
        return {"const": ["fixed", 17, None, [1, "two"]][random.integers(0, 4)]}
    return {"type": kind}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    import re

    if "anyOf" in schema:
        return any(fits(value, option) for option in schema["anyOf"])
    if "enum" in schema:
        return any(same(value, option) for option in schema["enum"])
    if "const" in schema:
        return same(value, schema["const"])
    kind = schema["type"]
    if kind == "object":
        return (isinstance(value, dict) and set(value) <= set(schema["properties"]) and set(schema["required"]) <= set(value)
                and all(fits(v, schema["properties"][n]) for n, v in value.items()))
    if kind == "array":
        return isinstance(value, list) and schema["minItems"] <= len(value) <= schema["maxItems"] and all(fits(v, schema["items"]) for v in value)
    if kind == "string":
        return (isinstance(value, str) and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9)
                and bool(re.search(schema.get("pattern", ""), value)))
    if kind in ("integer", "number"):
        number = isinstance(value, int | float) and not isinstance(value, bool) and (kind == "number" or value == int(value))
        return number and schema.get("minimum", value) <= value <= schema.get("maximum", value)
    return isinstance(value, bool) if kind == "boolean" else value is None


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b
