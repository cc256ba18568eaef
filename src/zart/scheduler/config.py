"""How a worker works."""

from __future__ import annotations

import msgspec

from zart.duration import Duration, seconds
from zart.scheduler.durable import DEFAULT_QUEUE

__all__ = ["WorkerConfig"]


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works; durations are timedeltas, seconds, or text.

    ``concurrency`` executions run at once; those that wait do not count. On shutdown running ones
    have ``shutdown_timeout`` to end. It works on ``queues`` alone. ``beat`` and ``lease`` are the
    heartbeat's pace and the time without one until the worker counts as dead. ``max_crashes`` is
    how often an execution may take its worker down before it is failed. ``poll_interval`` is the
    time between looks when no hint comes; None leaves it to the database: 1 s, or 25 to 50 ms where
    it has no hints to give.

    Raises `ValueError` for a ``concurrency`` below 1 and a ``lease`` of less than two beats, and
    `DurationError`.

    ::

        zart.WorkerConfig(concurrency=20, queues=("mail", "default"), shutdown_timeout="2m")
    """

    concurrency: int = 100
    shutdown_timeout: Duration = "30s"
    queues: tuple[str, ...] = (DEFAULT_QUEUE,)
    beat: Duration = "5s"
    lease: Duration = "15s"
    max_crashes: int = 5
    poll_interval: Duration | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {self.concurrency}")
        if seconds(self.lease, what="lease") < 2 * seconds(self.beat, what="beat"):
            raise ValueError("the lease must be at least two beats long")
