"""Guarantees 8 to 13: who owns an execution, and what the loss of it means."""

from __future__ import annotations

import asyncio
import time
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest

import zart
from zart.execution import threads
from zart.models import Claim, ClaimedTask
from zart.scheduler.entries import Entry, Finish, FinishStep, NewExecution, Park, Receipt, StepRow
from zart.testing.conformance.faults import (
    SHORT_LEASE,
    claim_all,
    declare_dead,
    separable_worker,
)
from zart.testing.conformance.harness import (
    QUICK,
    Backend,
    eventually,
    guarantee,
    open_scheduler,
    working,
)
from zart.testing.conformance.rows import all_rows, on_driver, run_sql

__all__ = ["TestOwnership"]


@zart.durable("owned")
async def owned() -> str:
    return "done"


def step_row(claim: Claim, name: str = "late") -> StepRow:
    """A checkpoint as a run writes it."""
    return (claim.execution_id, claim.run, name, "step", 7, "ok", '"late"', None, 1)


def late_entries(claim: Claim) -> list[Entry]:
    """Everything that a worker could still want to write under a claim."""
    execution_id, run = claim.execution_id, claim.run
    attempt = (execution_id, run, "late", 1, 1, '{"type":"E","message":""}', 1, None, 1)
    open_row = (execution_id, run, "far", "distributed", 8, None, None, None, 1)
    child = NewExecution("late-child", "owned", "default", 0, "null", 1, chosen_id=True)
    finish = Finish("completed", '"late"', None, 1, 0, 1, None)
    return [
        Entry(claim, steps=(step_row(claim),)),
        Entry(claim, attempts=(attempt,)),
        Entry(
            claim,
            steps=(open_row,),
            distributed=((execution_id, run, "far", "default", "step far", 0, "{}"),),
        ),
        Entry(claim, children=(child,)),
        Entry(claim, taken=((1, "late"),)),
        Entry(claim, erased=("kept",)),
        Entry(claim, ending=Park(0, 1, 1)),
        Entry(claim, ending=Park(0, 1, ready=True)),
        Entry(claim, ending=finish),
        Entry(claim, ending=msgspec.structs.replace(finish, has_steps=False)),
        Entry(claim, ending=FinishStep("ok", '"late"', 1)),
    ]


async def taken_over(scheduler: zart.DurableScheduler, _task: ClaimedTask) -> None:
    await declare_dead(scheduler)


async def claimed_by_another(scheduler: zart.DurableScheduler, _task: ClaimedTask) -> None:
    await declare_dead(scheduler)
    assert len(await claim_all(scheduler, "owned", worker="heir")) == 1


async def given_back(scheduler: zart.DurableScheduler, task: ClaimedTask) -> None:
    await scheduler.backend.give_back("ghost", [task.claim])


async def cancelled(scheduler: zart.DurableScheduler, task: ClaimedTask) -> None:
    await scheduler.cancel(task.claim.execution_id)


async def restarted(scheduler: zart.DurableScheduler, task: ClaimedTask) -> None:
    await scheduler.restart(task.claim.execution_id)


async def restarted_and_claimed(scheduler: zart.DurableScheduler, task: ClaimedTask) -> None:
    await scheduler.restart(task.claim.execution_id)
    assert len(await claim_all(scheduler, "owned", worker="heir")) == 1


async def finished(scheduler: zart.DurableScheduler, task: ClaimedTask) -> None:
    await scheduler.backend.give_back("ghost", [task.claim])
    async with working(scheduler, owned):
        await scheduler.result(task.claim.execution_id, timeout="10s")


async def slept(scheduler: zart.DurableScheduler, task: ClaimedTask) -> None:
    parked = Entry(task.claim, ending=Park(task.wake_sequence, 1, 1, -1))
    assert await scheduler.backend.commit([parked]) == [Receipt.COMMITTED]
    await scheduler.backend.ready_due(10)
    again = await claim_all(scheduler, "owned")
    assert [t.claim.epoch > task.claim.epoch for t in again] == [True]


LOSSES = (
    taken_over,
    claimed_by_another,
    given_back,
    cancelled,
    restarted,
    restarted_and_claimed,
    finished,
    slept,
)


