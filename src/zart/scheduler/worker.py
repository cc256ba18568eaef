"""The worker: claims what it has handlers for, runs it, and writes what comes of it.

It knows nothing of handlers: an `Executor`, one floor above, turns a claimed task into a
`RunningTask`, which gives back the entry that ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from zart.duration import Duration, seconds
from zart.errors import DatabaseUnavailableError
from zart.models import Claim, Claimed, ClaimedTask, new_stride
from zart.scheduler.config import WorkerConfig
from zart.scheduler.durable import DurableScheduler
from zart.scheduler.entries import (
    Entry,
    Finish,
    FinishStep,
    NewExecution,
    Park,
    Receipt,
    characters,
)
from zart.scheduler.journal import Journal
from zart.scheduler.lease import Lease, LeaseTimes
from zart.scheduler.running import GRACE, Executor, RunningTask, Stop
from zart.scheduler.strays import Strays
from zart.scheduler.suspects import Suspects
from zart.scheduler.wakeup import DUE, READY, WOKEN, Bell

__all__ = ["Worker"]

_log = logging.getLogger("zart.worker")

CLAIM_BATCH = 128
RECONCILE = 1.0
"""Seconds between looks at whether running tasks are still this worker's."""
GATHER = 0.005
"""Seconds from a hint at sleepers until they are looked at; a sleep may end so much late. Where
every commit of another process is such a hint, what can be claimed goes first."""


