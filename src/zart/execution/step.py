"""What a step is: a function with its types and its rules."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable
from types import GenericAlias
from typing import Any, TypeAlias

from zart.annotations import parameter_types, return_type
from zart.duration import Duration, seconds
from zart.errors import DefinitionError
from zart.execution.retry import RetryConfig, checked_rule

__all__ = ["NO_RETRY", "PLAIN", "Raises", "StepFunction", "StepRules", "is_async", "result_type"]

_class = type  # `type` is an argument's name below

Raises: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]
"""Business errors, as ``raises=`` takes them: one exception class or several."""

NO_RETRY = RetryConfig.none()


class StepRules:
    """How a step is run: retries, timeout and business errors, checked when they are defined."""

    __slots__ = ("idempotent", "per_attempt", "raises", "retry", "timeout", "type")

    def __init__(
        self,
        *,
        retry: Any = None,
        timeout: Duration | None = None,
        per_attempt: bool = False,
        raises: Any = (),
        idempotent: bool = False,
        type: Any = None,
    ) -> None:
        # `retry` and `raises` come as the user wrote them; these checks say what is wrong.
        raises = (raises,) if isinstance(raises, _class) else tuple(raises)
        for kind in raises:
            if not (isinstance(kind, _class) and issubclass(kind, Exception)):
                raise DefinitionError(f"raises lists exception classes; {kind!r} is none")
        checked_rule(retry)
        self.retry: RetryConfig = retry or NO_RETRY
        self.timeout = None if timeout is None else seconds(timeout, what="timeout")
        self.per_attempt = per_attempt
        self.raises: tuple[type[BaseException], ...] = raises
        self.idempotent = idempotent
        self.type = type


PLAIN = StepRules()
"""The rules of a step about which nothing is said."""


def is_async(function: Callable[..., Any]) -> bool:
    """True for functions whose call gives a coroutine; others run in a thread."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    call = getattr(function, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(call)


_types: dict[Any, Any] = {}


def result_type(function: Callable[..., Any]) -> Any:
    """The declared result type; read once for each piece of code and annotation."""
    try:
        known = _written(function)
        if known is None:
            return return_type(function)
        if known not in _types:
            _types[known] = return_type(function)
        return _types[known]
    except (NameError, TypeError):  # an annotation that cannot be evaluated here, or has no hash
        return return_type(function)


def _written(function: Any) -> Any:
    """What one piece of code declares; None where other functions of that code may differ.

    A decorator's wrapper is one piece of code for all that it wraps, and what a function has closed
    over may stand in its annotation.
    """
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__wrapped__"):
        return None
    declared = getattr(function, "__annotations__", {}).get("return")
    if not isinstance(declared, _class) and any(n in repr(declared) for n in code.co_freevars):
        return None
    return code, function.__module__, declared


def _stored_types(signature: inspect.Signature, types: dict[str, Any]) -> dict[str, Any]:
    """The type of each argument as a call binds it: ``*args`` is a tuple, ``**kwargs`` a dict."""
    stored = dict(types)
    for name, parameter in signature.parameters.items():
        declared = types.get(name, Any)
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            stored[name] = GenericAlias(tuple, (declared, ...))
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            stored[name] = GenericAlias(dict, (str, declared))
    return stored


class StepFunction:
    """A function that has been made a step: by name, with rules, and runnable by any worker.

    Workers that have it in their registry run it when a workflow passes it to ``schedule_step``.
    """

    def __init__(self, function: Callable[..., Any], name: str, rules: StepRules) -> None:
        self.function = function
        self.step_name = name
        self.rules = rules
        self.is_async = is_async(function)
        self.result_type = result_type(function) if rules.type is None else rules.type
        self.signature = inspect.signature(function)
        self.parameter_types = _stored_types(self.signature, parameter_types(function))

    @property
    def task_name(self) -> str:
        """The name under which a worker's registry and the task table know it."""
        return f"step {self.step_name}"

    def bind(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        """The call's arguments by name; raises `TypeError` as the call itself would."""
        bound = self.signature.bind(*arguments, **keywords)
        return dict(bound.arguments)

    def bound(self, named: dict[str, Any]) -> inspect.BoundArguments:
        """A call's arguments again, from their names as `bind` gave them."""
        return inspect.BoundArguments(self.signature, OrderedDict(named))
