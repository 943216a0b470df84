"""The jinja2 environment that chat templates run in: what transformers gives them, and nothing else.

Only worker.py runs it, in a process that may be ended at any time. The sandbox keeps templates from code; the process's limits
keep them from time and memory.
"""
from __future__ import annotations

import json
import re
from datetime import datetime
from string import Formatter
from typing import Any

from jinja2 import Environment, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_join
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace, pass_eval_context

from .marked import Marked, join, own, tracked


class Refused(TemplateError):
    """The template called raise_exception."""


class Generation(Extension):
    """{% generation %} marks what a model is trained on; here it is only a scope."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class OwnTextGenerator(CodeGenerator):
    """Compiles a template so that its own texts are marked as such."""

    def _output_const_repr(self, group: Any) -> str:
        return f"environment.own({''.join(map(str, group))!r})"

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        if isinstance(node.value, str):
            self.write(f"environment.own({node.value!r})")
        else:
            super().visit_Const(node, frame)

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:
        self.write(f"environment.own({node.data!r})")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class TemplateNamespace(Namespace):
    """namespace() without names that begin with an underscore, which could look like Python's own."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *rest = args
        given = dict(*rest, **values)
        for name in given:
            _public(name)
        Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        super().__setitem__(name, value)


def _public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold the name {name!r}")


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    code_generator_class = OwnTextGenerator
    concat = staticmethod(join)             # type: ignore[assignment]
    own = staticmethod(own)

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.unsafe_undefined(obj, attribute) if attribute.startswith("__") else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        asked = isinstance(argument, str) and argument.startswith("__")
        return self.unsafe_undefined(obj, argument) if asked else super().getitem(obj, argument)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """An error at once, where jinja2 waits until the value is used."""
        raise SecurityError(f"it asks for {attribute!r} of a {type(obj).__name__}, which templates may not use")

    def wrap_str_format(self, value: Any) -> Any:
        """str.format for templates: what the template wrote stays its own, what is put in does not become so."""
        text = getattr(value, "__self__", None)
        wrapped = super().wrap_str_format(value)
        if wrapped is None or not isinstance(text, Marked):
            return wrapped
        formatter = SandboxedFormatter(self)
        mapped = value.__name__ == "format_map"

        def format(*args: Any, **kwargs: Any) -> str:
            if mapped:
                (kwargs,), args = args, ()
            return _format(formatter, text, args, kwargs)

        return format


def _format(formatter: SandboxedFormatter, text: Marked, args: Any, kwargs: Any) -> str:
    whole = str.__str__(formatter.vformat(str.__str__(text), args, kwargs))
    parts: list[str] = []
    number = 0
    for literal, field, spec, conversion in Formatter().parse(str.__str__(text)):
        parts.append(own(literal) if all(text._marks) else literal)
        if field is None:
            continue
        if spec and "{" in spec:
            return whole                    # a width given by a value: rare, and only loses the marks
        if not field or field[0] in ".[":
            field, number = f"{number}{field}", number + 1
        inner = "{" + field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
        parts.append(str.__str__(formatter.vformat(inner, args, kwargs)))
    made = join(parts)
    return made if made == whole else whole


def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    """As transformers has it: no HTML escapes, letters as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_eval_context
def join_filter(context: Any, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    return do_join(context, value, tracked(d) if type(d) is str else d, attribute)


class TemplateDict:
    """dict() and dict.fromkeys(), without the class itself."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def raise_exception(message: Any) -> None:
    raise Refused(str(message))


def strftime_now(format: str) -> str:
    return datetime.now().strftime(str.__str__(format))


def environment() -> Environment:
    made = TemplateEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], optimized=False, cache_size=0)
    made.filters["tojson"] = tojson
    made.filters["join"] = join_filter
    made.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, dict=TemplateDict(), namespace=TemplateNamespace)
    return made


def line_of(error: BaseException) -> int | None:
    """The template's line that an error comes from."""
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line if isinstance(line, int) else None


# Control characters of a message about a template, which comes from a stranger's file.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
