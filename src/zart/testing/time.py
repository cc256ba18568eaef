"""Time, in tests: waits are over without waiting for them."""

from __future__ import annotations

from zart.duration import Duration, seconds
from zart.scheduler.durable import DurableScheduler
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.transaction import Transaction
from zart.scheduler.wakeup import DUE, READY

__all__ = ["pass_time"]


async def pass_time(scheduler: DurableScheduler, duration: Duration) -> None:
    """Let a duration pass for all that waits: sleeps, event time-outs, backoffs, deadlines.

    What is recorded as due at a time becomes due that much earlier. Leases are left alone, and
    so is what a running handler waits for in place.

    ::

        await pass_time(scheduler, "25h")
    """
    backend = scheduler.backend
    if not isinstance(backend, SqlEngine):
        raise TypeError(f"pass_time knows zart's own databases, not {type(backend).__name__}")
    shift = int(seconds(duration, what="duration") * 1_000_000)

    async def work(tx: Transaction) -> None:
        for statement in ("shift_tasks", "shift_steps", "shift_attempts"):
            await tx.execute(statement, shift=shift)

    await backend.database.run(work)
    scheduler.wakeups.ring(READY)
    scheduler.wakeups.ring(DUE)
