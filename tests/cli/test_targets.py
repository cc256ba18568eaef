"""What a worker can be told to run."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

import zart
from tests.cli.command import FOLDER
from zart.cli.targets import registry_of
from zart.errors import DefinitionError


@pytest.fixture(autouse=True)
def _in_the_shop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("shop:registry", {"print", "jam", "stall"}),
        ("shop:several", {"print", "bind"}),
        ("shop:print_order", {"print"}),
        ("shop:Bind", {"bind"}),
        ("shop:press", {"step press"}),
        (
            "shop",
            {"print", "jam", "long", "stubborn", "bind", "block", "brief", "who", "stall"}
            | {"step press", "step refuse", "step press_long"},
        ),
    ],
)
def test_a_target_gives_its_tasks(target: str, names: set[str]) -> None:
    """A registry, a list, one task, or a module alone: each gives the tasks that are in it."""
    assert set(registry_of(target).names) == names


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shpo", "there is no module 'shpo'"),
        ("shop:regstry", "has no 'regstry'; it has"),
        ("shop:number", "is of type int"),
        ("shop:", "names nothing"),
        ("./shop.py", "is a file's path"),
        ("dataclasses", "has nothing to run"),
    ],
)
def test_a_wrong_target_is_told(target: str, said: str) -> None:
    """A target that cannot be run is an error that says what would be right."""
    with pytest.raises(DefinitionError, match=said):
        registry_of(target)


class Counts(zart.TaskHandler[int, int]):
    name = "counts"

    def __init__(self, by: int) -> None:
        self.by = by

    async def run(self, ctx: zart.TaskContext, data: int) -> int:
        return data + self.by


@zart.durable
async def plain(data: int) -> int:
    return data


def _registry(**handlers: Any) -> zart.TaskRegistry:
    registry = zart.TaskRegistry([plain])
    for name, handler in handlers.items():
        registry.register(name, handler)
    return registry


def _module(monkeypatch: pytest.MonkeyPatch, **values: Any) -> str:
    module = ModuleType("made")
    vars(module).update(values)
    monkeypatch.setitem(sys.modules, "made", module)
    return "made"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"registry": _registry()}, {"plain"}),
        ({"registry": _registry(old=plain), "plain": plain}, {"plain", "old"}),
        ({"a": _registry(a=plain), "b": _registry(b=plain)}, {"plain", "a", "b"}),
        ({"Counts": Counts, "registry": _registry(counts=Counts(1))}, {"plain", "counts"}),
        ({"Counts": Counts, "counts": Counts(1)}, {"counts"}),
    ],
)
def test_a_module_gives_what_its_registries_have_too(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], names: set[str]
) -> None:
    """An instance stands for its class: that may need what only the module knows to give."""
    assert set(registry_of(_module(monkeypatch, **values)).names) == names


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"Counts": Counts}, "its __init__ takes arguments"),
        ({"a": _registry(c=Counts(1)), "b": _registry(c=Counts(2))}, "there are a, b"),
    ],
)
def test_a_module_that_cannot_be_taken_whole_names_its_parts(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], said: str
) -> None:
    """Two handlers under one name, or a class that nobody has made: one of them can be named."""
    with pytest.raises(DefinitionError, match=said):
        registry_of(_module(monkeypatch, **values))
