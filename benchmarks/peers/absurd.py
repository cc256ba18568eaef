"""Absurd as `benchmarks.drive` measures it, through its Python SDK.

Its worker sends everything through one connection, so one process holds several: see `CONNECTIONS`.
Its only way to start an execution is the queue. The schema comes out of ``absurdctl``.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import absurdctl
import psycopg
from absurd_sdk import AsyncAbsurd

from benchmarks.drive import System, main

CONNECTIONS = int(os.environ.get("ABSURD_CONNECTIONS", "8"))
POLL = 0.01
QUEUE = "default"
STEPS = 20


async def nothing() -> None:
    """A step that does nothing."""


async def clock() -> int:
    return time.time_ns()


async def started(parameters: Any, context: Any) -> Any:
    began = await context.step("clock", clock)
    return {"began": began, "ended": time.time_ns()}


async def resumed(parameters: Any, context: Any) -> Any:
    await context.await_event(parameters["event"])
    return await context.step("clock", clock)


async def timed(parameters: Any, context: Any) -> Any:
    found = []
    for number in range(STEPS):
        begun = time.perf_counter()
        await context.step(f"nothing-{number}", nothing)
        found.append((time.perf_counter() - begun) * 1000)
    return found


class Absurd(System):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._stack = AsyncExitStack()
        self._events = 0

    async def steps_handler(self, parameters: Any, context: Any) -> Any:
        self.began()
        for number in range(parameters["steps"]):
            await context.step(f"nothing-{number}", nothing)

    async def prepare(self) -> None:
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            await connection.execute(absurdctl.BUNDLED_SCHEMA_SQL.encode())
        client = AsyncAbsurd(self.url)
        await client.create_queue(QUEUE)
        await client.close()

    async def open(self) -> None:
        self._client = AsyncAbsurd(self.url, queue_name=QUEUE)
        self._connection = await psycopg.AsyncConnection.connect(self.url, autocommit=True)

    async def close(self) -> None:
        await self._client.close()
        await self._connection.close()

    async def schedule(self, amount: int, step_count: int) -> None:
        for each in range(0, amount, 1000):
            await self._connection.execute(
                "SELECT absurd.spawn_task(%s, 'steps', %s::jsonb, '{}'::jsonb)"
                " FROM generate_series(1, %s)",
                (QUEUE, f'{{"steps": {step_count}}}', min(1000, amount - each)),
            )

    async def _count(self, condition: str) -> int:
        cursor = await self._connection.execute(
            f"SELECT count(*) FROM absurd.t_{QUEUE} WHERE {condition}".encode()
        )
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])

    async def left(self) -> int:
        return await self._count("state IN ('pending', 'running', 'sleeping')")

    async def completed(self) -> int:
        return await self._count("state = 'completed'")

    @asynccontextmanager
    async def consuming(self, concurrency: int) -> AsyncIterator[None]:
        connections = min(CONNECTIONS, concurrency)
        clients = [AsyncAbsurd(self.url, queue_name=QUEUE) for _ in range(connections)]
        working = []
        for number, client in enumerate(clients):
            client.register_task("steps")(self.steps_handler)
            client.register_task("started")(started)
            client.register_task("resumed")(resumed)
            client.register_task("timed")(timed)
            share = concurrency // connections + (number < concurrency % connections)
            working.append(
                asyncio.ensure_future(
                    client.start_worker(
                        worker_id=f"{os.getpid()}-{number}",
                        concurrency=share,
                        poll_interval=POLL,
                    )
                )
            )
        try:
            yield
        finally:
            for client in clients:
                client.stop_worker()
            await asyncio.gather(*working)
            for client in clients:
                await client.close()

    async def _result(self, spawned: Any) -> Any:
        found = await self._client.await_task_result(spawned["task_id"], timeout=30)
        return found.result

    async def start(self) -> dict[str, int]:
        found: dict[str, int] = await self._result(
            await self._client.spawn("started", {}, queue=QUEUE)
        )
        return found

    async def wait_for_event(self) -> Any:
        self._events += 1
        event = f"go-{self._events}"  # its events reach every task that ever waits for the name
        spawned = await self._client.spawn("resumed", {"event": event}, queue=QUEUE)
        while not await self._count("state = 'sleeping'"):  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0.005)
        return event, spawned

    async def go_on(self, waiting: Any) -> int:
        event, spawned = waiting
        await self._client.emit_event(event, {})
        return int(await self._result(spawned))

    async def steps(self) -> Sequence[float]:
        found: Sequence[float] = await self._result(
            await self._client.spawn("timed", {}, queue=QUEUE)
        )
        return found


if __name__ == "__main__":
    main(Absurd, "benchmarks.peers.absurd")
