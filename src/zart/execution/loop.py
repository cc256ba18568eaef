"""Durable loops: a recorded counter and state, and steps that are compacted as it goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any, Generic, TypeVar, cast

import msgspec

from zart.execution.attempts import recorded_value
from zart.execution.history import scope
from zart.execution.run import Run
from zart.models import Outcome
from zart.serialization import Shape

__all__ = ["DurableLoop"]

T = TypeVar("T")
S = TypeVar("S")


class _Mark(msgspec.Struct, frozen=True):
    """What a loop records: iterations finished, and the state after them as JSON."""

    finished: int
    state: msgspec.Raw = msgspec.Raw(b"null")


class DurableLoop(AsyncIterator[T], Generic[T, S]):
    """An ``async for`` over items that goes on after a crash at the iteration it had come to.

    ``index`` is the present iteration's number from 0; ``state`` is kept with each finished
    iteration, as its JSON reads back. Steps inside are named within their iteration, and are
    dropped from the record together with the commit that finishes it. Made by `durable_loop`.
    Raises `EncodeError` or `PayloadTooLargeError` for a state that cannot be stored.

    ::

        loop = zart.durable_loop("pages", range(pages), state=0)
        async for page in loop:
            loop.state += await import_page(page)
    """

    def __init__(
        self, run: Run, name: str, items: Iterable[T] | None, state: S, shape: Shape
    ) -> None:
        self._run = run
        self._name = name
        self._items: Iterable[Any] = count() if items is None else items
        self._iterator: Iterator[Any] | None = None
        self._shape = shape
        self._outer = scope.get()
        self._inner: str | None = None
        self.index = -1
        self.state: S = state

    def __aiter__(self) -> AsyncIterator[T]:
        return _Iterations(self)

    async def __anext__(self) -> T:
        if self._iterator is None:
            finished = self._begin()
        else:
            finished = self.index + 1
        scope.set(self._outer)
        try:
            item = next(self._started(finished))
        except StopIteration:
            await self._mark(finished, ended=True)
            raise StopAsyncIteration from None
        if self.index >= 0:
            await self._mark(finished, ended=False)
        self.index = finished
        self._inner = f"{self._name}[{finished}]/"
        scope.set(self._inner)
        return cast("T", item)

    def left(self) -> None:
        """The body was left by `break`, `return` or an error: names are those outside again."""
        if scope.get() is self._inner:
            scope.set(self._outer)

    def _begin(self) -> int:
        recorded = self._run.history.find(self._name, "loop")
        if recorded is None or recorded.value is None:
            return 0
        mark = msgspec.json.decode(recorded.value, type=_Mark)
        text = bytes(mark.state).decode()
        self.state = self._shape.decode(text, "the state of loop", self._name)
        return mark.finished

    def _started(self, finished: int) -> Iterator[Any]:
        if self._iterator is None:
            items = self._items
            if isinstance(items, Sequence):
                self._iterator = (items[i] for i in range(finished, len(items)))
            elif isinstance(items, count):
                self._iterator = count(finished)
            else:
                self._iterator = islice(iter(items), finished, None)
        return self._iterator

    async def _mark(self, finished: int, *, ended: bool) -> None:
        """Record that iterations are finished, and drop the last one's steps, in one commit."""
        run = self._run
        recorded = run.history.find(self._name, "loop")
        if recorded is not None and recorded.outcome is not None:
            return
        if run.stopping:
            await run.refuse()
        await run.catch_up()
        if not run.branches.alone:
            # What branches have sent is erased with the rest only where it is there already.
            await run.ledger.answered(run.claim)
        erased: list[str] = []
        called_off: list[str] = []
        if self.index >= 0:
            last = f"{self._name}[{finished - 1}]/"
            called_off = run.history.elsewhere(last)
            erased = run.history.forget(last)
        text, self.state = recorded_value(
            run, "an iteration of loop", self._name, self._shape, self.state
        )
        # What waited for company: the erased need no outcome any more.
        run.along = tuple(row for row in run.along if row[2] not in erased)
        mark = msgspec.json.encode(_Mark(finished, msgspec.Raw(text.encode()))).decode()
        outcome = Outcome.OK if ended else None
        position = None if recorded is None else recorded.position
        run.branches.enter()
        try:
            row = run.row(self._name, "loop", outcome, mark)
            if position is not None:
                row = (*row[:4], position, *row[5:])
            await run.write(
                run.entry(steps=(row,), erased=tuple(erased), called_off=tuple(called_off))
            )
        finally:
            run.branches.leave()


class _Iterations(AsyncIterator[T]):
    """What an ``async for`` holds, and nobody else: its end tells that the body was left."""

    __slots__ = ("_loop",)

    def __init__(self, loop: DurableLoop[T, Any]) -> None:
        self._loop = loop

    def __anext__(self) -> Awaitable[T]:
        return self._loop.__anext__()

    def __del__(self) -> None:
        self._loop.left()
