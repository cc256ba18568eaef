"""The last thing that is asked before a user's function begins, on the loop or in a thread."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from zart.execution.threads import NotBegunError, in_thread

__all__ = ["Gate", "called"]


class Gate(Protocol):
    """Whether code that has effects may begin: asked last before it does, wherever that is."""

    @property
    def may_begin(self) -> bool:
        """True while nothing has stopped it and the lease is known to hold; for any thread."""
        ...

    async def wait_to_begin(self) -> None:
        """Return when it may begin; unwinds when it may not any more."""
        ...


def called(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    asynchronous: bool,
    gate: Gate | None = None,
) -> Any:
    """An awaitable of a step function's result: a coroutine, or a thread's answer.

    A coroutine begins where it is awaited; the way to a thread passes the ``gate`` once more.
    """
    if asynchronous:
        return function(*arguments)
    return _threaded(function, arguments, gate)


async def _threaded(
    function: Callable[..., Any], arguments: tuple[Any, ...], gate: Gate | None
) -> Any:
    def call() -> Any:
        return function(*arguments)

    if gate is None:
        result = await in_thread(call)
    else:
        result = await _through(gate, call)
    if not inspect.isawaitable(result):
        return result
    # A lambda around an async function, which begins here, on the way back from the thread.
    try:
        if gate is not None and not gate.may_begin:
            await gate.wait_to_begin()
    except BaseException:
        if inspect.iscoroutine(result):
            result.close()
        raise
    return await result


async def _through(gate: Gate, call: Callable[[], Any]) -> Any:
    while True:
        try:
            return await in_thread(call, lambda: gate.may_begin)
        except NotBegunError:
            await gate.wait_to_begin()
