"""The worker: what it claims, how it stops, what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import zart
from tests.crash.ledger import BEGIN
from tests.crash.processes import WorkerProcess, crew, until
from tests.crash.workflow import errand, greedy
from tests.databases import Database
from tests.servers import PostgresServer
from zart.models import Claim
from zart.scheduler.entries import Entry, Receipt
from zart.testing.conformance.harness import eventually, guarantee


def _config(**settings: Any) -> zart.WorkerConfig:
    quick: dict[str, Any] = {"shutdown_timeout": "2s", "poll_interval": "20ms"}
    return zart.WorkerConfig(**quick | settings)


class Gate:
    """A workflow whose step waits until the test opens the gate."""

    def __init__(self, name: str = "gated") -> None:
        self.open = asyncio.Event()
        self.entered = 0
        self.most = 0
        self.order: list[str] = []
        self._inside = 0

        @zart.durable(name)
        async def gated(label: str) -> str:
            return await zart.context().step("gate", self._pass, label)

        self.task = gated

    async def _pass(self, label: str) -> str:
        self.order.append(label)
        self.entered += 1
        self._inside += 1
        self.most = max(self.most, self._inside)
        try:
            await self.open.wait()
        finally:
            self._inside -= 1
        return label

    async def holds(self, amount: int) -> None:
        await eventually(_of(lambda: self.entered), is_true=lambda entered: entered >= amount)


# -- stopping -----------------------------------------------------------------------------------


async def test_running_executions_may_end_within_the_shutdown_timeout(database: Database) -> None:
    """A worker that stops claims no more, and waits for what it runs."""
    gate = Gate()
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        worker = zart.Worker(scheduler, [gate.task], _config(shutdown_timeout="20s"))
        await worker.start()
        handle = await scheduler.schedule(gate.task, "a")
        await gate.holds(1)
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        later = await scheduler.schedule(gate.task, "late")
        gate.open.set()
        await stopping
        assert await handle.result(timeout="5s") == "a"
        assert worker.running == 0
        assert (await later.get()).status == "pending"
        assert gate.order == ["a"]


@guarantee(10, 11)
async def test_what_does_not_end_in_time_is_given_back_at_once(database: Database) -> None:
    """Another worker goes on without waiting for any lease; no crash is counted."""
    gate, again = Gate(), Gate()
    async with (
        zart.connect(database.url) as scheduler,
        zart.connect(database.url) as elsewhere,
    ):
        await scheduler.migrate()
        worker = zart.Worker(scheduler, [gate.task], _config())
        await worker.start()
        ids = [(await scheduler.schedule(gate.task, str(n))).id for n in range(5)]
        await gate.holds(5)
        await worker.stop(timeout=0.05)
        assert worker.running == 0
        for execution in ids:
            given_back = await scheduler.get(execution)
            assert (given_back.status, given_back.crashes) == ("pending", 0)
            assert given_back.worker is None
        again.open.set()
        begun = time.monotonic()
        async with zart.Worker(elsewhere, [again.task], _config()):
            for execution in ids:
                await elsewhere.wait(execution, timeout="10s")
        assert time.monotonic() - begun < 5
        assert sorted(again.order) == [str(n) for n in range(5)]
        for execution in ids:
            assert (await scheduler.get(execution)).crashes == 0


async def test_an_end_that_is_being_written_when_the_time_is_over_stands(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has ended is not given back: nobody runs it once more."""
    written, given_back = asyncio.Event(), asyncio.Event()

    @zart.durable("ends")
    async def ends() -> None: ...

    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        backend = scheduler.backend
        commit, give_back = backend.commit, backend.give_back

        async def late(entries: Sequence[Entry]) -> list[Receipt]:
            written.set()
            await given_back.wait()
            return await commit(entries)

        async def then_commit(worker: str, claims: Sequence[Claim]) -> None:
            await give_back(worker, claims)
            given_back.set()

        monkeypatch.setattr(backend, "commit", late)
        monkeypatch.setattr(backend, "give_back", then_commit)
        worker = zart.Worker(scheduler, [ends], _config())
        await worker.start()
        handle = await scheduler.schedule(ends)
        await written.wait()
        await worker.stop(timeout=0)
        assert (await handle.get()).status == "completed"


