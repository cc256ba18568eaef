"""What ``help`` tells of each public name: the reference is built from it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import zart

OBVIOUS = {"DurableScheduler.close"}
INNER = {"DurableScheduler.definition", "DurableScheduler.encode", "DurableScheduler.ended"}
"""Called by zart's own layers alone."""

EXAMPLE = re.compile(r"::\n\n((?:    .*\n|\n)+)")
OWNERS = {
    "zart": zart,
    "RetryConfig": zart.RetryConfig,
    "ctx": zart.TaskContext,
    "handle": zart.Handle,
    "registry": zart.TaskRegistry,
    "scheduler": zart.DurableScheduler,
}
"""What the names stand for that examples have in common."""


def _public() -> Iterator[tuple[str, Any]]:
    """Every function and class that ``zart`` exports, and the public methods of the classes."""
    for name in zart.__all__:
        thing = getattr(zart, name)
        if inspect.isclass(thing):
            yield name, thing
            yield from ((f"{name}.{member}", value) for member, value in _methods(thing))
        elif inspect.isfunction(thing):
            yield name, thing


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    """Methods and properties, inherited ones too, but those of Python and other packages."""
    ours = [vars(base) for base in kind.__mro__ if base.__module__.startswith("zart.")]
    for name, value in inspect.getmembers(kind):
        called = inspect.isroutine(value) or isinstance(value, property)
        if called and not name.startswith("_") and any(name in base for base in ours):
            yield name, value


def _docstring(thing: Any) -> str:
    """Its own for a class; a method that is overridden says what its base says."""
    own = vars(thing).get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)
    return inspect.cleandoc(own or "")


DOCSTRINGS = {name: _docstring(thing) for name, thing in _public()}
EXAMPLES = {
    name: "".join(map(textwrap.dedent, blocks))
    for name, text in DOCSTRINGS.items()
    if (blocks := EXAMPLE.findall(f"{text}\n"))
}


def test_every_public_name_has_a_docstring() -> None:
    """Its first line is a sentence by itself: indexes and editors show nothing else."""
    heads = {name: text.split("\n\n")[0] for name, text in DOCSTRINGS.items()}
    assert [name for name, head in heads.items() if "\n" in head or not head.endswith(".")] == []


def test_calls_have_examples() -> None:
    """Of the free functions and the scheduler's methods: those are what newcomers look up."""
    calls = {
        name
        for name, thing in _public()
        if inspect.isfunction(thing) and ("." not in name or name.startswith("DurableScheduler."))
    }
    assert calls - EXAMPLES.keys() == OBVIOUS | INNER


def test_examples_name_what_there_is() -> None:
    """Each is Python, and what it takes from zart exists."""
    for name, code in EXAMPLES.items():
        tree = ast.parse(f"async def fragment():\n{textwrap.indent(code, '    ')}", name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owner = OWNERS.get(node.value.id)
                known = owner is None or hasattr(owner, node.attr)
                assert known, f"the example of {name} has {ast.unparse(node)}"
