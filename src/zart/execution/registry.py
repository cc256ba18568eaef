"""The registry: which code stands behind which name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        self._of_classes: set[str] = set()
        """The names whose handler was made here, of a class."""
        for entry in _several(entries):
            self.register(entry)

    @overload
    def register(self, name: str, handler: Any, /) -> None: ...
    @overload
    def register(self, handler: Any, /) -> None: ...
    def register(self, name: Any, handler: Any = None, /) -> None:
        """Enter a handler, under its own name unless one is given, or a decorated step.

        ``handler`` is a `TaskHandler`, its class, a function decorated with ``@zart.durable`` or
        one decorated with ``@zart.step``, which keeps its own name. A class stands for an instance
        that is made without arguments, or for the one of that class that is entered beside it.
        Raises `DefinitionError` for anything else, and for a second, different entry under one
        name; `InvalidIdError` for a name that cannot be stored.
        """
        if handler is None:
            name, handler = None, name
        handler = getattr(handler, "__zart_handler__", handler)
        step = getattr(handler, "__zart_step_function__", handler)
        if isinstance(step, StepFunction):
            if name not in (None, step.step_name):
                raise DefinitionError(
                    f"the step {step.step_name!r} cannot be registered as {name!r}: its calls look"
                    f" for its own name; name it where it is defined, @zart.step(name={name!r})"
                )
            self._enter(self._steps, step.task_name, step)
            return
        entry: Any = handler
        kind: Any = entry if inspect.isclass(handler) else entry.__class__
        if TaskHandler not in kind.__mro__:
            raise DefinitionError(
                f"{handler!r} cannot be registered: give a TaskHandler, a function decorated with"
                " @zart.durable, or a step decorated with @zart.step"
            )
        if inspect.isabstract(kind):
            raise DefinitionError(
                f"the class {kind.__qualname__} cannot be registered: it has no run of its own"
            )
        label = checked(entry.name if name is None else name, "a task's name")
        if entry is kind:
            if type(self._handlers.get(label)) is kind:
                return
            self._enter(self._handlers, label, _instance(kind))
            self._of_classes.add(label)
        elif label in self._of_classes and type(self._handlers[label]) is kind:
            self._handlers[label] = entry
            self._of_classes.discard(label)
        else:
            self._enter(self._handlers, label, entry)

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


def _several(entries: Any) -> Iterable[Any]:
    """The entries of a list, or of what else can be gone through; not one task by itself."""
    if isinstance(entries, Iterable) and not isinstance(entries, str | Mapping):
        return entries  # pyright: ignore[reportUnknownVariableType]
    if isinstance(entries, Mapping):
        mend = "enter each with registry.register(name, handler)"
    else:
        mend = "put it into a list, also where it is the only one: [checkout]"
    raise DefinitionError(f"tasks come as a list or a TaskRegistry, not as {entries!r:.80}: {mend}")


def _instance(kind: type[TaskHandler[Any, Any]]) -> TaskHandler[Any, Any]:
    """A handler of a handler's class; raises `DefinitionError` where it takes arguments."""
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise DefinitionError(
            f"the class {kind.__qualname__} cannot be registered, as its __init__ takes arguments"
            f" ({error}): make an instance and register that, {kind.__name__}(...)"
        ) from None
    return kind()
