"""Parallel work: steps that run beside the handler, here or on any worker, and child executions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

import uuid_utils

from zart.errors import ChildFailedError, DefinitionError
from zart.execution.branches import Waiting
from zart.execution.failure import read_failure, step_error
from zart.execution.run import Run
from zart.execution.step import StepFunction, StepRules
from zart.models import Outcome, Recorded
from zart.scheduler.durable import new_seed
from zart.scheduler.entries import NewExecution
from zart.scheduler.naming import checked, checked_priority
from zart.serialization import Shape

__all__ = [
    "ChildHandle",
    "DistributedStep",
    "LocalStep",
    "StepHandle",
    "distribute",
    "start_child",
    "start_local",
    "wait_all",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class StepHandle(Generic[T_co]):
    """Work that was begun beside the handler; await it, or hand it to `wait_all`.

    Awaiting gives its result, or raises what the step would: `StepFailedError`,
    `StepTimedOutError`, `StepCancelledError` or a business error. ``name`` is its name in the
    timeline. It is made by `schedule_step` and `Step.schedule`, and good for its own run only.

    ::

        weighing = zart.schedule_step("weigh", weigh, order)
        weight = await weighing
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __await__(self) -> Generator[Any, None, T_co]:
        return self._result().__await__()

    async def _result(self) -> T_co:
        result: T_co = (await wait_all(self.run, [self]))[0]
        return result


class LocalStep(StepHandle[T_co]):
    """A closure, running concurrently in this process."""

    def __init__(self, run: Run, name: str, task: asyncio.Task[T_co]) -> None:
        super().__init__(run, name)
        self.task = task


class DistributedStep(StepHandle[T_co]):
    """A registered step, a row that any worker may run."""

    def __init__(self, run: Run, name: str, shape: Shape, rules: StepRules) -> None:
        super().__init__(run, name)
        self.shape = shape
        self.rules = rules

    def outcome(self, recorded: Recorded) -> Any:
        """The recorded result, or the recorded failure raised."""
        assert recorded.outcome is not None
        if recorded.outcome == Outcome.OK:
            return self.shape.decode(recorded.value or "null", "the result of step", self.name)
        failure = read_failure(recorded.value or '{"type":"","message":""}')
        raise step_error(
            self.name, recorded.outcome, failure, self.rules.raises, self.run.serializer
        )


class ChildHandle(StepHandle[T_co]):
    """A child execution; ``id`` is its execution id. It goes on when its parent ends.

    Awaiting it gives its result or raises `ChildFailedError`; never awaiting it is no error. It is
    made by `start_child`, and `wait_all` takes it too.
    """

    def __init__(self, run: Run, name: str, id: str, shape: Shape) -> None:
        super().__init__(run, name)
        self.id = id
        self.shape = shape

    def outcome(self, recorded: Recorded) -> Any:
        """The child's result, or `ChildFailedError`."""
        if recorded.outcome == Outcome.OK:
            return self.shape.decode(recorded.value or "null", "the result of child", self.id)
        if recorded.outcome == Outcome.CANCELLED:
            raise ChildFailedError(f"child execution {self.id!r} was cancelled", child=self.id)
        failure = read_failure(recorded.value or '{"type":"","message":""}')
        raise ChildFailedError(
            f"child execution {self.id!r} failed: {failure.type}: {failure.message}",
            child=self.id,
            error_type=failure.type,
            message=failure.message,
        )


def start_local(
    run: Run, name: str, call: Callable[[], Any], shape: Shape, rules: StepRules
) -> LocalStep[Any]:
    """Begin a closure as a branch of its own."""
    task = asyncio.get_running_loop().create_task(run.step(name, call, shape, rules))
    run.branches.know(task)
    # Its failure is raised where it is awaited; asyncio need not complain when it never is.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return LocalStep(run, name, task)


def is_distributed(run: Run, name: str, step: StepFunction) -> bool:
    """True for a step that any worker may run: as it began, else as the registry says.

    A deploy may enter a step in the registry or take it out while executions have it under way.
    """
    kind = run.history.kind_of(name)
    return step.task_name in run.registry if kind is None else kind == "distributed"


def distribute(
    run: Run, name: str, step: StepFunction, arguments: dict[str, Any], rules: StepRules
) -> DistributedStep[Any]:
    """Write a registered step as a row of its own, unless the history has it already."""
    declared = step.result_type if rules.type is None else rules.type
    handle: DistributedStep[Any] = DistributedStep(run, name, run.serializer.shape(declared), rules)
    if run.history.find(name, "distributed") is None and not run.stopping:
        text = encode_arguments(run, step, arguments)
        claim, task = run.claim, run.task
        row = run.row(name, "distributed", None, None)
        new = (claim.execution_id, claim.run, name, task.queue, step.task_name, 0, text)
        run.begin_elsewhere(row, distributed=(new,))
    return handle