@pytest.mark.asyncio
class TestOwnership:
    """One owner at a time, and nobody else writes."""

    @guarantee(8)
    async def test_racing_schedulers_claim_each_execution_once(self, backend: Backend) -> None:
        """However many claim at once, each ready execution goes to one of them."""
        async with (
            open_scheduler(backend) as first,
            open_scheduler(backend) as second,
            open_scheduler(backend) as third,
        ):
            handles = await first.schedule_many(owned, [None] * 60)
            rounds = await asyncio.gather(
                *(
                    claim_all(scheduler, "owned", worker=f"worker-{number}", amount=15)
                    for number in range(4)
                    for scheduler in (first, second, third)
                )
            )
            claimed = [task.claim.execution_id for tasks in rounds for task in tasks]
            assert len(claimed) == len(set(claimed))
            rest = await claim_all(first, "owned")
            assert {*claimed, *(t.claim.execution_id for t in rest)} == {h.id for h in handles}
            assert len(claimed) + len(rest) == 60

    @guarantee(8)
    async def test_racing_workers_run_each_execution_once(self, backend: Backend) -> None:
        """Three workers on schedulers of their own run no handler twice."""
        runs: list[int] = []

        @zart.durable("counted")
        async def counted(number: int) -> int:
            runs.append(number)
            return number

        async with (
            open_scheduler(backend) as first,
            open_scheduler(backend) as second,
            open_scheduler(backend) as third,
            working(first, counted),
            working(second, counted),
            working(third, counted),
        ):
            handles = await first.schedule_many(counted, range(60))
            results = [await handle.result(timeout="20s") for handle in handles]
            assert results == list(range(60))
            assert sorted(runs) == list(range(60))

    @guarantee(9)
    @pytest.mark.parametrize("lose", LOSSES, ids=lambda loss: loss.__name__)
    async def test_a_lost_claim_changes_no_row_in_any_table(
        self, backend: Backend, lose: Any
    ) -> None:
        """Whatever is committed under a claim that is lost, in whatever way, changes nothing."""
        async with open_scheduler(backend) as scheduler:
            await scheduler.schedule(owned, id="e")
            task = (await claim_all(scheduler, "owned"))[0]
            await scheduler.offer_event("e", "kept", 1)
            kept = Entry(task.claim, steps=(step_row(task.claim, "kept"),))
            assert await scheduler.backend.commit([kept]) == [Receipt.COMMITTED]
            await lose(scheduler, task)
            before = await all_rows(scheduler)
            for entry in late_entries(task.claim):
                assert await scheduler.backend.commit([entry]) == [Receipt.FENCED], entry
                assert await all_rows(scheduler) == before, entry
            await scheduler.backend.give_back("ghost", [task.claim])
            assert await all_rows(scheduler) == before

    @guarantee(9)
    async def test_a_lost_claim_does_not_spoil_the_batch_it_is_in(self, backend: Backend) -> None:
        """Of a batch the entries whose claims hold are written, the others not."""
        async with open_scheduler(backend) as scheduler:
            await scheduler.schedule_many(owned, [None] * 3, ids=["a", "b", "c"])
            tasks = {t.claim.execution_id: t.claim for t in await claim_all(scheduler, "owned")}
            await scheduler.cancel("b")
            entries = [Entry(tasks[i], steps=(step_row(tasks[i]),)) for i in "abc"]
            receipts = await scheduler.backend.commit(entries)
            assert receipts == [Receipt.COMMITTED, Receipt.FENCED, Receipt.COMMITTED]
            assert [len(await scheduler.timeline(i)) for i in "abc"] == [1, 0, 1]

    @guarantee(9, 20)
    @pytest.mark.parametrize(
        "lose", [taken_over, cancelled, restarted], ids=lambda loss: loss.__name__
    )
    async def test_a_lost_claim_rolls_the_users_transaction_back(
        self, backend: Backend, lose: Any
    ) -> None:
        """What a transaction step wrote to the user's tables is gone when its claim is lost."""
        async with open_scheduler(backend) as scheduler:
            await run_sql(scheduler, "CREATE TABLE ledger (amount integer)")
            await scheduler.schedule(owned, id="e")
            task = (await claim_all(scheduler, "owned"))[0]
            await lose(scheduler, task)
            before = await all_rows(scheduler)

            async def work(connection: Any) -> StepRow:
                await on_driver(connection, "INSERT INTO ledger (amount) VALUES (1)")
                return step_row(task.claim)

            receipt, recorded = await scheduler.backend.transact(task.claim, "late", work)
            assert (receipt, recorded) == (Receipt.FENCED, None)
            assert await run_sql(scheduler, "SELECT * FROM ledger") == []
            assert await all_rows(scheduler) == before

    @guarantee(9, 10)
    async def test_a_cut_off_worker_is_replaced_and_changes_nothing_afterwards(
        self, backend: Backend
    ) -> None:
        """Its executions go elsewhere, its handler is stopped, its late writes change no row, and
        it goes on serving under a new name."""
        entered: list[str] = []
        stopped = asyncio.Event()
        late = asyncio.Event()

        @zart.step
        async def pay() -> str:
            entered.append("pay")
            if len(entered) > 1:
                return "heir"
            try:
                await late.wait()
            except asyncio.CancelledError:
                stopped.set()
                raise
            return "late"

        @zart.durable("cut-off")
        async def cut_off() -> str:
            return await pay()

        async with (
            open_scheduler(backend) as scheduler,
            separable_worker(backend, cut_off) as (worker, partition),
        ):
            handle = await scheduler.schedule(cut_off)
            await eventually(lambda: _value(entered))
            name = worker.id
            partition.cut()
            async with working(scheduler, cut_off, config=SHORT_LEASE):
                assert await handle.result(timeout="10s") == "heir"
            before = await all_rows(scheduler)
            partition.heal()
            await asyncio.wait_for(stopped.wait(), 10)
            await eventually(lambda: _value(worker.id != name and not worker.running))
            assert await all_rows(scheduler) == before
            again = await scheduler.schedule(cut_off)
            assert await again.result(timeout="10s") == "heir"

    @guarantee(9)
    async def test_nothing_begins_that_was_claimed_before_the_lease_came_into_doubt(
        self, backend: Backend
    ) -> None:
        """The claim is committed, and its answer comes to a worker that has long been cut off."""
        entered: list[str] = []

        @zart.durable("claimed-early")
        async def claimed_early() -> str:
            entered.append("body")
            return "done"

        async with (
            open_scheduler(backend) as scheduler,
            separable_worker(backend, claimed_early) as (_, partition),
        ):
            claim, answered = partition.claim, asyncio.Event()

            async def answered_late(*arguments: Any) -> Any:
                claimed = await claim(*arguments)
                if claimed and not answered.is_set():
                    partition.cut()
                    await asyncio.sleep(1.0)  # more than two thirds of the lease
                    answered.set()
                return claimed

            vars(partition)["claim"] = answered_late
            handle = await scheduler.schedule(claimed_early)
            await answered.wait()
            await asyncio.sleep(0.2)
            assert not entered
            partition.heal()  # nobody took over: it may begin now, or is given back
            assert await handle.result(timeout="10s") == "done"

    @guarantee(9)
    @pytest.mark.parametrize("what", ["a step", "a transaction", "a distributed step"])
    async def test_what_is_on_its_way_to_a_thread_when_the_lease_ends_does_not_begin(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        """The lease held when the thread was asked, and not any more when it came to run."""
        begun: list[str] = []
        held: SimpleQueue[Any] = SimpleQueue()

        @zart.step
        def slow_to_begin() -> str:
            begun.append(what)
            return "done"

        async def write(_: Any, value: str) -> str:
            begun.append(what)
            return value

        @zart.durable("threaded")
        async def threaded() -> str:
            monkeypatch.setattr(threads, "_idle", [held])
            match what:
                case "a step":
                    return await slow_to_begin()
                case "a transaction":
                    return await zart.transaction("write", lambda tx: write(tx, "done"))
                case _:
                    return await slow_to_begin.schedule()

        async with (
            open_scheduler(backend) as scheduler,
            separable_worker(backend, threaded, slow_to_begin) as (worker, partition),
        ):
            handle = await scheduler.schedule(threaded)
            await eventually(lambda: _value(not held.empty()))
            partition.cut()
            await eventually(lambda: _value(not worker.holds))
            tell = await asyncio.to_thread(held.get())
            tell()
            await asyncio.sleep(0.2)
            assert not begun
            partition.heal()  # nobody took over: it may begin now
            assert await handle.result(timeout="10s") == "done"
            assert begun == [what]

    @guarantee(9)
    async def test_a_coroutine_that_comes_back_from_a_thread_without_the_lease_does_not_begin(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A lambda around an async function: the thread makes the coroutine, the loop begins it."""
        begun: list[str] = []
        held: SimpleQueue[Any] = SimpleQueue()

        async def pay(value: str) -> str:
            begun.append("pay")
            return value

        @zart.durable("wrapped")
        async def wrapped() -> str:
            monkeypatch.setattr(threads, "_idle", [held])
            return await zart.context().step("pay", lambda: pay("done"))

        async with (
            open_scheduler(backend) as scheduler,
            separable_worker(backend, wrapped) as (worker, partition),
        ):
            handle = await scheduler.schedule(wrapped)
            await eventually(lambda: _value(not held.empty()))
            tell = await asyncio.to_thread(held.get())
            partition.cut()
            await eventually(lambda: _value(not worker.holds))
            tell()
            await asyncio.sleep(0.2)
            assert not begun
            partition.heal()
            assert await handle.result(timeout="10s") == "done"
            assert begun == ["pay"]

    @guarantee(9, 10)
    async def test_a_branch_that_waits_for_the_lease_does_not_begin_under_the_next_one(
        self, backend: Backend
    ) -> None:
        """Its first durable call came without the lease: zart had not known of this task before."""
        begun: list[str] = []
        branch_may_go, ended = asyncio.Event(), asyncio.Event()
        branches: list[asyncio.Task[Any]] = []

        async def branch() -> None:
            await branch_may_go.wait()
            await zart.context().step("late", lambda: begun.append("late"))

        @zart.durable("branched")
        async def branched() -> str:
            if branches:
                return "heir"
            branches.append(asyncio.create_task(branch()))
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return "lost"

        async with (
            open_scheduler(backend) as scheduler,
            separable_worker(backend, branched) as (worker, partition),
        ):
            handle = await scheduler.schedule(branched)
            await eventually(lambda: _value(branches))
            name = worker.id
            partition.cut()
            await eventually(lambda: _value(not worker.holds))
            branch_may_go.set()
            async with working(scheduler, branched, config=SHORT_LEASE):
                assert await handle.result(timeout="10s") == "heir"
            partition.heal()
            await asyncio.wait_for(ended.wait(), 10)
            await eventually(lambda: _value(worker.id != name and worker.holds))
            await asyncio.wait(branches, timeout=5)
            assert branches[0].done()
            assert not begun

    @guarantee(9)
    async def test_a_step_that_waits_for_earlier_outcomes_begins_with_the_lease_only(
        self, backend: Backend
    ) -> None:
        """Those of idempotent steps are committed, and their answer comes after the lease."""
        begun: list[str] = []
        written: list[str] = []

        @zart.step(idempotent=True)
        async def earlier() -> None:
            """Its outcome is recorded with what comes next."""

        @zart.step
        async def ordinary() -> str:
            begun.append("step")
            return "done"

        @zart.durable("behind")
        async def behind() -> str:
            await earlier()
            return await ordinary()

        async with (
            open_scheduler(backend) as scheduler,
            separable_worker(backend, behind) as (worker, partition),
        ):
            commit = partition.commit

            async def answered_late(entries: Any) -> Any:
                receipts = await commit(entries)
                if not written:
                    partition.cut()
                    await eventually(lambda: _value(not worker.holds))
                    written.append("late")
                return receipts

            vars(partition)["commit"] = answered_late
            handle = await scheduler.schedule(behind)
            await eventually(lambda: _value(written))
            await asyncio.sleep(0.2)
            assert not begun
            partition.heal()  # nobody took over: it may begin now
            assert await handle.result(timeout="10s") == "done"

    @guarantee(9)
    @pytest.mark.parametrize("where", ["here", "anywhere"])
    async def test_a_worker_without_its_lease_begins_no_further_attempt(
        self, backend: Backend, where: str
    ) -> None:
        """A back-off in place that is over while the worker is cut off waits for the lease."""
        begun: list[str] = []

        @zart.step(retry=zart.RetryConfig.fixed(1, "900ms"))
        async def flaky() -> str:
            begun.append("attempt")
            if len(begun) == 1:
                raise ConnectionError("not yet")
            return "tried again"

        @zart.durable("hesitant")
        async def hesitant() -> str:
            if where == "here":
                return await flaky()
            far = zart.context().schedule_step("far", flaky)
            return (await zart.context().wait_all([far]))[0]

        async with (
            open_scheduler(backend) as scheduler,
            separable_worker(backend, hesitant, flaky) as (_, partition),
        ):
            handle = await scheduler.schedule(hesitant)

            async def failed_once() -> bool:
                steps = await scheduler.timeline(handle.id)
                return any(step.attempts for step in steps)

            await eventually(failed_once)
            partition.cut()
            await asyncio.sleep(1.5)  # the back-off is over by then, and so is the lease
            assert len(begun) == 1
            partition.heal()  # nobody took over: it goes on where it stood
            assert await handle.result(timeout="10s") == "tried again"

    @guarantee(9)
    async def test_a_worker_without_its_lease_does_not_write(self, backend: Backend) -> None:
        """A step that ends while its worker is cut off is not recorded until the lease is sure."""
        go_on = asyncio.Event()
        entered: list[str] = []

        @zart.durable("unsure")
        async def unsure() -> str:
            entered.append("body")
            await go_on.wait()
            return await zart.capture("value", lambda: "kept")

        async with (
            open_scheduler(backend) as scheduler,
            separable_worker(backend, unsure) as (worker, partition),
        ):
            handle = await scheduler.schedule(unsure)
            await eventually(lambda: _value(entered))
            name = worker.id
            partition.cut()
            before = await all_rows(scheduler)
            go_on.set()
            async with scheduler.backend.lease_session() as line:
                rows = await eventually(line.workers, is_true=lambda r: not r or r[0].expired)
                assert [row.id for row in rows] == [name]
            assert await all_rows(scheduler) == before
            partition.heal()  # nobody took over: it goes on where it stood
            assert await handle.result(timeout="10s") == "kept"
            assert worker.id == name
            assert entered == ["body"]

    @guarantee(10)
    async def test_a_dead_workers_executions_are_taken_over(self, backend: Backend) -> None:
        """Where a session's lock tells of a death it is seen long before the lease has run out."""
        entered: list[str] = []
        never = asyncio.Event()

        @zart.durable("bereft")
        async def bereft() -> str:
            entered.append("body")
            if len(entered) == 1:
                await never.wait()
            return "heir"

        async with open_scheduler(backend) as scheduler:
            long = zart.WorkerConfig(concurrency=4, poll_interval="20ms")  # a lease of 15 s
            config = long if await _locks_tell(scheduler) else SHORT_LEASE
            async with separable_worker(backend, bereft, config=config) as (_, partition):
                handle = await scheduler.schedule(bereft)
                await eventually(lambda: _value(entered))
                partition.die()
                async with working(scheduler, bereft):
                    assert await handle.result(timeout="8s") == "heir"
                assert (await handle.get()).crashes == 1

    @guarantee(10, 11)
    async def test_a_claim_that_came_after_its_workers_death_is_taken_over_as_no_crash(
        self, backend: Backend
    ) -> None:
        """A worker that had been declared dead and lived claims once more: nobody loses by it."""

        @zart.durable("late-claim")
        async def late_claim() -> str:
            return "served"

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(late_claim)
            assert len(await claim_all(scheduler, "late-claim", worker="declared-dead")) == 1
            async with working(scheduler, late_claim, config=SHORT_LEASE):
                assert await handle.result(timeout="8s") == "served"
            assert (await handle.get()).crashes == 0

    @guarantee(10)
    async def test_a_step_longer_than_the_lease_keeps_it(self, backend: Backend) -> None:
        """The heartbeat goes on by itself while a step runs."""
        await _takes_longer_than_the_lease(backend, asyncio.sleep)

    @guarantee(10)
    async def test_a_blocked_event_loop_keeps_the_lease(self, backend: Backend) -> None:
        """The heartbeat lives in a thread of its own, with its own connection."""

        async def block(seconds: float) -> None:
            _block(seconds)

        await _takes_longer_than_the_lease(backend, block)

    @guarantee(11)
    async def test_an_execution_that_kills_its_workers_is_stopped(self, backend: Backend) -> None:
        """After too many crashes it fails with the reason, and its handler is not run again."""
        entered: list[str] = []

        @zart.durable("poison", max_retries=50)
        async def poison() -> None:
            entered.append("body")

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(poison)
            await _crash(scheduler, "poison", 3)
            async with working(scheduler, poison, config=_with_crashes(2)):
                with pytest.raises(zart.ExecutionFailedError, match="worker died 3 times"):
                    await handle.result(timeout="10s")
            execution = await handle.get()
            assert (execution.status, execution.crashes, execution.attempt) == ("failed", 3, 1)
            assert entered == []

    @guarantee(11)
    async def test_crashes_are_counted_apart_from_failures(self, backend: Backend) -> None:
        """Crashes within the limit use up none of the execution's retries, and the reverse."""
        entered: list[str] = []

        @zart.durable("unlucky", retry=zart.RetryConfig.fixed(2, "0s"))
        async def unlucky() -> str:
            entered.append("body")
            if len(entered) < 3:
                raise ValueError("not yet")
            return "done"

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(unlucky)
            await _crash(scheduler, "unlucky", 2)
            async with working(scheduler, unlucky, config=_with_crashes(2)):
                assert await handle.result(timeout="10s") == "done"
            execution = await handle.get()
            assert (execution.crashes, execution.attempt) == (2, 3)

    @guarantee(11)
    async def test_a_poisonous_execution_is_compensated(self, backend: Backend) -> None:
        """The handler's on_failure runs for an execution that was stopped for its crashes."""
        seen: list[str] = []

        @zart.durable("poison-2")
        async def poison() -> None:
            seen.append("body")

        @poison.on_failure
        async def mend(_data: None, failure: zart.Failure) -> None:
            seen.append(failure.type)

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(poison)
            await _crash(scheduler, "poison-2", 3)
            async with working(scheduler, poison, config=_with_crashes(2)):
                with pytest.raises(zart.ExecutionFailedError):
                    await handle.result(timeout="10s")
            assert seen == ["CrashLoop"]

    @guarantee(12)
    async def test_the_result_and_the_end_of_the_task_are_one_commit(
        self, backend: Backend
    ) -> None:
        """An entry that cannot be written whole is not written in part."""
        async with open_scheduler(backend) as scheduler:
            await scheduler.schedule(owned, id="e")
            claim = (await claim_all(scheduler, "owned"))[0].claim
            before = await all_rows(scheduler)
            finish = Finish("completed", '"x"', None, 1, 0, 1, None)
            nameless: Any = (*step_row(claim)[:3], None, *step_row(claim)[4:])
            with pytest.raises(Exception, match=r"(?i)null"):
                await scheduler.backend.commit([Entry(claim, steps=(nameless,), ending=finish)])
            assert await all_rows(scheduler) == before
            assert await scheduler.backend.commit([Entry(claim, ending=finish)]) == [
                Receipt.COMMITTED
            ]
            after = await all_rows(scheduler)
            assert (after["tasks"], (await scheduler.get("e")).status) == ([], "completed")

    @guarantee(12)
    async def test_only_a_restart_changes_a_terminal_status(self, backend: Backend) -> None:
        """Cancel, events and scheduling the id again leave a finished execution as it is."""
        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(owned, id="e")
            async with working(scheduler, owned):
                assert await handle.result(timeout="10s") == "done"
            before = await all_rows(scheduler)
            with pytest.raises(zart.ExecutionFinishedError):
                await scheduler.cancel("e")
            with pytest.raises(zart.ExecutionFinishedError):
                await scheduler.offer_event("e", "late")
            assert not (await scheduler.schedule(owned, id="e")).created
            assert await claim_all(scheduler, "owned") == []
            assert await all_rows(scheduler) == before
            assert await scheduler.restart("e") == 2
            execution = await handle.get()
            assert (execution.status, execution.run, execution.output) == ("pending", 2, None)

    @guarantee(12)
    async def test_an_old_run_cannot_finish_a_restarted_execution(self, backend: Backend) -> None:
        """A handler that was running at the restart is stopped; the new run gives the result."""
        entered: list[int] = []
        stopped = asyncio.Event()
        never = asyncio.Event()

        @zart.durable("two-lives")
        async def two_lives() -> int:
            run = zart.context().run
            entered.append(run)
            if run == 1:
                try:
                    await never.wait()
                finally:
                    stopped.set()
            return run

        async with open_scheduler(backend) as scheduler, working(scheduler, two_lives):
            handle = await scheduler.schedule(two_lives)
            await eventually(lambda: _value(entered))
            assert await scheduler.restart(handle.id) == 2
            assert await handle.result(timeout="10s") == 2
            await asyncio.wait_for(stopped.wait(), 10)
            never.set()
            assert (await handle.get()).run == 2
            assert entered == [1, 2]

    @guarantee(13)
    async def test_an_unknown_name_waits_and_is_visible(self, backend: Backend) -> None:
        """A worker claims what it has handlers for; the rest stays pending until one comes."""

        @zart.durable("later")
        async def later() -> str:
            return "at last"

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule("later", None, priority=-1)
            async with working(scheduler, owned):
                known = await scheduler.schedule(owned)
                assert await known.result(timeout="10s") == "done"
                waiting = await scheduler.list(status="pending")
                assert [(e.id, e.task, e.attempt) for e in waiting] == [(handle.id, "later", 1)]
            async with working(scheduler, later):
                assert await handle.result(timeout="10s") == "at last"

    @guarantee(13)
    async def test_a_worker_claims_only_from_its_queues(self, backend: Backend) -> None:
        """The same task in another queue waits for a worker of that queue."""
        async with open_scheduler(backend) as scheduler:
            other = await scheduler.schedule(owned, queue="night", priority=-1)
            async with working(scheduler, owned):
                here = await scheduler.schedule(owned)
                assert await here.result(timeout="10s") == "done"
                assert (await other.get()).status == "pending"
            night = msgspec.structs.replace(QUICK, queues=("night",))
            async with working(scheduler, owned, config=night):
                assert await other.result(timeout="10s") == "done"


def _with_crashes(limit: int) -> zart.WorkerConfig:
    return msgspec.structs.replace(QUICK, max_crashes=limit)


def _block(seconds: float) -> None:
    time.sleep(seconds)


async def _value(value: Any) -> Any:
    return value


async def _locks_tell(scheduler: zart.DurableScheduler) -> bool:
    async with scheduler.backend.lease_session() as line:
        return await line.session.hold(4711)


async def _crash(scheduler: zart.DurableScheduler, task: str, times: int) -> None:
    for _ in range(times):
        assert len(await claim_all(scheduler, task)) == 1
        assert await declare_dead(scheduler) == 1


async def _takes_longer_than_the_lease(backend: Backend, work: Any) -> None:
    entered: list[str] = []

    @zart.durable("slow")
    async def slow() -> str:
        entered.append("body")
        await zart.context().step("long", work, 1.6)
        return "done"

    async with (
        open_scheduler(backend) as scheduler,
        open_scheduler(backend) as other,
        working(scheduler, slow, config=SHORT_LEASE),
        working(other, slow, config=SHORT_LEASE),
    ):
        handle = await scheduler.schedule(slow)
        assert await handle.result(timeout="10s") == "done"
        assert entered == ["body"]
        assert (await handle.get()).crashes == 0
