"""What the conformance suite asks of whoever runs it, and what its tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import pytest

from zart.execution.worker import Worker
from zart.scheduler.config import WorkerConfig
from zart.scheduler.durable import DurableScheduler

__all__ = ["Backend", "eventually", "guarantee", "open_scheduler", "working"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

QUICK = WorkerConfig(concurrency=20, shutdown_timeout="2s", poll_interval="20ms")


class Backend(Protocol):
    """One fresh, empty database for one test. ``connect`` gives a scheduler on it, each time a
    new one with connections of its own."""

    async def connect(self, **options: Any) -> DurableScheduler: ...


def guarantee(*numbers: int) -> Callable[[F], F]:
    """Marks a test with the numbers of the guarantees (design, section 4) that it holds."""
    return pytest.mark.guarantee(*numbers)


@asynccontextmanager
async def open_scheduler(
    backend: Backend, **options: Any
) -> AsyncGenerator[DurableScheduler, None]:
    """A migrated scheduler for the length of a block."""
    scheduler = await backend.connect(**options)
    async with scheduler:
        await scheduler.migrate()
        yield scheduler


@asynccontextmanager
async def working(
    scheduler: DurableScheduler, *tasks: Any, config: WorkerConfig = QUICK
) -> AsyncGenerator[Worker, None]:
    """A worker for the length of a block."""
    async with Worker(scheduler, tasks, config) as worker:
        yield worker


async def eventually(
    look: Callable[[], Awaitable[T]], *, is_true: Callable[[T], bool] = bool, seconds: float = 10
) -> T:
    """What ``look`` gives as soon as it is true; fails with the last answer when time runs out."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        answer = await look()
        if is_true(answer):
            return answer
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not true within {seconds} s; the last answer was {answer!r}")
        await asyncio.sleep(0.01)
