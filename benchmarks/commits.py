"""What one commit after the other takes: ``python -m benchmarks.commits URL SAMPLES``."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import asyncpg

from benchmarks.loops import run


async def measure(url: str, samples: int) -> dict[str, list[float]]:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE commits (at bigint)")
    found = []
    for _ in range(samples):
        begun = time.perf_counter()
        await connection.execute("INSERT INTO commits VALUES ($1)", time.time_ns())
        found.append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(0)
    await connection.close()
    return {"milliseconds": found}


if __name__ == "__main__":
    print(json.dumps(run(measure(sys.argv[1], int(sys.argv[2])))))
