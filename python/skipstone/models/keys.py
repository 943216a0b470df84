"""Hyper-parameters of a model file, each under its GGUF key and its config.json key.

Every value is checked where it is read: kind, range, finite. So a description may compute with what it gets.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import ModelError
from ..files.messages import shown, shown_value

if TYPE_CHECKING:
    from ..files import ModelFile

# No released model comes near these; they keep sizes, and what is computed from them, sane.
MOST_LAYERS, MOST_HEADS, WIDEST, LONGEST = 1024, 4096, 1 << 20, (1 << 31) - 1
LONGEST_WORD = 64  # letters of an option's name


class Keys:
    """The hyper-parameters of `file`: GGUF metadata under "<architecture>.", or config.json's text_config or, without one, its top level.

    A key given as None does not exist in that format. Without a default a key is required. In config.json null means absent, and
    a dotted key leads into nested objects. ModelError names the file, the key, what was found and what was expected.
    """

    def __init__(self, file: ModelFile) -> None:
        self.file, self.gguf, self.source = file, file.format == "gguf", file.name
        self._top: dict[str, Any] = file.metadata if self.gguf else file.config
        self._values, self._prefix = self._top, f"{file.architecture}." if self.gguf else ""
        if not self.gguf and self._top.get("text_config") is not None:
            self._values, self._prefix = self._top["text_config"], "text_config."
            if not isinstance(self._values, dict):
                self.fail("text_config", self._values, "an object")

    def fail(self, key: str, found: object, expected: str) -> NoReturn:
        where = "" if self.gguf else "config.json: "
        what = "is missing" if found is None else f"is {_short(found)}"
        raise ModelError(f"{self.source}: {where}key {key} {what}; expected {expected}")

    def refuse(self, feature: str, because: str) -> NoReturn:
        """For what is well formed, but not implemented."""
        raise ModelError(f"{self.source}: {feature} ({because}), which Skipstone cannot run yet")

    def _find(self, gguf: str | None, config: str | None, top: bool = False) -> tuple[str, Any]:
        """The key's full name and its value, None where it is absent. top: at config.json's top level, whatever is nested."""
        name = gguf if self.gguf else config
        if name is None:
            return "", None
        if self.gguf:
            return self._prefix + name, self._values.get(self._prefix + name)
        value: Any = self._top if top else self._values
        full = name if top else self._prefix + name
        for part in name.split("."):
            if not isinstance(value, dict):
                self.fail(full.removesuffix(name) + name.split("." + part)[0], value, "an object")
            value = value.get(part)
            if value is None:
                break
        return full, value

    def name(self, gguf: str | None, config: str | None, top: bool = False) -> str:
        """The key's full name in this file, for messages."""
        return self._find(gguf, config, top)[0]

    def value(self, gguf: str | None, config: str | None, top: bool = False) -> Any:
        """What the file holds, unchecked; None where the key is absent."""
        return self._find(gguf, config, top)[1]

    def integer(self, gguf: str | None, config: str | None, least: int = 1, most: int = WIDEST, default: int | None = None) -> int:
        key, value = self._find(gguf, config)
        expected = f"a whole number from {least} to {most}"
        if value is None:
            if default is None:
                self.fail(key, None, expected)
            return default
        number = _whole(value)
        if number is None or not least <= number <= most:
            self.fail(key, value, expected)
        return number

    def integers(
        self, gguf: str | None, config: str | None, count: int, least: int = 1, most: int = WIDEST, of: int | None = None
    ) -> tuple[int, ...]:
        """One for each of `count` layers. The file holds one number for all, or a list for `of` layers (default: count), the first are taken."""
        key, value = self._find(gguf, config)
        values = self._list(value)
        if values is None:
            return (self.integer(gguf, config, least, most),) * count
        if len(values) != (of or count):
            self.fail(key, f"a list of {len(values)}", f"one number, or a list of {of or count}, one a layer")
        numbers = [_whole(v) for v in values[:count]]
        for i, number in enumerate(numbers):
            if number is None or not least <= number <= most:
                self.fail(f"{key}[{i}]", values[i], f"a whole number from {least} to {most}")
        return tuple(n for n in numbers if n is not None)

    def number(self, gguf: str | None, config: str | None, least: float, most: float, default: float | None = None) -> float:
        key, value = self._find(gguf, config)
        expected = f"a number from {least:g} to {most:g}"
        if value is None:
            if default is None:
                self.fail(key, None, expected)
            return default
        try:
            number = float(value) if not isinstance(value, (bool, str, bytes)) else math.nan
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not least <= number <= most:  # false for NaN
            self.fail(key, value, expected)
        return number

    def flag(self, gguf: str | None, config: str | None, default: bool, top: bool = False) -> bool:
        key, value = self._find(gguf, config, top)
        if value is None:
            return default
        if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
            return bool(value)
        self.fail(key, value, "true or false")

    def flags(self, gguf: str | None, config: str | None, count: int, of: int | None = None) -> tuple[bool, ...] | None:
        """One for each of `count` layers, from a list for `of` layers (default: count); None where the key is absent or holds one number."""
        key, value = self._find(gguf, config)
        values = self._list(value)
        if values is None:
            return None
        if len(values) != (of or count):
            self.fail(key, f"a list of {len(values)}", f"{of or count} values, one a layer")
        for i, v in enumerate(values):
            if type(v).__name__ not in ("bool", "bool_") and _whole(v) not in (0, 1):
                self.fail(f"{key}[{i}]", v, "true or false")
        return tuple(bool(v) for v in values[:count])

    def word(self, gguf: str | None, config: str | None, default: str | None = None) -> str | None:
        key, value = self._find(gguf, config)
        if value is not None and not isinstance(value, str):
            self.fail(key, value, "a string")
        if isinstance(value, str) and len(value) > LONGEST_WORD:
            self.fail(key, value, f"at most {LONGEST_WORD} letters")
        return default if value is None else value

    def layer_types(self, count: int, first: str, second: str) -> tuple[bool, ...] | None:
        """config.json's layer_types, True where a layer is of type `first` rather than `second`; None where absent."""
        key, value = self._find(None, "layer_types")
        values = self._list(value)
        if values is None:
            if value is not None:
                self.fail(key, value, "a list")
            return None
        if len(values) != count:
            self.fail(key, f"a list of {len(values)}", f"{count} values, one a layer")
        for i, v in enumerate(values):
            if v not in (first, second):
                self.fail(f"{key}[{i}]", v, f"{first} or {second}")
        return tuple(v == first for v in values)

    def vocabulary(self) -> int:
        """Rows of the embedding table: config.json's vocab_size, or in a GGUF file the table's own."""
        if not self.gguf:
            return self.integer(None, "vocab_size", 2, 1 << 24)
        table = self.file.tensors.get("token_embd.weight")
        if table is None or len(table.shape) != 2 or not 2 <= table.shape[0] <= 1 << 24:
            found = "is missing" if table is None else f"has shape {tuple(table.shape)}"
            raise ModelError(f"{self.source}: tensor token_embd.weight {found}; expected (vocabulary, hidden size)")
        return int(table.shape[0])

    @staticmethod
    def _list(value: Any) -> list[Any] | None:
        if isinstance(value, (list, tuple)):
            return list(value)
        if getattr(value, "ndim", 0) == 1:  # a numpy array
            return list(value.tolist())
        return None


def _whole(value: Any) -> int | None:
    """A whole number as int; None for anything else, bool included."""
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _short(value: object) -> str:
    described = isinstance(value, str) and value.startswith("a list of ")
    return shown_value(value, 60) if isinstance(value, (str, bytes, int, float, bool, list, dict)) and not described else shown(value, 60)
