"""What a registry and a worker take as tasks, and what they say of the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

import zart
from tests.databases import Database


class Plain(zart.TaskHandler[int, int]):
    name = "plain"

    async def run(self, ctx: zart.TaskContext, data: int) -> int:
        return data


class Mailing(zart.TaskHandler[int, int]):
    name = "mailing"

    def __init__(self, mailer: object) -> None:
        self.mailer = mailer

    async def run(self, ctx: zart.TaskContext, data: int) -> int:
        return data


@zart.durable
async def checkout(data: int) -> int:
    return data


@zart.step
async def charge(data: int) -> int:
    return data


def test_a_class_stands_for_the_instance_beside_it() -> None:
    """The same class twice is one entry, and an instance is the one that counts, wherever."""
    made = Plain()
    assert zart.TaskRegistry([Plain, Plain]).names == ["plain"]
    for entries in ([Plain, made], [made, Plain], [Plain, made, Plain]):
        assert zart.TaskRegistry(entries).find("plain") is made
    mailing = Mailing("a mailer")
    assert zart.TaskRegistry([mailing, Mailing]).find("mailing") is mailing
    with pytest.raises(zart.DefinitionError, match="two handlers for 'plain'"):
        zart.TaskRegistry([Plain(), Plain()])


def _register(*arguments: Any) -> Callable[[], object]:
    return lambda: zart.TaskRegistry().register(*arguments)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: zart.TaskRegistry(cast(Any, checkout)), r"a list, .* one: \[checkout\]"),
        (lambda: zart.TaskRegistry("checkout"), r"a list, .* one: \[checkout\]"),
        (lambda: zart.TaskRegistry(cast(Any, None)), "tasks come as a list"),
        (lambda: zart.TaskRegistry({"a": checkout}), r"registry.register\(name, handler\)"),
        (_register(Mailing), "its __init__ takes arguments .*'mailer'.*make an instance"),
        (_register(zart.TaskHandler), "has no run of its own"),
        (_register("other", charge), r"its own name; .* @zart.step\(name='other'\)"),
        (_register("checkout"), "'checkout' cannot be registered"),
    ],
)
def test_what_cannot_be_registered_says_what_can(call: Callable[[], object], said: str) -> None:
    """One task without its list, a class without what it needs, a name that would not count."""
    with pytest.raises(zart.DefinitionError, match=said):
        call()


def test_a_name_that_is_given_counts() -> None:
    """An empty one is no way to say the handler's own; a step's own may be said."""
    with pytest.raises(zart.InvalidIdError, match="must not be empty"):
        zart.TaskRegistry().register("", checkout)
    registry = zart.TaskRegistry()
    registry.register("charge", charge)
    assert registry.names == ["step charge"]


async def test_a_worker_says_what_it_is_made_of(sqlite_database: Database) -> None:
    """A scheduler that is connected, a list of tasks, a config: each is asked for by name."""
    worker: Any = zart.Worker
    with pytest.raises(TypeError, match="a worker works for a scheduler"):
        worker(zart.connect(sqlite_database.url), [checkout])
    async with zart.connect(sqlite_database.url) as scheduler:
        with pytest.raises(TypeError, match="tasks come as a list"):
            worker(scheduler, checkout)
        with pytest.raises(TypeError, match=r"is a zart.WorkerConfig\(...\), not {'conc"):
            worker(scheduler, [checkout], {"concurrency": 3})
