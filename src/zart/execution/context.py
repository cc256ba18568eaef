"""The context: what a handler asks of its execution."""

from __future__ import annotations

import functools
import hashlib
import uuid as uuids
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from types import NoneType
from typing import Any, Literal, TypeVar, TypeVarTuple, cast, overload

from zart.duration import Duration, seconds
from zart.duration import moment as checked_moment
from zart.errors import DefinitionError, NotInExecutionError
from zart.execution import fanout, waits
from zart.execution.fanout import ChildHandle, StepHandle
from zart.execution.gate import called
from zart.execution.loop import DurableLoop
from zart.execution.retry import RetryConfig
from zart.execution.run import Run, current_run
from zart.execution.step import PLAIN, Raises, StepFunction, StepRules, is_async, result_type
from zart.execution.transact import transact
from zart.models import Outcome, Recorded, TaskDefinition, as_datetime, as_microseconds
from zart.scheduler.naming import checked

__all__ = ["TaskContext", "run_here"]

D = TypeVar("D")
O = TypeVar("O")  # noqa: E741
S = TypeVar("S")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run_here(what: str) -> Run:
    """The run that the present code belongs to; raises `NotInExecutionError`."""
    run = current_run.get()
    if run is None:
        raise NotInExecutionError(
            f"{what} was called where no execution is running. It works in the body of a workflow"
            " that a worker runs, not inside a step's function and not in ordinary code"
        )
    return run


