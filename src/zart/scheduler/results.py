"""Waiting for executions to end: one look at the database for all who wait in this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from zart.scheduler.protocol import Scheduler
from zart.scheduler.wakeup import FINISHED, Bell, WakeUps

__all__ = ["Results"]

_log = logging.getLogger("zart.results")

Ending: TypeAlias = tuple[Any, ...]
"""status, output, failure"""

FIRST_LOOK = 0.01
"""Seconds; looks then become rarer, up to the backend's poll interval."""


FRESH = 0.005
"""Seconds since its insertion for which nobody asks after an execution: its end will tell."""

PAUSE = 0.00005
"""Seconds of rest after a look, for each execution that it asked about."""


class _Hint(Bell):
    """Passes a hint from another process on, and keeps that it was one."""

    __slots__ = ("_to", "rang")

    def __init__(self, to: Bell) -> None:
        super().__init__()
        self._to = to
        self.rang = False

    def ring(self) -> None:
        self.rang = True
        self._to.ring()


class Results:
    """Answers with an execution's end, however many are waited for."""

    def __init__(
        self, backend: Scheduler, wakeups: WakeUps, runs_here: Callable[[str], bool]
    ) -> None:
        self._backend = backend
        self._wakeups = wakeups
        self._runs_here = runs_here
        self._bell = Bell()
        self._hint = _Hint(self._bell)
        self._new: set[str] = set()
        self._waiting: dict[str, list[asyncio.Future[Ending | None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def ending(self, execution_id: str, since: float = -math.inf) -> Ending | None:
        """How the execution ended, as soon as it has; None when there is no such execution.

        ``since`` is when it was inserted by this process, on its monotonic clock.
        """
        future: asyncio.Future[Ending | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(execution_id, []).append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look(), name="zart-results")
        if not self._runs_here(execution_id):  # one that does has not ended, and tells when it has
            if time.monotonic() - since > FRESH:
                self._new.add(execution_id)
            self._bell.ring()
        try:
            return await future
        finally:
            waiters = self._waiting.get(execution_id, [])
            if future in waiters:
                waiters.remove(future)
                if not waiters:
                    self._waiting.pop(execution_id, None)

    def settle(self, execution_id: str, ending: Ending | None) -> None:
        """Answer those who wait for an execution, with an end that is known to be committed."""
        for future in self._waiting.pop(execution_id, ()):
            if not future.done():
                future.set_result(ending)

    async def _look(self) -> None:
        try:
            await self._listen()
            interval = FIRST_LOOK
            look_at = time.monotonic() + interval
            while self._waiting:
                rang = await self._bell.wait(max(0.0, look_at - time.monotonic()))
                now = time.monotonic()
                interval = FIRST_LOOK if rang else min(interval * 1.5, self._backend.poll_interval)
                if self._hint.rang or now >= look_at:
                    ids = list(self._waiting)
                    look_at = now + interval
                else:  # those who come one after the other do not put the look at all of them off
                    ids = [i for i in self._new if i in self._waiting]
                    look_at = min(look_at, now + interval)
                self._new.clear()
                self._hint.rang = False
                if ids:
                    await self._answer(ids)
                    # However many ends are told of, looking takes a small share of the time.
                    await asyncio.sleep(len(ids) * PAUSE)
        finally:
            self._wakeups.detach(self._hint)
            self._hint.rang = False  # it told of the ends of those who have waited

    async def _listen(self) -> None:
        try:
            await self._wakeups.attach(self._hint, FINISHED)
        except Exception as error:  # whatever it is, the looks tell: nobody may wait for ever
            _log.debug("no hints of ends, polling goes on: %s", error)

    async def _answer(self, ids: Sequence[str]) -> None:
        try:
            found = await self._backend.results(ids)
        except Exception as error:
            for execution_id in ids:
                for future in self._waiting.pop(execution_id, ()):
                    if not future.done():
                        future.set_exception(error)
            return
        for execution_id in ids:
            ending = found.get(execution_id)
            if ending is None or ending[0] is not None:
                self.settle(execution_id, ending)

    async def close(self) -> None:
        """Stop looking; those who still wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()
