"""Decorators: an ordinary function becomes a handler, another one a step."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from zart.annotations import parameter_types, return_type
from zart.duration import Duration, seconds
from zart.errors import DefinitionError
from zart.execution import fanout
from zart.execution.context import TaskContext, run_here
from zart.execution.definition import async_taking, fit_for_step
from zart.execution.fanout import StepHandle
from zart.execution.gate import called
from zart.execution.handler import TaskHandler
from zart.execution.retry import RetryConfig, checked_retries, checked_rule
from zart.execution.run import current_run
from zart.execution.step import Raises, StepFunction, StepRules
from zart.models import Failure, TaskDefinition
from zart.scheduler.naming import checked

__all__ = ["Durable", "Step", "durable", "step"]

D = TypeVar("D")
D_contra = TypeVar("D_contra", contravariant=True)
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


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

    # No `Any` among what it sends and takes: mypy would make one of a `gather` of several types.
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, T]:
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
        call = functools.partial(called, function, arguments, asynchronous, run)
        return run.step(name, call, shape, step.rules)

    def named(self, name: str) -> Step[P, T]:
        """The same step under a name of its own, which each call and each `schedule` of it uses.

        Raises `InvalidIdError` for a name that cannot be stored; the call raises
        `DuplicateStepError` when the run has used it.

        ::

            charge_id = await charge.named("charge-eu")("visa", 42)
        """
        twin: Step[P, T] = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._name = checked(name, "a step's name")
        return twin

    def schedule(self, *args: P.args, **kwargs: P.kwargs) -> StepHandle[T]:
        """Begin the step beside the workflow and give its handle, to be awaited or for `wait_all`.

        Where the worker's registry has the step it becomes a row that any worker may run; otherwise
        it runs concurrently in this process. Awaiting the handle gives what the step returned, or
        raises what the step would. Raises `NotInExecutionError`, and of a row's arguments
        `PayloadError` or `PayloadTooLargeError`.

        ::

            handles = [import_file.schedule(name) for name in files]
            rows = sum(await zart.wait_all(handles))
        """
        step = self.__zart_step_function__
        run = run_here(f"{step.step_name}.schedule")
        if self._name is None:
            name = run.history.numbered(step.step_name)
        else:
            name = run.history.name(self._name)
        if fanout.is_distributed(run, name, step):
            return fanout.distribute(run, name, step, step.bind(*args, **kwargs), step.rules)
        shape = run.serializer.shape(step.result_type)
        call = functools.partial(step.function, *args, **kwargs)
        begin = functools.partial(called, call, (), step.is_async, run)
        return fanout.start_local(run, name, begin, shape, step.rules)


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

    The function is async, or plain and then runs in a thread. A call gives what it returned, as
    read back from the record, or raises `StepFailedError`, `StepTimedOutError` or a business error
    of ``raises``; the rules are those of `TaskContext.step`. ``name`` is the function's own unless
    given. Called outside a workflow it simply runs, so it can be tested on its own. Raises
    `DefinitionError` or `DurationError` for rules that cannot work.

    ::

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

    def decorate(function: Any) -> Step[..., Any]:
        if not callable(function) or isinstance(function, Step | Durable):
            raise DefinitionError(f"@zart.step decorates a function, not {function!r}")
        label = name or getattr(function, "__name__", None)
        if label is None:
            raise DefinitionError(f"{function!r} has no name: give one, @zart.step(name=...)")
        made: Step[..., Any] = Step(function, checked(label, "a step's name"), rules)
        fit_for_step(function, made.__zart_step_function__.signature)
        return made

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
        """Decorate the function that compensates when an execution has failed for good.

        It gets the input and the failure; its steps are durable too, and when it has ended the
        execution does, as failed. It is not called for one that was cancelled. Raises
        `DefinitionError` for what is no async def of two arguments.

        ::

            @checkout.on_failure
            async def refund(order: Order, failure: zart.Failure) -> None:
                await give_back(order.id)
        """
        what, form = f"on_failure of {self.name!r}", "async def refund(data, failure)"
        async_taking(function, ("the input", "the failure"), what, form)
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
        if any(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values()):
            raise DefinitionError(
                f"workflow {name!r} takes its input by keyword only: it is given by position"
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
    given = None if callable(name) else name
    if timeout is not None:
        seconds(timeout, what="timeout")
    checked_retries(max_retries)
    checked_rule(retry)

    def decorate(function: Any) -> Durable[Any, Any]:
        if not inspect.iscoroutinefunction(function):
            raise DefinitionError(f"@zart.durable decorates an async def, not {function!r}")
        label = checked(function.__name__ if given is None else given, "a task's name")
        retries = retry.max_retries if retry is not None and not max_retries else max_retries
        handler = FunctionHandler(function, label, timeout, retries, retry)
        return Durable(function, handler)

    return decorate(name) if callable(name) else decorate