class TaskContext:
    """One run of an execution, as its handler sees it.

    Every method that waits has a free function of the same name in `zart`, which finds the
    present context by itself.
    """

    __slots__ = ("_data", "_run")

    def __init__(self, run: Run, data: Any) -> None:
        self._run = run
        self._data = data

    # -- facts --------------------------------------------------------------------------------

    @property
    def execution_id(self) -> str:
        """The execution's id, by which others cancel it or send it events."""
        return self._run.claim.execution_id

    @property
    def task(self) -> str:
        """The task's name."""
        return self._run.task.task

    @property
    def run(self) -> int:
        """The run's number, from 1; a restart begins a new one."""
        return self._run.claim.run

    @property
    def attempt(self) -> int:
        """Which try at the run this is, from 1; `on_failure` counts anew."""
        return self._run.task.attempt

    @property
    def data(self) -> Any:
        """The execution's input, decoded as the task's input type."""
        return self._data

    # -- steps --------------------------------------------------------------------------------

    @overload
    async def step(
        self,
        name: str,
        function: Callable[[*Ts], Awaitable[T]],
        /,
        *arguments: *Ts,
        retry: RetryConfig | None = None,
        timeout: Duration | None = None,
        per_attempt: bool = False,
        raises: Raises = (),
        idempotent: bool = False,
        type: Any = None,
    ) -> T: ...

    @overload
    async def step(
        self,
        name: str,
        function: Callable[[*Ts], T],
        /,
        *arguments: *Ts,
        retry: RetryConfig | None = None,
        timeout: Duration | None = None,
        per_attempt: bool = False,
        raises: Raises = (),
        idempotent: bool = False,
        type: Any = None,
    ) -> T: ...

    async def step(
        self,
        name: str,
        function: Callable[[*Ts], Any],
        /,
        *arguments: *Ts,
        retry: RetryConfig | None = None,
        timeout: Duration | None = None,
        per_attempt: bool = False,
        raises: Raises = (),
        idempotent: bool = False,
        type: Any = None,
    ) -> Any:
        """Run a function once and record its outcome under a name; a replay gives the record.

        ``function`` is async, or plain and then runs in a thread; it gets ``arguments``. What it
        returns must fit its return annotation (or ``type``), and the caller gets it as read back
        from the record. ``timeout`` bounds all attempts together, or each one with
        ``per_attempt``. ``raises`` lists business errors: they are recorded, not retried, and
        raised again as the same type. An ``idempotent`` step may hand its result back before it is
        committed, so a crash may run it again.

        Raises `StepFailedError`, `StepTimedOutError`, or a business error; `DuplicateStepError`
        for a name that this run has used, `DivergenceError` where it stands for another kind of
        record, `DecodeError` where what is recorded does not fit the type any more.

        ::

            charge_id = await ctx.step("charge", charge_card, data.card, data.total,
                                       retry=RetryConfig.exponential(3, "2s"), timeout="30s")
        """
        run = self._run
        plain, rules, declared = _unwrapped(
            function, retry, timeout, per_attempt, raises, idempotent, type
        )
        full = run.history.name(checked(name, "a step's name"))
        call = functools.partial(called, plain, arguments, is_async(plain), run)
        return await run.step(full, call, run.serializer.shape(declared), rules)

    @overload
    def schedule_step(
        self,
        name: str,
        function: Callable[[*Ts], Awaitable[T]],
        /,
        *arguments: *Ts,
        retry: RetryConfig | None = None,
        timeout: Duration | None = None,
        per_attempt: bool = False,
        raises: Raises = (),
        type: Any = None,
    ) -> StepHandle[T]: ...

    @overload
    def schedule_step(
        self,
        name: str,
        function: Callable[[*Ts], T],
        /,
        *arguments: *Ts,
        retry: RetryConfig | None = None,
        timeout: Duration | None = None,
        per_attempt: bool = False,
        raises: Raises = (),
        type: Any = None,
    ) -> StepHandle[T]: ...

    def schedule_step(
        self,
        name: str,
        function: Callable[[*Ts], Any],
        /,
        *arguments: *Ts,
        retry: RetryConfig | None = None,
        timeout: Duration | None = None,
        per_attempt: bool = False,
        raises: Raises = (),
        type: Any = None,
    ) -> StepHandle[Any]:
        """Begin a step beside the handler and give its handle, to be awaited or for `wait_all`.

        A step decorated with ``@zart.step`` that is in the worker's registry becomes a row that
        any worker may run, with the rules of its decorator; anything else runs concurrently in
        this process, with the rules given here. Both are recorded one by one.

        Raises `DuplicateStepError`, `DivergenceError`, for a row's arguments `PayloadError`, and
        `DefinitionError` for rules that a row would not follow; what the step raises comes where
        its handle is awaited.

        ::

            handles = [ctx.schedule_step(f"notify {who}", notify, who) for who in data.staff]
            await ctx.wait_all(handles)
        """
        run = self._run
        full = run.history.name(checked(name, "a step's name"))
        step = getattr(function, "__zart_step_function__", None)
        if isinstance(step, StepFunction) and fanout.is_distributed(run, full, step):
            if retry or timeout is not None or per_attempt or raises or type is not None:
                raise DefinitionError(
                    f"step {full!r}: {step.step_name!r} is in the worker's registry, so any worker"
                    " may run it, by the rules of its decorator: say `retry`, `timeout`, `raises`"
                    " and `type` there"
                )
            return fanout.distribute(run, full, step, step.bind(*arguments), step.rules)
        plain, rules, declared = _unwrapped(
            function, retry, timeout, per_attempt, raises, False, type
        )
        call = functools.partial(called, plain, arguments, is_async(plain), run)
        return fanout.start_local(run, full, call, run.serializer.shape(declared), rules)

    @overload
    async def wait_all(
        self, handles: Iterable[StepHandle[T]], *, return_exceptions: Literal[False] = False
    ) -> list[T]: ...

    @overload
    async def wait_all(
        self, handles: Iterable[StepHandle[T]], *, return_exceptions: bool
    ) -> list[T | BaseException]: ...

    async def wait_all(
        self, handles: Iterable[StepHandle[Any]], *, return_exceptions: bool = False
    ) -> list[Any]:
        """The results of all handles, of steps and of children, in their order.

        The execution gives its slot back meanwhile, and is woken once: by the last of them to
        end, or by the first failure, which is raised while the others go on. With
        ``return_exceptions`` it waits for all and puts errors in their places.

        Raises `StepFailedError`, `StepTimedOutError`, `StepCancelledError`, `ChildFailedError` or
        a business error; `DefinitionError` for a handle of another run or of a finished iteration.
        """
        return await fanout.wait_all(self._run, list(handles), return_exceptions=return_exceptions)

    async def transaction(
        self,
        name: str,
        function: Callable[[Any, *Ts], Awaitable[T]],
        /,
        *arguments: *Ts,
        retry: RetryConfig | None = None,
        raises: Raises = (),
        type: Any = None,
    ) -> T:
        """Run a step inside a transaction of the zart database: exactly once; gives its result.

        ``function`` gets the driver's own connection (asyncpg, asyncmy or apsw) with an open
        transaction, then ``arguments``. What it writes and the step's outcome commit together or
        not at all. It may be run again after an error of the driver that may pass, such as a
        serialization failure, and must not commit. Raises what `step` raises, but no time-out.

        ::

            async def debit(connection: asyncpg.Connection, account: str, amount: int) -> int:
                return await connection.fetchval(
                    "UPDATE accounts SET balance = balance - $2 WHERE id = $1 RETURNING balance",
                    account, amount)

            balance = await ctx.transaction("debit", debit, "a-1", 42)
        """
        run = self._run
        full = run.history.name(checked(name, "a step's name"))
        rules = StepRules(retry=retry, raises=raises, type=type)
        declared = result_type(function) if type is None else type
        shape = run.serializer.shape(declared)
        asynchronous = is_async(function)
        result: T = await transact(run, full, function, arguments, asynchronous, shape, rules)
        return result

    # -- waits --------------------------------------------------------------------------------

    @overload
    async def sleep(self, duration: Duration, /) -> None: ...
    @overload
    async def sleep(self, name: str, duration: Duration, /) -> None: ...
    async def sleep(self, name: Any, duration: Any = None, /) -> None:
        """Wait for a duration, at no cost but a row; it counts from the time recorded first.

        The duration is a timedelta, seconds, or text such as ``"1h30m"``. Without a ``name`` the
        wait is recorded as ``sleep``, ``sleep#2``, and so on. Raises `DurationError`.

        ::

            await ctx.sleep("cool-off", "1h")
        """
        if duration is None:
            name, duration = None, name
        due_at = self._run.clock.now_at() + int(seconds(duration, what="sleep") * 1_000_000)
        await waits.sleep_until(self._run, self._named(name, "sleep"), due_at)

    @overload
    async def sleep_until(self, moment: datetime, /) -> None: ...
    @overload
    async def sleep_until(self, name: str, moment: datetime, /) -> None: ...
    async def sleep_until(self, name: Any, moment: Any = None, /) -> None:
        """Wait until a moment by the database's clock; it is over at once when that has passed.

        The moment that was recorded first counts. A naive datetime is read as this machine's local
        time.
        """
        if moment is None:
            name, moment = None, name
        full = self._named(name, "sleep")
        moment = checked_moment(moment, what="sleep_until")
        await waits.sleep_until(self._run, full, as_microseconds(moment))

    @overload
    async def wait_for_event(
        self, event: str, *, type: type[T], timeout: Duration | None = None, name: str | None = None
    ) -> T: ...

    @overload
    async def wait_for_event(
        self,
        event: str,
        *,
        type: Any = Any,
        timeout: Duration | None = None,
        name: str | None = None,
    ) -> Any: ...

    async def wait_for_event(
        self,
        event: str,
        *,
        type: Any = Any,
        timeout: Duration | None = None,
        name: str | None = None,
    ) -> Any:
        """The payload of the next event of this name, decoded as ``type``; None where it has none.

        Events that came before the wait count; each is taken once, in order of delivery. The wait
        is recorded as ``event`` and the event's name, unless ``name`` is given. Raises
        `EventTimedOutError` when none comes within ``timeout`` of the wait's first start, and
        `DecodeError` for a payload that does not fit ``type``.

        ::

            shipped = await ctx.wait_for_event("shipped", type=Shipped, timeout="24h")
        """
        full = self._named(name, f"event {checked(event, 'an event')}")
        limit = None if timeout is None else seconds(timeout, what="timeout")
        return await waits.wait_for_event(self._run, full, event, type, limit)

    # -- loops and children -------------------------------------------------------------------

    @overload
    def loop(self, name: str, items: Iterable[T], *, type: Any = None) -> DurableLoop[T, None]: ...
    @overload
    def loop(
        self, name: str, items: Iterable[T], *, state: S, type: Any = None
    ) -> DurableLoop[T, S]: ...
    @overload
    def loop(self, name: str, *, type: Any = None) -> DurableLoop[int, None]: ...
    @overload
    def loop(self, name: str, *, state: S, type: Any = None) -> DurableLoop[int, S]: ...
    def loop(
        self, name: str, items: Iterable[Any] | None = None, *, state: Any = None, type: Any = None
    ) -> DurableLoop[Any, Any]:
        """An ``async for`` that goes on after a crash at the iteration it had come to.

        ``items`` must be the same on each replay; without them the loop counts from 0 for ever.
        ``state`` is a value of your own that is kept with each finished iteration; set
        ``loop.state`` to change it. It is stored as its own class; ``type`` says what where that
        does not tell (``type=list[Order]``). A finished iteration's steps are dropped from the
        record. Raises `DuplicateStepError` for a name that this run has used.

        ::

            loop = ctx.loop("pages", range(pages), state=0)
            async for page in loop:
                loop.state += await ctx.step("import", import_page, page)
        """
        run = self._run
        declared = type
        if declared is None:
            declared = state.__class__
            if declared in (NoneType, dict, list):
                declared = Any
        full = run.history.name(checked(name, "a loop's name"))
        return DurableLoop(run, full, items, state, run.serializer.shape(declared))

    @overload
    def start_child(
        self,
        task: TaskDefinition[D, O] | type[TaskDefinition[D, O]],
        data: D,
        *,
        id: str | None = None,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
    ) -> ChildHandle[O]: ...

    @overload
    def start_child(
        self,
        task: TaskDefinition[None, O] | type[TaskDefinition[None, O]],
        *,
        id: str | None = None,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
    ) -> ChildHandle[O]: ...

    @overload
    def start_child(
        self,
        task: str,
        data: Any = None,
        *,
        id: str | None = None,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
    ) -> ChildHandle[Any]: ...

    def start_child(
        self,
        task: Any,
        data: Any = None,
        *,
        id: str | None = None,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
    ) -> ChildHandle[Any]:
        """Schedule a child execution, once, and give its handle; await that for the result.

        ``id`` is made from the parent's id unless given, the same on each replay; ``queue`` is the
        parent's. The child lives by itself: it goes on when its parent fails or is cancelled, and
        one with an ``id`` is met again by a restarted parent. Awaiting it raises `ChildFailedError`
        when it ends without a result, or its id belongs to another execution.

        Raises `UnknownTaskError`, `PayloadError`, `PayloadTooLargeError` or `InvalidIdError`.

        ::

            child = ctx.start_child(checkout, order, id=f"order-{order.id}")
            tracking = await child
        """
        run = self._run
        label = task if isinstance(task, str) else task.name
        full = self._named(name, f"child {label}")
        return fanout.start_child(run, full, task, data, id, queue, priority)

    # -- what is recorded without a step's ceremony ---------------------------------------------

    async def capture(self, name: str, function: Callable[[], T], /, *, type: Any = None) -> T:
        """The value of a plain function, called in place and recorded: a replay gives the same.

        For what is quick and may change, such as a setting: it holds the event loop up. Raises
        `StepFailedError` when the function raises, or gives what cannot be stored as its return
        type (or ``type``).

        ::

            region = await ctx.capture("region", lambda: os.environ["REGION"])
        """
        run = self._run
        full = run.history.name(checked(name, "a step's name"))
        declared = result_type(function) if type is None else type

        async def call() -> T:
            return function()

        shape = run.serializer.shape(declared)
        return cast("T", await run.step(full, call, shape, PLAIN, "capture"))

    async def now(self) -> datetime:
        """The time by the database's clock, an aware datetime in UTC; a replay gives the same.

        Recorded, so it costs a write.
        """
        run = self._run

        async def call() -> datetime:
            moment = as_datetime(run.clock.now_at())
            assert moment is not None
            return moment

        full = run.history.numbered("now")
        shape = run.serializer.shape(datetime)
        return cast("datetime", await run.step(full, call, shape, PLAIN, "capture"))

    def uuid(self) -> uuids.UUID:
        """A random UUID (version 4) that a replay gives again; it costs no write."""
        return uuids.UUID(bytes=self._draw("uuid")[:16], version=4)

    def random(self) -> float:
        """A random number in [0, 1) that a replay gives again; it costs no write."""
        return int.from_bytes(self._draw("random")[:7], "big") / (1 << 56)

    def _draw(self, kind: str) -> bytes:
        run = self._run
        number = run.history.count(f"\n{kind}")
        text = f"{run.seed}\n{run.history.prefix}\n{kind}\n{number}"
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    async def patched(self, name: str) -> bool:
        """True where code that was changed under running executions applies; recorded.

        It is True for new runs and for those that had not come to this place when the change was
        deployed, False for those that had passed it. Raises `DuplicateStepError`.

        ::

            if await ctx.patched("send-invoice"):
                await ctx.step("send invoice", send_invoice, data.id)
        """
        run = self._run
        full = run.history.name(checked(name, "a patch's name"))
        recorded = run.history.find(full, "patch")
        if recorded is not None:
            return recorded.value == "true"
        if run.stopping:
            await run.refuse()
        patched = not run.history.unused()
        row = run.row(full, "patch", Outcome.OK, "true" if patched else "false")
        run.history.add(Recorded(full, "patch", row[4], Outcome.OK, row[6], None))
        run.branches.enter()
        try:
            await run.write(run.entry(steps=(row,)))
        finally:
            run.branches.leave()
        return patched

    def _named(self, name: str | None, base: str) -> str:
        history = self._run.history
        if name is None:
            return history.numbered(base)
        return history.name(checked(name, "a name"))


def _unwrapped(
    function: Callable[..., Any],
    retry: RetryConfig | None,
    timeout: Duration | None,
    per_attempt: bool,
    raises: Raises,
    idempotent: bool,
    type: Any,
) -> tuple[Callable[..., Any], StepRules, Any]:
    """The function itself, its rules and its result type, of a plain or decorated function."""
    step = getattr(function, "__zart_step_function__", None)
    if isinstance(step, StepFunction):
        function, rules, declared = step.function, step.rules, step.result_type
    else:
        rules, declared = PLAIN, None
    if retry or timeout is not None or per_attempt or raises or idempotent:
        rules = StepRules(
            retry=retry or rules.retry,
            timeout=rules.timeout if timeout is None else timeout,
            per_attempt=per_attempt or rules.per_attempt,
            raises=raises or rules.raises,
            idempotent=idempotent or rules.idempotent,
        )
    if type is not None:
        declared = type
    elif declared is None:
        declared = result_type(function)
    return function, rules, declared
