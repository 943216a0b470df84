"""What templates can do, and what they cannot."""
from __future__ import annotations

import datetime
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.chat import template as module
from skipstone.chat.template import render
from skipstone.errors import ArgumentError, FileError, SkipstoneError

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " <think>a</think> b"}]


def rendered(source: str, own: dict[str, str] | None = None, **variables: Any) -> str:
    return render(source, {"messages": MESSAGES, **variables}, own or {}, "model.gguf").text


@pytest.mark.parametrize("source, expected", [
    ("{% for m in messages %}\n  {% if loop.first %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}", "user\n"),       # trim_blocks, lstrip_blocks
    ("{% for m in messages %}{% if loop.index0 %}{% break %}{% endif %}{{ m['content'] }}{% endfor %}", "hi"),
    ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}", "assistant"),
    ("{{ {'b': '<é>', 'a': [1, none, true]} | tojson }}", '{"b": "<é>", "a": [1, null, true]}'),
    ("{{ {'b': 1, 'a': 'é'} | tojson(indent=1, sort_keys=true, ensure_ascii=true) }}", '{\n "a": "\\u00e9",\n "b": 1\n}'),
    ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
    ("a{% generation %}b{% set x = 1 %}{% endgeneration %}{{ x is defined }}", "abFalse"),
    ("{% set ns = namespace(n=0, **{'k': 1}) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}{{ ns.k }}", "21"),
    ("{{ messages[1].content.split('</think>')[-1].lstrip() }}", "b"),
    ("{% macro m(x, y=2) %}{{ x }}{{ y }}{{ caller() }}{% endmacro %}{% call m(1) %}!{% endcall %}", "12!"),
    ("{% set x %}{{ messages[0].content | upper }}{% endset %}{{ x ~ 1 ~ none }}", "HI1None"),
    ("{{ bos_token }}{{ missing }}{{ messages | length }}{{ tools is none }}", "<s>2True"),
    ("{{ ['a', 'b'] | join(', ') }}{{ messages | map(attribute='role') | join }}", "a, buserassistant"),
    ("{{ '%s-%s' | format('a', 1) }}{{ '{}{x}'.format(1, x=2) }}{{ 'a%d' % 3 }}", "a-112a3"),
    ("{{ dict(a=1).items() | list }}{{ dict.fromkeys(['k'], 1).k }}", "[('a', 1)]1"),
    ("{{ messages[0].get('x', 'none') }}{{ messages[::-1][0].role }}{{ messages[0] | items | list | length }}", "noneassistant2"),
    ("{{ {'b': 1, 'a': 2} | dictsort }}{{ 'abc'[1:] }}{{ 'ab' in 'cabc' }}", "[('a', 2), ('b', 1)]bcTrue"),
    ("{%- for i in range(2, -1, -1) -%} {{ i }} {%- endfor -%}", "210"),
    ("{{ ('<a>' | tojson | safe) }}", '"<a>"'),
    ("{{ 'a b' | wordwrap(1) }}{{ [1] | pprint }}{{ lipsum(n=1) | length > 9 }}{{ 'x' | urlize | striptags | escape }}{{ [1] | random }}", "a\nb[1]Truex1"),
    ("{{ {'a': 1} | xmlattr }}{{ 3 | filesizeformat }}{{ [3, 1] | sort | first }}{{ 'é' | urlencode }}", ' a="1"3 Bytes1%C3%A9'),
])
def test_language(source: str, expected: str) -> None:
    assert rendered(source, {"bos_token": "<s>"}, tools=None) == expected


def test_time() -> None:
    assert rendered("{{ strftime_now('%Y') }}") in {str(datetime.datetime.now().year), str(datetime.datetime.now().year - 1)}


def test_raise_exception() -> None:
    with pytest.raises(ArgumentError, match=r"model.gguf refuses them \(line 2\): Roles must\ufffd\[31m alternate"):
        rendered("\n{{ raise_exception('Roles must\x1b[31m alternate') }}")


@pytest.mark.parametrize("source", ["{% if %}", "{{ 'a", "{% endfor %}", "{{ 1 | nofilter }}", "{% unknown %}", "{# "])
def test_no_jinja(source: str) -> None:
    with pytest.raises(FileError, match="model.gguf: the chat template is no valid Jinja"):
        rendered(source)


@pytest.mark.parametrize("source", ["{{ a.b.c }}", "{{ messages[0].content + 1 }}", "{% include 'x' %}", "{% import 'os' as os %}", "{{ 1 / 0 }}"])
def test_what_fails_is_told(source: str) -> None:
    with pytest.raises(ArgumentError, match=r"cannot deal with them \(line 1\): \w+"):
        rendered(source)


