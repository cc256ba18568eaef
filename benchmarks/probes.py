"""What a full database may slow down, measured on a full and an empty set of tables by turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import zart
from benchmarks import throughput
from benchmarks.filling import KNOWN, nothing
from zart.scheduler.entries import Entry, Finish

__all__ = ["EMPTY", "FULL", "Probes", "milliseconds"]

FULL, EMPTY = "zart_", "bare_"
"""Prefixes of the two sets of tables: both are on one server, and measured by turns."""
BATCH = 10
"""Ready executions that a measured claim finds."""
LOAD = (1, 256)
"""Steps of an execution, and executions at once, of the measured throughput."""


@zart.durable("probe")
async def probe() -> None:
    await nothing()


NAMES = [("default", task.name) for task in (probe, *KNOWN)]
Schedulers = Mapping[str, zart.DurableScheduler]


class Probes:
    """Measures on each of some schedulers by turns."""

    def __init__(self, schedulers: Schedulers, samples: int, executions: int) -> None:
        self._schedulers = schedulers
        self._samples = samples
        self._executions = executions

    async def all(self) -> dict[str, dict[str, list[float]]]:
        """Milliseconds of a claim and of an idle worker's look, and executions a second."""
        return {
            "claim_ms": await self._by_turns(_claim, self._samples),
            "look_ms": await self._by_turns(_look, self._samples),
            "executions_per_second": await self._by_turns(self._rate, 3),
        }

    async def latencies(self) -> dict[str, dict[str, list[float]]]:
        """Milliseconds of a claim and of an idle worker's look."""
        return {
            "claim_ms": await self._by_turns(_claim, self._samples),
            "look_ms": await self._by_turns(_look, self._samples),
        }

    async def _by_turns(
        self, measure: Callable[[zart.DurableScheduler], Awaitable[float]], samples: int
    ) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {name: [] for name in self._schedulers}
        for turn in range(samples + 1):
            for name, scheduler in self._schedulers.items():
                value = await measure(scheduler)
                if turn:  # the first only warms up
                    found[name].append(value)
        return found

    async def _rate(self, scheduler: zart.DurableScheduler) -> float:
        took, _ = await throughput.worked_off(scheduler, self._executions, *LOAD)
        return self._executions / took


async def _claim(scheduler: zart.DurableScheduler) -> float:
    """Claim a few ready executions, which is timed, and end them."""
    await scheduler.schedule_many(probe, [None] * BATCH)
    backend = scheduler.backend
    took, tasks = await milliseconds(lambda: backend.claim("benchmark", NAMES, BATCH))
    if len(tasks) != BATCH:
        raise RuntimeError(f"claimed {len(tasks)} of {BATCH}")
    ends = [
        Entry(
            t.claim,
            ending=Finish("completed", "null", None, 1, 0, t.started_at, None, has_steps=False),
        )
        for t in tasks
    ]
    await backend.commit(ends)
    return took


async def _look(scheduler: zart.DurableScheduler) -> float:
    """What an idle worker asks, with nothing ready."""
    took, (woken, _, ready) = await milliseconds(lambda: scheduler.backend.ready_due(500, NAMES))
    if woken or ready:
        raise RuntimeError("an idle database has something ready")
    return took


async def milliseconds(work: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """Do something; gives what it took, and what came of it."""
    await asyncio.sleep(0.002)  # what was set off before has its turn first
    begun = time.perf_counter()
    answer = await work()
    return (time.perf_counter() - begun) * 1000, answer
