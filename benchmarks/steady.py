"""Steady load for a while: what dead rows, table sizes, claims and the worker's memory come to.

``python -m benchmarks.steady URL MINUTES [RATE]`` starts RATE executions a second (100), each of
several steps; one in three sleeps in between for some seconds, and one in three waits for an event,
which this process sends. One step in twenty fails at its first attempt. A worker process of its own
works. It ends by itself once all have ended: the form for a release is

    python -m benchmarks.steady private 60 >steady.json

where ``private`` starts a PostgreSQL server for the time. Each minute is told on standard error as
it ends, and at the end all of them on standard output, as one line of JSON.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import zart
from benchmarks.found import percentile
from benchmarks.loops import run
from benchmarks.processes import Child, child, cpu_seconds, questions, resident_bytes, tell
from benchmarks.sql import Line, line
from tests.servers import PostgresServer

RATE = 100
TICK = 0.1
"""Seconds between two batches of new executions."""
WAITS = (1.0, 5.0)
"""Seconds that an execution sleeps or waits for its event; a random number within."""
FAILING = 0.05
"""The share of attempts that fail."""
PATIENCE = 600.0
"""Seconds that one execution may take on a busy machine, and the last ones together."""
MINUTE = 60.0

TABLES = """
    SELECT relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid), autovacuum_count
    FROM pg_stat_user_tables WHERE schemaname = current_schema() ORDER BY relname"""


@zart.step(retry=zart.RetryConfig.fixed(20, "200ms"))
async def work(number: int) -> dict[str, int]:
    if random.random() < FAILING:
        raise ConnectionError("one attempt in twenty fails")
    return {"number": number}


@zart.step
async def clock() -> int:
    return time.time_ns()


@zart.durable("plain")
async def plain() -> None:
    for number in range(5):
        await work(number)


@zart.durable("sleeps")
async def sleeps(seconds: float) -> None:
    for number in range(2):
        await work(number)
    await zart.sleep(seconds)
    for number in range(2):
        await work(number)


@zart.durable("expects")
async def expects() -> None:
    for number in range(2):
        await work(number)
    await zart.wait_for_event("go", timeout="10m")
    for number in range(2):
        await work(number)


@zart.durable("probe")
async def probe() -> int:
    return await clock()


class _Claims:
    """Times the claims of a worker."""

    def __init__(self, scheduler: zart.DurableScheduler) -> None:
        self._claim = scheduler.backend.claim
        self._milliseconds: list[float] = []
        scheduler.backend.claim = self._timed  # type: ignore[method-assign]

    async def _timed(self, *arguments: Any) -> Any:
        begun = time.perf_counter()
        tasks = await self._claim(*arguments)
        self._milliseconds.append((time.perf_counter() - begun) * 1000)
        return tasks

    def taken(self) -> list[float]:
        """Those since the last time."""
        taken, self._milliseconds = self._milliseconds, []
        return taken


async def serve(url: str) -> None:
    """The other process: the worker, which tells of its claims when asked."""
    async with zart.connect(url) as scheduler:
        claims = _Claims(scheduler)
        async with zart.Worker(scheduler, [plain, sleeps, expects, probe]):
            asked = await questions()
            tell("ready")
            while await asked.readline():
                tell(spread(claims.taken()))


def spread(values: list[float]) -> dict[str, float]:
    """How many, the median, the 99th percentile and the highest."""
    if not values:
        return {"amount": 0}
    ordered = sorted(values)
    return {
        "amount": len(ordered),
        "p50": round(percentile(ordered, 0.5), 2),
        "p99": round(percentile(ordered, 0.99), 2),
        "most": round(ordered[-1], 2),
    }


@dataclass
class Load:
    """What is started: so many executions a second, on a fixed timetable."""

    scheduler: zart.DurableScheduler
    rate: float
    started: int = 0
    starts: list[float] = field(default_factory=list)
    """Milliseconds from schedule to first step, of the probes since they were last taken."""
    _events: list[tuple[float, str]] = field(default_factory=list)

    async def go_on(self, seconds: float) -> None:
        """Start executions for so long, and send the events that they wait for."""
        begun = time.monotonic()
        starting = asyncio.create_task(self._start_all(begun, seconds))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(starting))
            group.create_task(self._probe(starting))
            await starting

    async def _start_all(self, begun: float, seconds: float) -> None:
        while (passed := time.monotonic() - begun) < seconds:
            await self._start(int(passed * self.rate) - self.started)
            await asyncio.sleep(TICK)

    async def _start(self, amount: int) -> None:
        """The next ones, of all three kinds; a failure to keep up shows as executions left."""
        kinds = [(self.started + number) % 3 for number in range(amount)]
        self.started += amount
        for kind, task in enumerate((plain, sleeps, expects)):
            inputs = [random.uniform(*WAITS) if task is sleeps else None] * kinds.count(kind)
            if not inputs:
                continue
            handles = await self.scheduler.schedule_many(task, inputs)
            if task is expects:
                now = time.monotonic()
                for handle in handles:
                    heapq.heappush(self._events, (now + random.uniform(*WAITS), handle.id))

    async def _send(self, starting: asyncio.Task[None]) -> None:
        while self._events or not starting.done():
            while self._events and self._events[0][0] <= time.monotonic():
                _, execution = heapq.heappop(self._events)
                await self.scheduler.offer_event(execution, "go")
            await asyncio.sleep(TICK / 10)

    async def _probe(self, starting: asyncio.Task[None]) -> None:
        while not starting.done():
            await asyncio.sleep(random.uniform(0.5, 1.5))
            self.started += 1  # one of those of the timetable
            begun = time.time_ns()
            handle = await self.scheduler.schedule(probe)
            self.starts.append((await handle.result(timeout=PATIENCE) - begun) / 1e6)


async def measure(url: str, minutes: float, rate: float = RATE) -> dict[str, Any]:
    async with zart.connect(url) as scheduler, line(url) as on:
        await scheduler.migrate()
        async with child("steady", url, "worker") as worker:
            await worker.hear()
            load = Load(scheduler, rate)
            begun = time.monotonic()
            loading = asyncio.create_task(load.go_on(minutes * MINUTE))
            told = []
            period = min(MINUTE, minutes * MINUTE / 2)
            while not loading.done():
                until = begun + (len(told) + 1) * period
                await asyncio.wait([loading], timeout=max(0.0, until - time.monotonic()))
                under_load = not loading.done()
                told.append(await _minute(on, worker, load, time.monotonic() - begun))
                told[-1]["under_load"] = under_load
                _say(told[-1])
            loading.result()
            completed = await _completed(on, load.started)
            ended = await _minute(on, worker, load, time.monotonic() - begun)
    return {"rate": rate, "minutes": told, "ended": ended, "completed": completed}


async def _minute(on: Line, worker: Child, load: Load, passed: float) -> dict[str, Any]:
    """What there is to see at this moment, and what the time since the last one has brought."""
    claims = await worker.ask("claims")
    starts, load.starts = load.starts, []
    ((completed,),) = await on.fetch(
        "SELECT count(*) FROM zart_executions WHERE status = 'completed'"
    )
    return {
        "seconds": round(passed, 1),
        "started": load.started,
        "completed": completed,
        "start_ms": spread(starts),
        "claim_ms": claims,
        "worker_bytes": resident_bytes(worker.id),
        "worker_cpu_seconds": cpu_seconds(worker.id),
        "tables": {
            name: {"rows": rows, "dead": dead, "bytes": size, "vacuums": vacuums}
            for name, rows, dead, size, vacuums in await on.fetch(TABLES)
        },
    }


async def _completed(on: Line, started: int) -> int:
    """Wait until all have ended well; gives how many that are."""
    async with asyncio.timeout(PATIENCE):
        while (await on.fetch("SELECT count(*) FROM zart_tasks"))[0][0]:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    sql = "SELECT count(*) FROM zart_executions WHERE status = 'completed'"
    ((completed,),) = await on.fetch(sql)
    if completed != started:
        raise RuntimeError(f"{completed} of {started} executions completed")
    return int(completed)


def _say(minute: dict[str, Any]) -> None:
    print(json.dumps(minute), file=sys.stderr, flush=True)


@asynccontextmanager
async def _server(url: str) -> AsyncIterator[str]:
    if url != "private":
        yield url
        return
    with await asyncio.to_thread(PostgresServer) as server:
        yield server.url


async def _main(url: str, minutes: float, rate: float) -> dict[str, Any]:
    async with _server(url) as reached:
        return await measure(reached, minutes, rate)


if __name__ == "__main__":
    if sys.argv[2] == "worker":
        run(serve(sys.argv[1]))
    else:
        url, minutes, *rate = sys.argv[1:]
        print(json.dumps(run(_main(url, float(minutes), float(*rate or [RATE])))))
