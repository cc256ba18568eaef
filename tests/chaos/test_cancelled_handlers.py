"""Every place where a handler waits is a place where it is cancelled, or its worker stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import msgspec
import pytest

import zart
from tests.chaos.cancelling import ANSWERED, WAITING, Places, Remains
from tests.chaos.conftest import Budget
from tests.chaos.everything import MOVES
from tests.crash.processes import until
from tests.databases import Database
from zart.testing.conformance.harness import guarantee
from zart.testing.conformance.rows import count_rows, on_driver, run_sql

QUICK = zart.WorkerConfig(concurrency=50, shutdown_timeout="1s", poll_interval="20ms")
SAMPLE = 8
"""Places of one handler in `make test`; `make chaos` takes them all."""
AT_ONCE = 8
PARTS = {"first", "left", "after right", "move", "last"}


class Around:
    """Wraps a handler, claim after claim, and disturbs it at the ``number``-th place of all."""

    def __init__(
        self, number: int, act: Callable[[asyncio.Task[Any]], object], when: str = WAITING
    ) -> None:
        self._number = number
        self._act = act
        self._when = when
        self._before = 0
        self._places: Places | None = None

    def __call__(self, body: Coroutine[Any, Any, str]) -> Awaitable[str]:
        self._before = self.count
        self._places = Places(body, self._number - self._before, self._act, self._when)
        return self._places

    @property
    def count(self) -> int:
        return self._before + (0 if self._places is None else self._places.count)


_around: dict[str, Around] = {}
_known: set[tuple[str, str]] = set()
_repeated: list[tuple[str, str]] = []
"""Steps whose function began again after the workflow had had their value."""
_execution: ContextVar[str] = ContextVar("execution")


async def _work(step: str, connection: Any = None) -> str:
    execution = _execution.get()
    if (execution, step) in _known:
        _repeated.append((execution, step))
    await asyncio.sleep(0)
    if connection is not None:
        await on_driver(connection, f"INSERT INTO moves VALUES ('{execution}', 'token')")
    return step


async def _take(step: str) -> None:
    assert await zart.context().step(step, _work, step) == step
    _known.add((_execution.get(), step))


async def _waited(name: str) -> None:
    await zart.sleep(name, "5ms")
    await _take(f"after {name}")


async def _move(connection: Any) -> str:
    return await _work("move", connection)


async def _everywhere(queue: str) -> str:
    await _take("first")
    await asyncio.gather(_take("left"), _waited("right"))
    await zart.sleep("alone", "5ms")
    await zart.wait_for_event("event")
    with contextlib.suppress(zart.EventTimedOutError):
        await zart.wait_for_event("never", timeout="5ms")
    await zart.transaction("move", _move)
    _known.add((_execution.get(), "move"))
    async for number in zart.durable_loop("loop", range(2)):
        await zart.context().step("round", _work, f"round {number}")
    assert await zart.start_child(small, queue=queue) == "small"
    await _take("last")
    return "done"


@zart.durable("small")
async def small() -> str:
    return "small"


@zart.durable("busy")
async def busy(queue: str) -> str:
    execution = zart.context().execution_id
    _execution.set(execution)
    return await _around[execution](_everywhere(queue))


async def _begin(scheduler: zart.DurableScheduler, name: str, around: Around, queue: str) -> None:
    _around[name] = around
    await scheduler.schedule(busy, queue, id=name, queue=queue)
    with contextlib.suppress(zart.ExecutionFinishedError):  # it has cancelled itself by now
        await scheduler.offer_event(name, "event")


async def _places(scheduler: zart.DurableScheduler) -> int:
    """How many places the handler waits at, undisturbed."""
    around = Around(0, asyncio.Task.cancel)
    await _begin(scheduler, "undisturbed", around, "default")
    assert await scheduler.result("undisturbed", timeout="20s") == "done"
    return around.count


@pytest.fixture(autouse=True)
def _forget() -> None:
    for kept in (_around, _known, _repeated):
        kept.clear()


@guarantee(3, 20)
async def test_a_handler_that_cancels_itself_anywhere_ends_in_a_legal_state(
    database: Database, budget: Budget
) -> None:
    """It completes or fails; its transaction and its step's record are both there or neither."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        await run_sql(scheduler, MOVES)
        await scheduler.workers()  # a read: what serves those is there from then on
        async with zart.Worker(scheduler, [busy, small], QUICK):
            pass  # so does what listens
        before = Remains(database)
        async with zart.Worker(scheduler, [busy, small], QUICK):
            amount = await _places(scheduler)
            names = {
                f"{when}-{number}": Around(number, asyncio.Task.cancel, when)
                for number, when in _chosen(amount, budget)
            }
            for name, around in names.items():
                await _begin(scheduler, name, around, "default")
            ends = await asyncio.gather(*(scheduler.wait(name, timeout="30s") for name in names))
        assert {end.status for end in ends} <= {"completed", "failed"}
        failures = [end.failure for end in ends if end.failure is not None]
        assert {failure.type for failure in failures} <= {"asyncio.exceptions.CancelledError"}
        assert failures
        await _moved_as_recorded(scheduler, names)
        assert not _repeated
        assert await count_rows(scheduler, "tasks") == 0
        await before.none(connections=20)


