"""What cannot work is refused where it is defined, not where a worker meets it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import pytest

import zart
from tests.databases import Database

T = TypeVar("T")
U = TypeVar("U")


async def run(self: Any, ctx: Any, data: Any) -> None: ...


async def without_data(self: Any, ctx: Any) -> None: ...


async def without_ctx(self: Any, failure: Any) -> None: ...


def without() -> None: ...


def plain(self: Any, ctx: Any, failure: Any) -> None: ...


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"run": plain}, r"Made.run must be an async def.*async def run\(self, ctx, data\)"),
        ({"run": without_data}, r"gets self, ctx, data, which without_data\(self"),
        ({"run": run, "on_failure": plain}, "Made.on_failure must be an async def"),
        ({"run": run, "on_failure": without_ctx}, r"on_failure\(self, ctx, failure\)"),
        ({"run": run, "max_retries": -1}, "Made.max_retries is a whole number from 0 on, not -1"),
        ({"run": run, "max_retries": "3"}, "not '3'"),
        ({"run": run, "retry": 3}, "Made.retry is a RetryConfig, such as"),
    ],
)
def test_a_class_that_cannot_work_is_refused(members: dict[str, Any], said: str) -> None:
    """Its methods are called in one way only, and its rules are of their kinds."""
    with pytest.raises(zart.DefinitionError, match=said):
        type("Made", (zart.TaskHandler,), members)


def test_a_class_without_type_parameters_has_those_of_run_by_their_places() -> None:
    """Whatever its arguments are called, the second one is the input."""

    class Named(zart.TaskHandler):  # type: ignore[type-arg]
        async def run(self, context: zart.TaskContext, order: int) -> str:
            return str(order)

    class Static(zart.TaskHandler):  # type: ignore[type-arg]
        @staticmethod
        async def run(context: zart.TaskContext, order: int) -> str:  # type: ignore[override]
            return str(order)

    assert (Named.data_type, Named.output_type) == (int, str)
    assert (Static.data_type, Static.output_type) == (int, str)


def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


@zart.durable
async def workflow() -> None: ...


def test_types_are_found_by_way_of_generic_classes_in_between() -> None:
    """What a class fills in counts for the parameter that its parent handed on."""

    class Archive(zart.TaskHandler[list[T], str], Generic[U, T]):
        async def run(self, ctx: zart.TaskContext, data: list[T]) -> str:
            return ""

    class Letters(Archive[bytes, int]): ...

    class Named(Generic[T]): ...

    class Sorted(Named[bytes], Letters): ...

    for kind in (Letters, Sorted):
        assert (kind.data_type, kind.output_type) == (list[int], str)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (generator, r"and generator\(\).* yields: return a list"),
        (async_generator, "yields: return a list"),
        (run, r"is a method: .*`await ctx.step\(\"run\", self.run, ...\)`"),
        (workflow, "decorates a function, not <durable 'workflow'>"),
        (zart.step(without), "decorates a function, not <step 'without'>"),
        (3, "decorates a function, not 3"),
    ],
)
def test_what_can_be_no_step_is_refused(function: Any, said: str) -> None:
    """A step is called alone, without an object, and returns its result."""
    with pytest.raises(zart.DefinitionError, match=said):
        zart.step(function)


def _on_failure(function: Any) -> Callable[[], object]:
    @zart.durable
    async def trip(city: str) -> None: ...

    return lambda: trip.on_failure(function)


async def _by_keyword(*, city: str) -> None: ...


@pytest.mark.parametrize(
    ("define", "said"),
    [
        (_on_failure(lambda data, failure: None), "on_failure of 'trip' must be an async def"),
        (_on_failure(None), "must be an async def, not None"),
        (_on_failure(run), r"gets the input, the failure, which run\(self.*refund\(data, failure"),
        (lambda: zart.durable(max_retries=-1), "max_retries is a whole number from 0 on"),
        (lambda: zart.durable(retry=3), "retry is a RetryConfig"),  # type: ignore[call-overload]
        (lambda: zart.durable(_by_keyword), "by keyword only"),  # type: ignore[call-overload]
        (lambda: zart.step(retry=3), "retry is a RetryConfig"),  # type: ignore[call-overload]
        (lambda: zart.step(functools.partial(print)), r"has no name: .* @zart.step\(name="),
        (lambda: zart.RetryConfig.exponential(3, 1, factor="2"), "factor is a number, not '2'"),  # type: ignore[arg-type]
        (lambda: zart.RetryConfig.exponential(3, 1, factor=-2), "a number above 0, not -2"),
        (lambda: zart.RetryConfig.fixed("3", 1), "not '3'"),  # type: ignore[arg-type]
        (lambda: zart.RetryConfig.fixed(3, 1, only=("ValueError",)), "'ValueError' is none"),  # type: ignore[arg-type]
    ],
)
def test_a_function_or_rule_that_cannot_work_is_refused(
    define: Callable[[], object], said: str
) -> None:
    """By the decorator, which says what to write."""
    with pytest.raises(zart.DefinitionError, match=said):
        define()


def test_a_task_s_name_is_text() -> None:
    """Anything else is no way to say the function's own."""
    with pytest.raises(zart.InvalidIdError, match="must be a str, not int"):
        zart.durable(3)(run)  # type: ignore[call-overload]


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper() -> Any:
        return await function()

    return wrapper


def giving(kind: Any, value: Any) -> Any:
    async def give() -> Any:
        return value

    give.__annotations__["return"] = kind
    return give


@wrapped
async def ratio() -> float:
    return 2


@wrapped
async def count() -> int:
    return 2


async def test_functions_of_one_code_have_types_of_their_own(sqlite_database: Database) -> None:
    """Those that one decorator wraps, and those that one function makes."""

    @zart.durable
    async def several() -> str:
        context = zart.context()
        steps = (ratio, count, giving(float, 2), giving(int, 2))
        return repr([await context.step(f"{n}", step) for n, step in enumerate(steps)])

    async with zart.connect(sqlite_database.url) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [several]):
            handle = await scheduler.schedule(several)
            assert await handle.result(timeout="1m") == "[2.0, 2, 2.0, 2]"
