"""Guarantees 20 and 21: what a user writes, and what zart writes, in one transaction."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import zart
from zart.testing.conformance.faults import claim_all
from zart.testing.conformance.harness import Backend, guarantee, open_scheduler, working
from zart.testing.conformance.mortal import mortal
from zart.testing.conformance.rows import all_rows, database_of, on_driver, run_sql

__all__ = ["TestTransactions"]


class RolledBackError(Exception):
    """Ends a caller's transaction without a commit."""


@zart.durable("joined")
async def joined(number: int) -> int:
    return number


async def note(connection: Any, amount: int) -> int:
    await on_driver(connection, f"INSERT INTO ledger (amount) VALUES ({amount:d})")
    return amount * 2


async def ledger(scheduler: zart.DurableScheduler) -> list[int]:
    return sorted(row[0] for row in await run_sql(scheduler, "SELECT amount FROM ledger"))


async def make_ledger(scheduler: zart.DurableScheduler) -> None:
    await run_sql(scheduler, "CREATE TABLE ledger (amount integer NOT NULL)")


@pytest.mark.asyncio
class TestTransactions:
    """20 and 21. Exactly once, by the database's own means."""

    @guarantee(20)
    async def test_a_transaction_and_its_outcome_are_one_commit(self, backend: Backend) -> None:
        """A crash right after the commit, and replays, leave one row and one outcome."""
        committed = asyncio.Event()

        @zart.durable("debit")
        async def debit() -> int:
            context = zart.context()
            value = await context.transaction("note", note, 21)
            if not committed.is_set():
                committed.set()
                await asyncio.Event().wait()
            await context.sleep("20ms")
            return value

        async with open_scheduler(backend) as scheduler:
            await make_ledger(scheduler)
            handle = await scheduler.schedule(debit)
            async with mortal(scheduler, debit):
                await asyncio.wait_for(committed.wait(), 10)
            async with working(scheduler, debit):
                assert await handle.result(timeout="10s") == 42
            assert await ledger(scheduler) == [21]
            step = (await scheduler.timeline(handle.id))[0]
            assert (step.name, step.kind, step.outcome, step.value) == (
                "note",
                "transaction",
                "ok",
                "42",
            )

    @guarantee(20)
    async def test_many_transactions_at_once_do_not_hold_each_other_up(
        self, backend: Backend
    ) -> None:
        """More of them than a process has threads: one that waits takes nothing from another."""

        @zart.durable("many")
        async def many(number: int) -> int:
            async def slowly(connection: Any) -> int:
                await asyncio.sleep(0.01)
                return await note(connection, number)

            return await zart.context().transaction("note", slowly)

        async with open_scheduler(backend) as scheduler:
            await make_ledger(scheduler)
            async with working(scheduler, many):
                handles = await scheduler.schedule_many(many, range(40))
                ended = asyncio.gather(*(handle.result() for handle in handles))
                assert await asyncio.wait_for(ended, 9) == [2 * n for n in range(40)]
            assert await ledger(scheduler) == list(range(40))

    @guarantee(20)
    async def test_a_crash_before_the_commit_leaves_nothing(self, backend: Backend) -> None:
        """What was written by a transaction that was not committed is written once, by the next."""
        tries: list[int] = []
        written = asyncio.Event()

        async def stuck(connection: Any) -> int:
            tries.append(1)
            value = await note(connection, len(tries))
            if len(tries) == 1:
                written.set()
                await asyncio.Event().wait()
            return value

        @zart.durable("interrupted")
        async def interrupted() -> int:
            return await zart.transaction("note", stuck)

        async with open_scheduler(backend) as scheduler:
            await make_ledger(scheduler)
            handle = await scheduler.schedule(interrupted)
            async with mortal(scheduler, interrupted):
                await asyncio.wait_for(written.wait(), 10)
            async with working(scheduler, interrupted):
                assert await handle.result(timeout="10s") == 4
            assert await ledger(scheduler) == [2]

    @guarantee(3, 20)
    async def test_a_failed_transaction_is_rolled_back(self, backend: Backend) -> None:
        """An error undoes what was written, is recorded, and replays as the same error."""
        tries: list[int] = []

        async def declined(connection: Any) -> None:
            tries.append(1)
            await note(connection, 1)
            raise ValueError("declined")

        @zart.durable("declined")
        async def workflow() -> str:
            try:
                await zart.transaction("note", declined)
            except zart.StepFailedError as error:
                await zart.sleep("20ms")
                return error.message
            return "no failure"

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            await make_ledger(scheduler)
            handle = await scheduler.schedule(workflow)
            assert await handle.result(timeout="10s") == "declined"
            assert await ledger(scheduler) == []
            assert tries == [1]

    @guarantee(5, 20)
    async def test_a_transaction_is_tried_again(self, backend: Backend) -> None:
        """Only the attempt that succeeds leaves anything behind; the others are on record."""
        tries: list[int] = []

        async def shaky(connection: Any) -> int:
            tries.append(1)
            value = await note(connection, len(tries))
            if len(tries) < 3:
                raise ValueError(f"try {len(tries)}")
            return value

        @zart.durable("shaky-transaction")
        async def workflow() -> int:
            return await zart.transaction("note", shaky, retry=zart.RetryConfig.fixed(2, "0s"))

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            await make_ledger(scheduler)
            handle = await scheduler.schedule(workflow)
            assert await handle.result(timeout="10s") == 6
            assert await ledger(scheduler) == [3]
            step = (await scheduler.timeline(handle.id))[0]
            assert [a.failure.message for a in step.attempts] == ["try 1", "try 2"]

    @guarantee(4, 20)
    async def test_a_business_error_rolls_back_and_keeps_its_type(self, backend: Backend) -> None:
        """An error in raises= is not tried again, and nothing is written."""

        async def missing(connection: Any) -> None:
            await note(connection, 1)
            raise LookupError("no account")

        @zart.durable("missing-account")
        async def workflow() -> str:
            try:
                await zart.transaction("note", missing, raises=(LookupError,))
            except LookupError as error:
                return str(error)
            return "found"

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            await make_ledger(scheduler)
            handle = await scheduler.schedule(workflow)
            assert await handle.result(timeout="10s") == "no account"
            assert await ledger(scheduler) == []

    @guarantee(4, 20)
    @pytest.mark.parametrize("error", [FileNotFoundError, TimeoutError, ConnectionResetError])
    async def test_an_error_that_looks_like_a_lost_database_is_the_functions_own(
        self, backend: Backend, error: type[Exception]
    ) -> None:
        """Not the driver's, so the function is not run again, and the error keeps its type."""
        tries: list[int] = []

        async def looks_like_it(connection: Any) -> None:
            tries.append(1)
            await note(connection, 1)
            raise error("the function's own")

        @zart.durable("own-error")
        async def workflow() -> str:
            with pytest.raises(error, match="the function's own"):
                await zart.transaction("expected", looks_like_it, raises=(error,))
            with pytest.raises(zart.StepFailedError) as failed:
                await zart.transaction("unexpected", looks_like_it)
            return failed.value.error_type

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            await make_ledger(scheduler)
            handle = await scheduler.schedule(workflow)
            assert await handle.result(timeout="10s") == error.__name__
            assert await ledger(scheduler) == []
            assert len(tries) == 2

    @guarantee(2, 20)
    async def test_an_unrecordable_result_rolls_back(self, backend: Backend) -> None:
        """A value that cannot be encoded undoes the transaction; the error names the step."""

        async def odd(connection: Any) -> Any:
            await note(connection, 1)
            return object()

        @zart.durable("odd-transaction")
        async def workflow() -> None:
            await zart.transaction("odd-note", odd)

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            await make_ledger(scheduler)
            handle = await scheduler.schedule(workflow)
            with pytest.raises(zart.ExecutionFailedError, match="odd-note"):
                await handle.result(timeout="10s")
            assert await ledger(scheduler) == []

    @guarantee(21)
    async def test_schedule_joins_the_callers_transaction(self, backend: Backend) -> None:
        """When it commits, what the caller wrote and the execution exist together, and it runs."""
        async with open_scheduler(backend) as scheduler, working(scheduler, joined):
            await make_ledger(scheduler)
            async with database_of(scheduler).own_transaction(1) as (_, connection):
                await on_driver(connection, "INSERT INTO ledger (amount) VALUES (5)")
                handle = await scheduler.schedule(joined, 5, id="j", connection=connection)
                with pytest.raises(zart.ExecutionNotFoundError, match="once you have committed"):
                    await handle.result(timeout="5s")
            assert await handle.result(timeout="10s") == 5
            assert await ledger(scheduler) == [5]

    @guarantee(21)
    async def test_a_rollback_leaves_no_execution(self, backend: Backend) -> None:
        """When the caller's transaction rolls back, nothing of the execution is left."""
        async with open_scheduler(backend) as scheduler:
            await make_ledger(scheduler)
            before = await all_rows(scheduler)
            with pytest.raises(RolledBackError):
                async with database_of(scheduler).own_transaction(1) as (_, connection):
                    await on_driver(connection, "INSERT INTO ledger (amount) VALUES (5)")
                    await scheduler.schedule(joined, 5, id="j", connection=connection)
                    await scheduler.schedule(joined, 6, connection=connection)
                    raise RolledBackError
            assert await all_rows(scheduler) == before
            assert await ledger(scheduler) == []
            assert await claim_all(scheduler, "joined") == []
            assert (await scheduler.schedule(joined, 7, id="j")).created

    @guarantee(21, 22)
    async def test_an_id_schedules_once_within_a_transaction_too(self, backend: Backend) -> None:
        """The same again is the same execution; other input or another task is refused."""
        async with open_scheduler(backend) as scheduler:
            await scheduler.schedule(joined, 5, id="j")
            before = await all_rows(scheduler)
            database = database_of(scheduler)
            async with database.own_transaction(1) as (_, connection):
                again = await scheduler.schedule(joined, 5, id="j", connection=connection)
            assert not again.created
            with pytest.raises(zart.ExecutionExistsError):
                async with database.own_transaction(1) as (_, connection):
                    await scheduler.schedule(joined, 6, id="j", connection=connection)
            assert await all_rows(scheduler) == before

    @guarantee(21)
    async def test_a_connection_without_a_transaction_is_refused(self, backend: Backend) -> None:
        """To join there must be a transaction, on a connection of the scheduler's database."""
        async with open_scheduler(backend) as scheduler:
            before = await all_rows(scheduler)
            async with database_of(scheduler).own_transaction(1) as (_, connection):
                await on_driver(connection, "ROLLBACK")
                with pytest.raises(ValueError, match="begin one first"):
                    await scheduler.schedule(joined, 5, connection=connection)
                await on_driver(connection, "BEGIN")
            with pytest.raises(TypeError, match="joins the transaction of an"):
                await scheduler.schedule(joined, 5, connection=object())
            assert await all_rows(scheduler) == before
