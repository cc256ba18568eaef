"""An import in parallel: each file is a step that any worker may run, and two workers share them.

Run it: python examples/fan_out.py sqlite:///import.db
"""

import asyncio
import sys

import zart


@zart.step(retry=zart.RetryConfig.fixed(2, "1s"))
def import_file(name: str) -> int:
    return len(name)  # rows that were imported


@zart.step
def publish(rows: int) -> str:
    return f"{rows} rows are public"


@zart.durable
async def import_all(files: list[str]) -> str:
    handles = [import_file.named(f"import {name}").schedule(name) for name in files]
    # The execution gives its slot back here, and is woken once: by the last file.
    rows = await zart.wait_all(handles)
    return await publish(sum(rows))


async def main(url: str) -> None:
    async with zart.connect(url) as scheduler:
        await scheduler.migrate()
        # `import_file` is registered, so its calls become rows of their own.
        tasks = [import_all, import_file]
        async with zart.Worker(scheduler, tasks), zart.Worker(scheduler, tasks):
            files = [f"part-{number}.csv" for number in range(20)]
            handle = await scheduler.schedule(import_all, files)
            print(await handle.result(timeout="1m"))
        timeline = await scheduler.timeline(handle.id)
        print(sum(step.kind == "distributed" for step in timeline), "steps ran on any worker")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///import.db"))