async def test_stopping_twice_and_stopping_one_that_never_started_is_no_error(
    database: Database,
) -> None:
    """A caller's cleanup need not know how far things came."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        worker = zart.Worker(scheduler, [errand], _config())
        await worker.stop()
        other = zart.Worker(scheduler, [errand], _config())
        async with other:
            await asyncio.gather(other.stop(), other.stop())


@pytest.mark.parametrize("place", ["tables", "lease", "hints"])
async def test_a_stop_while_it_starts_ends_the_start(
    database: Database, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Whoever waits for the start hears of it, and nothing of the worker is left."""
    begun, stopped = threading.Event(), asyncio.Event()

    async def until_stopped(*_: Any) -> None:
        begun.set()
        await stopped.wait()

    @asynccontextmanager
    async def away() -> AsyncGenerator[Any, None]:
        begun.set()
        await asyncio.sleep(60)
        yield

    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        with monkeypatch.context() as patch:
            if place == "tables":
                patch.setattr(scheduler.backend, "check_tables", until_stopped)
            elif place == "lease":
                patch.setattr(scheduler.backend, "lease_session", away)
            else:
                patch.setattr(scheduler.wakeups, "attach", until_stopped)
            worker = zart.Worker(scheduler, [errand], _config(beat="500ms", lease="2s"))
            starting = asyncio.create_task(worker.start())
            await asyncio.to_thread(begun.wait, 10)
            await worker.stop()
            stopped.set()
            with pytest.raises(RuntimeError, match="stopped"):
                await asyncio.wait_for(starting, 5)
        assert await scheduler.workers() == []
        assert not [t for t in asyncio.all_tasks() if t.get_name() == "zart-reconcile"]


async def test_a_worker_is_told_with_its_times(database: Database) -> None:
    """Who is entered, with how many slots, and since when: times are aware datetimes."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [errand], zart.WorkerConfig(concurrency=7)) as worker:
            [record] = await scheduler.workers()
        assert (record.id, record.process, record.concurrency) == (worker.id, os.getpid(), 7)
        assert record.started <= record.beat <= record.seen < record.expires
        assert not record.expired
        assert abs(record.seen - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_run_ends_in_good_order_at_a_signal(
    database: Database, tmp_path: Path, number: signal.Signals
) -> None:
    """What runs is let end, the worker's row goes, the exit code is 0."""
    async with (
        zart.connect(database.url) as scheduler,
        crew(database.url, tmp_path, shutdown_timeout="20s") as workers,
    ):
        await scheduler.migrate()
        process = workers.start()
        handle = await scheduler.schedule(errand, 0.5)
        await _begins(process)
        process.signal(number)
        await until(lambda: not process.alive, f"the process ends after {number.name}")
        assert process.exit_code == 0, workers.logs()
        assert (await handle.get()).status == "completed"
        assert list(await scheduler.workers()) == []


async def test_a_second_signal_gives_running_executions_back_at_once(
    database: Database, tmp_path: Path
) -> None:
    """The first asks, the second hurries; neither counts a crash."""
    async with (
        zart.connect(database.url) as scheduler,
        crew(database.url, tmp_path, shutdown_timeout="1h") as workers,
    ):
        await scheduler.migrate()
        process = workers.start()
        handle = await scheduler.schedule(errand, 3600.0)
        await _begins(process)
        process.signal(signal.SIGTERM)
        await until(lambda: "stops:" in process.log.read_text(), "the worker is stopping")
        process.signal(signal.SIGTERM)
        await until(lambda: not process.alive, "the process ends", seconds=10)
        assert process.exit_code == 0, workers.logs()
        given_back = await handle.get()
        assert (given_back.status, given_back.crashes) == ("pending", 0)


async def _begins(process: WorkerProcess) -> None:
    await until(lambda: any(line.mark == BEGIN for line in process.lines), "a step begins")


# -- what it claims -----------------------------------------------------------------------------


