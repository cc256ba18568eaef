"""Decorators: an ordinary function becomes a handler, another one a step.

The free functions find the present context by themselves, so a workflow's body needs no ``ctx``.
"""

from __future__ import annotations

import functools
import inspect
import uuid as uuids
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import datetime
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypeVar, TypeVarTuple, cast, overload

from zart.annotations import parameter_types, return_type
from zart.duration import Duration, seconds
from zart.errors import DefinitionError
from zart.execution import fanout
from zart.execution.context import TaskContext, run_here
from zart.execution.fanout import ChildHandle, StepHandle
from zart.execution.handler import TaskHandler
from zart.execution.loop import DurableLoop
from zart.execution.retry import RetryConfig
from zart.execution.run import called, current_run
from zart.execution.step import Raises, StepFunction, StepRules
from zart.models import Failure, TaskDefinition
from zart.scheduler.durable import DEFAULT_QUEUE
from zart.scheduler.naming import checked

__all__ = [
    "Durable",
    "Step",
    "capture",
    "context",
    "durable",
    "durable_loop",
    "now",
    "patched",
    "random",
    "schedule_step",
    "sleep",
    "sleep_until",
    "start_child",
    "step",
    "transaction",
    "uuid",
    "wait_all",
    "wait_for_event",
]

D = TypeVar("D")
D_contra = TypeVar("D_contra", contravariant=True)
O = TypeVar("O")  # noqa: E741
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Ts = TypeVarTuple("Ts")


# -- steps ------------------------------------------------------------------------------------


class Step(Generic[P, T]):
    """A function made a step by ``@zart.step``; call and await it.

    Inside a workflow each call is recorded under the function's name, numbered by occurrence
    (``charge``, ``charge#2``); `named` gives a name of its own. Outside it simply runs.
    """

    def __init__(self, function: Callable[P, Any], name: str, rules: StepRules) -> None:
        self.__zart_step_function__ = StepFunction(function, name, rules)
        self._name: str | None = None
        functools.update_wrapper(cast(Any, self), function)

    def __repr__(self) -> str:
        return f"<step {self.__zart_step_function__.step_name!r}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        step = self.__zart_step_function__
        run = current_run.get()
        if run is None:
            return _plain_call(step, args, kwargs)
        # The name is given now, not when the call is awaited: gather stays stable.
        if self._name is None:
            name = run.history.numbered(step.step_name)
        else:
            name = run.history.name(self._name)
        function, asynchronous = step.function, step.is_async
        arguments: tuple[Any, ...] = args
        if kwargs:
            function, arguments = functools.partial(function, *args, **kwargs), ()
        shape = run.serializer.shape(step.result_type)
        return run.step(
            name, lambda: called(function, arguments, asynchronous, run), shape, step.rules
        )

    def named(self, name: str) -> Step[P, T]:
        """The same step under a name of its own, unique in the run."""
        twin: Step[P, T] = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._name = checked(name, "a step's name")
        return twin

    def schedule(self, *args: P.args, **kwargs: P.kwargs) -> StepHandle[T]:
        """Begin the step beside the workflow; await the handle, alone or by `wait_all`.

        It becomes a row that any worker may run, where the worker's registry has the step.
        """
        step = self.__zart_step_function__
        run = run_here(f"{step.step_name}.schedule")
        if self._name is None:
            name = run.history.numbered(step.step_name)
        else:
            name = run.history.name(self._name)
        if step.task_name in run.registry:
            return fanout.distribute(run, name, step, step.bind(*args, **kwargs), step.rules)
        shape = run.serializer.shape(step.result_type)
        call = functools.partial(step.function, *args, **kwargs)
        return fanout.start_local(
            run, name, lambda: called(call, (), step.is_async, run), shape, step.rules
        )


async def _plain_call(step: StepFunction, args: Any, kwargs: Any) -> Any:
    return await called(functools.partial(step.function, *args, **kwargs), (), step.is_async)


