"""Workers that lose their database, and workers that vanish: paused, cut off, or dead."""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from zart.execution.threads import in_thread
from zart.execution.worker import Worker
from zart.models import ClaimedTask
from zart.scheduler.config import WorkerConfig
from zart.scheduler.durable import DurableScheduler
from zart.scheduler.protocol import Scheduler
from zart.testing.conformance.harness import Backend

__all__ = ["SHORT_LEASE", "Partition", "claim_all", "declare_dead", "separable_worker"]

SHORT_LEASE = WorkerConfig(
    concurrency=4, shutdown_timeout="1s", poll_interval="20ms", beat="300ms", lease="1s"
)


class Partition:
    """A backend whose calls can be kept from arriving.

    While `cut` they stand still and arrive after `heal`, late, as those of a paused process or
    over a broken network do. After `die` the lease's session is closed besides, and with it the
    lock that the session holds, as the end of the process does.
    """

    def __init__(self, backend: Scheduler) -> None:
        self._backend = backend
        self._cut = threading.Event()
        self._whole = threading.Event()
        self._dead = threading.Event()

    def cut(self) -> None:
        self._whole.clear()
        self._cut.set()

    def die(self) -> None:
        self._dead.set()
        self.cut()

    def heal(self) -> None:
        self._dead.clear()
        self._cut.clear()
        self._whole.set()

    @property
    def dead(self) -> bool:
        return self._dead.is_set()

    async def passage(self) -> None:
        """Stand still while cut off."""
        if self._cut.is_set():  # the lease's thread has a loop of its own: no asyncio.Event
            await in_thread(self._whole.wait)

    def __getattr__(self, name: str) -> Any:
        return _gated(getattr(self._backend, name), self.passage)

    @asynccontextmanager
    async def lease_session(self) -> AsyncGenerator[Any, None]:
        await self.passage()
        async with self._backend.lease_session() as line:
            yield _Line(line, self)


class _Line:
    """A lease session on a partitioned backend."""

    def __init__(self, line: Any, partition: Partition) -> None:
        self._line = line
        self._partition = partition
        self.session = _Session(line.session, partition)

    async def _passage(self) -> None:
        if self._partition.dead:
            raise ConnectionResetError("the process of this session is dead")
        await self._partition.passage()

    def __getattr__(self, name: str) -> Any:
        return _gated(getattr(self._line, name), self._passage)


class _Session:
    def __init__(self, session: Any, partition: Partition) -> None:
        self._session = session
        self._partition = partition

    @property
    def broken(self) -> bool:
        return self._partition.dead or bool(self._session.broken)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def _gated(value: Any, passage: Any) -> Any:
    if not inspect.iscoroutinefunction(value):
        return value

    async def call(*arguments: Any, **keywords: Any) -> Any:
        await passage()
        return await value(*arguments, **keywords)

    return call


@asynccontextmanager
async def separable_worker(
    backend: Backend, *tasks: Any, config: WorkerConfig = SHORT_LEASE
) -> AsyncGenerator[tuple[Worker, Partition], None]:
    """A worker with connections of its own that can be cut off; healed at the end."""
    inner = await backend.connect()
    partition = Partition(inner.backend)
    async with DurableScheduler(cast("Scheduler", partition)) as scheduler:
        worker = Worker(scheduler, tasks, config)
        await worker.start()
        try:
            yield worker, partition
        finally:
            partition.heal()
            await worker.stop()


async def claim_all(
    scheduler: DurableScheduler, *names: str, worker: str = "ghost", amount: int = 100
) -> list[ClaimedTask]:
    """Claim what is ready for a worker that exists by name only."""
    queues: Sequence[tuple[str, str]] = [("default", name) for name in names]
    return await scheduler.backend.claim(worker, queues, amount)


async def declare_dead(scheduler: DurableScheduler, worker: str = "ghost") -> int:
    """Take over all that a worker owns, as another worker does when its lease has run out."""
    async with scheduler.backend.lease_session() as line:
        return await line.take_over(worker, _dead)


def _dead(_expires_at: int, _now_at: int, _beat_at: int) -> bool:
    return True
