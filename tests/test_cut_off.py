"""A durable call that the handler's own code cancels while its outcome is being committed.

What the first life has seen is what a replay sees: the handler was cut off, whatever the database
had or got meanwhile. And what a step has done is not done again, though its caller was cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

import zart
from tests.databases import Database
from zart.execution import cut_off
from zart.scheduler.entries import Entry, Receipt
from zart.testing.conformance.harness import eventually, working
from zart.testing.conformance.mortal import mortal, reached
from zart.testing.conformance.rows import on_driver, run_sql


class Cut:
    """Cuts the call named ``pay`` off around its commit, once: before it or before its answer."""

    def __init__(
        self, scheduler: zart.DurableScheduler, *, before: bool, name: str = "pay"
    ) -> None:
        self.calls: list[str] = []
        self.bound: asyncio.Timeout | None = None
        self.cuts = 0
        self._before = before
        self._name = name
        self._recorded = asyncio.Event()
        backend: Any = scheduler.backend
        self._commit, backend.commit = backend.commit, self.commit
        self._transact, backend.transact = backend.transact, self.transact

    async def cut(self) -> None:
        """Let the handler's timeout expire now."""
        self.cuts += 1
        assert self.bound is not None
        self.bound.reschedule(asyncio.get_running_loop().time())
        while not self.bound.expired():  # noqa: ASYNC110 its own timer does it
            await asyncio.sleep(0)

    async def commit(self, entries: Sequence[Entry]) -> list[Receipt]:
        ended = {row[2] for entry in entries for row in entry.steps if row[5] is not None}
        first = self._name in ended and not self.cuts
        if first and self._before:
            await self.cut()
            await reached(self._recorded)
        receipts: list[Receipt] = await self._commit(entries)
        if first and not self._before:
            await self.cut()
        if f" {self._name}" in ended:
            self._recorded.set()
        return receipts

    async def transact(self, *arguments: Any) -> Any:
        answer = await self._transact(*arguments)
        if not self.cuts:
            await self.cut()
        return answer

    # -- what is cut off ------------------------------------------------------------------------

    async def pay(self, kind: str) -> str:
        context = zart.context()
        if kind == "step":
            return await context.step("pay", self._pay)
        if kind == "failing step":
            return await context.step("pay", self._refuse)
        if kind == "transaction":
            return await context.transaction("pay", self._transfer)
        if kind == "time-out":
            return await context.wait_for_event("never", type=str, timeout="1ms", name="pay")
        # In a branch: alone, it would take the event without a commit to be cut off at.
        waiting = context.wait_for_event("money", type=str, name="pay")
        return await asyncio.create_task(waiting)

    async def _pay(self) -> str:
        self.calls.append("pay")
        return "paid"

    async def _refuse(self) -> str:
        self.calls.append("pay")
        raise ValueError("no money")

    async def _transfer(self, connection: Any) -> str:
        self.calls.append("pay")
        await on_driver(connection, "INSERT INTO ledger (amount) VALUES (1)")
        if self._before and not self.cuts:
            await self.cut()
        return "paid"


CASES = pytest.mark.parametrize(
    ("kind", "before"),
    [
        ("step", False),
        ("step", True),
        ("failing step", False),
        ("failing step", True),
        ("transaction", False),
        ("transaction", True),
        ("event", False),
        ("time-out", False),
        ("time-out", True),
    ],
)
RECORDED = {
    "step": {"pay": "ok"},
    "failing step": {"pay": "failed"},
    "transaction": {"pay": "ok"},
    "event": {},
    "time-out": {"pay": "timed_out"},
}


@pytest.mark.guarantee(2, 3, 16, 20)
@CASES
async def test_a_call_cut_off_around_its_commit_is_cut_off_in_replay(
    database: Database, kind: str, before: bool
) -> None:
    """The replay takes the branch that the first life took; an event goes to the next wait."""
    stuck = asyncio.Event()

    @zart.durable("pays")
    async def pays() -> list[str]:
        first = not stuck.is_set()
        try:
            async with asyncio.timeout(None if first else 0.05) as cut.bound:
                made = await cut.pay(kind)
        except TimeoutError:
            made = await zart.context().step("fallback", fall_back)
        if first:
            stuck.set()
            await asyncio.Event().wait()
        if kind == "event":
            return [made, await zart.wait_for_event("money", type=str)]
        return [made]

    async def fall_back() -> str:
        cut.calls.append("fallback")
        return "fell back"

    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        await run_sql(scheduler, "CREATE TABLE ledger (amount integer)")
        cut = Cut(scheduler, before=before)
        handle = await scheduler.schedule(pays)
        if kind == "event":
            await handle.offer_event("money", "later")
        async with mortal(scheduler, pays):
            await reached(stuck)
        async with working(scheduler, pays):
            made = await handle.result(timeout="10s")
        steps = {s.name: s.outcome for s in await scheduler.timeline(handle.id)}
        ledger = await run_sql(scheduler, "SELECT amount FROM ledger")
    assert made == (["fell back", "later"] if kind == "event" else ["fell back"])
    assert cut.calls == (["fallback"] if kind in ("event", "time-out") else ["pay", "fallback"])
    rolled_back = kind == "transaction" and before
    assert ledger == ([(1,)] if kind == "transaction" and not before else [])
    expected = {} if rolled_back else RECORDED[kind]
    steps.pop("event money", None)
    assert steps == expected | {" pay": "cancelled", "fallback": "ok"}