class _StepDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Awaitable[T]], /) -> Step[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Step[P, T]: ...


@overload
def step(function: Callable[P, Awaitable[T]], /) -> Step[P, T]: ...
@overload
def step(function: Callable[P, T], /) -> Step[P, T]: ...
@overload
def step(
    *,
    name: str | None = None,
    retry: RetryConfig | None = None,
    timeout: Duration | None = None,
    per_attempt: bool = False,
    raises: Raises = (),
    idempotent: bool = False,
    type: Any = None,
) -> _StepDecorator: ...
def step(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    retry: RetryConfig | None = None,
    timeout: Duration | None = None,
    per_attempt: bool = False,
    raises: Raises = (),
    idempotent: bool = False,
    type: Any = None,
) -> Any:
    """Make a function a step: in a workflow its outcome is recorded once and replayed.

    The function is async, or plain and then runs in a thread. See `TaskContext.step` for the
    rules. Called outside a workflow it simply runs, so it can be tested on its own::

        @zart.step(retry=zart.RetryConfig.exponential(3, "2s"), timeout="30s")
        async def charge(card: str, total: int) -> str: ...
    """
    rules = StepRules(
        retry=retry,
        timeout=timeout,
        per_attempt=per_attempt,
        raises=raises,
        idempotent=idempotent,
        type=type,
    )

    def decorate(function: Callable[..., Any]) -> Step[..., Any]:
        if not callable(function):
            raise DefinitionError(f"@zart.step decorates a function, not {function!r}")
        return Step(function, checked(name or function.__name__, "a step's name"), rules)

    return decorate if function is None else decorate(function)


# -- workflows --------------------------------------------------------------------------------


class Durable(TaskDefinition[D_contra, T_co]):
    """A function made a durable workflow by ``@zart.durable``; schedule it.

    Called directly it runs as the plain function it was: its steps are not recorded then.
    """

    def __init__(
        self, function: Callable[..., Coroutine[Any, Any, Any]], handler: FunctionHandler
    ) -> None:
        self.__zart_handler__ = handler
        self._function = function
        functools.update_wrapper(cast(Any, self), function)
        self.name = handler.name
        self.data_type = handler.data_type
        self.output_type = handler.output_type

    def __repr__(self) -> str:
        return f"<durable {self.name!r}>"

    def __call__(self, *data: D_contra) -> Coroutine[Any, Any, T_co]:
        return self._function(*data)

    def on_failure(
        self, function: Callable[[D_contra, Failure], Awaitable[None]]
    ) -> Callable[[D_contra, Failure], Awaitable[None]]:
        """Decorate the function that compensates when an execution has failed for good::

        @checkout.on_failure
        async def refund(order: Order, failure: zart.Failure) -> None:
            await give_back(order.id)
        """
        self.__zart_handler__.compensation = function
        return function


class FunctionHandler(TaskHandler[Any, Any]):
    """The handler of a decorated function."""

    name = "function"

    def __init__(
        self,
        function: Callable[..., Awaitable[Any]],
        name: str,
        timeout: Duration | None,
        max_retries: int,
        retry: RetryConfig | None,
    ) -> None:
        parameters = inspect.signature(function).parameters
        if len(parameters) > 1:
            raise DefinitionError(
                f"workflow {name!r} takes {len(parameters)} arguments: it may take one, its input;"
                " put several values into a dataclass"
            )
        self.name = name
        self._function = function
        self._takes_data = bool(parameters)
        self.timeout = timeout
        self.max_retries = max_retries
        self.retry = retry
        nothing: Any = Any if parameters else type(None)
        self.data_type = next(iter(parameter_types(function).values()), nothing)
        self.output_type = return_type(function)
        self.compensation: Callable[[Any, Failure], Awaitable[None]] | None = None

    def __repr__(self) -> str:
        return f"<handler of {self._function.__module__}.{self._function.__qualname__}>"

    @property
    def compensates(self) -> bool:
        return self.compensation is not None

    async def run(self, ctx: TaskContext, data: Any) -> Any:
        return await (self._function(data) if self._takes_data else self._function())

    async def on_failure(self, ctx: TaskContext, failure: Failure) -> None:
        if self.compensation is not None:
            await self.compensation(ctx.data, failure)


class _DurableDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[[], Awaitable[R]], /) -> Durable[None, R]: ...
    @overload
    def __call__(self, function: Callable[[D], Awaitable[R]], /) -> Durable[D, R]: ...


