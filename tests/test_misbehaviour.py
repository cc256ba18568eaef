"""Handlers that misbehave: each execution ends with an error that says why, the others go on."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import pytest

import zart
from tests.databases import Database
from zart.execution import executor, run
from zart.scheduler import strays
from zart.scheduler import worker as polling
from zart.scheduler.entries import Entry, Receipt
from zart.testing.conformance.harness import eventually

QUICK = zart.WorkerConfig(concurrency=4, shutdown_timeout="2s", poll_interval="20ms")


@zart.step
async def good_step() -> str:
    await asyncio.sleep(0)
    return "good"


@zart.durable
async def good() -> str:
    return await good_step()


class Bench:
    """A worker beside which a workflow may misbehave."""

    def __init__(self, scheduler: zart.DurableScheduler, worker: zart.Worker) -> None:
        self.scheduler = scheduler
        self.worker = worker
        self._number = 0

    async def begin(self, task: Any) -> zart.Handle[Any]:
        """Schedule the one that misbehaves; see that another completes meanwhile."""
        handle: zart.Handle[Any] = await self.scheduler.schedule(task, id="bad")
        await self.serves_others()
        return handle

    async def serves_others(self) -> None:
        self._number += 1
        other = await self.scheduler.schedule(good, id=f"good-{self._number}")
        assert await other.result(timeout="10s") == "good"

    async def fails(self, task: Any) -> zart.ExecutionFailedError:
        """The error that it ends with; others complete meanwhile and afterwards."""
        handle = await self.begin(task)
        with pytest.raises(zart.ExecutionFailedError) as failed:
            await handle.result(timeout="10s")
        await self.serves_others()
        await self.comes_to_rest()
        return failed.value

    async def comes_to_rest(self) -> None:
        async def running() -> int:
            return self.worker.running

        await eventually(running, is_true=lambda amount: amount == 0)


@asynccontextmanager
async def bench(database: Database, *tasks: Any) -> AsyncGenerator[Bench, None]:
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [good, *tasks], QUICK) as worker:
            yield Bench(scheduler, worker)


# -- what is raised -----------------------------------------------------------------------------


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def _raise(make: Callable[[], BaseException]) -> NoReturn:
    raise make()


RAISED: dict[str, tuple[Callable[[], BaseException], str]] = {
    "an error": (lambda: ValueError("broken"), "ValueError: broken"),
    "SystemExit": (lambda: SystemExit(3), "SystemExit: 3"),
    "a group": (lambda: BaseExceptionGroup("two", [ValueError("a"), SystemExit(1)]), "two"),
    "an error that cannot be printed": (UnprintableError, "UnprintableError"),
    "StopIteration": (lambda: StopIteration(1), "StopIteration"),
    "StopAsyncIteration": (StopAsyncIteration, "StopAsyncIteration"),
    "GeneratorExit": (GeneratorExit, "GeneratorExit"),
    "CancelledError": (lambda: asyncio.CancelledError("mine"), "CancelledError"),
    "a BaseException": (lambda: BaseException("bare"), "BaseException: bare"),
}


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("place", ["workflow", "step", "thread"])
async def test_whatever_a_handler_raises_fails_its_execution_alone(
    database: Database, raised: str, place: str
) -> None:
    """The error's type and message are in the execution's failure, wherever it was raised."""
    make, expected = RAISED[raised]

    async def in_step() -> None:
        _raise(make)

    def in_thread() -> None:
        _raise(make)

    @zart.durable
    async def bad() -> None:
        if place == "workflow":
            _raise(make)
        await zart.context().step("bad", in_step if place == "step" else in_thread)

    async with bench(database, bad) as it:
        error = await it.fails(bad)
        assert expected in str(error)
        assert "bad" in str(error)


async def test_a_keyboard_interrupt_raised_in_a_thread_step_fails_the_step(
    database: Database,
) -> None:
    """It cannot come from the keyboard there, so it is an error as any other."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    @zart.durable
    async def bad() -> None:
        await zart.context().step("interrupt", interrupt)

    async with bench(database, bad) as it:
        assert "KeyboardInterrupt" in str(await it.fails(bad))


# -- what does not end --------------------------------------------------------------------------


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (polling, executor):
        monkeypatch.setattr(module, "GRACE", 0.2)
    monkeypatch.setattr(run, "UNWINDING", 0.2)


async def test_a_step_that_hangs_ends_at_its_timeout(database: Database) -> None:
    """The execution fails with the step's name and the timeout that passed."""

    @zart.step(timeout="200ms")
    async def hang() -> None:
        await asyncio.Event().wait()

    @zart.durable
    async def bad() -> None:
        await hang()

    async with bench(database, bad) as it:
        error = await it.fails(bad)
        assert "'hang' timed out: it did not end within 200ms" in str(error)


