"""Everything said by hand: a scheduler, a registry, a worker that runs until SIGTERM or SIGINT.

Run it: python examples/by_hand.py jobs.db         # Ctrl-C ends it
"""

import asyncio
import os
import signal
import sys

import zart


class Greet(zart.TaskHandler[str, str]):
    name = "greet"

    async def run(self, ctx: zart.TaskContext, data: str) -> str:
        return await ctx.step("compose", lambda: f"hello, {data}")


async def main(path: str) -> None:
    # Its siblings: zart.PostgresScheduler and zart.MySQLScheduler, each with its URL.
    scheduler = await zart.SqliteScheduler.connect(path)
    try:
        await scheduler.migrate()
        registry = zart.TaskRegistry()
        registry.register("greet", Greet())
        handle = await scheduler.schedule("greet", "world")
        config = zart.WorkerConfig(concurrency=10, shutdown_timeout="30s")
        working = asyncio.create_task(zart.Worker(scheduler, registry, config).run())
        print(await handle.result(timeout="1m"))
        os.kill(os.getpid(), signal.SIGTERM)  # as a deploy would
        await working
        print("the worker has stopped")
    finally:
        await scheduler.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "jobs.db"))
