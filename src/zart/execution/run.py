"""One run of an execution in this process: its history, its branches, what it records."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol

from zart.errors import SuspensionSwallowedError
from zart.execution.attempts import Ended, attempts, recorded_value
from zart.execution.branches import Branches, Suspension, Waiting
from zart.execution.cut_off import RECORD, CutOffs
from zart.execution.failure import is_own, read_failure, step_error
from zart.execution.history import History
from zart.execution.outstanding import MOST, Outstanding
from zart.execution.registry import TaskRegistry
from zart.execution.step import StepRules
from zart.models import Claim, ClaimedTask, Outcome, Recorded
from zart.scheduler.entries import AttemptRow, Entry, Finish, Receipt, StepRow
from zart.scheduler.running import Ledger, Stop
from zart.serialization import Shape

__all__ = ["Run", "current_run"]

current_run: ContextVar[Run | None] = ContextVar("zart_run", default=None)
"""The run that the present code belongs to; None outside of one and inside a step's function."""

IN_PLACE = 1.0
"""Seconds up to which a backoff is waited for in place instead of suspending."""

TURNS = 2
"""Turns of the event loop that tasks have which the handler has just made, and those that they make
in the first, until a wait that seems to be alone suspends: they may be branches."""

UNWINDING = 30.0
"""Seconds that a suspended handler may take to unwind: its ``finally`` blocks may do real work."""

LARGE = 16 * 1024
"""Characters above which an outcome does not wait for others that could go in one entry with it: no
entry can be split, and a server refuses a long statement."""

_NOTHING = Outstanding()
"""What is outstanding of a run that has written nothing without waiting, as most have."""

_log = logging.getLogger("zart.execution")

_SWALLOWED = (
    "execution {!r} is being suspended, and its handler caught the signal for it and went on. The"
    " signal is a BaseException that must pass: in `except BaseException` or a bare `except`,"
    " re-raise it; catch Exception instead"
)


class Swallows(Protocol):
    """What knows how a run ends whose handler swallows the signal that unwinds it."""

    def end_swallowed(self) -> Entry:
        """The entry that fails it."""
        ...


