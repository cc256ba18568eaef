"""Claims whose answer comes late, or cannot be begun: given back, and begun by one worker only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import zart
from tests.databases import Database
from zart.scheduler import strays
from zart.scheduler import worker as polling
from zart.testing.conformance.harness import QUICK, eventually, working
from zart.testing.conformance.mortal import reached

SELDOM = zart.WorkerConfig(concurrency=20, shutdown_timeout="2s", poll_interval="10s")
"""It knows for long that nothing waits: what is scheduled beside it is its own."""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strays, "STRAY", 0.05)
    monkeypatch.setattr(polling, "RECONCILE", 0.02)


class Slow:
    """Holds back the first answer of a backend's call that brings something to begin."""

    def __init__(self, scheduler: zart.DurableScheduler, method: str) -> None:
        self._backend: Any = scheduler.backend
        self._method = method
        self._call = getattr(self._backend, method)
        self._give_back = self._backend.give_back
        self.given_back = asyncio.Event()
        self.answered = asyncio.Event()
        self.again = asyncio.Event()
        """Set by the next claim: what the late answer brought has been dealt with by then."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is held back any more at the end, however that comes."""
        setattr(self._backend, self._method, self.call)
        self._backend.give_back = self.give_back
        try:
            yield
        finally:
            self.answered.set()

    async def give_back(self, *arguments: Any) -> None:
        await self._give_back(*arguments)
        self.given_back.set()

    async def call(self, *arguments: Any) -> Any:
        if self.answered.is_set():
            self.again.set()
            return await self._call(*arguments)
        answer = await self._call(*arguments)
        if answer:
            await self.answered.wait()
        return answer


class Work:
    """A workflow that tells how often it was begun, and goes on when it may."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.inside = asyncio.Event()
        self.go_on = asyncio.Event()

        @zart.durable("work")
        async def work(who: str) -> str:
            self.begun.append(who)
            if who == "it":
                self.inside.set()
                await self.go_on.wait()
            return who

        self.task = work


@pytest.mark.guarantee(8)
async def test_a_claim_that_was_given_back_is_not_begun_by_its_late_answer(
    database: Database, scheduler: zart.DurableScheduler
) -> None:
    """Another worker is at it by then: two of them would run its steps side by side."""
    work, slow = Work(), Slow(scheduler, "claim")
    async with (
        zart.connect(database.url) as elsewhere,
        working(scheduler, work.task) as worker,
    ):
        with slow.held():
            handle = await elsewhere.schedule(work.task, "it")
            await reached(slow.given_back)
            async with working(elsewhere, work.task):
                await reached(work.inside)
                slow.answered.set()
                await reached(slow.again)
                assert worker.running == 0
                work.go_on.set()
                assert await handle.result(timeout="10s") == "it"
    assert work.begun == ["it"]


@pytest.mark.guarantee(8)
async def test_an_execution_that_was_given_back_is_not_begun_by_its_late_insertion(
    database: Database, scheduler: zart.DurableScheduler
) -> None:
    """The same where it was inserted as the worker's own."""
    work, slow = Work(), Slow(scheduler, "schedule_each")
    async with (
        zart.connect(database.url) as elsewhere,
        working(scheduler, work.task, config=SELDOM) as worker,
    ):
        for number in range(3):  # so that the worker finds nothing left to claim
            await (await scheduler.schedule(work.task, f"{number}")).result(timeout="10s")
        with slow.held():
            scheduling = asyncio.create_task(scheduler.schedule(work.task, "it", id="it"))
            await reached(slow.given_back)
            # It may have been claimed again by the same worker; if not, by this one.
            async with working(elsewhere, work.task):
                await reached(work.inside)
                slow.answered.set()
                handle = await scheduling
                work.go_on.set()
                assert await handle.result(timeout="10s") == "it"
                await eventually(lambda: _value(worker.running == 0))
    assert work.begun.count("it") == 1


async def test_a_task_that_cannot_be_begun_stops_no_other(
    scheduler: zart.DurableScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """The fault is in the log, the others are served, and it is tried again."""
    work, failures = Work(), [1, 2]
    work.go_on.set()
    async with working(scheduler, work.task) as worker:
        start = worker._executor.start

        def failing(task: Any, ledger: Any) -> Any:
            if task.claim.execution_id == "it" and failures:
                raise RuntimeError(f"no way to begin, {failures.pop()}")
            return start(task, ledger)

        worker._executor.start = failing  # type: ignore[method-assign]
        handle = await scheduler.schedule(work.task, "it", id="it")
        other = await scheduler.schedule(work.task, "other")
        assert await other.result(timeout="10s") == "other"
        assert await handle.result(timeout="10s") == "it"
        assert (await handle.get()).crashes == 0
    assert "execution 'it' could not be begun" in caplog.text
    assert failures == []


@pytest.mark.guarantee(23)
async def test_a_handler_that_was_stopped_is_not_stopped_again_while_it_cleans_up(
    scheduler: zart.DurableScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ``finally`` has its seconds, however often the worker looks meanwhile."""
    inside, cleaning, looked, ended = (asyncio.Event() for _ in range(4))
    looks: list[int] = []
    cleaned: list[str] = []

    @zart.durable("cleans-up")
    async def cleans_up() -> None:
        try:
            inside.set()
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            try:
                await looked.wait()
                cleaned.append("up")
            finally:
                ended.set()

    async with working(scheduler, cleans_up, config=QUICK) as worker:
        reconcile = worker._reconcile

        async def counted() -> None:
            await reconcile()
            if cleaning.is_set():
                looks.append(1)
            if len(looks) == 3:
                looked.set()

        monkeypatch.setattr(worker, "_reconcile", counted)
        handle = await scheduler.schedule(cleans_up)
        await reached(inside)
        await handle.cancel()
        await reached(ended)
    assert cleaned == ["up"]


async def _value(value: Any) -> Any:
    return value
