"""Free functions for a workflow's body: each finds the present execution by itself.

They are the methods of `TaskContext` for code that has no ``ctx`` at hand.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, Literal, TypeVar, TypeVarTuple, overload

from zart.duration import Duration
from zart.execution.context import TaskContext, run_here
from zart.execution.fanout import ChildHandle, StepHandle
from zart.execution.loop import DurableLoop
from zart.execution.retry import RetryConfig
from zart.execution.step import Raises
from zart.models import TaskDefinition

__all__ = [
    "capture",
    "context",
    "durable_loop",
    "now",
    "patched",
    "random",
    "schedule_step",
    "sleep",
    "sleep_until",
    "start_child",
    "transaction",
    "uuid",
    "wait_all",
    "wait_for_event",
]

D = TypeVar("D")
O = TypeVar("O")  # noqa: E741
S = TypeVar("S")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def context() -> TaskContext:
    """The present execution's context: its id, run, attempt and input, and every durable call.

    Raises `NotInExecutionError` where no execution is running, and inside a step's function.

    ::

        charge_id = await charge(card, key=f"{zart.context().execution_id}/charge")
    """
    run = run_here("zart.context")
    return TaskContext(run, run.data)


def _context(what: str) -> TaskContext:
    run = run_here(f"zart.{what}")
    return TaskContext(run, run.data)


@overload
async def sleep(duration: Duration, /) -> None: ...
@overload
async def sleep(name: str, duration: Duration, /) -> None: ...
async def sleep(*arguments: Any) -> None:
    """Wait for a duration, at no cost but a row.

    It is a timedelta, seconds, or text, and counts from the time that was recorded first, whatever
    crashes meanwhile. A wait without a ``name`` is recorded as ``sleep``, ``sleep#2``, and so on.
    Raises `DurationError`, `NotInExecutionError`.

    ::

        await zart.sleep("3d")
        await zart.sleep("cool-off", 90)
    """
    await _context("sleep").sleep(*arguments)


@overload
async def sleep_until(moment: datetime, /) -> None: ...
@overload
async def sleep_until(name: str, moment: datetime, /) -> None: ...
async def sleep_until(*arguments: Any) -> None:
    """Wait until a moment by the database's clock; it is over at once when that has passed.

    The moment that was recorded first counts. A naive datetime is read as this machine's local
    time. Raises `NotInExecutionError`.

    ::

        await zart.sleep_until(datetime(2030, 1, 1, tzinfo=UTC))
    """
    await _context("sleep_until").sleep_until(*arguments)


@overload
async def wait_for_event(
    event: str, *, type: type[T], timeout: Duration | None = None, name: str | None = None
) -> T: ...
@overload
async def wait_for_event(
    event: str, *, type: Any = Any, timeout: Duration | None = None, name: str | None = None
) -> Any: ...
async def wait_for_event(
    event: str, *, type: Any = Any, timeout: Duration | None = None, name: str | None = None
) -> Any:
    """The payload of the next event of this name, decoded as ``type``; None where it has none.

    Events that came before count; each is taken once, in order of delivery. The wait is recorded
    as ``event`` and the event's name, unless ``name`` is given. Raises `EventTimedOutError` when
    none comes within ``timeout`` of the wait's first start, `DecodeError` for a payload of another
    type, and `NotInExecutionError`.

    ::

        shipped = await zart.wait_for_event("shipped", type=Shipped, timeout="24h")
    """
    here = _context("wait_for_event")
    return await here.wait_for_event(event, type=type, timeout=timeout, name=name)


@overload
def durable_loop(name: str, items: Iterable[T], *, type: Any = None) -> DurableLoop[T, None]: ...
@overload
def durable_loop(
    name: str, items: Iterable[T], *, state: S, type: Any = None
) -> DurableLoop[T, S]: ...
@overload
def durable_loop(name: str, *, type: Any = None) -> DurableLoop[int, None]: ...
@overload
def durable_loop(name: str, *, state: S, type: Any = None) -> DurableLoop[int, S]: ...
def durable_loop(
    name: str, items: Iterable[Any] | None = None, *, state: Any = None, type: Any = None
) -> DurableLoop[Any, Any]:
    """An ``async for`` that goes on after a crash at the iteration it had come to.

    ``items`` must be the same on each replay; without them the loop counts from 0 for ever.
    ``state`` is kept with each finished iteration, whose steps are dropped from the record. It is
    stored as its own class; ``type`` says what where that does not tell. Raises
    `NotInExecutionError`, `DuplicateStepError`.

    ::

        loop = zart.durable_loop("pages", range(pages), state=0)
        async for page in loop:
            loop.state += await import_page(page)
    """
    here = _context("durable_loop")
    if items is None:
        return here.loop(name, state=state, type=type)
    return here.loop(name, items, state=state, type=type)


@overload
def schedule_step(
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
    """Begin a step beside the workflow and give its handle, to be awaited or for `wait_all`.

    A function of ``@zart.step`` that the worker's registry has becomes a row that any worker may
    run, by the rules of its decorator; anything else runs concurrently in this process, by the
    rules given here. Raises `DuplicateStepError`, `NotInExecutionError`, and for a row's arguments
    `PayloadError`; what the step raises comes where its handle is awaited.

    ::

        handles = [zart.schedule_step(f"notify {who}", notify, who) for who in staff]
        await zart.wait_all(handles)
    """
    return _context("schedule_step").schedule_step(
        name,
        function,
        *arguments,
        retry=retry,
        timeout=timeout,
        per_attempt=per_attempt,
        raises=raises,
        type=type,
    )


@overload
async def wait_all(
    handles: Iterable[StepHandle[T]], *, return_exceptions: Literal[False] = False
) -> list[T]: ...
@overload
async def wait_all(
    handles: Iterable[StepHandle[T]], *, return_exceptions: bool
) -> list[T | BaseException]: ...
async def wait_all(
    handles: Iterable[StepHandle[Any]], *, return_exceptions: bool = False
) -> list[Any]:
    """The results of steps and children that were begun before, in the order of their handles.

    The first failure is raised at once, while the others go on; with ``return_exceptions`` all are
    waited for, and errors stand in their places. Raises `StepFailedError`, `StepTimedOutError`,
    `ChildFailedError` or a business error, and `NotInExecutionError`.

    ::

        prices = await zart.wait_all([price.schedule(shop) for shop in shops])
    """
    return await _context("wait_all").wait_all(handles, return_exceptions=return_exceptions)


async def transaction(
    name: str,
    function: Callable[[Any, *Ts], Awaitable[T]],
    /,
    *arguments: *Ts,
    retry: RetryConfig | None = None,
    raises: Raises = (),
    type: Any = None,
) -> T:
    """Run a step inside a transaction of the zart database: exactly once; gives its result.

    ``function`` gets the driver's connection (asyncpg, asyncmy or apsw) with an open transaction,
    then ``arguments``; what it writes and the step's outcome commit together or not at all. It must
    not commit, and may be called again after an error of the driver that may pass. Raises
    `StepFailedError`, a business error of ``raises``, or `NotInExecutionError`.

    ::

        balance = await zart.transaction("debit", debit, "Ada", 42)
    """
    here = _context("transaction")
    return await here.transaction(name, function, *arguments, retry=retry, raises=raises, type=type)


@overload
def start_child(
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
    task: TaskDefinition[None, O] | type[TaskDefinition[None, O]],
    *,
    id: str | None = None,
    name: str | None = None,
    queue: str | None = None,
    priority: int = 0,
) -> ChildHandle[O]: ...
@overload
def start_child(
    task: str,
    data: Any = None,
    *,
    id: str | None = None,
    name: str | None = None,
    queue: str | None = None,
    priority: int = 0,
) -> ChildHandle[Any]: ...
def start_child(
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
    parent's. The child goes on when its parent fails or is cancelled.

    Raises `UnknownTaskError`, `PayloadError`, `InvalidIdError` or `NotInExecutionError`; awaiting
    the handle raises `ChildFailedError`.

    ::

        child = zart.start_child(checkout, order, id=f"order-{order.id}")
        tracking = await child
    """
    here = _context("start_child")
    return here.start_child(task, data, id=id, name=name, queue=queue, priority=priority)


