"""How fast one worker gets through executions that wait for it, in a process of its own.

``python -m benchmarks.throughput URL STEPS CONCURRENCY SECONDS`` prints one line of JSON. It uses
what users use: ``@zart.durable``, ``@zart.step``, `schedule_many` and a `Worker`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time

import zart
from benchmarks.loops import run

CHUNK = 1000
"""Executions scheduled in one transaction."""

begun = 0
"""Handlers begun in the present run."""


@zart.step
async def nothing() -> None:
    """A step that does nothing."""


@zart.durable("steps")
async def steps(amount: int) -> None:
    global begun  # noqa: PLW0603 handlers of one process share nothing else
    begun += 1
    for _ in range(amount):
        await nothing()


async def worked_off(
    scheduler: zart.DurableScheduler, amount: int, step_count: int, concurrency: int
) -> tuple[float, float]:
    """Seconds, and seconds of CPU, from the worker's start until the last end is committed."""
    global begun  # noqa: PLW0603
    ids: list[str] = []
    for start in range(0, amount, CHUNK):
        chunk = min(CHUNK, amount - start)
        ids += [handle.id for handle in await scheduler.schedule_many(steps, [step_count] * chunk)]
    begun = 0
    worker = zart.Worker(scheduler, [steps], zart.WorkerConfig(concurrency=concurrency))
    async with worker:
        since, cpu = time.perf_counter(), _cpu()
        # A task counts as running until its commit.
        while begun < amount or worker.running:  # noqa: ASYNC110 nothing tells when none runs
            await asyncio.sleep(0.002)
        took, used = time.perf_counter() - since, _cpu() - cpu
    await _check(scheduler, ids)
    return took, used


async def _check(scheduler: zart.DurableScheduler, ids: list[str]) -> None:
    for start in range(0, len(ids), CHUNK):
        for execution in await scheduler.backend.get(ids[start : start + CHUNK]):
            if execution.status is not zart.Status.COMPLETED:
                raise RuntimeError(f"an execution of the benchmark did not complete: {execution}")


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(url: str, step_count: int, concurrency: int, seconds: float) -> dict[str, float]:
    """Executions and steps a second, over about so many seconds."""
    async with zart.connect(url) as scheduler:
        await scheduler.migrate()
        amount = max(concurrency * 2, 20)
        for share in (0.1, 1.0):  # the first runs warm up, and tell how many fill the time
            took, _ = await worked_off(scheduler, amount, step_count, concurrency)
            amount = max(int(amount / took * seconds * share), concurrency * 2, 20)
        took, cpu = await worked_off(scheduler, amount, step_count, concurrency)
    return {
        "executions": amount,
        "seconds": took,
        "executions_per_second": amount / took,
        "steps_per_second": amount * step_count / took,
        "cpu_microseconds_per_record": cpu / (amount * max(step_count, 1)) * 1e6,
    }


if __name__ == "__main__":
    url, step_count, concurrency, seconds = sys.argv[1:5]
    found = run(measure(url, int(step_count), int(concurrency), float(seconds)))
    print(json.dumps(found))
