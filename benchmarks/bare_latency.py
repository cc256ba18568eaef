"""The least that work in another process can wait for on PostgreSQL, at idle.

``python -m benchmarks.bare_latency URL SAMPLES`` prints one line of JSON. A row is inserted by a
statement that notifies; a process that listens takes the row for its own by an update, and has the
answer: two commits that are flushed and one notification, with nothing around them.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

import asyncpg

from benchmarks.drive import System
from benchmarks.loops import run
from benchmarks.processes import child, questions, tell

TABLE = """
CREATE TABLE bare_work (id bigserial PRIMARY KEY, owner text);
CREATE INDEX bare_work_ready ON bare_work (id) WHERE owner IS NULL
"""
INSERT = """
WITH work AS (INSERT INTO bare_work DEFAULT VALUES RETURNING id)
SELECT pg_notify('bare_work', '') FROM work
"""
TAKE = """
UPDATE bare_work SET owner = 'other' WHERE id =
    (SELECT id FROM bare_work WHERE owner IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id
"""


async def take(url: str) -> None:
    """The other process: tells when it has taken each row, in ns."""
    listening, taking = await asyncpg.connect(url), await asyncpg.connect(url)
    heard: asyncio.Queue[Any] = asyncio.Queue()
    await listening.add_listener("bare_work", lambda *_: heard.put_nowait(None))
    statement = await taking.prepare(TAKE)
    await questions()
    tell("ready")
    while True:
        await heard.get()
        await statement.fetch()
        tell(time.time_ns())


async def measure(url: str, samples: int) -> list[float]:
    connection = await asyncpg.connect(url)
    await connection.execute(TABLE)
    statement = await connection.prepare(INSERT)
    found = []
    async with child("bare_latency", url, "take") as taker:
        await taker.hear()
        for _ in range(samples):
            await asyncio.sleep(random.uniform(*System.gap))
            begun = time.time_ns()
            await statement.fetch()
            found.append((await taker.hear() - begun) / 1e6)
    await connection.close()
    return found


if __name__ == "__main__":
    if sys.argv[2] == "take":
        run(take(sys.argv[1]))
    else:
        print(json.dumps({"taken": run(measure(sys.argv[1], int(sys.argv[2])))}))