async def capture(name: str, function: Callable[[], T], /, *, type: Any = None) -> T:
    """The value of a plain function, called in place and recorded: a replay gives the same.

    For what is quick and may change: a setting, the environment. Raises `StepFailedError` when the
    function raises or gives what cannot be stored, `DuplicateStepError`, `NotInExecutionError`.

    ::

        region = await zart.capture("region", lambda: os.environ["REGION"])
    """
    return await _context("capture").capture(name, function, type=type)


async def now() -> datetime:
    """The time by the database's clock, an aware datetime in UTC; a replay gives the same.

    Recorded, so it costs a write. Raises `NotInExecutionError`.

    ::

        due = await zart.now() + timedelta(days=14)
    """
    return await _context("now").now()


def uuid() -> uuids.UUID:
    """A random UUID (version 4) that a replay gives again; it costs no write.

    Raises `NotInExecutionError`.

    ::

        await charge(card, key=str(zart.uuid()))
    """
    return _context("uuid").uuid()


def random() -> float:
    """A random number in [0, 1) that a replay gives again; it costs no write.

    Raises `NotInExecutionError`.

    ::

        wants_survey = zart.random() < 0.1
    """
    return _context("random").random()


async def patched(name: str) -> bool:
    """True where code that was changed under running executions applies; recorded.

    It is True for new runs and for those that had not come to this place when the change was
    deployed, False for those that had passed it. Raises `DuplicateStepError`,
    `NotInExecutionError`.

    ::

        if await zart.patched("send-invoice"):
            await send_invoice(order.id)
    """
    return await _context("patched").patched(name)
