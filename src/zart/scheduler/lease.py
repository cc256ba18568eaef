"""A worker's lease: the heartbeat, and the watch over other workers' hearts.

Both live in a thread with a connection of their own, so that a blocked event loop or a step
longer than the lease does not look like death. These rules keep the living alive and the dead dead:

- At two thirds of the lease without a beat the worker stops writing by itself; it goes on when a
  beat succeeds, and starts anew under another name when it has been declared dead.
- A worker whose session has ended has no lock any more: until the first beat of its next one it
  begins nothing and writes nothing.
- A worker is dead when its lease has run out, or sooner, when the lock that its heartbeat's
  session holds is free twice, half a second apart.
- A server that has just restarted has freed every lock and let leases run out: locks taken before
  its start mean nothing, and leases count only when it has been up for as long as one.
- A database's clock that is set by more than a third of a lease is like a restart: leases count
  when one has passed since; and one that was set back does not put a death off for hours, since a
  beat that is not renewed for a lease's time is none. A worker that has only just begun to look
  cannot know: it gives the others time for one beat.
- After a lost connection the server may be another one (a standby that was promoted), which never
  had the locks: on a session that is not the worker's first, a free lock means death only when it
  was seen held there, or when the others have had a beat's time to come back; leases, a lease's.
- What kept this worker's session waiting for longer than a beat (a file that was locked) may have
  kept the others' beats waiting: after such an answer, too, leases count when one has passed.
- A server that answers and takes no writes (read-only, full) is no reason to let go of the lock:
  its worker would look dead to one whose own beat is due only when that is over. The session is
  kept for a beat's time, in which every other worker meets the same; whoever has met it judges
  the others anew, as after a lost connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from zart.errors import ZartError
from zart.scheduler.protocol import LeaseSession, Scheduler
from zart.scheduler.sql.database import LockTakenError, Session
from zart.scheduler.sql.transitions.lease import WorkerRow

__all__ = ["Lease", "LeaseTimes"]

_log = logging.getLogger("zart.lease")
T = TypeVar("T")

TICK = 0.25
EVERY = 30.0
"""Seconds until the log says again that the heartbeat cannot reach the database."""
PAUSE = 0.02
"""Seconds until the first new try of a broken session; later ones wait longer."""
LONGEST_PAUSE = 2.0
"""Seconds between such tries at most; less when leases are short, since others wait for one."""
PATIENCE = 30.0
"""Seconds that a start tries again."""
WATCH = 0.5
BLOCKED = 2.0
"""Seconds that the event loop may go without a turn before a warning shows where it stands."""


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _clock() -> float:
    """Seconds, of a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(_CLOCK)


class LeaseTimes(msgspec.Struct, frozen=True):
    """Seconds between beats, and without one until a worker counts as dead."""

    beat: float = 5.0
    lease: float = 15.0


