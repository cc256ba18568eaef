"""The scheduler as its callers see it: typed, checked, with ids and payloads made storable.

`DurableScheduler` is the same for every backend; `PostgresScheduler`, `MySQLScheduler` and
`SqliteScheduler` differ in how they connect.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, overload

import uuid_utils

from zart.duration import Duration, describe, moment, seconds
from zart.errors import (
    DecodeError,
    EncodeError,
    ExecutionCancelledError,
    ExecutionFailedError,
    ExecutionFinishedError,
    ExecutionNotFoundError,
    PayloadError,
    PayloadTooLargeError,
    UnknownTaskError,
    WaitTimedOutError,
)
from zart.models import (
    Attempt,
    Execution,
    Status,
    StepRecord,
    TaskDefinition,
    WorkerRecord,
    as_microseconds,
)
from zart.scheduler.entries import Delivery, NewExecution
from zart.scheduler.findings import Finding
from zart.scheduler.intake import Intake
from zart.scheduler.journal import Journal
from zart.scheduler.naming import checked, checked_priority
from zart.scheduler.protocol import Scheduler
from zart.scheduler.results import Results
from zart.scheduler.sql.transitions.deliver import Answer
from zart.scheduler.sql.transitions.read import failure
from zart.scheduler.wakeup import FINISHED, READY, WOKEN, WakeUps
from zart.serialization import Serializer
from zart.serialization.kinds import name_of

__all__ = ["DEFAULT_QUEUE", "MAX_PAYLOAD", "DurableScheduler", "Handle", "KnownTasks", "new_seed"]

D = TypeVar("D")
O = TypeVar("O")  # noqa: E741
O_co = TypeVar("O_co", covariant=True)

MAX_PAYLOAD = 1024 * 1024
"""Bytes of JSON that an input, result or event may have, unless said otherwise."""
DEFAULT_QUEUE = "default"
TURN = 250
"""Inputs that are encoded at a stretch, before others on the event loop have their turn."""

_FAR_FUTURE = (2**62, "")


class KnownTasks(Protocol):
    """A registry, as far as scheduling needs one."""

    def find(self, name: str) -> TaskDefinition[Any, Any] | None: ...

    @property
    def names(self) -> Sequence[str]: ...


def new_seed() -> int:
    """The seed that a run's ``uuid`` and ``random`` derive from."""
    return int.from_bytes(os.urandom(7), "big")


class Handle(Generic[O_co]):
    """One execution, as the caller who scheduled it holds it.

    ``id`` is its id; ``created`` is False when the id had been scheduled before. Made by
    `DurableScheduler.schedule`, and by `DurableScheduler.handle` for one that was scheduled
    elsewhere.

    ::

        handle = await scheduler.schedule(checkout, order)
        tracking = await handle.result(timeout="1m")
    """

    __slots__ = ("_made_at", "_output_type", "_scheduler", "created", "id")

    def __init__(
        self, scheduler: DurableScheduler, id: str, output_type: Any, *, created: bool = False
    ) -> None:
        self._scheduler = scheduler
        self._output_type = output_type
        self.id = id
        self.created = created
        self._made_at = time.monotonic() if created else -math.inf

    def __repr__(self) -> str:
        return f"Handle({self.id!r})"

    async def result(self, timeout: Duration | None = None) -> O_co:
        """Wait for the end and give the result, decoded as the task's output type.

        Raises `WaitTimedOutError` after ``timeout``, a duration (the execution goes on),
        `ExecutionFailedError` or `ExecutionCancelledError` where there is no result,
        `ExecutionNotFoundError`, and `DecodeError` for a result that does not fit the type.
        """
        result: O_co = await self._scheduler.result(
            self.id, timeout=timeout, type=self._output_type, inserted_at=self._made_at
        )
        return result

    async def get(self) -> Execution:
        """The execution as it stands now; raises `ExecutionNotFoundError`."""
        return await self._scheduler.get(self.id)

    async def offer_event(self, name: str, payload: Any = None, *, type: Any = None) -> None:
        """Deliver an event to the execution, before, while or after it waits for it.

        ``type`` declares the payload's type where its class does not tell. Raises
        `ExecutionNotFoundError`, `ExecutionFinishedError`, `PayloadError`, as
        `DurableScheduler.offer_event` does.
        """
        await self._scheduler.offer_event(self.id, name, payload, type=type)

    async def cancel(self) -> None:
        """End the execution as cancelled, as `DurableScheduler.cancel` does.

        Cancelling twice is no error; raises `ExecutionNotFoundError` or `ExecutionFinishedError`.
        """
        await self._scheduler.cancel(self.id)