ESCAPES = [
    "{{ ''.__class__ }}", "{{ messages.__class__.__base__.__subclasses__() }}", "{{ ''|attr('__class__') }}", "{{ messages['__class__'] }}|{{ messages.__len__() }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}", "{% set f = '{0.__class__}'.format %}{{ f(1) }}", "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{{ messages[0].content.format.__self__ }}", "{{ ('{0.__class__}' ~ messages[0].content).format(1) }}", "{{ [[]] | map(attribute='__class__') | list }}",
    "{% set f = messages[0].content.__class__ %}", "{{ cycler.__init__.__globals__.os.popen('touch OUT') }}", "{{ self.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].system('touch OUT') }}", "{{ joiner.__init__ }}", "{{ namespace.__init__.__globals__ }}", "{% set n = namespace(__class__=1) %}",
    "{% set n = namespace() %}{% set n.__init__ = 1 %}", "{{ dict.__class__ }}", "{{ messages.append(1) }}", "{{ messages[0].update({}) }}", "{{ messages[0].pop('role') }}",
    "{{ messages[0].__setitem__('a', 1) }}", "{{ (messages | map('upper')).gi_frame }}", "{{ 'a'.join.__func__.__globals__ }}", "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__code__ }}", "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}", "{{ loop.__class__ }}{{ range.__self__ }}",
    "{{ (messages[0].content ~ 'a').__class__ }}", "{{ messages[0].content._marks }}{{ ('a' ~ messages[0].content)._marks }}",
]


@pytest.mark.parametrize("source", ESCAPES, ids=range(len(ESCAPES)))
def test_attributes_are_refused(source: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SkipstoneError) as error:
        rendered(source.replace("OUT", str(out)))
    assert "templates may not" in str(error.value) or "undefined" in str(error.value) or "cannot hold" in str(error.value)
    assert not out.exists()


