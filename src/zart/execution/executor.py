"""Turns a claimed task into a running one, and its end into the entry that records it."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from zart.duration import describe, seconds
from zart.errors import DecodeError, EncodeError, PayloadTooLargeError
from zart.execution.attempts import attempt_row, attempts, recorded_value
from zart.execution.branches import Suspension
from zart.execution.context import TaskContext
from zart.execution.failure import (
    execution_failure,
    failed_steps,
    failure_of,
    is_own,
    write_failure,
)
from zart.execution.gate import called
from zart.execution.handler import TaskHandler
from zart.execution.history import FAILURE_RECORD, scope
from zart.execution.registry import TaskRegistry
from zart.execution.run import IN_PLACE, Run, current_run
from zart.execution.step import StepFunction
from zart.models import Claim, ClaimedTask, Failure, Outcome, Status
from zart.scheduler.entries import AttemptRow, Entry, Finish, FinishStep, Park, Receipt
from zart.scheduler.running import GRACE, Ledger, RunningTask, Stop

__all__ = ["HandlerExecutor"]

_log = logging.getLogger("zart.execution")


class HandlerExecutor:
    """Runs the handlers and the distributed steps of a registry."""

    def __init__(self, registry: TaskRegistry) -> None:
        self._registry = registry

    @property
    def names(self) -> Sequence[str]:
        return self._registry.names

    def start(self, task: ClaimedTask, ledger: Ledger) -> RunningTask:
        if task.claim.step:
            step = self._registry.find_step(task.task)
            assert step is not None
            return StepRun(task, ledger, step)
        handler = self._registry.find(task.task)
        assert handler is not None
        return HandlerRun(task, ledger, handler, self._registry)


class HandlerRun:
    """One run of an execution's handler."""

    def __init__(
        self,
        task: ClaimedTask,
        ledger: Ledger,
        handler: TaskHandler[Any, Any],
        registry: TaskRegistry,
    ) -> None:
        self.claim: Claim = task.claim
        self._task = task
        self._ledger = ledger
        self._handler = handler
        self._registry = registry
        self._run: Run | None = None
        self._why: Stop | None = None

    # -- what the worker asks -----------------------------------------------------------------

    @property
    def watching(self) -> int | None:
        return None if self._run is None else self._run.watching

    def wake(self, fresh: ClaimedTask) -> None:
        if self._run is not None:
            self._run.wake(fresh)

    def stop(self, why: Stop) -> None:
        self._why = why
        if self._run is not None:
            self._run.stop = why

    async def run(self) -> Entry | None:
        if not self._ledger.holds:
            await self._ledger.hold()  # the way here may have taken long
        if self._why is not None:
            return None
        run = self._run = Run(self._task, self._ledger, self._registry)
        current_run.set(run)
        failing = run.history.find(FAILURE_RECORD, "failure")
        run.swallows = self
        if self._task.crashes > self._ledger.config.max_crashes * (2 if failing else 1):
            return self._settle(run, self._crash_failure(), (), failing=failing is not None)
        if failing is None and self._is_late(run):
            return self._settle(run, self._timeout_failure(), (), failing=False)
        timer = None if failing or self._handler.timeout is None else self._set_deadline(run)
        try:
            return await self._attempt(run, failing.value if failing else None)
        except asyncio.CancelledError:
            if not run.expired or run.stopped:
                raise
            # While its last records were written: of that nobody else would make an end.
            return self._settle(run, self._timeout_failure(), (), failing=False)
        finally:
            if timer is not None:
                timer.cancel()
            run.ended = True  # what is left is not cut off by the handler's own code
            left_some = await run.branches.end()
            # Nothing goes round in a circle now, so that all of it is freed here and at once: what
            # is left to the garbage collector took it as long as the executions themselves.
            run.swallows = None
            current_run.set(None)
            if (left_some or run.expired) and not run.stopped:
                # What was cut off may have sent its outcome. Were that committed after the park, a
                # claim which had looked for the history just before would run the step once more;
                # and an end would keep it out, though it happened.
                await self._ledger.answered(self.claim)

    async def refused(self, entry: Entry, error: Exception) -> Entry | None:
        """Outcomes and waits may have gone along with the end: one of them fails the run."""
        run = self._run
        if run is None or not entry.steps:
            raise error
        run.send_again(entry.steps)
        try:
            await run.catch_up()
        except Suspension:
            return None
        except Exception as refusal:
            failing = run.history.find(FAILURE_RECORD, "failure")
            return await self._failed(run, refusal, failing.value if failing else None)
        return msgspec.structs.replace(entry, steps=())

    # -- one attempt --------------------------------------------------------------------------

    async def _attempt(self, run: Run, failed: str | None) -> Entry | None:
        output: str | None = None
        try:
            try:
                if failed is None:
                    context = self._context(run)
                    output = self._output(run, await self._handler.run(context, context.data))
                else:
                    await self._compensate(run, failed)
            finally:
                run.unwound()
            if run.branches.suspended is not None and not run.stopped:
                raise run.swallowed
            if run.stopped:
                return None
            if run.expired:
                return self._settle(run, self._timeout_failure(), (), failing=failed is not None)
            if run.in_flight:
                await run.catch_up()
        except Suspension:
            return await self._suspend(run, failed)
        except asyncio.CancelledError as error:
            return await self._cancelled(run, error, failed)
        except BaseException as error:
            if not is_own(error):
                raise
            return await self._raised(run, error, failed)
        return self._finish(run, output, failed)

    def _context(self, run: Run) -> TaskContext:
        shape = run.serializer.shape(self._handler.data_type)
        try:
            data = run.data = shape.decode(self._task.input)
        except DecodeError as error:
            raise DecodeError(
                f"the input of task {self._task.task!r} does not fit; it was scheduled by name with"
                f" another form, or by other code: {error}"
            ) from error
        return TaskContext(run, data)

    def _output(self, run: Run, result: Any) -> str:
        shape = run.serializer.shape(self._handler.output_type)
        return recorded_value(run, "task", self._task.task, shape, result)[0]

    async def _compensate(self, run: Run, failed: str) -> None:
        context = self._context(run)
        scope.set(f"{FAILURE_RECORD}/")
        run.history.pass_by()
        await self._handler.on_failure(context, msgspec.json.decode(failed, type=Failure))

    # -- its ends -----------------------------------------------------------------------------

    async def _suspend(self, run: Run, failed: str | None) -> Entry | None:
        if run.stopped:
            return None
        waits = run.branches.suspended
        if waits is None and run.expired:  # a durable call in its `finally` was refused
            return self._settle(run, self._timeout_failure(), (), failing=failed is not None)
        if waits is None:
            # A Suspension that no wait of this run raised: the claim was lost on the way.
            return None
        try:
            await run.catch_up()
        except Suspension:
            return None
        except Exception as error:
            return await self._failed(run, error, failed)
        due = [w.due_at for w in waits if w.due_at is not None]
        deadline = None if failed is not None else self._deadline_at()
        if deadline is not None:
            due.append(deadline)
        pending = [w.pending() for w in waits if w.pending is not None]
        park = Park(
            run.history.wake,
            self._task.attempt,
            min(due, default=None),
            min(pending) if pending and len(pending) == len(waits) else 0,
            ready=any(w.ready() for w in waits),  # ended by what was still under way
        )
        return run.entry(steps=run.park_rows, ending=park)

    async def _cancelled(self, run: Run, error: BaseException, failed: str | None) -> Entry | None:
        if run.stopped:
            return None
        if run.expired:
            return self._settle(run, self._timeout_failure(), (), failing=failed is not None)
        if run.branches.suspended is not None:
            return await self._suspend(run, failed)
        return await self._raised(run, error, failed)

    async def _raised(self, run: Run, error: BaseException, failed: str | None) -> Entry | None:
        if run.stopped or _only_suspensions(error):
            return await self._suspend(run, failed)
        if run.expired:
            return self._settle(run, self._timeout_failure(), (), failing=failed is not None)
        if run.branches.suspended is not None:
            swallowed = run.swallowed
            swallowed.__cause__ = error if error.args != swallowed.args else None
            error = swallowed
        return await self._failed(run, error, failed)

    async def _failed(self, run: Run, error: BaseException, failed: str | None) -> Entry | None:
        """The end of a failed attempt: another one later, or the end of the run."""
        try:
            await run.catch_up_at_last()
        except Suspension:
            return None
        failure = execution_failure(error, serializer=run.serializer)
        task, rules = self._task, self._handler.backoff()
        final = isinstance(error, DecodeError | EncodeError | PayloadTooLargeError)
        _log.warning(
            "execution %r of task %r: attempt %d%s failed: %s: %s",
            self.claim.execution_id,
            task.task,
            task.attempt,
            "" if failed is None else " of its on_failure",
            failure.type,
            failure.message,
        )
        attempt_row = self._attempt_row(run, failure, 0, failing=failed is not None)
        if final or not rules.allows(error, task.attempt):
            return self._settle(run, failure, (attempt_row,), failing=failed is not None)
        due = run.clock.now_at() + int(rules.delay(task.attempt) * 1_000_000)
        attempt_row = self._attempt_row(run, failure, due, failing=failed is not None)
        deadline = None if failed is not None else self._deadline_at()
        if deadline is not None and due >= deadline:
            late = self._timeout_failure(failure)
            attempt_row = self._attempt_row(run, failure, 0, failing=False)
            return self._settle(run, late, (attempt_row,), failing=False)
        again = set(failed_steps(error)) | run.cut_offs.left
        # A distributed step counts its attempts by itself: a new life begins at the first again.
        erased = {name for name in again if run.history.kind_of(name) == "distributed"}
        return run.entry(
            attempts=(attempt_row,),
            erased=tuple(erased),
            retried=tuple(again - erased),
            ending=Park(run.history.wake, task.attempt + 1, due, -1),
        )

    def _attempt_row(self, run: Run, failure: Failure, due: int, *, failing: bool) -> AttemptRow:
        number = self._task.attempt
        step = f"{FAILURE_RECORD}" if failing else ""
        return attempt_row(run, step, number, write_failure(failure), due, None, self._task.now_at)

    def _settle(
        self, run: Run, failure: Failure, rows: tuple[AttemptRow, ...], *, failing: bool
    ) -> Entry:
        """The end of a run that failed for good: compensate first, where the handler does."""
        text = write_failure(failure)
        if failing:
            recorded = run.history.find(FAILURE_RECORD, "failure")
            assert recorded is not None
            assert recorded.value is not None
            first = msgspec.json.decode(recorded.value, type=Failure)
            note = f"{first.message} (and its on_failure failed: {failure.type}: {failure.message})"
            text = write_failure(msgspec.structs.replace(first, message=note))
        elif self._handler.compensates:
            row = run.row(FAILURE_RECORD, "failure", Outcome.OK, text)
            park = Park(run.history.wake, 1, ready=True)
            return run.entry(steps=(*run.park_rows, row), attempts=rows, ending=park)
        entry = self._finish(run, None, text)
        return msgspec.structs.replace(entry, attempts=rows)

    def _finish(self, run: Run, output: str | None, failure: str | None) -> Entry:
        task = self._task
        status = Status.COMPLETED if failure is None else Status.FAILED
        return run.entry(
            ending=Finish(
                status,
                output,
                failure,
                task.attempt,
                task.crashes,
                task.started_at,
                task.parent,
                has_steps=run.has_steps and run.history.has_open(),
                wake_sequence=run.history.wake,
            )
        )

    def end_swallowed(self) -> Entry:
        run = self._run
        assert run is not None
        failing = run.history.kind_of(FAILURE_RECORD) is not None
        failure = failure_of(run.swallowed, serializer=run.serializer)
        return self._settle(run, failure, (), failing=failing)

    def _crash_failure(self) -> Failure:
        return Failure(
            "CrashLoop",
            f"its worker died {self._task.crashes} times while running it; it is not tried again."
            " Its timeline ends before the step that was running: see what that one does, mend what"
            " kills the process, and restart the execution",
        )

    def _timeout_failure(self, last: Failure | None = None) -> Failure:
        limit = self._handler.timeout
        assert limit is not None
        text = f"the execution did not end within {describe(seconds(limit))} of its first start"
        if last is None:
            return Failure("ExecutionTimedOut", text)
        return Failure(
            "ExecutionTimedOut",
            f"{text}: no time is left for another attempt; the last one failed with {last.type}:"
            f" {last.message}",
            last.traceback,
            step=last.step,
            step_type=last.step_type,
        )

    # -- the deadline -------------------------------------------------------------------------

    def _deadline_at(self) -> int | None:
        limit = self._handler.timeout
        if limit is None:
            return None
        return self._task.started_at + int(seconds(limit) * 1_000_000)

    def _is_late(self, run: Run) -> bool:
        """True when the deadline passed while nothing ran: then nothing is run any more."""
        deadline = self._deadline_at()
        return deadline is not None and run.clock.now_at() >= deadline

    def _set_deadline(self, run: Run) -> asyncio.TimerHandle:
        deadline = self._deadline_at()
        assert deadline is not None
        loop = asyncio.get_running_loop()
        root = asyncio.current_task()
        assert root is not None

        def expire() -> None:
            run.expired = True
            root.cancel()
            loop.call_later(GRACE, give_up)

        def give_up() -> None:
            entry = self._settle(run, self._timeout_failure(), (), failing=False)
            self._ledger.abandon(self.claim, entry)

        rest = (deadline - run.clock.now_at()) / 1_000_000
        return loop.call_later(max(rest, 0), expire)


