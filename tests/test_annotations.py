"""The types that callables declare, however the callable is made and its annotations written."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import pytest

from zart.annotations import parameter_types, return_type
from zart.errors import DefinitionError

if TYPE_CHECKING:
    from decimal import Decimal as Hidden


@dataclass
class Order:
    id: str
    total: int = 0


async def charge(card: str, total: int) -> Order:
    raise NotImplementedError


def plain(order: Order, *rest: int, note: str = "") -> list[Order]:
    raise NotImplementedError


def untyped(a, b=1):  # type: ignore[no-untyped-def]
    raise NotImplementedError


class Charger:
    async def __call__(self, order: Order) -> Annotated[str, "receipt"]:
        raise NotImplementedError

    def refund(self, order: Order) -> None:
        raise NotImplementedError

    @classmethod
    def build(cls, name: str) -> Order:
        raise NotImplementedError

    @staticmethod
    def check(name: str) -> bool:
        raise NotImplementedError


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def returns_coroutine() -> Coroutine[Any, Any, Order]:
    raise NotImplementedError


def returns_awaitable() -> Awaitable[int]:
    raise NotImplementedError


def returns_future() -> asyncio.Future[str]:
    raise NotImplementedError


def returns_bare_awaitable() -> Awaitable:  # type: ignore[type-arg]
    raise NotImplementedError


async def returns_awaitable_later() -> Awaitable[int]:
    raise NotImplementedError


async def never() -> NoReturn:
    raise NotImplementedError


def hidden(amount: Hidden) -> int:
    raise NotImplementedError


def hidden_result() -> Hidden:
    raise NotImplementedError


def broken() -> None:
    raise NotImplementedError


broken.__annotations__["return"] = "nonsense ("


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (charge, Order),
        (plain, list[Order]),
        (untyped, Any),
        (lambda: 1, Any),
        (functools.partial(charge, "visa"), Order),
        (functools.partial(functools.partial(charge, "visa"), total=3), Order),
        (Charger(), Annotated[str, "receipt"]),
        (functools.partial(Charger(), Order("o-1")), Annotated[str, "receipt"]),
        (Charger().refund, type(None)),
        (Charger.build, Order),
        (Charger.check, bool),
        (wrapped(charge), Order),
        (wrapped(wrapped(plain)), list[Order]),
        (Order, Order),
        (returns_coroutine, Order),
        (returns_awaitable, int),
        (returns_future, str),
        (returns_bare_awaitable, Any),
        (returns_awaitable_later, Awaitable[int]),
        (never, Any),
        (len, Any),
        (dict.get, Any),
    ],
)
def test_return_type_is_what_a_call_ends_with(function: Any, expected: Any) -> None:
    assert return_type(function) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (charge, {"card": str, "total": int}),
        (plain, {"order": Order, "rest": int, "note": str}),
        (untyped, {"a": Any, "b": Any}),
        (lambda x: x, {"x": Any}),
        (functools.partial(charge, "visa"), {"total": int}),
        (Charger(), {"order": Order}),
        (Charger().refund, {"order": Order}),
        (Charger.build, {"name": str}),
        (Charger.check, {"name": str}),
        (wrapped(charge), {"card": str, "total": int}),
        (Order, {"id": str, "total": int}),
    ],
)
def test_parameter_types_are_those_a_caller_may_still_fill(function: Any, expected: Any) -> None:
    assert parameter_types(function) == expected
    assert list(parameter_types(function)) == list(expected)


def test_a_class_the_function_closes_over_is_found() -> None:
    @dataclass
    class Local:
        x: int

    def make(local: Local) -> Local:
        return Local(local.x)

    assert return_type(make) is Local
    assert parameter_types(make) == {"local": Local}


@pytest.mark.parametrize(
    ("read", "function"), [(parameter_types, hidden), (return_type, hidden_result)]
)
def test_a_name_that_cannot_be_found_is_an_error_naming_function_and_name(
    read: Callable[[Any], Any], function: Any
) -> None:
    with pytest.raises(DefinitionError, match=rf"{function.__name__} name 'Hidden'.*TYPE_CHECKING"):
        read(function)


def test_the_result_is_read_even_if_a_parameter_cannot_be() -> None:
    assert return_type(hidden) is int


def test_an_annotation_that_is_no_type_at_all_is_a_definition_error() -> None:
    with pytest.raises(DefinitionError, match="broken"):
        return_type(broken)
