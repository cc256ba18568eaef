"""Waiting for executions to end: one look at the database for all who wait in this process."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, TypeAlias

from zart.scheduler.protocol import Scheduler
from zart.scheduler.wakeup import FINISHED, Bell, WakeUps

__all__ = ["Results"]

Ending: TypeAlias = tuple[Any, ...]
"""status, output, failure"""

FIRST_LOOK = 0.01
"""Seconds; looks then become rarer, up to the backend's poll interval."""


class Results:
    """Answers with an execution's end, however many are waited for."""

    def __init__(self, backend: Scheduler, wakeups: WakeUps) -> None:
        self._backend = backend
        self._wakeups = wakeups
        self._bell = Bell()
        self._waiting: dict[str, list[asyncio.Future[Ending | None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def ending(self, execution_id: str) -> Ending | None:
        """How the execution ended, as soon as it has; None when there is no such execution."""
        future: asyncio.Future[Ending | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(execution_id, []).append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look(), name="zart-results")
        self._bell.ring()
        try:
            return await future
        finally:
            waiters = self._waiting.get(execution_id, [])
            if future in waiters:
                waiters.remove(future)
                if not waiters:
                    self._waiting.pop(execution_id, None)

    async def _look(self) -> None:
        await self._wakeups.attach(self._bell, FINISHED)
        try:
            interval = FIRST_LOOK
            while self._waiting:
                rang = await self._bell.wait(interval)
                interval = FIRST_LOOK if rang else min(interval * 1.5, self._backend.poll_interval)
                if self._waiting:
                    await self._answer()
        finally:
            self._wakeups.detach(self._bell)

    async def _answer(self) -> None:
        ids = list(self._waiting)
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
                for future in self._waiting.pop(execution_id, ()):
                    if not future.done():
                        future.set_result(ending)

    async def close(self) -> None:
        """Stop looking; those who still wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()
