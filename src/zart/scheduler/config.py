"""How a worker works."""

from __future__ import annotations

from typing import Any

import msgspec

from zart.duration import Duration, seconds
from zart.scheduler.durable import DEFAULT_QUEUE
from zart.scheduler.naming import checked

__all__ = ["WorkerConfig"]

MOST = 2**31 - 1
"""What a column of the workers' table holds."""
QUICKEST = 0.001
"""Seconds between looks or beats at least: without a pause they take a core for themselves."""
SHORTEST_LEASE, LONGEST_LEASE = 0.5, 86_400.0
"""Seconds. The heart beats four times a second at most, and at two thirds of the lease a worker
stops writing: a shorter one is over before the next beat. And as long as a lease may last, the
executions of a dead worker stand still."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works; durations are timedeltas, seconds, or text.

    ``concurrency`` executions run at once; those that wait do not count. On shutdown running ones
    have ``shutdown_timeout`` to end. It works on ``queues`` alone. ``beat`` and ``lease`` are the
    heartbeat's pace and the time without one until the worker counts as dead. ``max_crashes`` is
    how often an execution may take its worker down before it is failed. ``poll_interval`` is the
    time between looks when no hint comes; None leaves it to the database: 1 s, or 25 to 50 ms where
    it has no hints to give.

    Raises `ValueError` for a number that is none or out of bounds, no queue, and a ``lease`` of
    less than two beats, less than 500 ms or more than a day; `TypeError` for ``queues="mail"``,
    `InvalidIdError` for a queue's name, and `DurationError`.

    ::

        zart.WorkerConfig(concurrency=20, queues=("mail", "default"), shutdown_timeout="2m")
    """

    concurrency: int = 100
    shutdown_timeout: Duration = "30s"
    queues: tuple[str, ...] | list[str] = (DEFAULT_QUEUE,)
    beat: Duration = "5s"
    lease: Duration = "15s"
    max_crashes: int = 5
    poll_interval: Duration | None = None

    def __post_init__(self) -> None:
        _whole("concurrency", self.concurrency, 1)
        _whole("max_crashes", self.max_crashes, 0)
        msgspec.structs.force_setattr(self, "queues", _queues(self.queues))
        seconds(self.shutdown_timeout, what="shutdown_timeout")
        if self.poll_interval is not None:
            _quickest("poll_interval", self.poll_interval)
        beat = _quickest("beat", self.beat)
        lease = seconds(self.lease, what="lease")
        if lease < 2 * beat:
            raise ValueError(
                f"the lease must be at least two beats long: lease {self.lease!r} with beat"
                f" {self.beat!r} takes a worker for dead that was late once"
            )
        if not SHORTEST_LEASE <= lease <= LONGEST_LEASE:
            raise ValueError(
                f"lease {self.lease!r} is out of bounds: at least 500 ms, as a shorter one is over"
                " before the next beat, and at most a day, as the executions of a dead worker may"
                " stand still for so long"
            )


def _whole(what: str, value: Any, least: int) -> None:
    if type(value) is not int or not least <= value <= MOST:
        raise ValueError(f"{what} is a whole number from {least} on, not {value!r:.80}")


def _quickest(what: str, value: Duration) -> float:
    length = seconds(value, what=what)
    if length < QUICKEST:
        raise ValueError(
            f"{what} {value!r} is no pause: the shortest is {QUICKEST * 1000:g} ms, which keeps a"
            " core busy already"
        )
    return length


def _queues(given: Any) -> tuple[str, ...]:
    if not isinstance(given, tuple | list | set | frozenset):
        form = f"({given!r:.80},)" if isinstance(given, str) else '("mail", "default")'
        raise TypeError(f"queues is a tuple of names, not {given!r:.80}: write queues={form}")
    names: list[Any] = list(given)  # pyright: ignore[reportUnknownArgumentType]
    if not names:
        raise ValueError(
            f"a worker without queues has nothing to do: leave queues out for {DEFAULT_QUEUE!r}"
        )
    return tuple(dict.fromkeys(checked(name, "a queue's name") for name in names))
