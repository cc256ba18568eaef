"""PgQueuer as `benchmarks.drive` measures it: a queue without steps.

asyncpg and uvloop, durable tables (its default), the vacuum settings of ``pgq autovac``, all as
its page on performance advises. Each manager has a connection of its own: see `MANAGERS`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.drive import System, main

MANAGERS = int(os.environ.get("PGQ_MANAGERS", "5"))
BATCH = int(os.environ.get("PGQ_BATCH", "100"))
CHUNK = 1000


class Pgqueuer(System):
    async def prepare(self) -> None:
        connection = await asyncpg.connect(self.url)
        queries = Queries(AsyncpgDriver(connection))
        await queries.install()
        await queries.optimize_autovacuum()
        await connection.close()

    async def open(self) -> None:
        self._connection = await asyncpg.connect(self.url)
        self._queries = Queries(AsyncpgDriver(self._connection))

    async def close(self) -> None:
        await self._connection.close()

    async def schedule(self, amount: int, steps: int) -> None:
        for start in range(0, amount, CHUNK):
            chunk = min(CHUNK, amount - start)
            await self._queries.enqueue(["steps"] * chunk, [None] * chunk, [0] * chunk)

    async def left(self) -> int:
        return int(await self._connection.fetchval("SELECT count(*) FROM pgqueuer"))

    async def completed(self) -> int:
        sql = "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'"
        return int(await self._connection.fetchval(sql))

    @asynccontextmanager
    async def consuming(self, concurrency: int) -> AsyncIterator[None]:
        amount = max(1, min(MANAGERS, concurrency // 16))
        share = -(-concurrency // amount)
        connections = [await asyncpg.connect(self.url) for _ in range(amount)]
        managers = []
        for connection in connections:
            manager = PgQueuer(AsyncpgDriver(connection))

            @manager.entrypoint("steps")
            async def steps(job: Job) -> None:
                self.began()

            managers.append(manager)
        limits = {}
        if concurrency == 1:
            limits = {"batch_size": 1}
        else:
            limits = {"batch_size": min(BATCH, share // 2), "max_concurrent_tasks": share}
        working = asyncio.gather(
            *(each.run(log_aggregation_interval=timedelta(0), **limits) for each in managers)
        )
        try:
            yield
        finally:
            for manager in managers:
                manager.shutdown.set()
            await working
            for connection in connections:
                await connection.close()


if __name__ == "__main__":
    main(Pgqueuer, "benchmarks.peers.pgqueuer")