@pytest.mark.guarantee(1, 7, 16, 20)
@CASES
async def test_what_has_ended_is_not_done_again_when_its_cut_off_fails_the_run(
    database: Database, kind: str, before: bool
) -> None:
    """The next attempt finds the outcome, and the event; only what was rolled back runs again."""

    @zart.durable("pays", retry=zart.RetryConfig.fixed(1, "0s"))
    async def pays() -> str:
        async with asyncio.timeout(None) as cut.bound:
            return await cut.pay(kind)

    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        await run_sql(scheduler, "CREATE TABLE ledger (amount integer)")
        cut = Cut(scheduler, before=before)
        handle = await scheduler.schedule(pays)
        if kind == "event":
            await handle.offer_event("money", "paid")
        async with working(scheduler, pays):
            ended = await scheduler.wait(handle.id, timeout="10s")
        ledger = await run_sql(scheduler, "SELECT amount FROM ledger")
    assert ended.attempt == 2
    if kind == "failing step":
        assert ended.failure is not None
        assert "no money" in ended.failure.message
    elif kind == "time-out":
        assert ended.failure is not None
        assert ended.failure.type.endswith("EventTimedOutError")
    else:
        assert ended.output == '"paid"'
    rolled_back = kind == "transaction" and before
    assert cut.calls == ["pay"] * (0 if kind in ("event", "time-out") else 1 + rolled_back)
    assert ledger == ([(1,)] if kind == "transaction" else [])


@pytest.mark.guarantee(19)
async def test_a_cut_off_is_compacted_with_its_iteration(database: Database) -> None:
    """Nothing of a finished iteration is left but the loop's own record."""

    @zart.durable("pays")
    async def pays() -> None:
        async for _ in zart.durable_loop("loop", range(2)):
            try:
                async with asyncio.timeout(None) as cut.bound:
                    await cut.pay("step")
            except TimeoutError:
                continue

    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        cut = Cut(scheduler, before=False, name="loop[0]/pay")
        handle = await scheduler.schedule(pays)
        async with working(scheduler, pays):
            await handle.result(timeout="10s")
        assert cut.cuts == 1
        assert [s.name for s in await scheduler.timeline(handle.id)] == ["loop"]


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("kind", ["step", "transaction"])
async def test_a_call_cut_off_before_it_begins_does_not_begin_in_replay(
    database: Database, kind: str
) -> None:
    """It waited for an earlier step's record; the workflow has gone on without it, for good."""
    stuck = asyncio.Event()

    @zart.durable("pays")
    async def pays() -> str:
        context, first = zart.context(), not stuck.is_set()
        try:
            async with asyncio.timeout(None if first else 0.05) as cut.bound:
                await context.step("token", lambda: "", idempotent=True)
                made = await cut.pay(kind)
        except TimeoutError:
            made = await context.step("fallback", lambda: "fell back")
        if first:
            stuck.set()
            await asyncio.Event().wait()
        return made

    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        await run_sql(scheduler, "CREATE TABLE ledger (amount integer)")
        cut = Cut(scheduler, before=False, name="token")
        handle = await scheduler.schedule(pays)
        async with mortal(scheduler, pays):
            await reached(stuck)
        async with working(scheduler, pays):
            assert await handle.result(timeout="10s") == "fell back"
    assert cut.calls == []


async def test_a_replay_that_is_not_cut_off_again_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits in silence no longer than seconds: the log names the execution and the step."""
    monkeypatch.setattr(cut_off, "PATIENCE", 0.05)
    stuck = asyncio.Event()

    @zart.durable("pays")
    async def pays() -> None:
        try:
            async with asyncio.timeout(None) as cut.bound:
                await cut.pay("step")
        except TimeoutError:
            await zart.context().step("fallback", lambda: "")
            stuck.set()
            await asyncio.Event().wait()

    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        cut = Cut(scheduler, before=False)
        await scheduler.schedule(pays, id="e")
        async with mortal(scheduler, pays):
            await reached(stuck)
        async with working(scheduler, pays):
            await eventually(lambda: _value("step 'pay' of execution 'e'" in caplog.text))
            assert (await scheduler.get("e")).status == "running"


async def _value(value: Any) -> Any:
    return value
