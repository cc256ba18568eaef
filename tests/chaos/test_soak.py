"""Work that goes on for long takes no more of the machine than it did when it was warm."""

from __future__ import annotations

import asyncio
import gc
import resource
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zart
from tests.chaos.conftest import Budget
from tests.crash.processes import until
from tests.databases import Database
from tests.figures import figure

AT_ONCE = 20
POOL = "zart-step"
"""What the threads that run them are named after."""
WARM = 0.5
"""The share of the time after which everything is as large as it will be."""
BYTES_PER_EXECUTION = 100
"""What an execution may leave behind in memory; each one makes tens of kilobytes of objects."""
SLACK = 1024 * 1024
"""Bytes by which two moments differ that hold the same: caches, buffers, a batch under way."""
REST = 10.0
"""Seconds after the last result in which a look or a claim that is under way has ended."""
PAGES = 16 * 1024 * 1024
"""Bytes by which the process may grow besides: what drivers take, and what Python keeps free."""


@zart.step
async def little(number: int) -> int:
    await asyncio.sleep(0)
    return number


@zart.step
def threaded(number: int) -> int:
    return number


@zart.durable("small")
async def small(number: int) -> int:
    return await little(number)


@zart.durable("soaking")
async def soaking(number: int) -> int:
    """A bit of everything that keeps something in memory while it lasts."""
    total = await little(number) + await threaded(number)
    await asyncio.gather(little(1), little(2))
    await zart.sleep("1ms")
    await zart.wait_for_event("event")
    try:
        await zart.wait_for_event("never", timeout="1ms")
    except zart.EventTimedOutError:
        total += 1
    total += sum(await zart.wait_all([little.named(f"far-{n}").schedule(n) for n in range(2)]))
    async for _ in zart.durable_loop("loop", range(2)):
        await little(3)
    return total + await zart.start_child(small, number)


@dataclass
class Held:
    """What this process holds at a moment."""

    memory: int
    resident: int
    files: int
    tasks: Counter[str]
    threads: Counter[str]

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        return cls(
            tracemalloc.get_traced_memory()[0],
            int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
            len(list(Path("/proc/self/fd").iterdir())),
            Counter(str(task.get_coro()).split(" at ")[0] for task in asyncio.all_tasks()),
            Counter(thread.name.rstrip("0123456789_-") for thread in threading.enumerate()),
        )


async def test_a_long_load_leaves_nothing_behind_in_its_process(
    database: Database, budget: Budget
) -> None:
    """Memory, open files, tasks and threads at the end are those of the time after warming up."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        config = zart.WorkerConfig(poll_interval="20ms")
        tracemalloc.start()
        try:
            async with zart.Worker(scheduler, [soaking, small, little], config):
                await _load(scheduler, budget.seconds * WARM)
                before = Held.now()
                ended = await _load(scheduler, budget.seconds * (1 - WARM))
                await until(
                    lambda: not Held.now().tasks - before.tasks,
                    f"no tasks besides {before.tasks}",
                    seconds=REST,
                )
                after = Held.now()
                grown = after.memory - before.memory
                top = tracemalloc.take_snapshot() if grown > _may_grow(ended) else None
        finally:
            tracemalloc.stop()
    pages = after.resident - before.resident
    figure(
        f"soak of {budget.seconds * (1 - WARM):.0f} s when warm: {database.kind}",
        f"{ended} executions, {grown:+,d} bytes of objects, {pages:+,d} of the process",
    )
    assert ended >= AT_ONCE
    assert top is None, (grown, ended, top and [str(s) for s in top.statistics("lineno")[:15]])
    assert pages < PAGES
    # Idle connections come and go; what leaks grows with the executions.
    assert after.files <= before.files + 5
    # The pool has as many threads as `def` steps have ever run at one moment: one an execution.
    assert after.threads.pop(POOL) <= AT_ONCE
    del before.threads[POOL]
    assert not after.threads - before.threads


def _may_grow(ended: int) -> int:
    return SLACK + BYTES_PER_EXECUTION * ended


async def _load(scheduler: zart.DurableScheduler, seconds: float) -> int:
    """Keep so many executions under way for a time, and let all end; gives how many there were."""
    until = time.monotonic() + seconds
    counts = await asyncio.gather(*(_one_after_another(scheduler, until) for _ in range(AT_ONCE)))
    return sum(counts)


async def _one_after_another(scheduler: zart.DurableScheduler, until: float) -> int:
    count = 0
    while time.monotonic() < until:
        handle: zart.Handle[Any] = await scheduler.schedule(soaking, count)
        await handle.offer_event("event")
        assert await handle.result(timeout="60s") == 3 * count + 2
        count += 1
    return count
