"""Procrastinate as `benchmarks.drive` measures it: a queue without steps.

Async tasks on uvloop and psycopg's compiled form. Its worker fetches one job at a time, on the
connections of a pool: see `CONNECTIONS`. Finished jobs stay, as zart's do.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from procrastinate import App, PsycopgConnector

from benchmarks.drive import System, main

CONNECTIONS = int(os.environ.get("PROCRASTINATE_CONNECTIONS", "8"))
CHUNK = 1000


class Procrastinate(System):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        self._app = App(
            connector=PsycopgConnector(conninfo=url, min_size=CONNECTIONS, max_size=CONNECTIONS)
        )

        @self._app.task(name="steps")
        async def steps() -> None:
            self.began()

        self._task = steps

    async def prepare(self) -> None:
        async with self._app.open_async():
            await self._app.schema_manager.apply_schema_async()

    async def open(self) -> None:
        await self._app.open_async()

    async def close(self) -> None:
        await self._app.close_async()

    async def schedule(self, amount: int, steps: int) -> None:
        for start in range(0, amount, CHUNK):
            await self._task.batch_defer_async(*[{}] * min(CHUNK, amount - start))

    async def _count(self, condition: str) -> int:
        row = await self._app.connector.execute_query_one_async(
            f"SELECT count(*) AS amount FROM procrastinate_jobs WHERE {condition}"
        )
        return int(row["amount"])

    async def left(self) -> int:
        return await self._count("status IN ('todo', 'doing')")

    async def completed(self) -> int:
        return await self._count("status = 'succeeded'")

    @asynccontextmanager
    async def consuming(self, concurrency: int) -> AsyncIterator[None]:
        working = asyncio.ensure_future(
            self._app.run_worker_async(concurrency=concurrency, install_signal_handlers=False)
        )
        try:
            yield
        finally:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working


if __name__ == "__main__":
    main(Procrastinate, "benchmarks.peers.procrastinate")
