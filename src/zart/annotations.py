"""What a callable declares: the types of its parameters and of its result."""

from __future__ import annotations

import asyncio
import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, cast

from zart.errors import DefinitionError

__all__ = ["parameter_types", "return_type"]

_AWAITABLES = (
    collections.abc.Awaitable,
    collections.abc.Coroutine,
    types.CoroutineType,
    asyncio.Future,
    asyncio.Task,
)


def return_type(function: Callable[..., Any]) -> Any:
    """Give the type that a call of ``function`` ends with.

    A plain callable that is annotated to return an awaitable gives the type inside it. What is
    not annotated, or never returns, gives ``Any``; a class gives itself.

    Args:
        function: any callable: a function, method, lambda, partial, class or callable object.

    Raises:
        DefinitionError: the annotation names something that cannot be found.

    Example:
        >>> async def charge(card: str, total: int) -> str: ...
        >>> return_type(charge)
        <class 'str'>
    """
    if isinstance(function, type):
        return function
    signature = _signature(function)
    if signature is None or signature.return_annotation is inspect.Signature.empty:
        return Any
    declared = _resolved(function, {"return": signature.return_annotation})["return"]
    if declared is typing.NoReturn or declared is typing.Never:
        return Any
    return declared if _is_async(function) else _awaited(declared)


def parameter_types(function: Callable[..., Any]) -> dict[str, Any]:
    """Give the type of each parameter that a caller of ``function`` may still fill.

    ``self`` and what a partial has filled by position are left out; a parameter without an
    annotation gives ``Any``; ``*args`` and ``**kwargs`` give the type of one of theirs.

    Args:
        function: any callable: a function, method, lambda, partial, class or callable object.

    Returns:
        The types by parameter name, in the order of the signature; empty for a built-in that has
        no signature to read.

    Raises:
        DefinitionError: an annotation names something that cannot be found.

    Example:
        >>> async def charge(card: str, total: int) -> str: ...
        >>> parameter_types(charge)
        {'card': <class 'str'>, 'total': <class 'int'>}
    """
    signature = _signature(function)
    if signature is None:
        return {}
    declared = {
        name: Any if parameter.annotation is inspect.Parameter.empty else parameter.annotation
        for name, parameter in signature.parameters.items()
    }
    return _resolved(function, declared)


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except ValueError:  # a built-in without a readable signature
        return None
    except NameError as error:  # Python 3.14 evaluates annotations only when they are asked for
        raise _unresolvable(function, error) from error


def _resolved(function: Callable[..., Any], annotations: dict[str, Any]) -> dict[str, Any]:
    """Evaluate annotations written as text, in the namespace of the function they belong to."""
    code = _plain_function(function)
    holder = types.SimpleNamespace(__annotations__=annotations)
    try:
        return typing.get_type_hints(
            holder, getattr(code, "__globals__", {}), _local_names(code), include_extras=True
        )
    except Exception as error:  # text can fail to evaluate in any way
        raise _unresolvable(function, error) from error


def _plain_function(function: Any) -> Any:
    """Find the function whose module wrote the annotations that `inspect.signature` shows."""
    while not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
        if isinstance(function, functools.partial):
            function = cast(Any, function).func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = inspect.unwrap(function)
        elif isinstance(function, type):
            return cast(Any, function).__init__
        elif inspect.ismethod(getattr(function, "__call__", None)):  # noqa: B004  it is wanted
            function = function.__call__
        else:
            return function
    return function


def _local_names(code: Any) -> dict[str, Any]:
    """Give the names that a nested function has closed over, its own type parameters included."""
    names = {parameter.__name__: parameter for parameter in getattr(code, "__type_params__", ())}
    cells = getattr(code, "__closure__", None)
    for name, cell in zip(code.__code__.co_freevars, cells, strict=True) if cells else ():
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return names


def _is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  the method is wanted, not the answer
    )


def _awaited(declared: Any) -> Any:
    origin = typing.get_origin(declared) or declared
    if origin not in _AWAITABLES:
        return declared
    arguments = typing.get_args(declared)
    return arguments[-1] if arguments else Any


def _unresolvable(function: Callable[..., Any], error: Exception) -> DefinitionError:
    plain = _plain_function(function)
    name = getattr(plain, "__qualname__", None) or repr(function)
    module = getattr(plain, "__module__", None)
    missing = getattr(error, "name", None)
    reason = f"name {missing!r}, which cannot be found" if missing else f"cannot be read: {error}"
    return DefinitionError(
        f"The annotations of {module}.{name} {reason}. zart reads them to know what to store: "
        "define or import the type at the top of the module, and not only under "
        "`if TYPE_CHECKING:`."
    )
