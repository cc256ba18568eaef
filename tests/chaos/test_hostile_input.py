"""Whatever is given as a name, an id, a payload or a URL: it is stored as it is, or refused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import zart
from tests.chaos import hostile
from tests.chaos.conftest import Budget
from tests.databases import Database
from zart.scheduler.sql.database import Ddl
from zart.scheduler.sql.statements import TABLES
from zart.testing.conformance.harness import guarantee
from zart.testing.conformance.rows import database_of

Scheduler: TypeAlias = zart.DurableScheduler
Call: TypeAlias = Callable[[Scheduler, Any], Awaitable[Any]]

EXAMPLES = 60
"""Of each kind in `make test`; `make chaos` takes fifty times as many."""
LONG = 50

PLACES: dict[str, Call] = {
    "id": lambda s, bad: s.schedule("task", None, id=bad),
    "task": lambda s, bad: s.schedule(bad, None),
    "queue": lambda s, bad: s.schedule("task", None, queue=bad),
    "one id of many": lambda s, bad: s.schedule_many("task", [1, 2], ids=[bad, "good"]),
    "event's execution": lambda s, bad: s.offer_event(bad, "event"),
    "event": lambda s, bad: s.offer_event("live", bad),
    "cancel": lambda s, bad: s.cancel(bad),
    "restart": lambda s, bad: s.restart(bad),
    "get": lambda s, bad: s.get(bad),
    "result": lambda s, bad: s.result(bad, timeout="5s"),
    "wait": lambda s, bad: s.wait(bad, timeout="5s"),
    "timeline": lambda s, bad: s.timeline(bad),
    "list": lambda s, bad: s.list(task=bad),
}


class Fuzzed:
    """A scheduler for the length of a test whose examples are not coroutines."""

    def __init__(self, database: Database, budget: Budget) -> None:
        self._database = database
        self._budget = budget

    def run(self, property: Any, *strategies: st.SearchStrategy[Any]) -> None:
        """Check a property ``(scheduler, *drawn)`` on one scheduler, with as many examples."""
        with asyncio.Runner() as runner:
            scheduler = runner.run(self._connect())
            try:
                amount = EXAMPLES * (LONG if self._budget.long else 1)

                @seed(self._budget.seed)
                @settings(
                    max_examples=amount,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                )
                @given(st.tuples(*strategies))
                def example(drawn: tuple[Any, ...]) -> None:
                    runner.run(property(scheduler, *drawn))

                example()
                runner.run(_is_whole(scheduler))
            finally:
                runner.run(scheduler.close())

    async def _connect(self) -> Scheduler:
        scheduler = await zart.connect(self._database.url)
        await scheduler.migrate()
        await scheduler.schedule("task", None, id="live")
        return scheduler


async def _answer(work: Awaitable[Any]) -> tuple[Any, zart.ZartError | None]:
    """What a call gives, or how zart refuses it; any other error is raised."""
    try:
        return await work, None
    except zart.ZartError as error:
        return None, error


async def _counts(scheduler: Scheduler) -> dict[str, int]:
    """How many rows each table has: all of them exist, so none was dropped."""
    database = database_of(scheduler)

    async def job(ddl: Ddl) -> dict[str, int]:
        return {
            name: (await ddl.fetch(f"SELECT count(*) FROM {database.tables.named(name)}"))[0][0]
            for name in TABLES
        }

    return await database.exclusively(job)


async def _is_whole(scheduler: Scheduler) -> None:
    assert (await _counts(scheduler))["executions"] > 0
    assert (await scheduler.get("live")).id == "live"


@guarantee(22)
def test_a_hostile_name_is_refused_with_nothing_written_or_is_only_a_name(
    database: Database, budget: Budget
) -> None:
    """Wherever a name enters: an error of zart's that says what to do, or that very name."""

    async def holds(scheduler: Scheduler, place: str, name: Any) -> None:
        before = await _counts(scheduler)
        answer, error = await _answer(PLACES[place](scheduler, name))
        if error is None:
            await _is_that_name(scheduler, place, name, answer)
        else:
            assert 0 < len(str(error)) < 2_000
            str(error).encode()  # it can be logged
            assert await _counts(scheduler) == before

    places = st.sampled_from(sorted(PLACES))
    Fuzzed(database, budget).run(holds, places, hostile.names)


