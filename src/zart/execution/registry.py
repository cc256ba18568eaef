"""The registry: which code stands behind which name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from zart.errors import DefinitionError
from zart.execution.handler import TaskHandler
from zart.execution.step import StepFunction
from zart.scheduler.naming import checked

__all__ = ["TaskRegistry"]


class TaskRegistry:
    """Which code stands behind which name: all that a worker with it claims.

    ``entries`` are what `register` takes. Given to `connect` as ``registry``, names and inputs are
    checked when they are scheduled. A `Worker` takes a list of entries as well.

    ::

        registry = zart.TaskRegistry()
        registry.register("checkout", Checkout())
        registry.register(onboarding)                   # takes the handler's own name
        registry.register(charge)                       # a step that any worker may run
    """

    def __init__(self, entries: Iterable[Any] = ()) -> None:
        self._handlers: dict[str, TaskHandler[Any, Any]] = {}
        self._steps: dict[str, StepFunction] = {}
        for entry in entries:
            self.register(entry)

    @overload
    def register(self, name: str, handler: Any, /) -> None: ...
    @overload
    def register(self, handler: Any, /) -> None: ...
    def register(self, name: Any, handler: Any = None, /) -> None:
        """Enter a handler, under its own name unless one is given, or a decorated step.

        ``handler`` is a `TaskHandler`, its class, a function decorated with ``@zart.durable`` or
        one decorated with ``@zart.step``, which keeps its own name. Raises `DefinitionError` for
        anything else, and for a second, different entry under one name; `InvalidIdError` for a name
        that cannot be stored.
        """
        if handler is None:
            name, handler = None, name
        handler = getattr(handler, "__zart_handler__", handler)
        step = getattr(handler, "__zart_step_function__", handler)
        if isinstance(step, StepFunction):
            self._enter(self._steps, step.task_name, step)
            return
        if isinstance(handler, type):
            handler = _instance(handler)
        if not isinstance(handler, TaskHandler):
            raise DefinitionError(
                f"{handler!r} cannot be registered: give a TaskHandler, a function decorated with"
                " @zart.durable, or a step decorated with @zart.step"
            )
        self._enter(self._handlers, checked(name or handler.name, "a task's name"), handler)

    def _enter(self, table: dict[str, Any], name: str, entry: Any) -> None:
        earlier = table.get(name)
        if earlier is not None and earlier is not entry:
            raise DefinitionError(
                f"two handlers for {name!r}: {earlier!r} and {entry!r}; give one of them another"
                " name"
            )
        table[name] = entry

    @property
    def names(self) -> Sequence[str]:
        """Names of tasks, and of steps as ``step NAME``: all that a worker with it claims."""
        return [*self._handlers, *self._steps]

    def find(self, name: str) -> TaskHandler[Any, Any] | None:
        """The handler of a task by its name; None where there is none."""
        return self._handlers.get(name)

    def find_step(self, task_name: str) -> StepFunction | None:
        """The step of a name as in `names`, ``step NAME``; None where there is none."""
        return self._steps.get(task_name)

    def __contains__(self, name: object) -> bool:
        return name in self._handlers or name in self._steps

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self._handlers) + len(self._steps)


def _instance(kind: Any) -> Any:
    """A handler of a handler's class; another class stays what it is, to be refused."""
    return kind() if TaskHandler in kind.__mro__ else kind
