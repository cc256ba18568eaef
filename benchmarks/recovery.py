"""How soon another worker goes on with what a killed one had under way.

``python -m benchmarks.recovery URL AMOUNT CONCURRENCY`` prints one line of JSON. A worker process
has so many executions under way at once, each with some recorded steps and in the midst of the
next; it is killed (SIGKILL), and an idle worker process of that concurrency goes on: seconds from
the kill until it is noticed, and from then until the tasks are taken over, every execution has gone
on past where it stood, and every one has ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

import zart
from benchmarks.loops import run
from benchmarks.processes import child, questions, tell
from benchmarks.sql import Line, line

STEPS = 3
"""Recorded steps of each execution when its worker is killed."""
CHUNK = 1000

_stands = asyncio.Event()
"""Never set: a handler of the worker that is killed waits for it in its last step."""
_stops_there = False
_begun = 0
_went_on: list[float] = []
_ended: list[float] = []


@zart.step
async def note(number: int) -> int:
    return number


@zart.step
async def stand() -> None:
    """Stands still in the worker that will be killed, and goes on in the other."""
    global _begun  # noqa: PLW0603 handlers of one process share nothing else
    _begun += 1
    if _stops_there:
        await _stands.wait()
    _went_on.append(time.time())


@zart.durable("interrupted")
async def interrupted() -> int:
    for number in range(STEPS):
        await note(number)
    await stand()
    _ended.append(time.time())
    return STEPS


class _Notes(logging.Handler):
    """Keeps when the worker noticed the death, and when it had taken everything over."""

    def __init__(self) -> None:
        super().__init__()
        self.noticed = 0.0
        self.taken_over = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if "took over" in record.msg and isinstance(record.args, tuple):
            self.taken_over = record.created
            self.noticed = record.created - float(record.args[-1])  # type: ignore[arg-type]


async def work(url: str, concurrency: int, *, dies: bool) -> None:
    """The other processes: one that is killed, and one that goes on."""
    global _stops_there  # noqa: PLW0603
    _stops_there = dies
    notes = _Notes()
    logging.getLogger("zart.lease").addHandler(notes)
    config = zart.WorkerConfig(concurrency=concurrency)
    async with zart.connect(url) as scheduler, zart.Worker(scheduler, [interrupted], config):
        asked = await questions()
        tell("ready")
        while question := await asked.readline():
            await _until(lambda amount=int(question): (_begun if dies else len(_ended)) >= amount)
            tell(
                [notes.noticed, notes.taken_over, max(_went_on, default=0), max(_ended, default=0)]
            )


async def _until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 nothing tells of it
        await asyncio.sleep(0.005)


async def measure(url: str, amount: int, concurrency: int) -> dict[str, float]:
    async with zart.connect(url) as scheduler:
        await scheduler.migrate()
        for start in range(0, amount, CHUNK):
            await scheduler.schedule_many(interrupted, [None] * min(CHUNK, amount - start))
        async with child("recovery", url, "dies", str(amount)) as first:
            await first.hear()
            await first.ask(str(amount), 300)
            await _settled(url, amount)
            async with child("recovery", url, "lives", str(concurrency)) as other:
                await other.hear()
                await asyncio.sleep(1.5)
                killed = time.time()
                await first.kill()
                noticed, taken, went_on, ended = await other.ask(str(amount), 300)
                finished = await _finished(url, amount)
    return {
        "noticed": noticed - killed,
        "taken_over": taken - noticed,
        "gone_on": went_on - noticed,
        "handlers_ended": ended - noticed,
        "all_completed": finished - noticed,
    }


async def _settled(url: str, amount: int) -> None:
    """Wait until all steps before the last are recorded."""
    async with line(url) as on:
        wanted = amount * STEPS
        while await _count(on, "zart_steps") < wanted:  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0.05)


async def _finished(url: str, amount: int) -> float:
    """Wait until all have ended; gives when that was."""
    async with line(url) as on:
        while await _count(on, "zart_tasks"):  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0.01)
        now = time.time()
        done = await _count(on, "zart_executions WHERE status = 'completed'")
        if done != amount:
            raise RuntimeError(f"{done} of {amount} executions completed")
    return now


async def _count(on: Line, rows: str) -> int:
    ((amount,),) = await on.fetch(f"SELECT count(*) FROM {rows}")
    return int(amount)


if __name__ == "__main__":
    url, role, number = sys.argv[1:4]
    if role in ("dies", "lives"):
        run(work(url, int(number), dies=role == "dies"))
    else:
        print(json.dumps(run(measure(url, int(role), int(number)))))