@guarantee(1)
async def test_the_worker_s_own_time_outs_end_no_run(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait with a time-out is cancelled by that for a moment: no run takes it for its end."""
    monkeypatch.setattr("zart.scheduler.worker.RECONCILE", 0.001)
    begun = 0

    @zart.step
    async def nothing() -> None:
        """Takes no time."""

    @zart.durable("busy")
    async def busy() -> None:
        nonlocal begun
        begun += 1
        until = time.monotonic() + 1
        while time.monotonic() < until:
            await nothing()
            await asyncio.sleep(0)

    async with zart.connect(sqlite_database.url) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [busy], _config()):
            await (await scheduler.schedule(busy)).result(timeout="10s")
    assert begun == 1


async def test_no_more_run_at_once_than_the_concurrency(database: Database) -> None:
    """Free slots bound every claim; a slot that is given back is used again."""
    gate = Gate()
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        handles = await scheduler.schedule_many(gate.task, [str(n) for n in range(12)])
        async with zart.Worker(scheduler, [gate.task], _config(concurrency=3)) as worker:
            await gate.holds(3)
            await scheduler.schedule(gate.task, "more")
            assert worker.running == 3
            gate.open.set()
            for handle in handles:
                await handle.result(timeout="10s")
    assert gate.most == 3


async def test_lower_priority_goes_first_and_then_the_older(database: Database) -> None:
    """With one slot the order of the claims is the order of the runs."""
    gate = Gate()
    gate.open.set()
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        for priority, label in ((5, "late"), (0, "first"), (0, "second"), (-3, "urgent")):
            await scheduler.schedule(gate.task, label, priority=priority)
        async with zart.Worker(scheduler, [gate.task], _config(concurrency=1)):
            await gate.holds(4)
    assert gate.order == ["urgent", "first", "second", "late"]


async def test_a_worker_takes_from_its_own_queues_alone(database: Database) -> None:
    """What lies in another queue stays pending until a worker serves it."""
    gate = Gate()
    gate.open.set()
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        other = await scheduler.schedule(gate.task, "other", queue="other")
        mine = await scheduler.schedule(gate.task, "mine", queue="mine")
        async with zart.Worker(scheduler, [gate.task], _config(queues=("mine",))):
            await mine.result(timeout="10s")
        assert (await other.get()).status == "pending"
        async with zart.Worker(scheduler, [gate.task], _config(queues=("mine", "other"))):
            await other.result(timeout="10s")


@guarantee(13)
async def test_a_name_that_is_not_registered_waits_and_is_visible(database: Database) -> None:
    """It never fails for that; a worker that knows it runs it."""
    known, unknown = Gate("known"), Gate("unknown")
    known.open.set()
    unknown.open.set()
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        waits = await scheduler.schedule(unknown.task, "x")
        async with zart.Worker(scheduler, [known.task], _config()):
            await (await scheduler.schedule(known.task, "y")).result(timeout="10s")
            assert [e.task for e in await scheduler.list(status="pending")] == ["unknown"]
        async with zart.Worker(scheduler, [known.task, unknown.task], _config()):
            assert await waits.result(timeout="10s") == "x"


# -- where it starts, what it leaves, what it may use -------------------------------------------


@pytest.mark.postgres
async def test_a_worker_waits_for_a_database_that_comes_up_late() -> None:
    """It starts when the server does, instead of failing at boot."""
    gate = Gate()
    gate.open.set()
    with PostgresServer() as server:
        async with zart.connect(server.url) as scheduler:
            await scheduler.migrate()
            server.stop()
            worker = zart.Worker(scheduler, [gate.task], _config())
            starting = asyncio.create_task(worker.start())
            await asyncio.sleep(0.3)
            assert not starting.done()
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(starting, 30)
            handle = await scheduler.schedule(gate.task, "up")
            assert await handle.result(timeout="10s") == "up"
            await worker.stop()


async def test_nothing_is_left_after_a_worker_has_stopped(
    database: Database, tmp_path: Path
) -> None:
    """No task, no thread but idle step threads, no row, no lock file."""
    gate = Gate()
    gate.open.set()
    before = set(threading.enumerate())
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [gate.task], _config()):
            await (await scheduler.schedule(gate.task, "x")).result(timeout="10s")
        assert list(await scheduler.workers()) == []
    gc.collect()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert [name for name in left if name.startswith("zart") and name != "zart-step"] == []
    assert _lock_files(tmp_path) == []


async def test_an_execution_that_spends_all_memory_fails_alone(
    database: Database, tmp_path: Path
) -> None:
    """MemoryError is an error as any other; the process goes on and serves the others."""
    async with (
        zart.connect(database.url) as scheduler,
        crew(database.url, tmp_path, memory=4 << 30) as workers,
    ):
        await scheduler.migrate()
        process = workers.start()
        bad = [await scheduler.schedule(greedy, 8 << 30) for _ in range(3)]
        good = [await scheduler.schedule(errand, 0.05) for _ in range(5)]
        for failing in bad:
            with pytest.raises(zart.ExecutionFailedError, match="MemoryError"):
                await failing.result(timeout="30s")
        for other in good:
            await other.result(timeout="30s")
        assert process.alive
        assert await process.stop() == 0, workers.logs()


def _lock_files(folder: Path) -> list[Path]:
    return list(folder.glob("*-worker-*"))


def _of(function: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def look() -> Any:
        return function()

    return look
