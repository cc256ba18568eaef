"""What a worker shall run, named on the command line as ``module:attribute`` or ``module``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from zart.decorators import Durable, Step
from zart.errors import DefinitionError
from zart.execution.handler import TaskHandler
from zart.execution.registry import TaskRegistry

__all__ = ["registry_of"]

_FORMS = "write module:registry, module:function or only the module, as in `import shop`"


def registry_of(target: str) -> TaskRegistry:
    """The registry that a target names or makes up; raises `DefinitionError` when it has none."""
    module_name, colon, attribute = target.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        raise DefinitionError(f"{target!r} is a file's path: {_FORMS}")
    if not module_name or (colon and not attribute):
        raise DefinitionError(f"{target!r} names nothing: {_FORMS}")
    module = _import(module_name)
    registry = _registry(_look_up(module, attribute), target) if colon else _collect(module)
    if not len(registry):
        raise DefinitionError(
            f"{target!r} has nothing to run: no function decorated with @zart.durable or"
            " @zart.step, no TaskHandler, and no TaskRegistry that has one"
        )
    return registry


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise DefinitionError(
                f"there is no module {name!r} in {here} or among the installed ones: {_FORMS}"
            ) from error
        raise DefinitionError(f"module {name!r} cannot be imported: {error}") from error
    except Exception as error:
        raise DefinitionError(
            f"module {name!r} cannot be imported: {type(error).__name__}: {error}"
            " (--debug shows where)"
        ) from error


def _look_up(module: ModuleType, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise DefinitionError(
                f"module {module.__name__!r} has no {path!r}; it has {_offer(module)}"
            )
        found = getattr(found, part)
    return found


def _offer(module: ModuleType) -> str:
    usable = [
        name
        for name, value in vars(module).items()
        if _is_task(value) or isinstance(value, TaskRegistry)
    ]
    return ", ".join(usable) or "nothing that a worker could run"


def _registry(found: Any, target: str) -> TaskRegistry:
    if isinstance(found, TaskRegistry):
        return found
    if isinstance(found, ModuleType):
        return _collect(found)
    if _is_task(found):
        return TaskRegistry([found])
    if isinstance(found, list | tuple | set | frozenset):
        return TaskRegistry(cast("Iterable[Any]", found))
    raise DefinitionError(
        f"{target!r} is {_kind(found)}: name a TaskRegistry, a list of tasks, a function decorated"
        " with @zart.durable or @zart.step, or a TaskHandler"
    )


def _kind(found: object) -> str:
    if inspect.isfunction(found):
        return "a plain function"
    return f"of type {type(found).__name__}"


def _is_task(value: object) -> bool:
    if isinstance(value, type):
        return issubclass(value, TaskHandler) and not inspect.isabstract(cast("Any", value))
    return isinstance(value, Durable | Step | TaskHandler)


def _collect(module: ModuleType) -> TaskRegistry:
    """Everything in a module that a worker could run, also by its registries, each once."""
    values = list(vars(module).values())
    tasks = [value for value in values if _is_task(value)]
    found = TaskRegistry()
    try:
        for registry in values:
            if isinstance(registry, TaskRegistry):
                _add(found, registry)
        # Classes last: an instance that is there has been made with what it needs.
        for task in sorted(tasks, key=lambda task: isinstance(task, type)):
            found.register(task)
    except DefinitionError as error:
        raise DefinitionError(
            f"a worker cannot take all of module {module.__name__!r}: {error}. Or name what it"
            f" shall take, as in {module.__name__}:registry; there are {_offer(module)}"
        ) from error
    return found


def _add(to: TaskRegistry, registry: TaskRegistry) -> None:
    for name in registry.names:
        if (handler := registry.find(name)) is not None:
            to.register(name, handler)
        else:
            to.register(registry.find_step(name))