def encode_arguments(run: Run, step: StepFunction, arguments: dict[str, Any]) -> str:
    """A call's arguments as one JSON object."""
    parts: list[str] = []
    for name, value in arguments.items():
        declared = step.parameter_types.get(name, Any)
        what = f"argument {name!r} of step {step.step_name!r}"
        text = run.scheduler.encode(value, declared, what)
        parts.append(f'"{name}":{text}')
    return "{" + ",".join(parts) + "}"


def start_child(
    run: Run, name: str, task: Any, data: Any, id: str | None, queue: str | None, priority: int
) -> ChildHandle[Any]:
    """Schedule a child execution in the same commit as the step that records it."""
    scheduler = run.scheduler
    definition = scheduler.definition(task)
    child = child_id(run, name) if id is None else checked(id, "an execution id")
    if run.history.find(name, "child") is None and not run.stopping:
        new = NewExecution(
            id=child,
            task=definition[0],
            queue=run.task.queue if queue is None else checked(queue, "a queue's name"),
            priority=checked_priority(priority),
            input=scheduler.encode(data, definition[1], f"the input of {definition[0]!r}"),
            seed=new_seed(),
            chosen_id=True,
            parent=(run.claim.execution_id, run.claim.run, name),
        )
        run.begin_elsewhere(run.row(name, "child", None, None), children=(new,))
    return ChildHandle(run, name, child, run.serializer.shape(definition[2]))


def child_id(run: Run, name: str) -> str:
    """The id of a child for which none was chosen: the same on every replay."""
    space = f"{run.claim.execution_id}\n{run.claim.run}\n{run.seed}\n{name}"
    return str(uuid_utils.uuid5(uuid_utils.NAMESPACE_OID, space))


async def wait_all(
    run: Run, handles: Sequence[StepHandle[Any]], *, return_exceptions: bool = False
) -> list[Any]:
    """The results of all handles in order; raises the first failure as soon as there is one.

    With ``return_exceptions`` it waits for all and gives failures in their places.
    """
    run.branches.meet()
    for handle in handles:
        if handle.run is not run:
            raise DefinitionError(f"{handle!r} belongs to another run")
        begun = isinstance(handle, LocalStep) or run.history.kind_of(handle.name) is not None
        if not begun and not run.stopping:
            raise DefinitionError(
                f"{handle!r} belongs to an iteration of a loop that is finished, and its record has"
                " been dropped: await it within that iteration"
            )
    if not run.stopping:
        await run.catch_up()
    local = {h.name: h.task for h in handles if isinstance(h, LocalStep)}
    # Each once: a park that waited for one of them twice would wait for two ends.
    remote = list(dict.fromkeys(h.name for h in handles if not isinstance(h, LocalStep)))
    if local and remote:
        # Two branches: one stands at the closures, the other at the rows.
        await asyncio.gather(
            _wait_local(run, local, return_exceptions),
            _wait_remote(run, remote, return_exceptions),
        )
    elif local:
        await _wait_local(run, local, return_exceptions)
    elif remote:
        await _wait_remote(run, remote, return_exceptions)
    if not return_exceptions and (failed := run.history.failed(remote)) is not None:
        _outcome(run, next(h for h in handles if h.name == failed))
    return [_answer(run, handle, return_exceptions) for handle in handles]


async def _wait_local(
    run: Run, tasks: dict[str, asyncio.Task[Any]], return_exceptions: bool
) -> None:
    """Wait for closures. One that fails leaves the others running: their outcomes still count."""
    try:
        await asyncio.gather(*tasks.values(), return_exceptions=return_exceptions)
    except Exception:
        # In a replay all that failed fail at once: what was raised then is the first by record.
        if (failed := run.history.failed(tasks)) is not None:
            await tasks[failed]
        raise


async def _wait_remote(run: Run, names: list[str], return_exceptions: bool) -> None:
    history = run.history

    def over() -> bool:
        if not return_exceptions and history.failed(names) is not None:
            return True
        return not history.open(names)

    def pending() -> int:
        return len(history.open(names))

    while not over():
        await run.wait(Waiting(f"{len(names)} steps", over, None, pending))


def _answer(run: Run, handle: StepHandle[Any], return_exceptions: bool) -> Any:
    try:
        return _outcome(run, handle)
    except Exception as error:
        if return_exceptions:
            return error
        raise


def _outcome(run: Run, handle: StepHandle[Any]) -> Any:
    """What a handle's work gave; raises its failure."""
    if isinstance(handle, LocalStep):
        return handle.task.result()
    assert isinstance(handle, DistributedStep | ChildHandle)
    recorded = run.history.find(
        handle.name, "child" if isinstance(handle, ChildHandle) else "distributed"
    )
    assert recorded is not None
    return handle.outcome(recorded)
