"""How soon an idle worker of another process goes on, in milliseconds.

``python -m benchmarks.latency URL SAMPLES`` prints one line of JSON: the times from ``schedule`` to
the first step, and from ``offer_event`` to what comes after the wait. Each begins at a random
moment, when nothing else is going on.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

import zart
from benchmarks.loops import run

GAP = (0.005, 0.035)
"""Seconds between two samples; a random number within."""


@zart.step
async def clock() -> int:
    return time.time_ns()


@zart.durable("started")
async def started() -> int:
    return await clock()


@zart.durable("resumed")
async def resumed() -> int:
    await zart.wait_for_event("go")
    return await clock()


async def work(url: str) -> None:
    """The other process: a worker with nothing else to do."""
    async with zart.connect(url) as scheduler:
        worker = zart.Worker(scheduler, [started, resumed], zart.WorkerConfig(concurrency=8))
        await worker.run()


async def measure(url: str, samples: int) -> dict[str, list[float]]:
    async with zart.connect(url) as scheduler:
        await scheduler.migrate()
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.latency", url, "worker"
        )
        try:
            first = await scheduler.schedule(started)
            await first.result(timeout="30s")
            return {
                "schedule_to_start": [await _start(scheduler) for _ in range(samples)],
                "event_to_resume": [await _resume(scheduler) for _ in range(samples)],
            }
        finally:
            other.terminate()
            await other.wait()


async def _start(scheduler: zart.DurableScheduler) -> float:
    await asyncio.sleep(random.uniform(*GAP))
    begun = time.time_ns()
    handle = await scheduler.schedule(started)
    return (await handle.result(timeout="30s") - begun) / 1e6


async def _resume(scheduler: zart.DurableScheduler) -> float:
    handle = await scheduler.schedule(resumed)
    while (await handle.get()).status is not zart.Status.WAITING:  # noqa: ASYNC110 no event
        await asyncio.sleep(0.005)
    await asyncio.sleep(random.uniform(*GAP))
    begun = time.time_ns()
    await handle.offer_event("go")
    return (await handle.result(timeout="30s") - begun) / 1e6


if __name__ == "__main__":
    if sys.argv[2] == "worker":
        run(work(sys.argv[1]))
    else:
        print(json.dumps(run(measure(sys.argv[1], int(sys.argv[2])))))
