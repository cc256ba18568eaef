"""How every system is measured, zart and its peers alike: one harness, an adapter for each.

``python -m benchmarks.MODULE URL MODE ...`` is an adapter's command line; the last line that it
prints is JSON.

``direct STEPS CONCURRENCY SECONDS``
    So many callers in the worker's own process, each of which starts an execution, awaits its
    result, and starts the next, until the time is over and the last has its result.
``queue STEPS CONCURRENCY SECONDS PROCESSES``
    This process schedules a backlog while no worker works. Then the worker processes, warmed up by
    earlier and smaller backlogs, work it off, each with so many at once (CONCURRENCY is that of
    all together): from the first handler's begin until no execution is left in the database.
``latency SAMPLES``
    A worker process that idles; this one asks at random moments and waits.
``worker CONCURRENCY``
    The other process of the two above.

Nothing here imports zart: it runs in the peers' virtual environments.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

from benchmarks.loops import run
from benchmarks.workers import Worker, serve, started

__all__ = ["System", "main"]

LOOK = 0.01
"""Seconds between two looks at what is left."""
WAVES = 3
"""Executions of a backlog, at least, for each one that runs at once."""
PATIENCE = 90.0
"""Seconds until a backlog counts as stuck."""


class System(ABC):
    """What can be measured: an adapter, made anew in each process.

    Executions of `steps` steps that do nothing end with no result. Handlers call `began` first.
    """

    gap: ClassVar[tuple[float, float]] = (0.005, 0.1)
    """Seconds between samples of a latency, a random number within: beyond what it polls in."""
    plain_loop: ClassVar[bool] = False
    """Whether to run on asyncio's own loop rather than on uvloop."""
    module: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url
        self.first: float | None = None
        """When the first handler began, of those since `consuming`."""

    def began(self) -> None:
        if self.first is None:
            self.first = time.time()

    @abstractmethod
    async def prepare(self) -> None:
        """Make the tables."""

    @abstractmethod
    async def open(self) -> None:
        """Get ready to schedule, to look, and to wait."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def schedule(self, amount: int, steps: int) -> None:
        """Have so many executions ready in the database."""

    @abstractmethod
    async def left(self) -> int:
        """How many executions have not ended yet."""

    @abstractmethod
    async def completed(self) -> int:
        """How many have ended well."""

    @abstractmethod
    def consuming(self, concurrency: int) -> Any:
        """An async context in which this process works, on so many at once."""

    async def execute(self, steps: int) -> None:
        """Start an execution here, where a worker works, and await its result."""
        raise NotImplementedError

    async def start(self) -> dict[str, int]:
        """One execution of another process: when its step began and its handler ended, in ns."""
        raise NotImplementedError

    async def wait_for_event(self) -> Any:
        """Have an execution wait for an event in another process; give what `go_on` takes."""
        raise NotImplementedError

    async def go_on(self, waiting: Any) -> int:
        """Send the event; when the step after the wait began, in ns."""
        raise NotImplementedError

    async def steps(self) -> Sequence[float]:
        """One execution of several steps in another process: what each took, in ms."""
        raise NotImplementedError


async def direct(system: System, steps: int, concurrency: int, seconds: float) -> dict[str, float]:
    async with system.consuming(concurrency):
        await _closed_loop(system, steps, min(concurrency, 16), seconds / 4)
        ended, took = await _closed_loop(system, steps, concurrency, seconds)
    return _rates(ended, steps, took)


async def _closed_loop(
    system: System, steps: int, callers: int, seconds: float
) -> tuple[int, float]:
    begun = time.perf_counter()
    ended = 0

    async def call() -> None:
        nonlocal ended
        while True:
            await system.execute(steps)
            ended += 1
            if time.perf_counter() > begun + seconds:
                return

    await asyncio.gather(*(call() for _ in range(callers)))
    return ended, time.perf_counter() - begun


async def queue(
    system: System, steps: int, concurrency: int, seconds: float, processes: int
) -> dict[str, float]:
    scheduled = 0
    amount = min(20, concurrency * 2)
    shares = (max(1, concurrency // processes),) * processes
    async with _workers(system, shares) as workers:
        for backlog in itertools.count():  # the first ones warm up, and tell how many fill the time
            await system.schedule(amount, steps)
            scheduled += amount
            took = await _drained(system, workers)
            if backlog and took > seconds / 2 and amount >= WAVES * concurrency:
                break
            amount = max(int(amount * min(seconds / took, 20)), amount, WAVES * concurrency)
    if (ended := await system.completed()) != scheduled:
        raise RuntimeError(f"{ended} of {scheduled} executions completed")
    return _rates(amount, steps, took)


async def _drained(system: System, workers: list[Worker]) -> float:
    """Seconds from the first handler's begin until nothing is left."""
    until = time.monotonic() + PATIENCE
    await asyncio.gather(*(worker.ask("start") for worker in workers))
    while left := await system.left():
        if time.monotonic() > until:
            raise RuntimeError(f"{left} executions are still left after {PATIENCE:g} s")
        await asyncio.sleep(LOOK)
    ended = time.time()
    firsts = await asyncio.gather(*(worker.ask("stop") for worker in workers))
    return ended - min(first for first in firsts if first is not None)


async def latency(system: System, samples: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"start": [], "completion": [], "event": [], "step": []}
    async with _workers(system, (8,)) as workers:
        await workers[0].ask("start")
        await system.start()
        for _ in range(samples):
            begun = await _random_moment(system)
            told = await system.start()
            found["completion"].append((time.time_ns() - told["ended"]) / 1e6)
            found["start"].append((told["began"] - begun) / 1e6)
        for _ in range(samples):
            waiting = await system.wait_for_event()
            begun = await _random_moment(system)
            found["event"].append((await system.go_on(waiting) - begun) / 1e6)
        for _ in range(max(1, samples // 4)):
            await _random_moment(system)
            found["step"] += await system.steps()
        await workers[0].ask("stop")
    return found


async def _random_moment(system: System) -> int:
    await asyncio.sleep(random.uniform(*system.gap))
    return time.time_ns()


@asynccontextmanager
async def _workers(system: System, shares: Sequence[int]) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                started(system.module, system.url, "worker", str(share), *_settings())
            )
            for share in shares
        ]


def _rates(ended: int, steps: int, took: float) -> dict[str, float]:
    return {"executions": ended, "seconds": took, "rate": ended / took, "steps": steps}


def _settings() -> list[str]:
    """What is said to the adapter itself: words such as ``--tuned``."""
    return [word for word in sys.argv[2:] if word.startswith("--")]


def main(adapter: type[System], module: str) -> None:
    """An adapter's command line."""
    adapter.module = module
    url, mode, *words = (word for word in sys.argv[1:] if not word.startswith("--"))
    run(_main(adapter(url), mode, words), plain=adapter.plain_loop)


async def _main(system: System, mode: str, words: list[str]) -> None:
    if mode == "worker":
        await serve(system, int(words[0]))
        return
    await system.prepare()
    await system.open()
    try:
        if mode == "direct":
            found: Any = await direct(system, int(words[0]), int(words[1]), float(words[2]))
        elif mode == "queue":
            steps, concurrency, seconds, processes = words
            found = await queue(
                system, int(steps), int(concurrency), float(seconds), int(processes)
            )
        else:
            found = await latency(system, int(words[0]))
    finally:
        await system.close()
    print(json.dumps(found))
