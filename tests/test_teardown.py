"""A process that just ends: its event loop is torn down and nobody has stopped the worker."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import zart
from tests.databases import Database
from zart.scheduler.entries import Entry, Receipt
from zart.testing.conformance.harness import QUICK


class Life:
    """Whether this is the first life, how far it has come, and what it does."""

    def __init__(self) -> None:
        self.first = True
        self.inside: asyncio.Event = asyncio.Event()
        self.calls: list[str] = []

    async def work(self) -> str:
        """Hang in the first life."""
        if self.first:
            self.inside.set()
            await asyncio.Event().wait()
        return "done"


_life = Life()


@pytest.fixture
def life(monkeypatch: pytest.MonkeyPatch) -> Iterator[Life]:
    made = Life()
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "_life", made)
        yield made
    gc.collect()  # nobody closes the connections of a process that just ends


async def hang() -> str:
    return await _life.work()


async def hang_and_complain() -> str:
    """As a library does that knows its own errors only."""
    try:
        return await _life.work()
    except asyncio.CancelledError:
        raise ConnectionError("the answer did not come") from None


@zart.step
async def elsewhere() -> str:
    return await _life.work()


@zart.step
async def release() -> None:
    _life.calls.append("release")


async def _in_step() -> str:
    return await zart.context().step("hang", hang)


async def _in_step_that_complains() -> str:
    return await zart.context().step("hang", hang_and_complain)


async def _in_step_with_a_timeout() -> str:
    return await zart.context().step("hang", hang, timeout="1m")


async def _in_transaction() -> str:
    async def work(_connection: Any) -> str:
        return await _life.work()

    return await zart.context().transaction("hang", work)


async def _in_distributed_step() -> str:
    return await zart.context().schedule_step("hang", elsewhere)


async def _in_handler() -> str:
    return await _life.work()


async def _in_handler_that_cleans_up() -> str:
    try:
        return await _life.work()
    finally:
        await release()


async def _in_handler_that_returns() -> str:
    try:
        return await _life.work()
    except asyncio.CancelledError:
        return "cancelled"


async def _in_branches() -> str:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_in_step()), group.create_task(zart.sleep("1ms"))]
    return str(tasks[0].result())


PLACES: dict[str, Callable[[], Awaitable[str]]] = {
    name.removeprefix("_in_"): place
    for name, place in list(globals().items())
    if name.startswith("_in_")
}


@zart.durable("interrupted")
async def interrupted(place: str) -> str:
    return await PLACES[place]()


TASKS = [interrupted, elsewhere]


@pytest.mark.guarantee(1, 3, 10, 17)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("begun", ["start", "run"])
@pytest.mark.filterwarnings("ignore")
def test_an_execution_goes_on_in_the_next_process(
    database: Database, life: Life, place: str, begun: str
) -> None:
    """`asyncio.run` cancels what is left when main ends: that is no outcome of any step or run."""
    written: list[Entry] = []
    workers: list[zart.Worker] = []

    async def first_life() -> None:
        scheduler = await zart.connect(database.url)
        await scheduler.migrate()
        await scheduler.schedule(interrupted, place, id="e")
        worker = zart.Worker(scheduler, TASKS, QUICK)
        workers.append(worker)
        running = None
        if begun == "start":
            await worker.start()
        else:
            running = asyncio.create_task(worker.run())
        await asyncio.wait_for(life.inside.wait(), 10)
        commit = worker.commit

        def tell(entry: Entry) -> asyncio.Future[Receipt]:
            written.append(entry)
            return commit(entry)

        worker.commit = tell  # type: ignore[method-assign]
        assert running is None or not running.done()

    async def next_life() -> None:
        async with (
            zart.connect(database.url) as scheduler,
            zart.Worker(scheduler, TASKS, QUICK),
        ):
            assert await scheduler.result("e", timeout="20s") == "done"
            assert {s.outcome for s in await scheduler.timeline("e")} <= {"ok"}

    asyncio.run(first_life())
    assert written == []
    assert life.calls == []
    workers.pop()._lease.let_go()  # as the end of the process does
    life.first = False
    asyncio.run(next_life())