def _chosen(amount: int, budget: Budget) -> list[tuple[int, str]]:
    """All places and ways, or a sample of them."""
    places = [(number, when) for number in range(1, amount + 1) for when in (WAITING, ANSWERED)]
    assert len(places) > 30
    return places if budget.long else budget.chance.sample(places, SAMPLE)


async def _moved_as_recorded(scheduler: zart.DurableScheduler, names: Any) -> None:
    moved = [row[0] for row in await run_sql(scheduler, "SELECT execution FROM moves")]
    for name in names:
        recorded = [
            s for s in await scheduler.timeline(name) if (s.name, s.outcome) == ("move", "ok")
        ]
        assert moved.count(name) == len(recorded), name


@guarantee(1, 9, 20)
async def test_a_worker_stopped_at_any_place_of_a_handler_hands_it_over(
    database: Database, budget: Budget
) -> None:
    """The next worker ends it with the right result, and no step runs again after its commit."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        await run_sql(scheduler, MOVES)
        async with zart.Worker(scheduler, [busy, small], QUICK):
            amount = await _places(scheduler)
        await scheduler.workers()  # a read: what serves those is there from then on
        async with zart.Worker(scheduler, [busy, small], QUICK):
            pass  # so does what listens
        before = Remains(database)
        places = _chosen(amount, budget)
        stopped: list[bool] = []
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            stopped += await asyncio.gather(*(_handed_over(scheduler, *place) for place in some))
        # How often a handler waits differs a little from one life to the next.
        least = len(places) / 2 if budget.long else 0
        assert sum(stopped) > least, (sum(stopped), amount)
        assert not _repeated
        await _moved_as_recorded(scheduler, list(_around))
        assert await count_rows(scheduler, "tasks") == 0
        await before.none(connections=20)
        assert await scheduler.workers() == []


async def _handed_over(scheduler: zart.DurableScheduler, number: int, when: str) -> bool:
    """Stop the worker at that place; False when the handler did not come there."""
    name = f"{when}-{number}"
    stopping: list[asyncio.Task[None]] = []
    worker = zart.Worker(scheduler, [busy, small], _only(name))

    def stop(_: asyncio.Task[Any]) -> None:
        stopping.append(asyncio.create_task(worker.stop(timeout="0s")))

    async with worker:
        await _begin(scheduler, name, Around(number, stop, when), name)
        waiting = asyncio.create_task(scheduler.wait(name, timeout="30s"))
        await until(lambda: stopping or waiting.done(), "the worker stops, or the handler ends")
        waiting.cancel()
    await asyncio.gather(*stopping)
    async with zart.Worker(scheduler, [busy, small], _only(name)):
        assert await scheduler.result(name, timeout="30s") == "done"
    assert (await scheduler.get(name)).crashes == 0
    steps = {step.name for step in await scheduler.timeline(name)}
    assert steps >= PARTS
    return bool(stopping)


def _only(queue: str) -> zart.WorkerConfig:
    return msgspec.structs.replace(QUICK, queues=(queue,))