def _only_suspensions(error: BaseException) -> bool:
    """True for a group, as a TaskGroup makes it, of nothing but suspended branches."""
    if isinstance(error, BaseExceptionGroup):
        _, rest = cast("BaseExceptionGroup[BaseException]", error).split(Suspension)
        return rest is None
    return isinstance(error, Suspension)


class StepRun:
    """One distributed step, run by whichever worker claimed it."""

    def __init__(self, task: ClaimedTask, ledger: Ledger, step: StepFunction) -> None:
        self.claim: Claim = task.claim
        self._task = task
        self._ledger = ledger
        self._step = step
        self._why: Stop | None = None
        self._park: Park | None = None
        self.clock = ledger.scheduler.backend.clock
        self.serializer = ledger.scheduler.serializer
        self.max_payload = ledger.scheduler.max_payload

    @property
    def watching(self) -> int | None:
        return None

    def wake(self, fresh: ClaimedTask) -> None:
        """Nothing wakes a step."""

    def stop(self, why: Stop) -> None:
        self._why = why

    @property
    def stopping(self) -> bool:
        return self._why is not None or self._ledger.loop_ends() > 0

    async def run(self) -> Entry | None:
        task, step = self._task, self._step
        name = self.claim.step
        started = task.started_at
        if task.crashes > self._ledger.config.max_crashes:
            failure = Failure("CrashLoop", f"its worker died {task.crashes} times while running it")
            return self.entry(ending=FinishStep(Outcome.FAILED, write_failure(failure), started))
        earlier = task.attempts[-1] if task.attempts else None
        try:
            await self.wait_to_begin()
            ended = await attempts(self, name, self._call, step.rules, earlier)
        except Suspension:
            if self._park is None:
                return None
            return self.entry(ending=self._park)
        except asyncio.CancelledError:
            if self.stopping:
                return None
            ended_text = write_failure(Failure("CancelledError", "the step cancelled itself"))
            return self.entry(ending=FinishStep(Outcome.CANCELLED, ended_text, started))
        return self.entry(
            attempts=ended.attempts, ending=FinishStep(ended.outcome, ended.text, started)
        )

    @property
    def may_begin(self) -> bool:
        return not self.stopping and self._ledger.holds

    async def wait_to_begin(self) -> None:
        """Return when the function may begin; unwinds when the step is another worker's."""
        while not self.may_begin:
            if not self.stopping:
                await self._ledger.hold()
            if self.stopping or not self._ledger.holds:
                raise Suspension

    async def _call(self) -> tuple[str, Any]:
        step = self._step
        named = self._arguments()
        bound = step.bound(named)
        call = functools.partial(step.function, *bound.args, **bound.kwargs)
        value = await called(call, (), step.is_async, self)
        shape = self.serializer.shape(step.result_type)
        return recorded_value(self, "step", self.claim.step, shape, value)

    def _arguments(self) -> dict[str, Any]:
        stored = msgspec.json.decode(self._task.input, type=dict[str, msgspec.Raw])
        types = self._step.parameter_types
        return {
            name: self.serializer.shape(types.get(name, Any)).decode(bytes(text).decode())
            for name, text in stored.items()
        }

    async def refused(self, entry: Entry, error: Exception) -> Entry | None:
        raise error

    # -- surroundings of the attempts ---------------------------------------------------------

    def entry(self, **parts: Any) -> Entry:
        return Entry(self.claim, **parts)

    @property
    def run_attempt(self) -> int:
        return 0

    async def record_attempt(self, row: AttemptRow) -> None:
        if await self._ledger.commit(self.entry(attempts=(row,))) is not Receipt.COMMITTED:
            self._why = self._why or Stop.LOST
            raise Suspension

    async def back_off(self, step: str, retry_at: int, number: int) -> None:
        rest = (retry_at - self.clock.now_at()) / 1_000_000
        if rest <= IN_PLACE:
            await asyncio.sleep(max(rest, 0))
            await self.wait_to_begin()  # the process may have stood still meanwhile
            return
        self._park = Park(self._task.wake_sequence, number, retry_at, -1)
        raise Suspension
