"""What work costs in zart's own Python code: a recorded step in bytecode instructions, and an
execution under way in objects that the garbage collector goes through.

Time depends on the machine and its moment; the number of instructions does not. A run's
instructions are ``c + f * flushes + e * executions + s * steps``. Executions that are claimed
together and whose steps wait for nothing stay in step: each flush takes one step of each. So four
runs, of few and many executions with few and many steps, give ``s``: what is the same for each
flush, execution and run falls out.

Objects are counted for the same reason. What a thousand executions hold while they wait is gone
through again and again, however short their own code is: it was a quarter of a busy worker's time.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import zart
from tests.databases import Database
from zart.scheduler import worker
from zart.scheduler.entries import Entry, Receipt
from zart.scheduler.sql import sqlite

LATE = sys.version_info >= (3, 12)
MOST = {
    "sqlite": 890 if LATE else 755,
    "postgres": 840 if LATE else 930,
    "mysql": 915 if LATE else 980,
}
"""Instructions for a recorded step, in all threads: 740, 852 and 959 were counted; from Python 3.12
on, where a step has other instructions, 872, 818 and 898."""

HELD = 32
"""Objects that an execution has the garbage collector go through, a fifth more than were counted;
the handler's coroutine, its step's and what those wait for are among them."""

FEW, MANY = 8, 48
"""Executions at once; not more than go in one flush."""
SHORT, LONG = 3, 13
"""Steps of an execution."""
TRIES = 10

_SOURCE = str(Path(zart.__file__).parent)


@zart.step
async def nothing() -> None:
    """A step that waits for nothing."""


@zart.durable("steps")
async def steps(amount: int) -> None:
    for _ in range(amount):
        await nothing()


class Instructions:
    """Counts the instructions that zart's modules run in a block, in every thread."""

    def __init__(self) -> None:
        self._counter = itertools.count()  # its `next` is one operation, whichever thread calls
        self.amount = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        # Python 3.12's tracing of instructions crashes where a coroutine is resumed.
        with self._monitored() if sys.version_info >= (3, 12) else self._traced():
            yield
        self.amount = next(self._counter)

    if sys.version_info >= (3, 12):

        @contextmanager
        def _monitored(self) -> Iterator[None]:
            def ran(code: CodeType, _offset: int) -> Any:
                if not code.co_filename.startswith(_SOURCE):
                    return tool.DISABLE
                next(self._counter)
                return None

            tool = sys.monitoring
            tool.use_tool_id(tool.PROFILER_ID, "zart")
            tool.register_callback(tool.PROFILER_ID, tool.events.INSTRUCTION, ran)
            tool.set_events(tool.PROFILER_ID, tool.events.INSTRUCTION)
            try:
                yield
            finally:
                tool.set_events(tool.PROFILER_ID, tool.events.NO_EVENTS)
                tool.free_tool_id(tool.PROFILER_ID)

    else:

        @contextmanager
        def _traced(self) -> Iterator[None]:
            earlier = sys.gettrace()
            threading.settrace(self._call)
            sys.settrace(self._call)
            try:
                yield
            finally:
                sys.settrace(earlier)
                threading.settrace(earlier)  # type: ignore[arg-type]

        def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
            if not frame.f_code.co_filename.startswith(_SOURCE):
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            return self._instruction

        def _instruction(self, frame: FrameType, event: str, argument: Any) -> Any:
            if event == "opcode":
                next(self._counter)
            return self._instruction


class Flushes:
    """The sizes of a scheduler's flushes, and a signal when so many executions have ended."""

    def __init__(self, scheduler: zart.DurableScheduler, executions: int) -> None:
        self._commit = scheduler.backend.commit
        self._left = executions
        self.sizes: list[int] = []
        self.over = asyncio.Event()
        scheduler.backend.commit = self.commit  # type: ignore[method-assign]

    async def commit(self, entries: Sequence[Entry]) -> list[Receipt]:
        receipts = await self._commit(entries)
        self.sizes.append(len(entries))
        self._left -= sum(entry.ending is not None for entry in entries)
        if self._left == 0:
            self.over.set()
        return receipts


async def in_step(url: str, executions: int, amount: int) -> int:
    """The instructions of one run in which every flush took one step of each execution."""
    for _ in range(TRIES):
        counted, sizes = await _run(url, executions, amount)
        if sizes == [executions] * (amount + 1):
            return counted
    raise AssertionError(f"in {TRIES} runs the executions never kept step; the last: {sizes}")


async def _run(url: str, executions: int, amount: int) -> tuple[int, list[int]]:
    instructions = Instructions()
    async with zart.connect(url) as scheduler:
        await scheduler.schedule_many(steps, [amount] * executions)
        flushes = Flushes(scheduler, executions)
        config = zart.WorkerConfig(
            concurrency=executions, poll_interval="1m", beat="30s", lease="90s"
        )
        with instructions.counted():
            async with zart.Worker(scheduler, [steps], config):
                await asyncio.wait_for(flushes.over.wait(), 30)
    return instructions.amount, flushes.sizes


async def per_step(url: str) -> float:
    """Instructions for each further step of an execution, but for what each flush costs."""
    longer = {n: await in_step(url, n, LONG) - await in_step(url, n, SHORT) for n in (FEW, MANY)}
    return (longer[MANY] - longer[FEW]) / ((MANY - FEW) * (LONG - SHORT))


async def test_a_recorded_step_takes_few_instructions(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the call of a step to its commit, zart runs no more than so many instructions for it."""
    monkeypatch.setattr(worker, "RECONCILE", 60.0)  # looks that cost by the second, not by the step
    monkeypatch.setattr(sqlite, "LOOK", 60.0)
    monkeypatch.setattr(sqlite, "SELDOM", 60.0)
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
    await _run(database.url, FEW, SHORT)  # what is made once is made here
    counted = await per_step(database.url)
    assert counted <= MOST[database.kind]


async def test_an_execution_under_way_holds_few_objects(database: Database) -> None:
    """Of those that the garbage collector knows; what ended before leaves none."""
    begun = 0
    go_on = asyncio.Event()

    @zart.step
    async def stand() -> None:
        nonlocal begun
        begun += 1
        await go_on.wait()

    @zart.durable("standing")
    async def standing() -> None:
        await nothing()
        await stand()

    async def held(executions: int) -> int:
        """The objects that are there while so many stand."""
        nonlocal begun
        begun = 0
        go_on.clear()
        handles = await scheduler.schedule_many(standing, [None] * executions)
        async with asyncio.timeout(30):
            while begun < executions:  # noqa: ASYNC110 a step tells of nothing but by beginning
                await asyncio.sleep(0.01)
        gc.collect()
        objects = len(gc.get_objects())
        go_on.set()
        await asyncio.gather(*(handle.result(timeout="30s") for handle in handles))
        return objects - len(handles)

    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        config = zart.WorkerConfig(concurrency=200, poll_interval="1s")
        async with zart.Worker(scheduler, [standing, stand, nothing], config):
            await held(200)  # what is made once is made here
            few, many = await held(50), await held(200)
    assert (many - few) / 150 <= HELD