class Worker:
    """Runs executions of one scheduler until it is stopped.

    Used as an async context manager beside the caller's own code, or with `run` for a process of
    its own::

        await Worker(scheduler, registry).run()        # until SIGTERM or SIGINT
    """

    def __init__(
        self,
        scheduler: DurableScheduler,
        executor: Executor,
        config: WorkerConfig | None = None,
    ) -> None:
        _checked(scheduler, config)
        self.scheduler = scheduler
        self.config = config or WorkerConfig()
        self._executor = executor
        self._backend = scheduler.backend
        self._journal: Journal[Entry, Receipt] = Journal(self._write, length=characters)
        self._running: dict[Claim, tuple[RunningTask, asyncio.Task[None]]] = {}
        self._executions: set[str] = set()
        """The ids of the running, but for distributed steps."""
        self._ending: set[Claim] = set()
        self._lost: set[Claim] = set()
        """Those of the running that are not this worker's any more, and have been told so."""
        self._strays = Strays()
        self._suspects = Suspects(self.config.max_crashes)
        self._reserved = 0
        """Slots kept for executions that are being inserted as this worker's."""
        self._served: frozenset[tuple[str, str]] = frozenset()
        self._clear_at = -math.inf
        """When a claim last began that left nothing behind; never, once something has come."""
        self._left_some = False
        """Whether the last claim left tasks that were ready."""
        self._claiming = False
        """Whether a claim is under way."""
        self._abandoned: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._hurried = False
        self._closed = False
        self._stopped = asyncio.Event()
        self._duties: list[asyncio.Task[None]] = []
        self.loop_ends: Callable[[], int] = int
        self._ready = Bell()
        self._slot = Bell()
        self._woken = Bell()
        self._time = Bell()
        times = LeaseTimes(seconds(self.config.beat), seconds(self.config.lease))
        self._lease = Lease(
            self._backend,
            times,
            self.config.concurrency,
            on_lost=self._lost_lease,
            on_takeover=self._ready.ring,
        )
        self._serves_as = self._lease.worker
        """Whose the running tasks are: after a death the lease has its new name before they end."""

    @property
    def id(self) -> str:
        """The worker's name in the database; another one after it was declared dead."""
        return self._lease.worker

    @property
    def _interval(self) -> float:
        interval = self.config.poll_interval
        return self._backend.poll_interval if interval is None else seconds(interval)

    @property
    def running(self) -> int:
        """How many executions and steps are at work here now."""
        return len(self._running)

    # -- start and stop -----------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to claim and run; returns when the worker is entered.

        Waits for a database that is not up yet, as every operation does; raises
        `DatabaseUnavailableError` when it does not come, and `MigrationError` when its tables are
        not there or a newer zart has changed them beyond what this one can work with. A worker
        that has been stopped, also while it waits here, raises `RuntimeError`.
        """
        await self._backend.check_tables()
        self._refuse_if_stopped()
        try:
            await self._lease.start()
            wakeups = self.scheduler.wakeups
            await wakeups.attach(self._ready, READY)
            await wakeups.attach(self._woken, WOKEN)
            await wakeups.attach(self._time, DUE)
            self._refuse_if_stopped()
            self.scheduler.intake.add(self)
        except BaseException:
            self._let_go()
            raise
        self._duties = [
            asyncio.create_task(self._claim_on(), name="zart-claim"),
            asyncio.create_task(self._keep_time(), name="zart-time"),
            asyncio.create_task(self._reconcile_on(), name="zart-reconcile"),
            asyncio.create_task(_idle(), name="zart-sentinel"),
        ]
        # `stop` cancels this one last: whatever runs has been told of its stop by then. And nobody
        # else does: a task that waits with a time-out is cancelled by that, too, for a moment.
        self.loop_ends = self._duties[-1].cancelling
        _log.info("worker %s started: %s", self.id, ", ".join(self._executor.names) or "no tasks")

    def _refuse_if_stopped(self) -> None:
        if self._stopping:
            raise RuntimeError("the worker has been stopped: make a new one")

    async def stop(self, *, timeout: Duration | None = None) -> None:
        """Stop claiming, let running tasks end within the timeout, give the rest back at once.

        ``timeout`` is the config's ``shutdown_timeout`` unless given. What is given back is run
        again by another worker, its recorded steps kept. A second call waits for the first.
        """
        limit = seconds(self.config.shutdown_timeout if timeout is None else timeout)
        if self._stopping:
            await self._stopped.wait()
            return
        self._stopping = True
        try:
            if self._duties:
                await self._wind_down(limit)
            await self._lease.stop()
        except BaseException:
            self._let_go()
            raise
        finally:
            self._stopped.set()
        _log.info("worker %s stopped", self.id)

    async def _wind_down(self, limit: float) -> None:
        claiming, keeping_time, reconciling, sentinel = self._duties
        # The claim in flight is let finish: what it has claimed is given back below.
        self._ready.ring()
        self._slot.ring()
        await claiming
        keeping_time.cancel()
        if self._running or self._reserved:
            _log.info("worker %s stops: %d tasks have %g s to end", self.id, self.running, limit)
            await self._let_end(time.monotonic() + limit)
        self._closed = True
        await self._give_back_rest()
        reconciling.cancel()
        sentinel.cancel()
        await asyncio.gather(keeping_time, reconciling, sentinel, return_exceptions=True)
        await self._journal.drain()
        self._detach()

    def _let_go(self) -> None:
        """End without waiting for anything, as one who is cancelled must.

        What is not given back shows as claimed by a worker that is not entered: others take it.
        """
        for duty in self._duties:
            duty.cancel()
        for running, task in list(self._running.values()):
            running.stop(Stop.SHUTDOWN)
            task.cancel()
        self._detach()
        self._lease.let_go()

    def _detach(self) -> None:
        self.scheduler.intake.remove(self)
        for bell in (self._ready, self._woken, self._time):
            self.scheduler.wakeups.detach(bell)

    async def _let_end(self, deadline: float) -> None:
        while (self._running or self._reserved) and not self._hurried:
            rest = deadline - time.monotonic()
            if rest <= 0:
                return
            await self._slot.wait(rest)

    def _hurry(self) -> None:
        self._hurried = True
        self._slot.ring()

    async def _give_back_rest(self) -> None:
        rest = dict(self._running)
        if not rest:
            return
        # Their ends are on the way, and are written before the worker has stopped.
        ending = set(self._ending)
        for running, task in rest.values():
            running.stop(Stop.SHUTDOWN)
            task.cancel()
        _, stubborn = await asyncio.wait([task for _, task in rest.values()], timeout=2)
        for task in stubborn:
            self._abandoned.add(task)
            task.add_done_callback(self._abandoned.discard)
        try:
            await self._backend.give_back(self.id, [c for c in rest if c not in ending])
        except Exception as error:
            _log.warning("%d tasks could not be given back: %s", len(rest), error)
        for claim in rest:
            self._release(claim)  # nobody waits for the end of those that are abandoned
        self.scheduler.wakeups.ring(READY)
        _log.info("worker %s gave %d tasks back", self.id, len(rest))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT; a second signal gives running tasks back at once.

        For the main thread. Raises what `start` raises.
        """
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()

        def signalled() -> None:
            if asked.is_set():
                self._hurry()
            asked.set()

        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, signalled)
        starting = asyncio.create_task(self.start())
        waiting = asyncio.create_task(asked.wait())
        try:
            await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await waiting
        finally:
            # It may still wait for its database: a signal ends that, too.
            starting.cancel()
            waiting.cancel()
            try:
                await asyncio.gather(starting, waiting, return_exceptions=True)
            finally:
                try:
                    await self.stop()
                finally:
                    for number in signals:
                        loop.remove_signal_handler(number)

    # -- claiming -----------------------------------------------------------------------------

    async def _claim_on(self) -> None:
        while not self._stopping:
            free = self.config.concurrency - len(self._running) - self._reserved
            if free <= 0:
                await self._slot.wait(1.0)
            elif not self.holds:
                await self._ready.wait(0.1)
                self._clear_at = -math.inf  # what rang is to be looked for
            elif (rest := self._clear_at + max(self._interval, RECONCILE) - time.monotonic()) > 0:
                # Nothing was left; what comes now rings, or the look of `_keep_time` finds it.
                if await self._ready.wait(rest):
                    self._clear_at = -math.inf
            else:
                await self._claim(min(free, CLAIM_BATCH))

    def _names(self) -> list[tuple[str, str]]:
        return [(queue, name) for queue in self.config.queues for name in self._executor.names]

    async def _claim(self, amount: int) -> None:
        names = self._names()
        self._served = frozenset(names)
        worker, began = self.id, time.monotonic()
        if not self._reserved:
            self._strays.all_answered()
        try:
            tasks = await self._ask(worker, names, amount) if names else Claimed()
            while not self.holds:  # the answer may have come after a long stand-still
                if self._stopping:
                    return  # what has been claimed shows as an orphan's: others take it
                await asyncio.sleep(0.02)
            if worker != self.id:
                return  # declared dead meanwhile; its claims are taken over as orphans
            self._clear_at = -math.inf if tasks.more else began
            if tasks.more and not self._left_some:
                # A claim beside this one has passed by the task that was looked at and left.
                self.scheduler.wakeups.tell(READY)
            self._left_some = tasks.more
            await self._start_all(worker, tasks)
        except Exception as error:
            _log.error("claiming failed, trying again: %s: %s", type(error).__name__, error)
            await asyncio.sleep(1.0)

    async def _ask(self, worker: str, names: list[tuple[str, str]], amount: int) -> Claimed:
        self._claiming = True
        try:
            return await self._backend.claim(worker, names, amount)
        finally:
            self._claiming = False

    async def _start_all(self, worker: str, tasks: Sequence[ClaimedTask]) -> None:
        """Start what has been claimed; what is left out of it is a stray, or an orphan."""
        admitted, put_off = self._suspects.admit(tasks)
        if put_off:
            # Before the one admitted begins: should it kill this process, they are not beside it.
            now_at = self._backend.clock.now_at()
            parks = [self.commit(Suspects.parked(task, now_at)) for task in put_off]
            await asyncio.gather(*parks, return_exceptions=True)
        for task in admitted:
            if worker == self.id and self._strays.wanted(task.claim):
                self._start(task)
            else:  # the answers took so long that they are given back, or will be taken over
                self._suspects.ended(task.claim)

    def _start(self, claimed: ClaimedTask) -> None:
        claim = claimed.claim
        try:
            running = self._executor.start(claimed, self)
        except Exception:
            # As a stray it is given back in a while, and tried again here or elsewhere.
            _log.exception("execution %r could not be begun", claim.execution_id)
            self._suspects.ended(claim)
            return
        task = asyncio.create_task(self._run(running))
        self._running[claim] = (running, task)
        if not claim.step:
            self._executions.add(claim.execution_id)

    # -- executions that begin as soon as they are scheduled ----------------------------------

    def reserve(self, new: NewExecution) -> NewExecution | None:
        """Keep a slot for an execution and give it as claimed by this worker; None if it may not.

        Not before others that may be ready: only when a claim has lately found nothing left, and
        nothing has told of anything since.
        """
        if (
            self._ready.rings
            or time.monotonic() - self._clear_at > 2 * max(self._interval, RECONCILE)
            or len(self._running) + self._reserved >= self.config.concurrency
            or (new.queue, new.task) not in self._served
            or not new.starts_at_once
            or self._stopping
            or not self.holds
        ):
            return None
        self._reserved += 1
        return msgspec.structs.replace(new, claimed=(self.id, new_stride()))

    def begin(self, new: NewExecution) -> None:
        """Begin an execution whose insertion as claimed is committed."""
        self._reserved -= 1
        assert new.claimed is not None
        worker, epoch = new.claimed
        claim = Claim(new.id, 1, "", epoch)
        if worker != self.id or self._closed or not self._strays.wanted(claim):
            self._slot.ring()
            return  # declared dead, gone, or so late that it was given back: it is others' now
        now_at = self._backend.clock.now_at()
        self._start(
            ClaimedTask(claim, new.task, new.queue, new.input, new.seed, 1, 0, 0, now_at, now_at)
        )

    def release(self) -> None:
        """Free the slot that was kept for an execution that is not begun here."""
        self._reserved -= 1
        self._slot.ring()

    def runs(self, execution_id: str) -> bool:
        """True while an execution is at work here: its end will be told of."""
        return execution_id in self._executions

    # -- running ------------------------------------------------------------------------------

    async def _run(self, running: RunningTask) -> None:
        claim = running.claim
        try:
            entry = await running.run()
            while entry is not None:
                self._ending.add(claim)
                try:
                    await self.commit(entry)
                    break
                except Exception as error:
                    entry = await running.refused(entry, error)
        except asyncio.CancelledError:
            _log.debug("task %s was stopped", claim)
        except Exception:
            # A fault of zart or of what is below it; the task is another worker's after the lease.
            _log.exception("execution %r could not be run to an end", claim.execution_id)
            with contextlib.suppress(Exception):
                await asyncio.sleep(1.0)
                await self._backend.give_back(self.id, [claim])
                self._ready.ring()
        finally:
            self._release(claim)

    def _release(self, claim: Claim) -> None:
        self._running.pop(claim, None)
        if not claim.step:
            self._executions.discard(claim.execution_id)
        self._ending.discard(claim)
        self._lost.discard(claim)
        self._suspects.ended(claim)
        self._slot.ring()

    def abandon(self, claim: Claim, entry: Entry | None) -> None:
        """Give up on a handler that cannot be stopped: write its end and free its slot."""
        if claim not in self._running or claim in self._ending:
            return  # it has ended after all
        _, task = self._running[claim]
        _log.error(
            "the handler of execution %r does not end although it was stopped: it catches"
            " BaseException or CancelledError and goes on, or blocks. Its slot is freed; what it"
            " still does is not recorded",
            claim.execution_id,
        )
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)
        if entry is not None:
            self.commit(entry)
        self._release(claim)

    @property
    def abandoned(self) -> int:
        """How many handlers were given up that have not ended; they end with the process."""
        return len(self._abandoned)

    async def hold(self) -> None:
        """Return once the lease is known to hold: before that no effect may begin.

        A worker that has been stopped for long (a paused machine) finds out here, before the side
        effects of its next step and not only after them.
        """
        while not self.holds and not self._lease_stopped():  # noqa: ASYNC110 it lives in a thread
            await asyncio.sleep(0.02)

    @property
    def holds(self) -> bool:
        """True while the lease is known to hold, under the name that running tasks belong to."""
        return self._lease.valid and self._lease.worker == self._serves_as

    # -- writing ------------------------------------------------------------------------------

    def commit(self, entry: Entry) -> asyncio.Future[Receipt]:
        """Write an entry with whatever else is pending; rings whom it concerns when it is done."""
        return self._journal.submit(entry)

    def look(self) -> None:
        """Look soon for what has come for the running tasks."""
        self._woken.ring()

    async def answered(self, claim: Claim) -> None:
        """Return once nothing that was to be written under a claim is under way any more."""
        await self._journal.answered(lambda entry: entry.claim == claim)

    async def _write(self, entries: Sequence[Entry]) -> list[Receipt]:
        worker = self.id
        while True:
            while not self._lease.valid:
                # Not to write while the lease may be another's: a beat or the loss decides.
                await asyncio.sleep(0.05)
                if self.id != worker or self._lease_stopped():
                    return [Receipt.FENCED] * len(entries)
            try:
                receipts = await self._backend.commit(entries)
            except DatabaseUnavailableError as error:
                # No step is lost for that: the entries wait here as long as the lease may be kept.
                _log.warning("%d entries wait to be written: %s", len(entries), error)
            else:
                for entry, receipt in zip(entries, receipts, strict=True):
                    if entry.ending is not None or entry.distributed or entry.children:
                        self._tell(entry, receipt)
                return receipts

    def _lease_stopped(self) -> bool:
        return self._stopping and not self._running

    def _tell(self, entry: Entry, receipt: Receipt) -> None:
        """Ring whom it concerns."""
        wakeups = self.scheduler.wakeups
        if receipt is Receipt.READY:
            wakeups.ring(READY)
        if receipt is not Receipt.COMMITTED:
            return
        match entry.ending:
            case Finish() as end:
                self.scheduler.ended(entry.claim.execution_id, end.status, end.output, end.failure)
                if end.parent is not None:
                    wakeups.ring(READY, WOKEN)
            case FinishStep():
                wakeups.ring(READY, WOKEN)
            case Park(due_at=due) if due is not None:
                self._time.ring()
            case _:
                pass
        if entry.distributed or entry.children:
            wakeups.ring(READY)

    # -- time ---------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        """Make sleepers ready when their time has come, and see whether anything is ready."""
        while not self._stopping:
            pause = self._interval
            try:
                full = len(self._running) >= self.config.concurrency
                # A claim that is under way looks at what is ready by itself.
                names = () if full or self._claiming else self._names()
                if full:  # what becomes ready now may be told of by nothing
                    self._clear_at = -math.inf
                woken, due, ready = await self._backend.ready_due(500, names)
                if woken:
                    self.scheduler.wakeups.ring(READY)
                elif ready:
                    self._ready.ring()
                if due is not None:
                    pause = min(pause, max(due, 0.001))
            except Exception as error:
                _log.error("looking for due sleepers failed: %s: %s", type(error).__name__, error)
                pause = max(pause, 1.0)  # a lasting error is not to fill the log
            if await self._time.wait(pause):
                await asyncio.sleep(GATHER)

    # -- what others do to running tasks ------------------------------------------------------

    async def _reconcile_on(self) -> None:
        quiet = 0
        while True:
            # Hints ring for a run that waits in place; without them it is looked for more often.
            in_place = any(r.watching is not None for r, _ in self._running.values())
            await self._woken.wait(min(RECONCILE, self._interval) if in_place else RECONCILE)
            quiet = 0 if self._running or self._strays else quiet + 1
            if quiet % 10:
                continue  # nothing is at work: a claim whose answer was lost can wait a little
            try:
                await self._reconcile()
            except Exception as error:
                _log.warning("looking at running tasks failed: %s: %s", type(error).__name__, error)
            await asyncio.sleep(0.01)

    async def _reconcile(self) -> None:
        """Stop what is not this worker's any more, give back what it does not know, pass wakes."""
        worker = self.id
        before = dict(self._running)
        owned = await self._backend.owned(worker)
        if worker != self.id:
            return
        for claim in before.keys() - owned.keys():
            self._stop_lost(claim)
        await self._give_back_strays(worker, owned.keys() - before.keys() - self._running.keys())
        await self._pass_wakes_on(owned)

    async def _give_back_strays(self, worker: str, strays: set[Claim]) -> None:
        """Claims that were committed while their answer was lost: no run of them is here."""
        if again := self._strays.to_give_back(strays):
            await self._backend.give_back(worker, again)
            self._ready.ring()

    def _stop_lost(self, claim: Claim) -> None:
        found = self._running.get(claim)
        # Once: a handler that has been stopped may be at work in its `finally`.
        if found is not None and claim not in self._ending and claim not in self._lost:
            self._lost.add(claim)
            running, task = found
            running.stop(Stop.LOST)
            task.cancel()
            asyncio.get_running_loop().call_later(GRACE, self.abandon, claim, None)

    async def _pass_wakes_on(self, owned: dict[Claim, int]) -> None:
        moved = [
            claim
            for claim, (running, _) in self._running.items()
            if running.watching is not None and owned.get(claim, -1) > running.watching
        ]
        if not moved:
            return
        for fresh in await self._backend.refresh(moved):
            if found := self._running.get(fresh.claim):
                found[0].wake(fresh)

    def _lost_lease(self, _dead: str) -> None:
        """The worker has been declared dead: whatever runs here runs elsewhere by now."""
        for claim in list(self._running):
            self._stop_lost(claim)
        self._serves_as = self._lease.worker
        self._ready.ring()


def _checked(scheduler: Any, config: Any) -> None:
    if not isinstance(scheduler, DurableScheduler):
        raise TypeError(
            f"a worker works for a scheduler, not for {scheduler!r:.80}: give what"
            " `async with zart.connect(url) as scheduler` gives"
        )
    if not isinstance(config, WorkerConfig | None):
        raise TypeError(f"a worker's config is a zart.WorkerConfig(...), not {config!r:.80}")


async def _idle() -> None:
    """Do nothing until cancelled."""
    await asyncio.get_running_loop().create_future()
