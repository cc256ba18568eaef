"""DBOS as `benchmarks.drive` measures it.

As it comes: asyncio's loop, async workflows and steps, a queue with its defaults but for the
worker's concurrency.

``--tuned`` is the best that was found by trying, on two cores (see docs/performance.md):
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy
from dbos import DBOS, DBOSClient, DBOSConfig

from benchmarks.drive import System, main

TUNED = "--tuned" in sys.argv
QUEUE = "benchmark"
POLL = 0.005 if TUNED else 1.0
VERSION = "benchmark"
STEPS = 20


@DBOS.step()
async def nothing() -> None:
    """A step that does nothing."""


@DBOS.step()
async def clock() -> int:
    return time.time_ns()


@DBOS.workflow(name="steps")
async def steps(amount: int) -> None:
    Dbos.here.began()
    for _ in range(amount):
        await nothing()


@DBOS.workflow(name="started")
async def started() -> dict[str, int]:
    began = await clock()
    return {"began": began, "ended": time.time_ns()}


@DBOS.workflow(name="resumed")
async def resumed() -> int:
    await DBOS.recv_async("go", timeout_seconds=30)
    return await clock()


@DBOS.workflow(name="timed")
async def timed() -> list[float]:
    found = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        await nothing()
        found.append((time.perf_counter() - begun) * 1000)
    return found


class Dbos(System):
    here: Dbos
    plain_loop = not TUNED
    gap = (0.005, max(0.1, POLL))

    def __init__(self, url: str) -> None:
        super().__init__(url)
        Dbos.here = self

    def _config(self) -> DBOSConfig:
        config: DBOSConfig = {
            "name": "benchmark",
            "system_database_url": self.url,
            "application_version": VERSION,
            "log_level": "ERROR",
        }
        if TUNED:
            config["max_executor_threads"] = int(os.environ.get("DBOS_THREADS", "4"))
            config["sys_db_pool_size"] = int(os.environ.get("DBOS_POOL", "8"))
        return config

    async def prepare(self) -> None:
        async with self.consuming(1):
            pass

    async def open(self) -> None:
        self._client = DBOSClient(system_database_url=self.url)
        self._engine = sqlalchemy.create_engine(
            self.url.replace("postgresql://", "postgresql+psycopg://")
        )
        self._schema = "dbos." if self.url.startswith("postgresql") else ""

    async def close(self) -> None:
        self._client.destroy()
        self._engine.dispose()

    def _enqueue(self, name: str, *arguments: Any) -> Any:
        options: Any = {"workflow_name": name, "queue_name": QUEUE, "app_version": VERSION}
        return self._client.enqueue(options, *arguments)

    async def schedule(self, amount: int, step_count: int) -> None:
        with ThreadPoolExecutor(4) as threads:
            enqueued = [threads.submit(self._enqueue, "steps", step_count) for _ in range(amount)]
            await asyncio.to_thread(lambda: [each.result() for each in enqueued])

    def _count(self, condition: str) -> int:
        sql = f"SELECT count(*) FROM {self._schema}workflow_status WHERE {condition}"
        with self._engine.connect() as connection:
            return int(connection.execute(sqlalchemy.text(sql)).scalar_one())

    async def left(self) -> int:
        return self._count("status IN ('ENQUEUED', 'PENDING')")

    async def completed(self) -> int:
        return self._count("status = 'SUCCESS'")

    @asynccontextmanager
    async def consuming(self, concurrency: int) -> AsyncIterator[None]:
        DBOS(config=self._config())
        DBOS.launch()
        await DBOS.register_queue_async(
            QUEUE, worker_concurrency=concurrency, polling_interval_sec=POLL
        )
        try:
            yield
        finally:
            await asyncio.to_thread(DBOS.destroy)
            # It leaves the loop with an executor that has been shut down.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))

    async def execute(self, step_count: int) -> None:
        await steps(step_count)

    async def _result(self, handle: Any) -> Any:
        return await asyncio.to_thread(handle.get_result, polling_interval_sec=POLL)

    async def start(self) -> dict[str, int]:
        found: dict[str, int] = await self._result(self._enqueue("started"))
        return found

    async def wait_for_event(self) -> Any:
        handle = self._enqueue("resumed")
        # It waits from a moment on that its tables do not tell; the worker is idle by then.
        while handle.get_status().status != "PENDING":  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        return handle

    async def go_on(self, waiting: Any) -> int:
        self._client.send(waiting.workflow_id, None, "go")
        return int(await self._result(waiting))

    async def steps(self) -> Sequence[float]:
        found: Sequence[float] = await self._result(self._enqueue("timed"))
        return found


if __name__ == "__main__":
    main(Dbos, "benchmarks.peers.dbos")