class Run:
    """What a handler's durable calls go through."""

    def __init__(self, task: ClaimedTask, ledger: Ledger, registry: TaskRegistry) -> None:
        self.task = task
        self.claim: Claim = task.claim
        self.ledger = ledger
        self.registry = registry
        self.scheduler = ledger.scheduler
        self.clock = ledger.scheduler.backend.clock
        self.serializer = ledger.scheduler.serializer
        self.max_payload = ledger.scheduler.max_payload
        self.history = History(task)
        self._root = _here()
        self.branches: Branches = Branches(self._root, self)
        self.stop: Stop | None = None
        self._loop_ends = ledger.loop_ends
        self.expired = False
        # Tuples, which are nothing while they are empty: most runs need none of these.
        self.park_rows: tuple[StepRow, ...] = ()
        # What has ended left nothing to clear; the usual end is the shortest way to commit.
        self.has_steps = any(step.outcome is None for step in task.steps)
        self.data: Any = None
        self.along: tuple[StepRow, ...] = ()
        self.takings: tuple[tuple[int, str | None], ...] = ()
        """Events that waits have taken, to be recorded with the waits' rows among those along."""
        self._unsent: tuple[StepRow, ...] = ()
        """Outcomes of this turn of the loop: one entry after it, or part of what ends the run."""
        self._outstanding = _NOTHING
        self._refusals: dict[asyncio.Task[Any], int] | None = None
        """How often each branch was refused: many that unwind at once are none that goes on."""
        self._cut_offs: CutOffs | None = None
        self.ended = False
        self._unwinding: asyncio.TimerHandle | None = None
        self.swallows: Swallows | None = None

    # -- state --------------------------------------------------------------------------------

    @property
    def cut_offs(self) -> CutOffs:
        if self._cut_offs is None:
            self._cut_offs = CutOffs(self.claim, self.history, self.clock, self._root)
        return self._cut_offs

    @property
    def stopping(self) -> bool:
        if self.stop or self.expired or self.ended or self.branches.suspended is not None:
            return True
        return self._loop_ends() > 0

    @property
    def stopped(self) -> bool:
        """True when its worker has stopped it, or ends with its loop: another life goes on."""
        return self.stop is not None or self._loop_ends() > 0

    @property
    def seed(self) -> int:
        return self.task.seed

    def came_to_rest(self) -> None:
        """All branches wait: they are unwound now, or given up when that takes too long."""

        def give_up() -> None:
            self._abandon()
            self._root.cancel()

        self._unwinding = asyncio.get_running_loop().call_later(UNWINDING, give_up)

    def _abandon(self) -> None:
        """Leave the handler where it stands, which cannot be unwound."""
        entry = None if self.swallows is None else self.swallows.end_swallowed()
        self.ledger.abandon(self.claim, entry)

    def unwound(self) -> None:
        """The handler has ended, one way or another."""
        if self._unwinding is not None:
            self._unwinding.cancel()
        if not self.stopped:
            # From Python 3.13 on a TaskGroup asks once more for the cancellation that unwound it:
            # the next await, of what has still to be written, would be cut off.
            while self._root.cancelling():
                self._root.uncancel()

    async def refuse(self) -> None:
        """No durable call may run while the handler is unwound."""
        if self._refusals is None:
            self._refusals = {}
        here = _here()
        refusals = self._refusals[here] = self._refusals.get(here, 0) + 1
        await asyncio.sleep(0)
        if refusals > 20:
            # It catches everything and goes on for ever: leave it where it stands.
            self._abandon()
            await asyncio.get_running_loop().create_future()
        if refusals > 10:
            raise SuspensionSwallowedError(_SWALLOWED.format(self.claim.execution_id))
        # In a task that no one awaits any more asyncio need not complain of the signal.
        here.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise Suspension

    @property
    def swallowed(self) -> SuspensionSwallowedError:
        return SuspensionSwallowedError(_SWALLOWED.format(self.claim.execution_id))

    # -- writing ------------------------------------------------------------------------------

    def entry(self, *, steps: tuple[StepRow, ...] = (), **parts: Any) -> Entry:
        """An entry of this run; rows that could wait for company go along.

        So do, with its end, outcomes that nothing else has sent: nobody is left to wait for them.
        """
        if self.along:
            steps = (*self.along, *steps)
            self.along = ()
        if self.takings and not isinstance(parts.get("ending"), Finish):
            # An end clears the mailbox anyway.
            parts["taken"] = (*self.takings, *parts.get("taken", ()))
            self.takings = ()
        if self._unsent and "ending" in parts:
            steps = (*self._take_unsent(), *steps)
        return Entry(self.claim, steps, **parts)

    def _take_unsent(self) -> tuple[StepRow, ...]:
        rows, self._unsent = self._unsent, ()
        return rows

    def row(
        self,
        name: str,
        kind: str,
        outcome: str | None,
        value: str | None,
        *,
        due_at: int | None = None,
        started_at: int | None = None,
    ) -> StepRow:
        """A row of the timeline at the next position; the history knows it from here on."""
        position = self.history.append(name, kind, outcome, value, due_at)
        claim = self.claim
        return (
            claim.execution_id,
            claim.run,
            name,
            kind,
            position,
            outcome,
            value,
            due_at,
            started_at or self.clock.now_at(),
        )

    @property
    def run_attempt(self) -> int:
        return self.task.attempt

    async def write(self, entry: Entry) -> None:
        """Commit an entry; unwinds the handler when the claim is lost."""
        receipt = await self.ledger.commit(entry)
        if receipt is not Receipt.COMMITTED:
            self.lose()

    async def record_attempt(self, row: AttemptRow) -> None:
        """Commit a failed attempt, unless the step has outlived its loop's iteration."""
        if self.history.keeps(row[2]):
            await self.write(self.entry(attempts=(row,)))

    def lose(self) -> None:
        self.stop = self.stop or Stop.LOST
        raise Suspension

    def write_behind(self, receipt: asyncio.Future[Receipt]) -> None:
        """Let the next step, wait or the end wait for what is being written."""
        self._note(receipt)

    def _note(self, receipt: asyncio.Future[Receipt], outcomes: tuple[StepRow, ...] = ()) -> None:
        if self._outstanding is _NOTHING:
            self._outstanding = Outstanding()
        self._outstanding.add(receipt, outcomes)

    def _send_soon(self, row: StepRow, attempts: tuple[AttemptRow, ...]) -> None:
        """Write an outcome without waiting, together with those that follow in this turn."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent += (row,)
        if attempts or len(row[6] or "") > LARGE:
            self._send(attempts)

    def send_again(self, rows: tuple[StepRow, ...]) -> None:
        """Write outcomes that could not be written with the end, so that `catch_up` says why."""
        self._unsent = rows

    def _send(self, attempts: tuple[AttemptRow, ...] = ()) -> None:
        if self._unsent:
            rows = self._take_unsent()
            entry = self.entry(steps=rows, attempts=attempts)
            self._note(self.ledger.commit(entry), rows)

    def write_soon(self, entry: Entry, outcomes: tuple[StepRow, ...] = ()) -> None:
        """Commit an entry without waiting; the next step, wait or the end waits for it.

        ``outcomes`` are those of its rows that the handler goes on with meanwhile.
        """
        self._note(self.ledger.commit(entry), outcomes)

    def begin_elsewhere(self, row: StepRow, **parts: Any) -> None:
        """Write what others may begin at once: a distributed step or a child.

        It may come of outcomes that are not recorded yet, and two flushes overlap. So those go
        along: were they lost in a crash, a replay could have other ones, and what has begun would
        not fit them. That a row is written twice does no harm.
        """
        self.has_steps = True
        self._send()
        self.write_soon(self.entry(steps=(*self._outstanding.outcomes, row), **parts))

    async def catch_up(self) -> None:
        """Wait until all that has been written is committed."""
        self._send()
        if not await self._outstanding.committed():
            self.lose()

    async def catch_up_before(self, record_cancelled: Callable[[int], None]) -> None:
        """The same before a step begins, where its caller may be cut off as well as in it."""
        try:
            await self.catch_up()
        except asyncio.CancelledError:
            if self.cancels:
                record_cancelled(self.clock.now_at())
            raise

    async def catch_up_at_last(self) -> None:
        """The same for a run that has failed: what cannot be written will not be replayed."""
        while self.behind:
            try:
                await self.catch_up()
            except Exception as error:
                _log.warning(
                    "a step of execution %r could not be recorded: %s: %s",
                    self.claim.execution_id,
                    type(error).__name__,
                    error,
                )

    @property
    def behind(self) -> bool:
        """True while something that was written is not known to be committed."""
        return bool(self._outstanding.entries or self._unsent)

    @property
    def in_flight(self) -> bool:
        """True while something is on its way to the database that has not been answered."""
        return bool(self._outstanding.entries)

    # -- steps --------------------------------------------------------------------------------

    async def step(
        self,
        name: str,
        call: Callable[[], Awaitable[Any]],
        shape: Shape,
        rules: StepRules,
        kind: str = "step",
    ) -> Any:
        """A recorded step: what the history holds, or the outcome of running it now."""
        if self._cut_offs is not None:
            self._cut_offs.dealt_with()
        recorded = self.history.find(name, kind)
        if recorded is not None and recorded.outcome is not None:
            if recorded.outcome != Outcome.OK or self.history.cut_off:
                await self._cut_off_again(recorded)
            return self.replay(recorded, shape, rules)
        if self.behind and (not rules.idempotent or self._is_far_ahead()) and not self.stopping:
            await self.catch_up_before(functools.partial(self._record_cancelled, name, kind))
        if self.stopping or not self.ledger.holds:
            await self.wait_to_begin()
        started = self.clock.now_at()
        self.branches.enter()
        try:
            ended = await self._attempt(name, call, shape, rules, started)
            if self.history.keeps(name):
                row = self.row(name, kind, ended.outcome, ended.text, started_at=started)
                if rules.idempotent and ended.outcome == Outcome.OK:
                    self._send_soon(row, ended.attempts)
                else:
                    entry = self._ended(row, ended.attempts)
                    if await self.ledger.commit(entry) is not Receipt.COMMITTED:
                        self.lose()
        except asyncio.CancelledError:
            self._record_cancelled(name, kind, started)
            raise
        finally:
            self.branches.leave()
        return self.made(name, ended, rules)

    def _ended(self, row: StepRow, attempts: tuple[AttemptRow, ...]) -> Entry:
        """The usual entry, in the fewest calls."""
        if self.along or self.takings:
            return self.entry(steps=(row,), attempts=attempts)
        return Entry(self.claim, (row,), attempts)

    def _is_far_ahead(self) -> bool:
        return len(self._unsent) + self._outstanding.ahead >= MOST

    @property
    def may_begin(self) -> bool:
        return not self.stopping and self.ledger.holds

    async def wait_to_begin(self) -> None:
        """Return when a step may begin, which has effects; not where the handler is unwound.

        Both are asked again after each wait: the lease that holds then may be one under a new name,
        and the claim another worker's.
        """
        while not self.may_begin:
            if self.stopping:
                await self.refuse()
            await self.ledger.hold()
            if not self.stopping and not self.ledger.holds:
                raise Suspension  # its worker has stopped for good

    @property
    def cancels(self) -> bool:
        """True when the present task is cancelled, and by the handler's own code."""
        return not self.stopping and _here().cancelling() > 0

    def _record_cancelled(self, name: str, kind: str, started: int) -> None:
        """What the handler's own code has cancelled: a replay must take the same branch."""
        if self.stopping or not self.history.keeps(name):
            return
        ended = self.history.find(name, kind)
        if ended is not None and ended.outcome is not None:
            # Its commit is under way, or done.
            if self.cancels:
                self.record_cut_off(name, self._row_again(ended, started))
            return
        text = None
        if self.cancels:
            text = RECORD
            self.cut_offs.note(name)
        row = self.row(name, kind, Outcome.CANCELLED, text, started_at=started)
        self.write_soon(self.entry(steps=(row,)), (row,))

    def record_cut_off(self, name: str, *rows: StepRow) -> None:
        """Record that the handler was cut off at a step that has ended, or may have.

        ``rows`` go along: where nothing is known of their own commit, it is known of this one.
        """
        rows = (*rows, self.cut_offs.row(name))
        self.write_soon(self.entry(steps=rows), rows)

    def _row_again(self, recorded: Recorded, started: int) -> StepRow:
        claim, name, kind = self.claim, recorded.name, recorded.kind
        outcome, value = recorded.outcome, recorded.value
        key = (claim.execution_id, claim.run, name)
        return (*key, kind, recorded.position, outcome, value, None, started)

    async def _cut_off_again(self, recorded: Recorded) -> None:
        name, cancelled = recorded.name, recorded.outcome == Outcome.CANCELLED
        if name in self.history.cut_off or (cancelled and recorded.value == RECORD):
            await self.cut_off_again(name)

    async def cut_off_again(self, name: str) -> NoReturn:
        """Wait to be cut off at a step, as the first life was."""
        if self.stopping:
            await self.refuse()
        await self.cut_offs.again(name)

    async def _attempt(
        self,
        name: str,
        call: Callable[[], Awaitable[Any]],
        shape: Shape,
        rules: StepRules,
        started: int,
    ) -> Ended:
        earlier = self.history.attempt(name)
        raised: tuple[BaseException, int] | None = None
        if earlier is None and rules.timeout is None:
            # The usual case in the fewest calls; what is raised goes the usual way.
            token = current_run.set(None)
            try:
                try:
                    value = await call()
                finally:
                    current_run.reset(token)
                text, value = recorded_value(self, "step", name, shape, value)
            except BaseException as error:
                if not is_own(error):
                    raise
                raised = error, started
            else:
                return Ended(Outcome.OK, text, value)
        once = functools.partial(self._once, name, call, shape)
        return await attempts(self, name, once, rules, earlier, raised=raised)

    async def _once(
        self, name: str, call: Callable[[], Awaitable[Any]], shape: Shape
    ) -> tuple[str, Any]:
        token = current_run.set(None)
        try:
            value = await call()
        finally:
            current_run.reset(token)
        return recorded_value(self, "step", name, shape, value)

    def replay(self, recorded: Recorded, shape: Shape, rules: StepRules) -> Any:
        """The recorded outcome again: the same value, or the same exception."""
        self.branches.meet()
        if recorded.outcome == Outcome.OK:
            return shape.decode(recorded.value or "null", "the result of step", recorded.name)
        if recorded.outcome == Outcome.CANCELLED and recorded.kind != "distributed":
            raise asyncio.CancelledError
        assert recorded.outcome is not None
        raise self._error(recorded.name, recorded.outcome, recorded.value, rules)

    def made(self, name: str, ended: Ended, rules: StepRules) -> Any:
        """What has just been recorded: the value, or the exception."""
        if ended.outcome == Outcome.OK:
            return ended.value
        raise self._error(name, ended.outcome, ended.text, rules)

    def _error(self, name: str, outcome: str, text: str | None, rules: StepRules) -> BaseException:
        failure = read_failure(text or '{"type":"","message":""}')
        return step_error(name, outcome, failure, rules.raises, self.serializer)

    # -- waits --------------------------------------------------------------------------------

    async def wait(self, waiting: Waiting, row: StepRow | None = None) -> None:
        """Wait durably: in place while siblings are busy, suspended when all wait.

        ``row`` records the wait; it goes with the park, or at once when the wait is in place.
        """
        if self.stopping:
            await self.refuse()
        if self._cut_offs is not None:
            self._cut_offs.dealt_with()
        if waiting.ready():
            if row is not None:
                self.write_soon(self.entry(steps=(row,)))
            return
        if await self._is_alone():
            if row is not None:
                self.park_rows += (row,)
            self.branches.suspend(waiting)
        if row is not None:
            self.has_steps = True
            self.write_soon(self.entry(steps=(row,)))
        timer = self._alarm(waiting)
        if not self.branches.waits:
            self.ledger.look()
        try:
            await self.branches.wait(waiting)
        finally:
            if timer:
                timer.pop().cancel()

    async def _is_alone(self) -> bool:
        for _ in range(TURNS):
            if not self.branches.alone:
                return False
            await asyncio.sleep(0)
        return self.branches.alone

    def _alarm(self, waiting: Waiting) -> list[asyncio.TimerHandle]:
        """Look at the branches when a wait is due; a little later again if that was early."""
        timer: list[asyncio.TimerHandle] = []
        if waiting.due_at is None:
            return timer
        loop = asyncio.get_running_loop()
        due_at = waiting.due_at

        def rest() -> float:
            return max((due_at - self.clock.now_at()) / 1_000_000, 0.001)

        def due() -> None:
            if waiting.ready():
                self.branches.look()
            else:
                timer[:] = [loop.call_later(rest(), due)]

        timer.append(loop.call_later(rest(), due))
        return timer

    async def back_off(self, step: str, retry_at: int, number: int) -> None:
        """Wait for the next attempt at a step."""
        rest = (retry_at - self.clock.now_at()) / 1_000_000
        if rest > IN_PLACE:
            self.branches.leave()
            try:
                await self.wait(Waiting(step, lambda: self.clock.now_at() >= retry_at, retry_at))
            finally:
                self.branches.enter()
        elif rest > 0:
            await asyncio.sleep(rest)
        await self.wait_to_begin()  # the process may have stood still meanwhile

    def wake(self, fresh: ClaimedTask) -> None:
        """Take in what has come for a run that waits in place.

        Not once it is being suspended: its park must say which wake its waits have seen, so that
        what comes while it unwinds makes it ready again.
        """
        if self.branches.suspended is not None:
            return
        self.history.refresh(fresh)
        self.branches.look()

    @property
    def watching(self) -> int | None:
        return self.history.wake if self.branches.waits else None

    async def refresh(self) -> None:
        """Read what has come since the history was read, for every branch that waits in place."""
        for fresh in await self.scheduler.backend.refresh([self.claim]):
            self.history.refresh(fresh)
            self.branches.look()
            return
        self.lose()


def _here() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
