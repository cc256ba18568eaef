"""Checks of what users define, made where it is defined: later a worker would meet it at night."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from zart.errors import DefinitionError
from zart.execution.step import is_async

__all__ = ["async_taking", "fit_for_step"]


def async_taking(function: Any, arguments: Sequence[str], what: str, form: str) -> None:
    """Expect an async function that can be called with these arguments, by position.

    Raises `DefinitionError`, which begins with ``what`` and shows ``form``, as it is written.
    """
    if not callable(function) or not is_async(function):
        raise DefinitionError(f"{what} must be an async def, not {function!r}: write {form}")
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise DefinitionError(
            f"{what} gets {', '.join(arguments)}, which {_name(function)} does not take"
            f" ({error}): write {form}"
        ) from None


def fit_for_step(function: Any, signature: inspect.Signature) -> None:
    """Expect a function that can be called alone and returns its result.

    Raises `DefinitionError` for a generator, and for a method, which a step would call without its
    object.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(
            f"a step returns its result, and {_name(function)} yields: return a list of it"
        )
    if next(iter(signature.parameters), "") == "self":
        raise DefinitionError(
            f"{_name(function)} is a method: @zart.step decorates functions outside of classes. In"
            f' a workflow write `await ctx.step("{function.__name__}",'
            f" self.{function.__name__}, ...)`"
        )


def _name(function: Any) -> str:
    name = getattr(function, "__qualname__", None) or repr(function)
    try:
        return f"{name}{inspect.signature(function)}"
    except (NameError, ValueError):
        return str(name)