class Lease:
    """Keeps one worker entered as alive, and takes over from those that are not."""

    def __init__(
        self,
        backend: Scheduler,
        times: LeaseTimes,
        concurrency: int,
        *,
        on_lost: Callable[[str], None],
        on_takeover: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._times = times
        self._concurrency = concurrency
        self._on_lost = on_lost
        self._on_takeover = on_takeover
        self._name = ""
        self._lock = 0
        self._registered = False
        self._served = False
        self._strikes_out = True
        self._valid_until = 0.0
        self._suspects: dict[int, float] = {}
        self._beats: dict[str, tuple[int, float]] = {}
        self._clock_ahead: float | None = None
        self._seen_held: set[int] = set()
        self._back_since: float | None = None
        self._holds = False
        self._next_beat = 0.0
        self._next_watch = 0.0
        self._next_orphans = 0.0
        self._next_word = 0.0
        self._turn_at = 0.0
        self._asked_at = 0.0
        self._warned = False
        self._main_thread = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._thread_loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ended = False
        self._ready: asyncio.Future[None] | None = None
        self._rename()

    @property
    def worker(self) -> str:
        """The worker's present name; a new one after it has been declared dead."""
        return self._name

    @property
    def valid(self) -> bool:
        """True while the worker may write."""
        return _clock() < self._valid_until

    async def start(self) -> None:
        """Enter the worker; returns when it is entered, or raises why it cannot be."""
        self._loop = asyncio.get_running_loop()
        self._main_thread = threading.get_ident()
        self._ready = self._loop.create_future()
        self._thread = threading.Thread(target=self._live, name="zart-lease", daemon=True)
        self._thread.start()
        await self._ready

    async def stop(self, *, strike_out: bool = True) -> None:
        """Strike the worker out and end the thread; without the first it looks like a death."""
        if self._thread is None:
            return
        self._strikes_out = strike_out
        thread = self._thread
        self.let_go()
        await asyncio.to_thread(thread.join, 10)

    def let_go(self) -> None:
        """Let the thread end by itself, without waiting for it."""
        if self._thread is None:
            return
        self._thread = None
        self._valid_until = 0.0
        self._ended = True
        if self._ready is not None and not self._ready.done():  # its start is waited for still
            self._ready.set_exception(RuntimeError("the worker was stopped before it had started"))
        if self._thread_loop is not None and self._stop is not None:
            try:
                self._thread_loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError:
                _log.debug("the lease thread has ended already")

    def _rename(self) -> None:
        self._name = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = secrets.randbits(62)

    # -- in the thread ------------------------------------------------------------------------

    def _live(self) -> None:
        asyncio.run(self._keep_alive())

    async def _keep_alive(self) -> None:
        self._thread_loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self._ended:
            return
        delay, began = PAUSE, _clock()
        while not self._stop.is_set():
            self._served = False
            try:
                async with contextlib.AsyncExitStack() as stack:
                    session = self._backend.lease_session()
                    line = await self._ask(stack.enter_async_context(session))
                    try:
                        await self._serve(line)
                    finally:
                        if self._holds:
                            # The lock goes with the session, and others may take that for a death.
                            # The first beat of the next session tells that it was none.
                            self._valid_until = 0.0
                delay = PAUSE
            except Exception as error:
                waits = not isinstance(error, ZartError) and _clock() - began < PATIENCE
                if not self._registered and not waits and self._tell_start(error):
                    return
                if self._served:
                    delay = PAUSE  # the lock is free meanwhile, and others look for that
                self._tell_trouble(error, worth=delay > 0.5)
                await self._pause(delay)
                delay = min(delay * 2, LONGEST_PAUSE, self._times.lease / 6)

    def _tell_trouble(self, error: Exception, *, worth: bool) -> None:
        worth = worth and _clock() >= self._next_word
        if worth:
            self._next_word = _clock() + EVERY
        _log.log(
            logging.WARNING if worth else logging.DEBUG,
            "worker %s cannot reach the database for its heartbeat: %s: %s",
            self._name,
            type(error).__name__,
            error,
        )

    async def _hold(self, line: LeaseSession) -> bool:
        """Hold the worker's lock: the one that others know of, where it can be had.

        A server that has not heard of the old session's end has given it to that one still, maybe
        for hours: then it is a new one.
        """
        try:
            return await self._ask(line.session.hold(self._lock))
        except LockTakenError:
            self._lock = secrets.randbits(62)
            return await self._ask(line.session.hold(self._lock))

    async def _ask(self, asked: Awaitable[T]) -> T:
        """What the session answers, soon enough that another one can still bring the next beat.

        What kept it waiting for longer than a beat has kept the others' beats waiting, too.
        """
        sent = _clock()
        try:
            async with asyncio.timeout(max(1.0, self._times.lease / 3)):
                return await asked
        finally:
            if (now := _clock()) - sent > self._times.beat:
                self._back_since = now

    def _tell_start(self, error: Exception | None) -> bool:
        """Answer `start`; True when it was still waiting."""
        ready = self._ready
        if ready is None or ready.done():
            return False

        def tell() -> None:
            if not ready.done():
                if error is None:
                    ready.set_result(None)
                else:
                    ready.set_exception(error)

        self._call(tell)
        return True

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            _log.debug("the worker's event loop is closed")

    async def _serve(self, line: LeaseSession) -> None:
        """Beat and watch on one session until it breaks or the worker stops."""
        assert self._stop is not None
        self._trust_nothing_seen(again=self._registered)
        self._holds = await self._hold(line)
        self._next_beat, refused_since = 0.0, 0.0
        self._next_watch = max(self._next_watch, _clock() + TICK)
        while not self._stop.is_set():
            now = _clock()
            try:
                await self._beat_when_due(line)
                if now >= self._next_watch:
                    self._next_watch = now + WATCH
                    await self._watch(line)
                refused_since = 0.0
            except Exception as error:
                refused_since = refused_since or now
                lasting = now - refused_since > self._times.beat
                needed = self._holds and self._registered
                if lasting or not needed or _unanswered(error, line.session):
                    raise
                self._trust_nothing_seen(again=True)
                self._tell_trouble(error, worth=now - refused_since > 0.5)
            await self._pause(TICK)
            if line.session.broken:
                return
            self._look_at_loop()
        if self._strikes_out:
            await self._ask(line.remove(self._name))

    def _trust_nothing_seen(self, *, again: bool) -> None:
        """Begin to judge others anew; ``again`` after a time in which they could not be seen."""
        self._back_since = _clock() if again else None
        self._seen_held.clear()
        self._suspects.clear()

    async def _pause(self, seconds: float) -> None:
        assert self._stop is not None
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _beat_when_due(self, line: LeaseSession) -> None:
        if (now := _clock()) >= self._next_beat:
            await self._beat(line, self._holds, relocked=not self._served)
            if not self._served and self._back_since is not None:
                self._back_since = _clock()  # what held this beat up, held the others' up
            self._served, self._next_beat = True, now + self._times.beat

    async def _beat(self, line: LeaseSession, holds: bool, *, relocked: bool) -> None:
        sent = _clock()
        lease = int(self._times.lease * 1_000_000)
        lock = self._lock if holds else None
        if self._registered:
            if await self._ask(line.beat(self._name, lease, lock, relocked=relocked)):
                self._beaten(sent)
                return
            dead = self._name
            _log.warning(
                "worker %s was declared dead (no beat within %g s): its executions have been taken"
                " over; it stops their handlers and goes on under a new name",
                dead,
                self._times.lease,
            )
            self._valid_until = 0.0
            self._rename()
            if holds:
                holds = await self._hold(line)
                lock = self._lock
            self._call(self._on_lost, dead)
        process = os.getpid()
        await self._ask(
            line.register(self._name, socket.gethostname(), process, self._concurrency, lock, lease)
        )
        self._registered = True
        self._beaten(sent)
        self._tell_start(None)

    def _beaten(self, sent: float) -> None:
        """The worker may write from the time when its beat was sent."""
        self._valid_until = sent + self._times.lease * 2 / 3

    async def _watch(self, line: LeaseSession) -> None:
        rows = await self._ask(line.workers())
        if rows:
            self._look_at_clock(rows[0].now_at)
        rows = [row for row in rows if row.id != self._name]
        silent = self._silent(rows)
        await self._take_over_silent(line, silent)
        await self._take_over_unlocked(line, [row for row in rows if row not in silent])
        now = _clock()
        if now >= self._next_orphans:
            self._next_orphans = now + self._times.lease / 3
            for worker in await self._ask(line.orphans()):
                if worker != self._name:
                    # Claimed after its worker had been declared dead, by a process that lived:
                    # the death was counted then, and is no crash of these.
                    await self._take_over(line, worker, None, "it is not entered", crashed=False)

    def _look_at_clock(self, now_at: int) -> None:
        """Let leases count again only after one, when the database's clock has been set.

        Forward, it makes every lease look run out, until the next beat of each.
        """
        before, self._clock_ahead = self._clock_ahead, now_at / 1_000_000 - _clock()
        if before is not None and abs(self._clock_ahead - before) > self._times.lease / 3:
            _log.warning("the database's clock was set by %+.1f s", self._clock_ahead - before)
            self._back_since = _clock()

    def _silent(self, rows: list[WorkerRow]) -> list[WorkerRow]:
        """Those whose lease has run out: by the database's clock, or before this one's eyes.

        A clock that was set back would put the end of a lease off for hours. One that was set
        forward just before this worker's first look shows at the next beat of each that lives.
        """
        now = _clock()
        beat = self._times.beat + WATCH
        seen, self._beats = self._beats, {}
        for row in rows:
            beat_at, since = seen.get(row.id, (None, now))
            self._beats[row.id] = (row.beat_at, since if beat_at == row.beat_at else now)
        return [
            row
            for row in rows
            if now - self._beats[row.id][1]
            > (beat if row.expired else (row.expires_at - row.beat_at) / 1_000_000)
        ]

    async def _take_over_silent(self, line: LeaseSession, rows: list[WorkerRow]) -> None:
        """Those whose lease has run out, once the server has been up for one lease."""
        if not rows or not self._back_for(self._times.lease):
            return
        started = await self._ask(line.session.server_started_at())
        if rows[0].now_at - started < self._times.lease * 1_000_000:
            return
        for row in rows:
            dead = await self._take_over(line, row.id, row.beat_at, "its lease has run out")
            if dead and row.session_lock is not None:
                await line.session.forget(row.session_lock)

    async def _take_over_unlocked(self, line: LeaseSession, rows: list[WorkerRow]) -> None:
        """Those whose session lock is free for the second time."""
        locks = {row.session_lock: row for row in rows if row.session_lock is not None}
        free = await self._ask(line.session.released(list(locks))) if locks else set[int]()
        self._seen_held |= locks.keys() - free
        if not self._back_for(self._times.beat):
            free &= self._seen_held
        now = _clock()
        self._suspects = {key: self._suspects.get(key, now) for key in free}
        dead = [locks[key] for key, since in self._suspects.items() if now - since >= WATCH * 0.9]
        if not dead:
            return
        started = await self._ask(line.session.server_started_at())
        for row in dead:
            if row.locked_at is not None and row.locked_at > started:
                assert row.session_lock is not None
                if await self._take_over(line, row.id, row.beat_at, "its session is gone"):
                    await line.session.forget(row.session_lock)

    def _back_for(self, seconds: float) -> bool:
        """True on a worker's first session, and once a later one has lasted so long."""
        return self._back_since is None or _clock() - self._back_since >= seconds

    async def _take_over(
        self,
        line: LeaseSession,
        worker: str,
        beat_at: int | None,
        why: str,
        *,
        crashed: bool = True,
    ) -> bool:
        """Take what can be had of a worker's tasks; False when it turns out to be alive."""
        dead = False

        def still_dead(expires_at: int, now_at: int, last_beat_at: int) -> bool:
            nonlocal dead
            dead = expires_at < now_at or last_beat_at == beat_at
            return dead

        noticed = _clock()
        total = 0
        # Batch by batch, so that the first are at work again while the rest is taken over, and
        # that however many there are, this worker's own beat is not late.
        while amount := await self._ask(line.take_over(worker, still_dead, crashed=crashed)):
            total += amount
            self._call(self._on_takeover)
            await self._beat_when_due(line)
        if total:
            took = _clock() - noticed
            _log.warning(
                "worker %s is dead (%s): took over %d tasks in %.2f s", worker, why, total, took
            )
        return dead

    # -- a loop that has no turn --------------------------------------------------------------

    def _look_at_loop(self) -> None:
        """Say where the worker's event loop stands when it has had no turn for long."""
        now = _clock()
        if self._turn_at >= self._asked_at:  # it has had one since it was last asked to
            self._warned = False
            self._asked_at = now
            self._call(self._had_turn)
            return
        blocked = now - self._asked_at
        if blocked >= BLOCKED and not self._warned:
            self._warned = True
            # Documented and meant for this, in spite of its underscore.
            frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
            frame = frames.get(self._main_thread)
            where = "".join(traceback.format_stack(frame)[-4:]) if frame else "unknown"
            _log.warning(
                "the event loop of worker %s has been blocked for %.1f s; its lease is kept, but"
                " nothing else runs: move blocking calls into plain def steps. It stands at:\n%s",
                self._name,
                blocked,
                where,
            )

    def _had_turn(self) -> None:
        self._turn_at = _clock()


def _unanswered(error: Exception, session: Session) -> bool:
    """Whether a session is of no more use: it has ended, or an answer is still on its way."""
    return session.broken or isinstance(error, OSError)
