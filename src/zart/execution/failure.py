"""Errors, on their way into the record and back.

What the first run sees is what a replay sees: an error is recorded first and then raised from
its record, both times.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from typing import cast

import msgspec

from zart.errors import (
    StepCancelledError,
    StepError,
    StepFailedError,
    StepTimedOutError,
    ZartError,
)
from zart.execution.branches import Suspension
from zart.models import Failure, Outcome
from zart.serialization import Serializer

__all__ = [
    "execution_failure",
    "failed_steps",
    "failure_of",
    "is_own",
    "read_failure",
    "step_error",
    "write_failure",
]

_TRACEBACK_LIMIT = 16_000
_MESSAGE_LIMIT = 16_000
_OF_BYTES = tuple[str, bytes, int, int, str]
"""What Python makes a UnicodeDecodeError of; untyped JSON has no bytes."""


def type_name(kind: type[BaseException]) -> str:
    """The name an error's type is recorded under."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def failure_of(
    error: BaseException, *, step: str = "", business: bool = False, serializer: Serializer
) -> Failure:
    """An error as it is recorded; a business error keeps its arguments where they can be stored."""
    arguments = None
    if business:
        try:
            arguments = serializer.shape(_form(type(error))).encode(_arguments(error))
        except ZartError:
            arguments = None
    trace = "".join(traceback.format_exception(error))
    return Failure(
        type=type_name(type(error)),
        message=_storable(_text(error))[:_MESSAGE_LIMIT],
        traceback=_storable(trace)[-_TRACEBACK_LIMIT:],
        arguments=arguments,
        step=step,
        retryable=not business,
    )


def _arguments(error: BaseException) -> list[object]:
    """What an error's class makes it of: its args, and of an OSError its file's name, too."""
    if isinstance(error, OSError):
        return list(cast("tuple[object, ...]", OSError.__reduce__(error)[1]))
    return list(error.args)


def _form(kind: type[BaseException]) -> object:
    """The type that an error's arguments are stored as."""
    return _OF_BYTES if issubclass(kind, UnicodeDecodeError) else list


def execution_failure(error: BaseException, *, serializer: Serializer) -> Failure:
    """What left an execution's handler as it is recorded, with the step that it comes of."""
    failure = failure_of(error, serializer=serializer)
    step, kind = _origin(error)
    return msgspec.structs.replace(failure, step=step, step_type=kind)


def is_own(error: BaseException) -> bool:
    """True for what handler code raised by itself, and so is recorded as its failure.

    False for what unwinds it from outside: a suspension, a cancellation, Ctrl-C, and the closing
    of a coroutine whose loop has ended. The last is a GeneratorExit, which code can also raise by
    itself; but then its task is at work.
    """
    if isinstance(error, GeneratorExit):
        try:
            return asyncio.current_task() is not None
        except RuntimeError:
            return False
    return not isinstance(error, Suspension | asyncio.CancelledError | KeyboardInterrupt)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as fault:
        return f"(its text cannot be told: __str__ raised {type_name(type(fault))})"


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def write_failure(failure: Failure) -> str:
    """The JSON of a failure."""
    return msgspec.json.encode(failure).decode()


def read_failure(text: str) -> Failure:
    """The failure in a JSON text."""
    return msgspec.json.decode(text, type=Failure)


def step_error(
    name: str,
    outcome: str,
    failure: Failure,
    raises: tuple[type[BaseException], ...],
    serializer: Serializer,
) -> BaseException:
    """The exception that a step's recorded failure is raised as."""
    if outcome == Outcome.TIMED_OUT:
        return StepTimedOutError(
            f"step {name!r} timed out: {failure.message}",
            step=name,
            error_type=failure.type,
            message=failure.message,
            traceback=failure.traceback,
        )
    if outcome == Outcome.CANCELLED:
        return StepCancelledError(f"step {name!r} was cancelled", step=name)
    if not failure.retryable:
        for kind in raises:
            found = _find(kind, failure.type)
            if found is not None and (made := _rebuilt(found, name, failure, serializer)):
                return made
    return StepFailedError(
        f"step {name!r} failed: {failure.type}: {failure.message}",
        step=name,
        error_type=failure.type,
        message=failure.message,
        traceback=failure.traceback,
    )


def _find(kind: type[BaseException], recorded: str) -> type[BaseException] | None:
    """The recorded type among a listed type and its subclasses."""
    if type_name(kind) == recorded:
        return kind
    for child in kind.__subclasses__():
        if (found := _find(child, recorded)) is not None:
            return found
    return None


def _rebuilt(
    kind: type[BaseException], step: str, failure: Failure, serializer: Serializer
) -> BaseException | None:
    """A business error again; None where its class makes none of what is recorded."""
    arguments: list[object] = [failure.message]
    if failure.arguments is not None:
        arguments = list(serializer.shape(_form(kind)).decode(failure.arguments))
    error: BaseException | None
    try:
        error = kind(*arguments)
    except Exception:
        error = None
    if error is None or _arguments(error) != arguments:
        # A constructor that takes something else than it passes on as args: what it would make of
        # these is an error with another message.
        try:
            error = kind.__new__(kind)
            _builtin(kind).__init__(error, *arguments)
        except Exception:  # a group, and what else cannot be made of its message
            return None
    vars(error)["__zart_step__"] = step
    return error


def _builtin(kind: type[BaseException]) -> type[BaseException]:
    """The class of Python's own that an error's class is made from."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def failed_steps(error: BaseException) -> Iterator[str]:
    """Names of the steps whose recorded failure an error is, or was raised from."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        if (name := _step_of(link)) is not None:
            yield name
        if isinstance(link, BaseExceptionGroup):
            pending.extend(cast("BaseExceptionGroup[BaseException]", link).exceptions)
        pending.append(link.__cause__)


def _step_of(error: BaseException) -> str | None:
    """The name of the step whose recorded failure an error is; None for any other error."""
    if isinstance(error, StepError):
        return error.step
    name = getattr(error, "__zart_step__", None)
    return name if isinstance(name, str) else None


def _origin(error: BaseException) -> tuple[str, str]:
    """The step that an error comes of, and the type that was raised there; empty for none.

    The nearest one, by what the error was raised from. A group comes of a step when all of it that
    comes of any does: which of several was the first is not the same in each replay.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if (name := _step_of(link)) is not None:
            return name, link.error_type if isinstance(link, StepError) else type_name(type(link))
        if isinstance(link, BaseExceptionGroup):
            members = cast("BaseExceptionGroup[BaseException]", link).exceptions
            origins = {origin for each in members if (origin := _origin(each))[0]}
            if origins:
                return origins.pop() if len(origins) == 1 else ("", "")
        link = link.__cause__
    return "", ""
