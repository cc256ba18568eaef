"""Workers' leases: registering, beating, and taking over from the dead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from zart.models import Claim, WorkerRecord, as_datetime
from zart.scheduler.sql.transaction import Transaction

__all__ = ["WorkerRow", "beat", "give_back", "orphans", "register", "take_over", "workers"]

_BATCH = 500
"""Tasks that are taken over in one transaction."""


class WorkerRow(msgspec.Struct, frozen=True):
    """A worker as it stands in the database; ``now_at`` is when it was read."""

    id: str
    host: str
    process: int
    concurrency: int
    session_lock: int | None
    locked_at: int | None
    started_at: int
    beat_at: int
    expires_at: int
    now_at: int

    @property
    def expired(self) -> bool:
        """True when no beat came within the lease."""
        return self.expires_at < self.now_at

    def record(self) -> WorkerRecord:
        """The same with times as datetimes, as a caller gets it."""
        return WorkerRecord(
            id=self.id,
            host=self.host,
            process=self.process,
            concurrency=self.concurrency,
            session_lock=self.session_lock,
            locked=as_datetime(self.locked_at),
            started=_moment(self.started_at),
            beat=_moment(self.beat_at),
            expires=_moment(self.expires_at),
            seen=_moment(self.now_at),
        )


def _moment(microseconds: int) -> datetime:
    moment = as_datetime(microseconds)
    assert moment is not None
    return moment


async def register(
    tx: Transaction,
    id: str,
    host: str,
    process: int,
    concurrency: int,
    lock: int | None,
    lease: int,
) -> None:
    """Enter a worker. An answer that was lost leaves the row there: then it is renewed."""
    if await beat(tx, id, lease, lock, relocked=True):
        return
    await tx.execute(
        "register_worker",
        id=id,
        host=host,
        process=process,
        concurrency=concurrency,
        session_lock=lock,
        lease=lease,
    )


async def beat(tx: Transaction, id: str, lease: int, lock: int | None, *, relocked: bool) -> bool:
    """Renew a worker's lease; False when it has been declared dead, or is being taken over from."""
    return bool(
        await tx.execute("beat", id=id, lease=lease, session_lock=lock, relocked=int(relocked))
    )


async def workers(tx: Transaction) -> list[WorkerRow]:
    """All workers that are entered."""
    return [WorkerRow(*row) for row in await tx.fetch("list_workers")]


async def orphans(tx: Transaction) -> list[str]:
    """Workers that own tasks and are not entered."""
    return [row[0] for row in await tx.fetch("orphaned_workers")]


async def take_over(
    tx: Transaction,
    worker: str,
    still_dead: Callable[[int, int, int], bool],
    *,
    crashed: bool = True,
) -> int:
    """Make a batch of a dead worker's tasks ready again; gives how many, 0 when none could be had.

    With the last of them its name is struck. ``crashed`` says whether its end counts as a crash of
    each. Each gets a new epoch, which fences the old owner out.

    The worker's row is locked and ``still_dead(expires_at, now, beat_at)`` asked again, so that a
    beat which came in between wins.

    Nothing is waited for where locked rows can be passed by: who takes over beats as well, and a
    task may be locked by a process that stands still. Such a task keeps its worker's name entered,
    as one that cannot beat any more.
    """
    rows = await tx.fetch("lock_worker", id=worker)
    if rows:
        if not still_dead(rows[0][1], rows[0][2], rows[0][3]):
            return 0
    elif await tx.fetch("entered_worker", id=worker):
        return 0
    found = await tx.fetch("some_worker_tasks", worker=worker, amount=_BATCH)
    if found:
        batch = sorted((r[0], r[1], r[2]) for r in found)
        await tx.execute("take_over_tasks", entries=batch, worker=worker, crashed=int(crashed))
    if not rows:
        return len(found)
    if len(found) < _BATCH and not await tx.fetch("any_worker_task", worker=worker):
        await tx.execute("delete_worker", id=worker)
    elif rows[0][1] > rows[0][3]:
        await tx.execute("condemn_worker", id=worker)
    return len(found)


async def give_back(tx: Transaction, worker: str, claims: Sequence[Claim]) -> None:
    """Hand claims back unfinished, as a stopping worker does; no crash is counted."""
    keys = sorted((c.execution_id, c.run, c.step, c.epoch) for c in claims)
    if keys:
        await tx.execute("give_back_tasks", entries=keys, worker=worker)