ENDLESS = {
    "loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "powers": "{% set x = (9**9)**(9**9) %}",
    "two calls of itself": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "words": "{{ lipsum(n=100000) }}",
    "sorting": "{{ range(100000)" + "|list|sort" * 40 + " }}",
    "long sums": "{{ 1" + "+1" * 50000 + " }}",
    "long source": "{% if 1 %}{% endif %}" * 30000,
}
HUGE = {
    "constant": "{{ 'a' * 10**9 }}", "repeat": "{% set x = messages[0].content * 10**9 %}", "list": "{% set x = [1] * 10**9 %}",
    "center": "{{ 'a' | center(10**9) }}", "center of a message": "{{ messages[0].content | center(10**9) }}", "ljust": "{{ messages[0].content.ljust(10**9) }}",
    "zfill": "{{ messages[0].content.zfill(10**9) }}", "percent": "{{ '%999999999d' % 1 }}", "star": "{{ '%*d' % (999999999, 1) }}",
    "format": "{{ '{:999999999}'.format(1) }}", "format of a message": "{{ (messages[0].content ~ '{:>{w}}').format(1, w=999999999) }}",
    "doubling": "{% set ns = namespace(x='a' * 1000) %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling lists": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "replace": "{{ ('a' * 10000).replace('a', 'b' * 100000) }}", "replace nothing": "{{ ('a' * 10000).replace('', 'b' * 100000) }}",
    "join": "{{ (['a' * 10000] * 10000) | join('b' * 10000) }}", "batch": "{{ [1] | batch(10**9, 'x') | list }}", "indent": "{{ ('a\n' * 1000) | indent(10**7) }}",
    "wordwrap": "{{ ('a ' * 10000) | wordwrap(1, wrapstring='x' * 10000) }}", "json": "{{ [1] | tojson(indent=10**9) }}", "tabs": "{{ ('\t' * 10000).expandtabs(10**6) }}",
    "time": "{{ strftime_now('%Y' * 10000000) }}",
}
NESTED = {
    "macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "lists": "{{ " + "[" * 100000 + " }}",
    "blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000, "not": "{{ " + "not " * 100000 + "1 }}", "signs": "{{ " + "-" * 100000 + "1 }}",
    "filters": "{{ 'a'" + "|upper" * 5000 + " }}", "attributes": "{{ a" + ".b" * 5000 + " }}", "calls": "{{ a" + "()" * 5000 + " }}",
}


def ends(source: str) -> str:
    start = time.monotonic()
    with pytest.raises(SkipstoneError) as error:
        rendered(source)
    assert time.monotonic() - start < 20                # a hang; the limit itself is half a second of work
    return str(error.value)


@pytest.mark.parametrize("name", ENDLESS)
def test_time_is_limited(name: str) -> None:
    assert any(word in ends(ENDLESS[name]) for word in ("half", "0.5 s of work", "nested too deeply", "MiB"))


@pytest.mark.parametrize("name", HUGE)
def test_memory_is_limited(name: str) -> None:
    assert any(word in ends(HUGE[name]) for word in ("MiB of memory", "0.5 s of work", "million characters", "templates may not"))


@pytest.mark.parametrize("name", NESTED)
def test_depth_is_limited(name: str) -> None:
    assert any(word in ends(NESTED[name]) for word in ("nested too deeply", "0.5 s of work", "no valid Jinja", "ended the process", "MiB of memory"))


def test_output_is_limited() -> None:
    assert "writes more than" in ends("{% for i in range(100000) %}{{ 'a' * 30 }}{% endfor %}")
    assert "Range too big" in ends("{{ range(10**12) | list }}")
    assert "letters" in ends("a" * (module.SOURCE + 1))


def test_a_long_message_is_no_crime() -> None:
    long = "é" * 3_000_000
    assert len(rendered("{{ messages[0].content | trim ~ '' }}", messages=[{"role": "user", "content": long}])) == len(long)


SCRAPS = ["{{", "}}", "{%", "%}", "{#", "#}", "{%-", "-%}", " ", "\n", "for x in messages", "endfor", "if", "endif", "else", "set x =", "macro m(a)", "endmacro", "m(x)", "messages",
          "x", "[0]", "[::-1]", ".content", ".role", "|", "upper", "list", "join", "tojson", "'a'", "'%s'", "%", "~", "+", "*", "**", "3", "10**6", "(", ")", "range(99)", "namespace(a=1)",
          "generation", "endgeneration", "break", "continue", "loop.index", "filter upper", "endfilter", "call m()", "endcall", "is string", "not", "in", "==", "raise_exception('x')",
          "strftime_now('%d')", "''.format", ".__class__", "raw", "endraw", "autoescape true", "endautoescape", "include 'x'", "lipsum()", "self", "caller()", "<|im_end|>", "\ud800", "\0"]


@given(st.lists(st.sampled_from(SCRAPS), max_size=14))
@settings(max_examples=300, deadline=None)
def test_any_source_ends_in_text_or_an_error(scraps: list[str]) -> None:
    try:
        assert isinstance(rendered(" ".join(scraps)), str)
    except SkipstoneError as error:
        assert "ended the process" not in str(error)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc to see the process's memory")
def test_memory_of_the_process() -> None:
    """Most that the worker ever held, over a template that takes all it can get without being ended."""
    rendered("{{ ('a' * 30000000) | length }}")
    process = module._process._running
    assert process is not None
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 160 * 1024


def test_after_the_end_comes_the_next() -> None:
    ends(ENDLESS["loops"])
    assert rendered("{{ messages[0].content }}") == "hi"
    process = module._process._running
    assert rendered("{{ messages[0].role }}") == "user" and module._process._running is process


def test_threads_share_the_process() -> None:
    made: dict[int, str] = {}
    threads = [threading.Thread(target=lambda i=i: made.update({i: rendered(f"{i}" + "{{ messages[0].content }}")})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == {i: f"{i}hi" for i in range(8)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_has_one_of_its_own() -> None:
    import warnings

    rendered("a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if rendered("{{ messages[0].content }}b") == "hib" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert rendered("{{ messages[0].content }}c") == "hic"


@pytest.mark.skipif(not os.path.exists("/proc/self/limits"), reason="needs /proc to see the process's limits")
def test_process_can_open_nothing() -> None:
    rendered("a")
    process = module._process._running
    assert process is not None
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    for name in ("Max open files", "Max file size", "Max core file size"):
        assert next(line for line in limits.splitlines() if line.startswith(name)).split()[-3:-1][0] == "0" or f"{name} 0" in " ".join(limits.split())
    names = {entry.split("=")[0] for entry in Path(f"/proc/{process.pid}/environ").read_text().split("\0") if entry}
    assert names <= set(module.INHERITED) | {"LC_CTYPE"}


def test_filters_need_no_files() -> None:
    """Whatever jinja2 imports when a filter is first used is there already."""
    import jinja2.defaults

    for name in sorted(jinja2.defaults.DEFAULT_FILTERS):
        for value in ("'a b'", "[3, 1]", "{'a': 1}", "1.5"):
            for arguments in ("", "(1)", "('a')", "(1, 'a')", "('a', 'b')"):
                try:
                    rendered(f"{{{{ {value} | {name}{arguments} | list }}}}")
                except SkipstoneError as error:
                    assert "OSError" not in str(error) and "ImportError" not in str(error), (name, value, arguments)


def test_one_renderer() -> None:
    """Templates are rendered in one place."""
    package = Path(module.__file__).resolve().parents[1]
    users = {path.name for path in package.rglob("*.py") if "import jinja2" in path.read_text("utf-8") or "from jinja2" in path.read_text("utf-8")}
    assert users == {"sandbox.py", "worker.py"}