async def _is_that_name(scheduler: Scheduler, place: str, name: Any, answer: Any) -> None:
    if place in ("list", "timeline") and name not in (None, "live"):
        return
    if isinstance(answer, zart.Handle):
        execution = await scheduler.get(answer.id)
        given = {"id": execution.id, "task": execution.task, "queue": execution.queue}
        assert given[place] == name or (place == "id" and name is None)
        if place == "task":
            assert answer.id in {e.id for e in await scheduler.list(task=name, limit=1_000)}
    elif place == "one id of many":
        ids = [handle.id for handle in answer]
        assert ids == [ids[0] if name is None else name, "good"]
        assert (await scheduler.get(ids[0])).id == ids[0]


@guarantee(2)
def test_a_hostile_payload_is_refused_with_nothing_written_or_comes_back_equal(
    database: Database, budget: Budget
) -> None:
    """As an input, in `schedule_many`, and as an event."""

    async def holds(scheduler: Scheduler, payload: Any) -> None:
        before = await _counts(scheduler)
        handle, error = await _answer(scheduler.schedule("task", payload))
        if error is None:
            declared = Any if isinstance(payload, list | dict | None) else type(payload)
            read = scheduler.serializer.shape(declared).decode((await handle.get()).input)
            assert _same(read, payload)
            await scheduler.offer_event("live", "event", payload)
            return
        for again in (
            scheduler.schedule_many("task", [1, payload]),
            scheduler.offer_event("live", "event", payload),
        ):
            assert isinstance((await _answer(again))[1], zart.PayloadError)
        assert isinstance(error, zart.PayloadError)
        assert str(error)
        assert await _counts(scheduler) == before

    Fuzzed(database, budget).run(holds, hostile.payloads)


def _same(read: Any, given: Any) -> bool:
    """Equal; a value that is no number counts as equal to itself."""
    if isinstance(given, float) and isinstance(read, float):
        return read == given or math.isnan(given)
    return bool(read == given)


def test_a_worker_lives_through_hostile_executions(database: Database, budget: Budget) -> None:
    """Its task, step and event names, its inputs and results: each ends as it should."""
    amount = EXAMPLES * (LONG if budget.long else 1) // 2

    @zart.durable("echo")
    async def echo(payload: Any) -> Any:
        name, value = payload
        context = zart.context()
        event = await context.wait_for_event(name)
        assert event == value
        return await context.step(name, lambda: value)

    drawn: list[tuple[str, Any]] = []

    @seed(budget.seed)
    @settings(
        max_examples=amount,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.tuples(hostile.texts, hostile.payloads))
    def example(one: tuple[str, Any]) -> None:
        drawn.append(one)

    example()
    assert len(drawn) >= amount
    asyncio.run(_echoes(database, echo, drawn))


async def _echoes(database: Database, echo: Any, drawn: list[tuple[str, Any]]) -> None:
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [echo], zart.WorkerConfig(poll_interval="20ms")):
            await asyncio.gather(*(_echo(scheduler, echo, *each) for each in drawn))
            handle = await scheduler.schedule(echo, ["still", "alive"])
            await handle.offer_event("still", "alive")
            assert await handle.result(timeout="10s") == "alive"


async def _echo(scheduler: Scheduler, echo: Any, name: str, value: Any) -> None:
    try:
        handle = await scheduler.schedule(echo, [name, value])
        await handle.offer_event(name, value)
    except zart.InvalidIdError:
        # The handler meets the same refusal, as a failure of its own.
        assert (await scheduler.wait(handle.id, timeout="30s")).status == "failed"
    except zart.PayloadError:
        return
    else:
        assert _same(await handle.result(timeout="30s"), value)
