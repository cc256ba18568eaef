"""The branches of a run, and when they rest.

A handler may run several branches at once (``asyncio.gather``, ``TaskGroup``). A branch at a
durable wait does not stop its siblings; the run is suspended when every branch waits. Branches
are told from what asyncio shows of its tasks: one that stands in ``gather``, a ``TaskGroup``,
``wait`` or at another task waits through those tasks; one that stands at something else (a
socket, a lock) may go on by itself, so the run stays in memory until it does.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

__all__ = ["Branches", "Rests", "Suspension", "Waiting"]


LOOKS = 4
"""Turns of the event loop, one after the other, in which every branch waits: then they do."""
LOOK_AGAIN = 0.5
"""Seconds between looks at a run that is kept in memory by something that may go on by itself."""


class Suspension(BaseException):
    """Unwinds a handler whose run gives its slot back. Not an `Exception`: let it pass."""


class Waiting(msgspec.Struct, eq=False):
    """One branch at a durable wait.

    It goes on when ``ready`` says so, or at ``due_at``. ``pending`` counts the children it still
    waits for, so that the last of them ends the wait; None for waits that any wake may end. It is
    asked when the run parks: some may have ended while it waited in place.
    """

    name: str
    ready: Callable[[], bool]
    due_at: int | None = None
    pending: Callable[[], int] | None = None
    timer: Any = None


class Rests(Protocol):
    """Whose branches they are."""

    def came_to_rest(self) -> None:
        """All branches wait: they are being unwound."""
        ...


class Branches:
    """Counts what a run is doing and suspends it when all its branches wait."""

    def __init__(self, root: asyncio.Task[Any], rests: Rests) -> None:
        self._root = root
        self._loop = root.get_loop()
        self._rests: Rests | None = rests
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._waiting: dict[asyncio.Future[None], tuple[Waiting, asyncio.Task[Any] | None]] = {}
        self._busy = 0
        self._scheduled = False
        self._later: asyncio.TimerHandle | None = None
        self._watched: dict[asyncio.Task[Any], None] = {}
        self.suspended: list[Waiting] | None = None
        """The waits that the run was suspended at; None while it is not."""

    @property
    def alone(self) -> bool:
        """True when the present task is the only branch and nothing is under way."""
        return (
            self._busy == 0
            and not self._waiting
            and not self._tasks
            and asyncio.current_task(self._loop) is self._root
        )

    def enter(self) -> None:
        """A durable operation begins."""
        self._busy += 1
        self.meet()

    def meet(self) -> None:
        """The present task makes a durable call, in a replay maybe: it is a branch of this run."""
        task = asyncio.current_task(self._loop)  # the loop is looked up slowly before Python 3.12
        if task is not self._root and task is not None:
            self.know(task)

    def leave(self) -> None:
        """A durable operation has ended."""
        self._busy -= 1
        if self._waiting and not self._busy:
            self.settle()

    def know(self, task: asyncio.Task[Any]) -> None:
        """Remember a task as a branch of this run."""
        if task not in self._tasks:
            self._tasks[task] = None
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        self.settle()

    def suspend(self, waiting: Waiting) -> None:
        """Suspend at once: the only branch waits."""
        self.suspended = [waiting]
        self._come_to_rest()
        raise Suspension

    def _come_to_rest(self) -> None:
        if self._rests is not None:
            self._rests.came_to_rest()

    async def wait(self, waiting: Waiting) -> None:
        """Wait in place, until the wait is over or every other branch waits too."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        if task is not None and task is not self._root:
            self.know(task)
        self._waiting[future] = (waiting, task)
        self.settle()
        try:
            await future
        finally:
            del self._waiting[future]

    @property
    def waits(self) -> bool:
        """True when a branch waits in place."""
        return bool(self._waiting)

    def look(self) -> None:
        """Let those branches go on whose wait is over."""
        for future, (waiting, _) in list(self._waiting.items()):
            if not future.done() and waiting.ready():
                future.set_result(None)

    def settle(self) -> None:
        """Look soon whether every branch waits."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self, looks: int = 1) -> None:
        self._scheduled = False
        if self._busy or not self._waiting or self.suspended is not None:
            return
        if any(future.done() for future in self._waiting):
            return
        resting = {task for _, task in self._waiting.values()}
        for task in (self._root, *self._tasks):
            if (stirring := _stirring(task, resting, set())) is not None:
                self._watch(stirring)
                return
        if looks < LOOKS:
            # A branch that has just ended may still have callbacks to come: its group cancels the
            # others then, its gather raises, and so does what waits for that. They run before the
            # last look does.
            self._scheduled = True
            asyncio.get_running_loop().call_soon(functools.partial(self._settle, looks + 1))
            return
        # What has come may have been read for another branch's sake. The park would say that it
        # was seen, and nothing would wake the run for it.
        self.look()
        if any(future.done() for future in self._waiting):
            return
        self.suspended = [waiting for waiting, _ in self._waiting.values()]
        self._come_to_rest()
        if self._root in resting:
            for future, (_, branch) in self._waiting.items():
                if branch is self._root:
                    future.set_exception(Suspension())
        else:
            # Through the structure that the root stands in, which passes it on to the branches;
            # an exception in a branch could be taken for its result (gather's return_exceptions).
            self._root.cancel()

    def _watch(self, stirring: asyncio.Task[Any]) -> None:
        """Look again when a task that has not come to rest may have."""
        if _runnable(stirring):
            self.settle()
            return
        if self._later is None:
            # It may come to rest without a durable call, by awaiting a branch that waits.
            self._later = asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look_again)
        if stirring not in self._watched and stirring is not self._root:
            # When it ends; or before, when it makes a durable call.
            self._watched[stirring] = None
            stirring.add_done_callback(self._stirred)

    def _look_again(self) -> None:
        self._later = None
        self.settle()

    def _stirred(self, task: asyncio.Task[Any]) -> None:
        self._watched.pop(task, None)
        self.settle()

    async def end(self) -> bool:
        """Cancel the branches that are left when the handler has ended; False if none was left."""
        self._rests = None  # the run has ended: it does not come to rest any more
        if self._later is not None:
            self._later.cancel()
        if not self._tasks:
            return False
        while left := [task for task in self._tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=1)
            if not [task for task in left if task.done()]:
                break
        return True


def _stirring(
    task: asyncio.Task[Any], resting: set[asyncio.Task[Any] | None], seen: set[Any]
) -> asyncio.Task[Any] | None:
    """A task that may go on by itself, among this one and those it waits for."""
    if task in resting or task in seen or task.done():
        return None
    seen.add(task)
    awaited = _awaited(task)
    if awaited is None:
        return task
    for other in awaited:
        if not isinstance(other, asyncio.Task):
            if other.done():
                continue
            return task
        if (found := _stirring(other, resting, seen)) is not None:
            return found
    return None


def _runnable(task: asyncio.Task[Any]) -> bool:
    """True for a task that goes on in the loop's next turn."""
    future = getattr(task, "_fut_waiter", None)
    return not task.done() and (future is None or future.done())


def _awaited(task: asyncio.Task[Any]) -> Iterable[asyncio.Future[Any]] | None:
    """The futures that a task waits for through asyncio's own structures, or None."""
    future = getattr(task, "_fut_waiter", None)
    if future is None or future.done():
        return None
    if asyncio.isfuture(future) and hasattr(future, "get_coro"):  # a task
        return [future]
    children = getattr(future, "_children", None)  # gather
    if children is not None:
        return list(children)
    frame = _innermost_frame(task)
    if frame is None:
        return None
    name, variables = frame.f_code.co_qualname, frame.f_locals
    if name in ("TaskGroup.__aexit__", "TaskGroup._aexit"):
        return list(variables["self"]._tasks)
    if name == "_wait" and "fs" in variables:
        return list(variables["fs"])
    if name == "wait_for" and isinstance(variables.get("fut"), asyncio.Future):
        return (variables["fut"],)
    return None


def _innermost_frame(task: asyncio.Task[Any]) -> Any:
    coroutine: Any = task.get_coro()
    while True:
        inner = getattr(coroutine, "cr_await", None)
        if inner is None or not hasattr(inner, "cr_frame"):
            return getattr(coroutine, "cr_frame", None)
        coroutine = inner
