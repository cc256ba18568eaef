"""Handlers: the code of a task."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, get_origin

from zart.annotations import parameter_types, return_type
from zart.duration import Duration, seconds
from zart.execution.definition import async_taking
from zart.execution.retry import RetryConfig, checked_retries, checked_rule
from zart.models import Failure, TaskDefinition
from zart.scheduler.naming import checked
from zart.serialization.declaration import substituted

if TYPE_CHECKING:
    from zart.execution.context import TaskContext

__all__ = ["DEFAULT_BACKOFF", "TaskHandler"]

D = TypeVar("D")
O = TypeVar("O")  # noqa: E741

DEFAULT_BACKOFF = RetryConfig.exponential(0, "1s", max_delay="5m", jitter=0.1)


class TaskHandler(TaskDefinition[D, O], ABC, Generic[D, O]):
    """The code of a task, as a class: ``TaskHandler[Order, str]`` takes an Order, gives a str.

    ``name`` is what executions are found by; it must not change while any are alive. ``timeout``
    bounds the whole execution from its first start. ``max_retries`` is how often the run is tried
    again after a failure that escaped it, each time keeping its recorded steps; ``retry`` says
    when, and which errors are worth it, and how often where ``max_retries`` does not. Without it
    the delay is a second, doubled each time up to five minutes, a tenth of it left to chance.
    A class whose ``run`` or ``on_failure`` is no async def or takes other arguments, or whose types
    or rules cannot be read, is refused as it is defined: `DefinitionError`, `DurationError`.

    ::

        class Checkout(zart.TaskHandler[Order, str]):
            name = "checkout"
            max_retries = 3

            async def run(self, ctx: zart.TaskContext, data: Order) -> str:
                return await ctx.step("charge", charge_card, data.card, data.total)
    """

    name: str = ""
    timeout: Duration | None = None
    max_retries: int = 0
    retry: RetryConfig | None = None
    data_type: Any = Any
    output_type: Any = Any

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if inspect.isabstract(cls):
            return
        if cls.timeout is not None:
            seconds(cls.timeout, what=f"{cls.__name__}.timeout")
        checked_retries(cls.max_retries, f"{cls.__name__}.max_retries")
        checked_rule(cls.retry, f"{cls.__name__}.retry")
        _takes(cls, "run", "data")
        _takes(cls, "on_failure", "failure")
        if not cls.name:
            cls.name = cls.__name__
        checked(cls.name, f"{cls.__name__}.name")
        cls.data_type, cls.output_type = _declared_types(cls)

    @abstractmethod
    async def run(self, ctx: TaskContext, data: D) -> O:
        """The workflow: ordinary code, whose steps go through ``ctx``; gives the result.

        ``data`` is the input, decoded. The method is run again from the top after each wait, crash
        or retry, and must ask for the same steps in the same order. What it raises fails the run,
        which is tried again where ``max_retries`` and ``retry`` say so.
        """

    async def on_failure(self, ctx: TaskContext, failure: Failure) -> None:
        """Compensate, when the execution has failed for good; its steps are durable too.

        ``failure`` tells what escaped ``run``; ``ctx.data`` is the input. The execution ends as
        failed when it returns. What it raises is tried again as ``run`` is, and then noted in the
        failure's message. It is not called for one that was cancelled.
        """

    @property
    def compensates(self) -> bool:
        """True when the class has an ``on_failure`` of its own."""
        return type(self).on_failure is not _DOES_NOTHING

    def backoff(self) -> RetryConfig:
        """The rule for the execution's own retries, made of ``max_retries`` and ``retry``."""
        if self.retry is not None:
            times = self.max_retries or self.retry.max_retries
            return replace(self.retry, max_retries=times)
        return RetryConfig(
            self.max_retries,
            DEFAULT_BACKOFF.initial,
            DEFAULT_BACKOFF.factor,
            DEFAULT_BACKOFF.max_delay,
            DEFAULT_BACKOFF.jitter,
        )


_DOES_NOTHING: Any = TaskHandler.__dict__["on_failure"]


def _declared_types(cls: type[TaskHandler[Any, Any]]) -> tuple[Any, Any]:
    """The types in ``TaskHandler[D, O]``, or else in the annotations of ``run``."""
    arguments = _arguments(cls)
    if len(arguments) == 2 and not any(isinstance(each, TypeVar) for each in arguments):
        return arguments[0], arguments[1]
    types = list(parameter_types(cls.run).values())[_first(cls, "run") + 1 :]
    return (types[0] if types else Any), return_type(cls.run)


def _arguments(cls: type[Any]) -> tuple[Any, ...]:
    """What stands for ``D`` and ``O``, also by way of generic classes in between."""
    for base in getattr(cls, "__orig_bases__", cls.__bases__):
        origin: Any = get_origin(base) or base
        if origin is TaskHandler:
            return get_args(base)
        if TaskHandler in getattr(origin, "__mro__", ()):
            given = dict(zip(origin.__parameters__, get_args(base), strict=False))
            return tuple(substituted(each, given) for each in _arguments(origin))
    return ()


def _first(cls: type[TaskHandler[Any, Any]], method: str) -> int:
    """The place of ``ctx`` among a method's parameters, as the class shows it."""
    return 0 if isinstance(inspect.getattr_static(cls, method), staticmethod | classmethod) else 1


def _takes(cls: type[TaskHandler[Any, Any]], method: str, last: str) -> None:
    arguments = ["self"] * _first(cls, method) + ["ctx", last]
    form = f"async def {method}(self, ctx, {last})"
    async_taking(getattr(cls, method), arguments, f"{cls.__name__}.{method}", form)