@overload
def durable(function: Callable[[], Awaitable[R]], /) -> Durable[None, R]: ...
@overload
def durable(function: Callable[[D], Awaitable[R]], /) -> Durable[D, R]: ...
@overload
def durable(
    name: str | None = None,
    /,
    *,
    timeout: Duration | None = None,
    max_retries: int = 0,
    retry: RetryConfig | None = None,
) -> _DurableDecorator: ...
def durable(
    name: Any = None,
    /,
    *,
    timeout: Duration | None = None,
    max_retries: int = 0,
    retry: RetryConfig | None = None,
) -> Any:
    """Make an async function a durable workflow.

    ``name`` is what its executions are found by, the function's own name unless given.
    ``timeout`` bounds an execution from its first start; ``max_retries`` is how often it is tried
    again after a failure that escaped it, when ``retry`` says (see `TaskHandler`). The function
    takes its input, or nothing. Raises `DefinitionError` or `DurationError` when it cannot work as
    written.

    ::

        @zart.durable("checkout", timeout="2d", max_retries=3)
        async def checkout(order: Order) -> str: ...
    """
    if timeout is not None:
        seconds(timeout, what="timeout")

    def decorate(function: Any) -> Durable[Any, Any]:
        if not inspect.iscoroutinefunction(function):
            raise DefinitionError(f"@zart.durable decorates an async def, not {function!r}")
        label = checked(name if isinstance(name, str) else function.__name__, "a task's name")
        retries = retry.max_retries if retry is not None and not max_retries else max_retries
        handler = FunctionHandler(function, label, timeout, retries, retry)
        return Durable(function, handler)

    return decorate(name) if callable(name) else decorate


# -- free functions ---------------------------------------------------------------------------


def context() -> TaskContext:
    """The present context; raises `NotInExecutionError` where no execution is running."""
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
    """`TaskContext.sleep` in the present execution."""
    await _context("sleep").sleep(*arguments)


@overload
async def sleep_until(moment: datetime, /) -> None: ...
@overload
async def sleep_until(name: str, moment: datetime, /) -> None: ...
async def sleep_until(*arguments: Any) -> None:
    """`TaskContext.sleep_until` in the present execution."""
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
    """`TaskContext.wait_for_event` in the present execution."""
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
    """`TaskContext.loop` in the present execution."""
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
    """`TaskContext.schedule_step` in the present execution."""
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
    """`TaskContext.wait_all` in the present execution."""
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
    """`TaskContext.transaction` in the present execution."""
    here = _context("transaction")
    return await here.transaction(name, function, *arguments, retry=retry, raises=raises, type=type)


@overload
def start_child(
    task: TaskDefinition[D, O] | type[TaskDefinition[D, O]],
    data: D,
    *,
    id: str | None = None,
    name: str | None = None,
    queue: str = DEFAULT_QUEUE,
    priority: int = 0,
) -> ChildHandle[O]: ...
@overload
def start_child(
    task: TaskDefinition[None, O] | type[TaskDefinition[None, O]],
    *,
    id: str | None = None,
    name: str | None = None,
    queue: str = DEFAULT_QUEUE,
    priority: int = 0,
) -> ChildHandle[O]: ...
@overload
def start_child(
    task: str,
    data: Any = None,
    *,
    id: str | None = None,
    name: str | None = None,
    queue: str = DEFAULT_QUEUE,
    priority: int = 0,
) -> ChildHandle[Any]: ...
def start_child(
    task: Any,
    data: Any = None,
    *,
    id: str | None = None,
    name: str | None = None,
    queue: str = DEFAULT_QUEUE,
    priority: int = 0,
) -> ChildHandle[Any]:
    """`TaskContext.start_child` in the present execution."""
    here = _context("start_child")
    return here.start_child(task, data, id=id, name=name, queue=queue, priority=priority)


async def capture(name: str, function: Callable[[], T], /, *, type: Any = None) -> T:
    """`TaskContext.capture` in the present execution."""
    return await _context("capture").capture(name, function, type=type)


async def now() -> datetime:
    """`TaskContext.now` in the present execution."""
    return await _context("now").now()


def uuid() -> uuids.UUID:
    """`TaskContext.uuid` in the present execution."""
    return _context("uuid").uuid()


def random() -> float:
    """`TaskContext.random` in the present execution."""
    return _context("random").random()


async def patched(name: str) -> bool:
    """`TaskContext.patched` in the present execution."""
    return await _context("patched").patched(name)