async def test_a_workflow_that_hangs_ends_at_its_deadline(database: Database) -> None:
    """The execution's own timeout bounds what waits for nothing that zart knows of."""

    @zart.durable(timeout="200ms")
    async def bad() -> None:
        await asyncio.Event().wait()

    async with bench(database, bad) as it:
        error = await it.fails(bad)
        assert error.error_type == "ExecutionTimedOut"
        assert "did not end within 200ms" in str(error)


@pytest.mark.usefixtures("short_grace")
async def test_a_handler_that_ignores_its_cancellation_loses_its_slot(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """It is recorded as timed out after the grace; what it does later is not heard."""
    ends = asyncio.Event()

    async def stubborn() -> None:
        while not ends.is_set():
            try:
                await ends.wait()
            except asyncio.CancelledError:
                continue

    @zart.durable(timeout="200ms")
    async def bad() -> None:
        await stubborn()

    async with bench(database, bad) as it:
        error = await it.fails(bad)
        assert "did not end within 200ms" in str(error)
        assert it.worker.abandoned == 1
        assert "'bad'" in caplog.text
        assert "does not end although it was stopped" in caplog.text
        ends.set()
        await eventually(_of(lambda: it.worker.abandoned), is_true=lambda left: left == 0)
        assert (await it.scheduler.get("bad")).status == "failed"


@pytest.mark.usefixtures("short_grace")
async def test_a_step_that_ignores_its_cancellation_loses_its_slot(database: Database) -> None:
    """The same for an async step under an execution's deadline."""
    ends = asyncio.Event()

    async def stubborn() -> None:
        while not ends.is_set():
            try:
                await ends.wait()
            except asyncio.CancelledError:
                continue

    @zart.durable(timeout="200ms")
    async def bad() -> None:
        await zart.context().step("stubborn", stubborn)

    async with bench(database, bad) as it:
        assert "did not end within 200ms" in str(await it.fails(bad))
        ends.set()
        await eventually(_of(lambda: it.worker.abandoned), is_true=lambda left: left == 0)


async def test_a_step_that_blocks_the_loop_keeps_the_lease_and_is_named_in_a_warning(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The heartbeat goes on beside it; afterwards everything else does."""

    async def block() -> str:
        time.sleep(3)  # noqa: ASYNC251 what this test is about
        return "blocked"

    @zart.durable
    async def bad() -> str:
        return await zart.context().step("block", block)

    config = zart.WorkerConfig(beat="400ms", lease="1s", poll_interval="20ms")
    async with zart.connect(database.url) as scheduler, zart.connect(database.url) as elsewhere:
        await scheduler.migrate()
        async with (
            zart.Worker(scheduler, [good, bad], config) as worker,
            zart.Worker(elsewhere, [good], config) as other,
        ):
            name = worker.id
            it = Bench(scheduler, worker)
            handle = await it.begin(bad)
            assert await handle.result(timeout="20s") == "blocked"
            await it.serves_others()
            assert (await scheduler.get("bad")).crashes == 0
            assert worker.id == name
            assert other.running == 0
    warning = next(text for text in caplog.messages if "has been blocked for" in text)
    assert "in block" in warning
    assert "its lease is kept" in warning


async def test_a_plain_step_that_hangs_beyond_its_timeout_frees_its_slot(
    database: Database,
) -> None:
    """Its thread cannot be stopped and is left to itself; the execution goes on without it."""
    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang() -> None:
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result()

    @zart.durable
    async def bad() -> None:
        await zart.context().step("hang", hang, timeout="200ms")

    async with bench(database, bad) as it:
        error = await it.fails(bad)
        assert "'hang' timed out" in str(error)
        released.set()


# -- what swallows its suspension ---------------------------------------------------------------


async def test_a_handler_that_swallows_its_suspension_once_fails_and_is_told(
    database: Database,
) -> None:
    """A bare except around a wait: the error says what to write instead."""

    @zart.durable
    async def bad() -> str:
        try:
            await zart.sleep("1h")
        except:  # noqa: E722 what this test is about
            return "not slept"
        return "slept"

    async with bench(database, bad) as it:
        error = await it.fails(bad)
        assert error.error_type.endswith("SuspensionSwallowedError")
        assert "catch Exception instead" in str(error)


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.usefixtures("short_grace")
async def test_a_handler_that_swallows_its_suspension_for_ever_fails_and_loses_its_slot(
    database: Database, durable: bool
) -> None:
    """In an endless loop around durable calls, or around anything."""

    ends = asyncio.Event()
    itself: list[asyncio.Task[Any] | None] = []

    @zart.durable
    async def bad() -> None:
        itself.append(asyncio.current_task())
        while not ends.is_set():
            try:
                await (zart.sleep("1h") if durable or len(itself) == 1 else ends.wait())
            except BaseException:
                itself.append(None)

    async with bench(database, bad) as it:
        error = await it.fails(bad)
        assert error.error_type.endswith("SuspensionSwallowedError")
        assert it.worker.abandoned == 1
        ends.set()
        assert itself[0] is not None
        itself[0].cancel()
        await eventually(_of(lambda: it.worker.abandoned), is_true=lambda left: left == 0)


# -- what it returns ----------------------------------------------------------------------------


async def test_an_event_of_another_type_is_named_and_the_wait_can_be_made_again(
    database: Database,
) -> None:
    """The error says which event does not fit; it is taken, so another wait gets the next."""

    @zart.durable
    async def bad() -> str:
        try:
            return await zart.wait_for_event("answer", type=str)
        except zart.DecodeError as misfit:
            return f"{misfit} / {await zart.wait_for_event('answer', type=str)}"

    async with bench(database, bad) as it:
        handle = await it.begin(bad)
        await handle.offer_event("answer", 3)
        await handle.offer_event("answer", "three")
        told = await handle.result(timeout="10s")
    assert told.startswith("event 'answer' does not read as str: Expected `str`, got `int`")
    assert told.endswith(" / three")


class Opaque:
    """Nothing that JSON could hold."""


@pytest.mark.parametrize("place", ["workflow", "step"])
async def test_what_cannot_be_encoded_fails_and_is_named(database: Database, place: str) -> None:
    """The message names the step or the task, and the type."""

    async def opaque() -> Any:
        return Opaque()

    @zart.durable
    async def bad() -> Any:
        if place == "workflow":
            return Opaque()
        return await zart.context().step("opaque", opaque)

    async with bench(database, bad) as it:
        text = str(await it.fails(bad))
        assert ("step 'opaque'" if place == "step" else "task 'bad'") in text
        assert "Opaque" in text


@pytest.mark.parametrize("place", ["workflow", "step"])
async def test_a_result_of_fifty_megabytes_is_refused(database: Database, place: str) -> None:
    """Nothing of it is written; the message gives both sizes and the way out."""

    async def large() -> str:
        return "x" * (50 << 20)

    @zart.durable
    async def bad() -> str:
        if place == "workflow":
            return await large()
        return await zart.context().step("large", large)

    async with bench(database, bad) as it:
        text = str(await it.fails(bad))
        assert "52,428,802 bytes" in text
        assert "1,048,576 are allowed" in text
        assert "return a reference" in text


# -- what it leaves behind ----------------------------------------------------------------------


async def test_stray_tasks_of_a_handler_do_not_outlive_the_loop_or_hold_a_slot(
    database: Database,
) -> None:
    """A task that a handler leaves behind costs it nothing, and no one else."""
    strays: list[asyncio.Task[Any]] = []

    async def stray() -> None:
        await asyncio.Event().wait()

    @zart.durable
    async def untidy() -> str:
        strays.append(asyncio.create_task(stray()))
        strays.append(asyncio.create_task(_ended_by_error()))
        return await good_step()

    async with bench(database, untidy) as it:
        handle = await it.begin(untidy)
        assert await handle.result(timeout="10s") == "good"
        await it.comes_to_rest()
    for task in strays:
        task.cancel()
    await asyncio.gather(*strays, return_exceptions=True)


async def test_a_stray_task_that_makes_durable_calls_is_ended_with_its_handler(
    database: Database,
) -> None:
    """It belongs to the run: when the handler has returned, nothing of it goes on."""
    ended: list[str] = []

    async def stray() -> None:
        try:
            await zart.sleep("1h")
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    @zart.durable
    async def untidy() -> str:
        _keep(asyncio.create_task(stray()))
        await asyncio.sleep(0)
        return await good_step()

    async with bench(database, untidy) as it:
        handle = await it.begin(untidy)
        assert await handle.result(timeout="10s") == "good"
        await it.comes_to_rest()
    assert ended == ["CancelledError"]


async def test_a_branch_that_is_left_behind_ends_without_a_word_in_the_log(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A step and a wait that begin as the workflow ends: asyncio called them errors."""

    @zart.durable
    async def untidy() -> str:
        _keep(asyncio.create_task(good_step()))
        _keep(asyncio.create_task(zart.wait_for_event("never")))
        return "good"

    async with bench(database, untidy) as it:
        handle = await it.begin(untidy)
        assert await handle.result(timeout="10s") == "good"
        await it.comes_to_rest()
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def test_a_thread_step_may_run_a_loop_of_its_own(database: Database) -> None:
    """asyncio.run in a plain step works as anywhere."""

    def own_loop() -> str:
        return asyncio.run(good_step())

    @zart.durable
    async def inner() -> str:
        return await zart.context().step("own-loop", own_loop)

    async with bench(database, inner) as it:
        handle = await it.begin(inner)
        assert await handle.result(timeout="10s") == "good"


async def test_asyncio_run_in_an_async_step_is_an_error_that_says_so(database: Database) -> None:
    """Python's own message reaches the execution's failure."""

    async def nested() -> None:
        coroutine = good_step()
        try:
            asyncio.run(coroutine)
        finally:
            coroutine.close()

    @zart.durable
    async def bad() -> None:
        await zart.context().step("nested", nested)

    async with bench(database, bad) as it:
        assert "cannot be called from a running event loop" in str(await it.fails(bad))


async def test_a_failure_is_logged_once_with_the_execution_and_the_reason(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """What the person at night finds in the log: which execution, which task, which attempt."""

    @zart.durable
    async def bad() -> None:
        raise ValueError("broken")

    with caplog.at_level(logging.WARNING, "zart"):
        async with bench(database, bad) as it:
            await it.fails(bad)
    texts = [text for text in caplog.messages if "'bad'" in text]
    assert texts == ["execution 'bad' of task 'bad': attempt 1 failed: ValueError: broken"]


async def test_a_step_that_is_tried_again_is_logged_with_its_execution(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Many executions have a step of that name: the log says which of them tries it again."""

    @zart.step(retry=zart.RetryConfig.fixed(1, "10ms"))
    async def fetch() -> None:
        raise ConnectionError("no line")

    @zart.durable
    async def bad() -> None:
        await fetch()

    with caplog.at_level(logging.INFO, "zart.step"):
        async with bench(database, bad) as it:
            await it.fails(bad)
    texts = [record.getMessage() for record in caplog.records if record.name == "zart.step"]
    assert texts == ["execution 'bad': step 'fetch': attempt 1 failed: ConnectionError: no line"]


async def test_a_failed_compensation_is_logged_as_such(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The attempts at on_failure are counted anew: the log says that they are its."""

    @zart.durable(retry=zart.RetryConfig.fixed(1, "10ms"))
    async def bad() -> None:
        raise ValueError("broken")

    @bad.on_failure
    async def compensate(_: None, failure: zart.Failure) -> None:
        raise RuntimeError("no way back")

    with caplog.at_level(logging.WARNING, "zart"):
        async with bench(database, bad) as it:
            await it.fails(bad)
    texts = [text.split(": ", 2)[1] for text in caplog.messages if "'bad'" in text]
    attempts = ["attempt 1 failed", "attempt 2 failed"]
    compensations = ["attempt 1 of its on_failure failed", "attempt 2 of its on_failure failed"]
    assert texts == attempts + compensations


@pytest.mark.guarantee(6)
async def test_a_durable_call_in_a_finally_does_not_put_the_deadline_off(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, and the execution ends at once: nobody has to find it left behind."""
    monkeypatch.setattr(strays, "STRAY", 600)

    @zart.durable("bad", timeout="100ms")
    async def bad() -> None:
        try:
            await zart.context().step("long", asyncio.sleep, 60)
        finally:
            await good_step()

    async with bench(database, bad) as it:
        error = await it.fails(bad)
    assert error.error_type == "ExecutionTimedOut"


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("then", ["raises", "waits", "returns"])
async def test_a_deadline_that_passes_while_the_last_records_are_written_ends_the_execution(
    database: Database, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """At once, as one that passes before: nobody has to find it left behind."""
    monkeypatch.setattr(strays, "STRAY", 600)

    @zart.step(idempotent=True)
    async def quick() -> None: ...

    @zart.durable("bad", timeout="100ms", max_retries=1)
    async def bad() -> None:
        await quick()
        await asyncio.sleep(0)  # its record goes ahead
        if then == "raises":
            raise ValueError("bad")
        if then == "waits":
            await zart.sleep("1h")

    async with bench(database, bad) as it:
        commit = it.scheduler.backend.commit

        async def slow(entries: Sequence[Entry]) -> list[Receipt]:
            if any(row[2] == "quick" for entry in entries for row in entry.steps):
                await asyncio.sleep(0.3)
            return await commit(entries)

        monkeypatch.setattr(it.scheduler.backend, "commit", slow)
        error = await it.fails(bad)
    assert error.error_type == "ExecutionTimedOut"


_kept: set[asyncio.Task[Any]] = set()


def _keep(task: asyncio.Task[Any]) -> None:
    _kept.add(task)
    task.add_done_callback(_kept.discard)


async def _ended_by_error() -> None:
    raise ValueError("nobody looks")


def _of(function: Callable[[], Any]) -> Callable[[], Coroutine[Any, Any, Any]]:
    async def look() -> Any:
        return function()

    return look
