"""Group commit: what is pending when a connection is free goes as one transaction.

Each caller awaits its own commit, so durability is what it would be with one transaction each.
Two flushes overlap; a flush starts at once when a lane is idle, and while it is in flight the
next batch forms by itself. A batch that fails is split until the one bad item fails alone.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeAlias, TypeVar

from zart.errors import DatabaseUnavailableError

__all__ = ["Journal"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Batch: TypeAlias = list[tuple[Item, asyncio.Future[Answer]]]
_log = logging.getLogger("zart.journal")

LANES = 2
BATCH = 128
CHARACTERS = 1024 * 1024
"""Characters of payload in one batch, one longer item aside: a server refuses long statements, and
says so by ending the connection, so that nothing tells the batch from one that may be tried again.
"""


class Journal(Generic[Item, Answer]):
    """Gathers items and writes them in batches; ``submit`` gives a future of the item's answer.

    An answer that is an exception is raised for that item alone. ``length`` gives an item's
    characters of payload; without it a batch may have any.
    """

    __slots__ = (
        "_batch",
        "_busy",
        "_flights",
        "_idle",
        "_lanes",
        "_length",
        "_loop",
        "_pending",
        "_scheduled",
        "_write",
    )

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        lanes: int = LANES,
        batch: int = BATCH,
        length: Callable[[Item], int] | None = None,
    ) -> None:
        self._write = write
        self._length = length
        self._lanes = lanes
        self._batch = batch
        self._pending: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._busy = 0
        self._scheduled = False
        self._flights: dict[asyncio.Task[None], Batch[Item, Answer]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: asyncio.Event | None = None

    def submit(self, item: Item) -> asyncio.Future[Answer]:
        """Queue an item; the future has its answer after the commit."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._pending.append((item, future))
        if self._busy < self._lanes and not self._scheduled:
            # After the callbacks that are ready now: what they submit goes along.
            self._scheduled = True
            loop.call_soon(self._start)
        return future

    async def drain(self) -> None:
        """Wait until nothing is pending or in flight."""
        while self._flights or self._pending:
            if self._flights:
                await asyncio.wait(self._flights)
            else:
                await asyncio.sleep(0)

    async def answered(self, concerned: Callable[[Item], bool]) -> None:
        """Wait until no such item is pending or in flight, also of those whose caller has gone."""
        while any(concerned(item) for batch in self._all() for item, _ in batch):
            if self._flights:
                await asyncio.wait(self._flights, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0)

    def _all(self) -> Iterator[Iterable[tuple[Item, asyncio.Future[Answer]]]]:
        yield self._pending
        yield from self._flights.values()

    def _start(self) -> None:
        self._scheduled = False
        while self._pending and self._busy < self._lanes:
            batch = [self._pending.popleft() for _ in range(self._amount())]
            self._busy += 1
            assert self._loop is not None
            task = self._loop.create_task(self._flush(batch))
            self._flights[task] = batch
            task.add_done_callback(self._flushed)

    def _amount(self) -> int:
        """How many of the pending go next."""
        amount = min(self._batch, len(self._pending))
        if self._length is None:
            return amount
        characters = 0
        for number, (item, _) in enumerate(itertools.islice(self._pending, amount)):
            characters += self._length(item)
            if characters > CHARACTERS:
                return number or 1
        return amount

    def _flushed(self, task: asyncio.Task[None]) -> None:
        self._busy -= 1
        del self._flights[task]
        if self._pending and not self._scheduled:
            self._start()

    async def _flush(self, batch: Batch[Item, Answer]) -> None:
        try:
            answers = await self._write([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except DatabaseUnavailableError as error:
            # Not for one item's sake: every half would wait for as long again. And whether it was
            # committed is not known, which only the same call, tried again, can find out.
            for _, future in batch:
                _settle(future, error)
        except Exception as error:
            await self._split(batch, error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                _settle(future, answer)

    async def _split(self, batch: Batch[Item, Answer], error: Exception) -> None:
        if len(batch) == 1:
            _settle(batch[0][1], error)
            return
        _log.debug("a batch of %d is split: %s: %s", len(batch), type(error).__name__, error)
        middle = len(batch) // 2
        await self._flush(batch[:middle])
        await self._flush(batch[middle:])


def _settle(future: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    """Give an answer, or raise it, unless its caller has gone."""
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