class DurableScheduler:
    """Schedules executions, delivers to them and tells how they stand.

    Made by `zart.connect`, or by the ``connect`` of one of its subclasses; used as an async
    context manager or closed with `close`. Its methods wait for a database that does not answer,
    and raise `DatabaseUnavailableError` after 30 seconds of trying, and `MigrationError` where
    zart's tables are missing; with a ``connection`` of yours the driver's own errors come through.

    ::

        async with zart.connect("sqlite:///shop.db") as scheduler:
            await scheduler.migrate()
            handle = await scheduler.schedule(checkout, order)
    """

    def __init__(
        self,
        backend: Scheduler,
        *,
        serializer: Serializer | None = None,
        max_payload: int = MAX_PAYLOAD,
        registry: KnownTasks | None = None,
    ) -> None:
        _check(serializer, max_payload, registry)
        self.backend = backend
        self.serializer = serializer or Serializer()
        self.max_payload = max_payload
        self.wakeups = WakeUps(backend.hints)
        self._registry = registry
        self.intake = Intake(backend, self.wakeups)
        self._deliveries: Journal[Delivery, Answer] = Journal(
            self._deliver, length=lambda delivery: len(delivery.payload)
        )
        self._results = Results(backend, self.wakeups, self.intake.runs_here)
        self._closing: asyncio.Future[None] | None = None

    async def __aenter__(self) -> DurableScheduler:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Finish what is being written and close every connection.

        It goes on by itself when its caller is cancelled. Those who still wait for a result are
        cancelled; stop the workers first.
        """
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self.intake.drain()
        await self._deliveries.drain()
        await self._results.close()
        await self.wakeups.close()
        await self.backend.close()

    async def migrate(self) -> list[str]:
        """Create the tables or bring them up to date; gives the names of what was applied.

        They are like ``0001_tables``; none when all was up to date. Safe to call at every start and
        by several processes at once. Raises `MigrationError` where a newer zart has changed the
        tables so that this one cannot work with them, and `DatabaseUnavailableError`.

        ::

            applied = await scheduler.migrate()
        """
        return await self.backend.migrate()

    # -- scheduling ---------------------------------------------------------------------------

    @overload
    async def schedule(
        self,
        task: TaskDefinition[D, O] | type[TaskDefinition[D, O]],
        data: D,
        *,
        id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        delay: Duration | None = None,
        at: datetime | None = None,
        connection: Any = None,
    ) -> Handle[O]: ...

    @overload
    async def schedule(
        self,
        task: TaskDefinition[None, O] | type[TaskDefinition[None, O]],
        *,
        id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        delay: Duration | None = None,
        at: datetime | None = None,
        connection: Any = None,
    ) -> Handle[O]: ...

    @overload
    async def schedule(
        self,
        task: str,
        data: Any = None,
        *,
        id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        delay: Duration | None = None,
        at: datetime | None = None,
        connection: Any = None,
    ) -> Handle[Any]: ...

    async def schedule(
        self,
        task: Any,
        data: Any = None,
        *,
        id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        delay: Duration | None = None,
        at: datetime | None = None,
        connection: Any = None,
    ) -> Handle[Any]:
        """Schedule one execution of a task and give its handle.

        ``task`` is a durable function, a handler, or a task's name. ``id`` is the execution's id
        and idempotency key, a UUIDv7 when not given: scheduling the same task with the same input
        under the same id again gives the existing execution. Lower ``priority`` goes first.
        It starts after ``delay``, a duration, or at the time ``at``, a datetime (a naive one is
        this machine's local time). With ``connection``, a driver connection with an open
        transaction, the execution exists if and only if that transaction commits.

        Raises `UnknownTaskError`, `PayloadError`, `PayloadTooLargeError`, `InvalidIdError` or
        `ExecutionExistsError`, and `ValueError` (`DurationError`) or `TypeError` for the other
        arguments; nothing is written then.

        ::

            handle = await scheduler.schedule(checkout, order, id=f"order-{order.id}")
        """
        name, data_type, output_type = self.definition(task)
        new = self._new(name, data_type, data, id, queue, priority, delay, at)
        if connection is not None:
            created = (await self.backend.schedule_within(connection, [new]))[0]
            if new.starts_at_once:
                self.wakeups.ring(READY)
        else:
            created = await self.intake.schedule(new)
        return Handle(self, new.id, output_type, created=created)

    @overload
    async def schedule_many(
        self,
        task: TaskDefinition[D, O] | type[TaskDefinition[D, O]],
        data: Iterable[D],
        *,
        ids: Iterable[str] | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        connection: Any = None,
    ) -> list[Handle[O]]: ...

    @overload
    async def schedule_many(
        self,
        task: str,
        data: Iterable[Any],
        *,
        ids: Iterable[str] | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        connection: Any = None,
    ) -> list[Handle[Any]]: ...

    async def schedule_many(
        self,
        task: Any,
        data: Iterable[Any],
        *,
        ids: Iterable[str] | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        connection: Any = None,
    ) -> list[Handle[Any]]:
        """Schedule an execution for each item, all or none, in one transaction.

        Gives their handles in the order of the items. ``ids`` has one id for each item, or
        `PayloadError` is raised; one that comes twice, with the same input, is one execution. With
        ``connection``, a driver connection with an open transaction, they exist if and only if
        that transaction commits. The event loop is not held up, however many there are. Raises
        what `schedule` raises.

        ::

            handles = await scheduler.schedule_many(checkout, orders, ids=[o.id for o in orders])
        """
        name, data_type, output_type = self.definition(task)
        items = list(_several(data, "the second argument has one input"))
        keys: list[str | None] = (
            list(_several(ids, "ids has one id")) if ids is not None else [None] * len(items)
        )
        if len(keys) != len(items):
            raise PayloadError(f"{len(items)} items and {len(keys)} ids: give one id for each item")
        new: list[NewExecution] = []
        for item, key in zip(items, keys, strict=True):
            new.append(self._new(name, data_type, item, key, queue, priority, None, None))
            if len(new) % TURN == 0:
                await asyncio.sleep(0)
        if not new:
            return []
        if connection is not None:
            created = await self.backend.schedule_within(connection, new)
        else:
            created = await self.backend.schedule(new)
        self.wakeups.ring(READY)
        return [
            Handle(self, execution.id, output_type, created=is_new)
            for execution, is_new in zip(new, created, strict=True)
        ]

    def definition(self, task: Any) -> tuple[str, Any, Any]:
        """A task's name and the types of its input and output, of what `schedule` takes.

        A name of which nothing is known gives None and `Any`. Raises `UnknownTaskError`.
        """
        if isinstance(task, str):
            name = checked(task, "a task's name")
            if self._registry is None:
                return name, None, Any
            definition = self._registry.find(name)
            if definition is None:
                known = ", ".join(sorted(self._registry.names)) or "none"
                raise UnknownTaskError(f"no task {name!r} in the registry; it has: {known}")
            return name, definition.data_type, definition.output_type
        if not (hasattr(task, "data_type") and hasattr(task, "output_type")):
            raise UnknownTaskError(
                f"{task!r} is no task: give a function decorated with @zart.durable, a TaskHandler"
                " or a task's name"
            )
        return checked(task.name, "a task's name"), task.data_type, task.output_type

    def _new(
        self,
        name: str,
        data_type: Any,
        data: Any,
        id: str | None,
        queue: str,
        priority: int,
        delay: Duration | None,
        at: Any,
    ) -> NewExecution:
        if at is not None and delay is not None:
            raise ValueError("give a delay or a time to start at, not both")
        return NewExecution(
            id=str(uuid_utils.uuid7()) if id is None else checked(id, "an execution id"),
            task=name,
            queue=checked(queue, "a queue's name"),
            priority=checked_priority(priority),
            input=self._input(name, data_type, data),
            seed=new_seed(),
            chosen_id=id is not None,
            delay=None if delay is None else int(seconds(delay, what="delay") * 1_000_000),
            due_at=None if at is None else as_microseconds(moment(at, what="at")),
        )

    def _input(self, name: str, data_type: Any, data: Any) -> str:
        try:
            return self.encode(data, data_type, f"the input of task {name!r}")
        except PayloadError as error:
            if data is not None or error.__cause__ is None:
                raise
            raise PayloadError(
                f"task {name!r} was given no input and takes {name_of(data_type)}: give it after"
                " the task, as in schedule(task, data)"
            ) from error.__cause__

    def encode(self, value: Any, declared: Any, what: str) -> str:
        """A payload as JSON text, checked against its declared type (None: its own) and size.

        Raises `PayloadError` or `PayloadTooLargeError`, which begin with ``what``.
        """
        if declared is None:
            declared = Any if value is None or isinstance(value, dict | list) else value.__class__
        try:
            text = self.serializer.shape(declared).encode(value)
        except EncodeError as error:
            raise PayloadError(f"{what} cannot be stored: {error}") from error
        if len(text) > self.max_payload // 4 and len(text.encode()) > self.max_payload:
            raise PayloadTooLargeError(
                f"{what} has {len(text.encode()):,} bytes of JSON, {self.max_payload:,} are"
                " allowed: store it elsewhere and pass a reference, or raise max_payload"
            )
        return text

    # -- delivering ---------------------------------------------------------------------------

    async def offer_event(
        self, execution_id: str, name: str, payload: Any = None, *, type: Any = None
    ) -> None:
        """Deliver an event to an execution, before, while or after it waits for it.

        It lies in the execution's mailbox until a `wait_for_event` of this name takes it, in the
        order of delivery. ``type`` declares the payload's type where its class does not tell.
        Two calls deliver two events, also when the first one raised `DatabaseUnavailableError`
        and was committed all the same. Raises `ExecutionNotFoundError`, `ExecutionFinishedError`,
        `PayloadError`, `PayloadTooLargeError`, `InvalidIdError`.

        ::

            await scheduler.offer_event("order-1", "shipped", Shipped("TN-7"))
        """
        checked(execution_id, "an execution id")
        checked(name, "an event's name")
        text = self.encode(payload, type, f"the payload of event {name!r}")
        delivery = Delivery(execution_id, name, text, str(uuid_utils.uuid7()))
        answer = await self._deliveries.submit(delivery)
        _raise_for(answer, execution_id, f"event {name!r} cannot be delivered")

    async def _deliver(self, deliveries: Sequence[Delivery]) -> Sequence[Answer]:
        note = self.wakeups.note(READY, WOKEN)
        answers = await self.backend.offer(deliveries, note)
        if Answer.DONE in answers:
            self.wakeups.ring(READY, WOKEN, told=note)
        return answers

    async def cancel(self, execution_id: str) -> None:
        """End an execution as cancelled.

        A waiting or pending one ends at once. Of a running one no later step starts, its running
        async step is cancelled, and nothing it still tries to record is accepted; a plain ``def``
        step cannot be interrupted and runs to its end unheard. ``on_failure`` is not called, and
        its children go on. Cancelling twice is no error; raises `ExecutionNotFoundError`, and
        `ExecutionFinishedError` for one that has completed or failed.

        ::

            await scheduler.cancel("order-1")
        """
        answer = await self.backend.cancel(checked(execution_id, "an execution id"))
        _raise_for(answer, execution_id, "it cannot be cancelled")
        self.wakeups.ring(WOKEN, FINISHED, READY)

    async def restart(self, execution_id: str) -> int:
        """Begin a new run of an execution from the top; gives the run's number.

        All its steps run again. Those of the old run stay as history and play no part; events that
        were not taken are gone. One that has not ended is taken from its worker. This is the one
        operation that changes a terminal status. Raises `ExecutionNotFoundError`.

        ::

            run = await scheduler.restart("order-1")  # 2, for the first restart
        """
        answer = await self.backend.restart(checked(execution_id, "an execution id"), new_seed())
        if isinstance(answer, Answer):
            raise _not_found(execution_id)
        self.wakeups.ring(WOKEN, READY)
        return answer

    # -- looking ------------------------------------------------------------------------------

    @overload
    def handle(
        self, execution_id: str, task: TaskDefinition[Any, O] | type[TaskDefinition[Any, O]]
    ) -> Handle[O]: ...

    @overload
    def handle(self, execution_id: str, task: None = None) -> Handle[Any]: ...

    def handle(self, execution_id: str, task: Any = None) -> Handle[Any]:
        """The handle of an execution that was scheduled elsewhere; nothing is read or checked.

        ``task``, a durable function or handler, gives the type that its result is decoded as.

        ::

            tracking = await scheduler.handle("order-1", checkout).result()
        """
        return Handle(self, execution_id, Any if task is None else task.output_type)

    async def get(self, execution_id: str) -> Execution:
        """The execution as it stands now; raises `ExecutionNotFoundError`.

        ::

            has_ended = (await scheduler.get("order-1")).status.finished
        """
        found = await self.backend.get([checked(execution_id, "an execution id")])
        if not found:
            raise _not_found(execution_id)
        return found[0]

    async def list(
        self,
        *,
        status: Status | str | None = None,
        task: str | None = None,
        limit: int = 100,
        before: Execution | None = None,
    ) -> list[Execution]:
        """Executions, newest first: ``limit`` at most, of a status and a task where given.

        ``before`` continues after the last one of an earlier list. Raises `ValueError` for a
        limit and a status that are none, `TypeError` for a ``before`` that is no `Execution`.

        ::

            failed = await scheduler.list(status="failed", task="checkout")
            older = await scheduler.list(status="failed", task="checkout", before=failed[-1])
        """
        _check_list(status, limit, before)
        if task is not None:
            checked(task, "a task's name")
        place = (as_microseconds(before.created), before.id) if before else _FAR_FUTURE
        return await self.backend.list(
            task=task or "", status=Status(status) if status else "", amount=limit, before=place
        )

    async def timeline(self, execution_id: str, *, run: int | None = None) -> Sequence[StepRecord]:
        """The steps of an execution's run, the current one unless said otherwise, in order.

        Each has its outcome, its value or failure, its times and its failed attempts; a step that
        is tried for the first time has no line yet. What failed outside of any step is told by
        `attempts`. Raises `ExecutionNotFoundError`, also for a run that never was.

        ::

            for step in await scheduler.timeline("order-1"):
                print(step.name, step.outcome, step.value)
        """
        return await self.backend.timeline(execution_id, await self._run_of(execution_id, run))

    async def attempts(self, execution_id: str, *, run: int | None = None) -> Sequence[Attempt]:
        """The failed attempts at an execution's run, the current one unless said otherwise.

        Each says what left the handler, when, and in ``retry`` when the next attempt was to be
        made: why an execution is tried again, and when. Those at its steps stand in `timeline`.
        Raises `ExecutionNotFoundError`, also for a run that never was.

        ::

            for attempt in await scheduler.attempts("order-1"):
                print(attempt.failed, attempt.failure.message, attempt.retry)
        """
        return await self.backend.attempts(execution_id, await self._run_of(execution_id, run))

    async def _run_of(self, execution_id: str, run: int | None) -> int:
        current = (await self.get(execution_id)).run
        if run is None:
            return current
        if not 1 <= run <= current:
            raise ExecutionNotFoundError(
                f"execution {execution_id!r} has no run {run}: its runs are numbered from 1,"
                f" and {current} is the current one"
            )
        return run

    async def workers(self) -> Sequence[WorkerRecord]:
        """The workers that are entered: those that live, and those whose death nobody has seen yet.

        One that stopped in good order is not among them.

        ::

            slots = sum(w.concurrency for w in await scheduler.workers() if not w.expired)
        """
        return [row.record() for row in await self.backend.workers()]

    async def doctor(self) -> Sequence[Finding]:
        """Examine the database, the workers and the queue, as ``zart doctor`` does.

        Each finding has a ``level`` (ok, warning or problem), the ``check`` it comes from, what
        was ``found``, and unless all is well its ``meaning`` and ``advice``. Nothing is changed.
        A check that cannot be made, also for want of a database, is a finding and no error.

        ::

            problems = [f for f in await scheduler.doctor() if f.level == "problem"]
        """
        return await self.backend.examine()

    async def wait(self, execution_id: str, timeout: Duration | None = None) -> Execution:
        """Wait until an execution has ended, however it ended, and give it.

        Raises `WaitTimedOutError` after ``timeout``, a duration (the execution goes on), and
        `ExecutionNotFoundError`.

        ::

            status = (await scheduler.wait("order-1", timeout="1m")).status
        """
        await self._ending(execution_id, timeout)
        return await self.get(execution_id)

    async def result(
        self,
        execution_id: str,
        timeout: Duration | None = None,
        *,
        type: Any = Any,
        inserted_at: float = -math.inf,
    ) -> Any:
        """Wait for an execution's end and give its result, decoded as ``type``.

        Where this process has inserted it, ``inserted_at`` may tell when, by `time.monotonic`: just
        after that the database is not asked. Raises `WaitTimedOutError` after ``timeout``, a
        duration, `ExecutionFailedError`, `ExecutionCancelledError`, `ExecutionNotFoundError`, and
        `DecodeError` for a result that does not fit ``type``.

        ::

            tracking = await scheduler.result("order-1", timeout="1m", type=str)
        """
        status, output, error = await self._ending(execution_id, timeout, inserted_at)
        if status == Status.COMPLETED:
            try:
                return self.serializer.shape(type).decode(output)
            except DecodeError as misfit:
                raise DecodeError(f"the result of execution {execution_id!r}: {misfit}") from misfit
        if status == Status.CANCELLED:
            raise ExecutionCancelledError(
                f"execution {execution_id!r} was cancelled", execution_id=execution_id
            )
        cause = failure(error)
        assert cause is not None
        raise ExecutionFailedError(
            f"execution {execution_id!r} failed: {cause.type}: {cause.message}",
            execution_id=execution_id,
            error_type=cause.type,
            message=cause.message,
            traceback=cause.traceback,
            step=cause.step,
            step_type=cause.step_type,
        )

    def ended(self, execution_id: str, status: str, output: str | None, error: str | None) -> None:
        """Tell those who wait, here and in other processes, of an end that has been committed."""
        self._results.settle(execution_id, (status, output, error))
        self.wakeups.tell(FINISHED)

    async def _ending(
        self, execution_id: str, timeout: Duration | None, since: float = -math.inf
    ) -> tuple[Any, ...]:
        checked(execution_id, "an execution id")
        if timeout is None:
            ending = await self._results.ending(execution_id, since)
        else:
            limit = seconds(timeout, what="timeout")
            try:
                async with asyncio.timeout(limit):
                    ending = await self._results.ending(execution_id, since)
            except TimeoutError:
                raise WaitTimedOutError(
                    f"execution {execution_id!r} did not end within {describe(limit)}; it goes on"
                ) from None
        if ending is None:
            raise _not_found(execution_id)
        return ending


def _check(serializer: Any, max_payload: Any, registry: Any) -> None:
    if not isinstance(serializer, Serializer | None):
        raise TypeError(f"serializer is a zart.Serializer(codecs), not {serializer!r:.80}")
    if type(max_payload) is not int or max_payload < 1:
        raise ValueError(f"max_payload is a whole number of bytes, not {max_payload!r:.80}")
    if registry is not None and not hasattr(registry, "find"):
        raise TypeError(f"registry is a zart.TaskRegistry(tasks), not {registry!r:.80}")


def _several(given: Any, what: str) -> Any:
    """Those of a list, or of what else can be gone through; a text is one and not its letters."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"{what} for each execution, in a list, not {given!r:.80}")
    return given  # pyright: ignore[reportUnknownVariableType]


def _check_list(status: Any, limit: Any, before: Any) -> None:
    if type(limit) is not int or limit < 0:
        raise ValueError(f"limit is a number of executions, not {limit!r:.80}")
    if status is not None and status not in list(Status):
        raise ValueError(f"status is one of {', '.join(Status)}, not {status!r:.80}")
    if not isinstance(before, Execution | None):
        raise TypeError(
            f"before is the last Execution of an earlier list, as in page[-1], not {before!r:.80}"
        )


def _not_found(execution_id: str) -> ExecutionNotFoundError:
    return ExecutionNotFoundError(
        f"no execution {execution_id!r} in this database: check the id, the URL and the table"
        " prefix; what was scheduled with `connection=` is there once you have committed"
    )


def _raise_for(answer: Answer, execution_id: str, consequence: str) -> None:
    if answer is Answer.NOT_FOUND:
        raise _not_found(execution_id)
    if answer is Answer.FINISHED:
        raise ExecutionFinishedError(
            f"execution {execution_id!r} has ended, so {consequence};"
            " `restart` begins a new run of it"
        )
