"""SQLite: one writer thread, readers beside it, several processes on one file.

A transition is a coroutine that awaits nothing but its transaction, and here a statement answers
at once: so the writer's thread drives the whole coroutine by itself, with one hop to the thread
and back for each transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import apsw
import msgspec

from zart.scheduler.sql.database import (
    Database,
    Ddl,
    Hints,
    LockTakenError,
    Session,
    closing_session,
)
from zart.scheduler.sql.file_watch import FileWatch
from zart.scheduler.sql.frontier import Stretch
from zart.scheduler.sql.statements import Column, Statement, Statements, Tables, Wording
from zart.scheduler.sql.transaction import Row, Work

__all__ = ["SqliteDatabase"]

T = TypeVar("T")

BUSY_MILLISECONDS = 10_000
LOOK, SELDOM = 0.001, 1.0
"""Seconds between looks for other processes' commits right after the file was written to, and when
that is long ago."""
_OPEN = apsw.SQLITE_OPEN_READWRITE
_CREATE = _OPEN | apsw.SQLITE_OPEN_CREATE
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("zart.database")


def _rows(columns: Sequence[Column], place: Callable[[str], str]) -> str:
    fields = ", ".join(f"value ->> {i} AS {c.name}" for i, c in enumerate(columns))
    return f"(SELECT {fields} FROM json_each({place('')}))"


WORDING = Wording(
    name="sqlite",
    now="CAST(unixepoch('subsec') * 1000000 AS integer)",
    # The one writer holds the whole file: there is nothing to lock row by row.
    for_update="",
    for_share="",
    skip_locked="",
    placeholder=lambda number, _name: f"?{number}",
    rows=_rows,
    reuses_parameters=True,
    # The only join whose order SQLite keeps: once it has statistics it would read a table through
    # and look for its rows in the batch.
    join="CROSS JOIN",
)


class SqliteDatabase(Database):
    """One file, shared by the processes of one machine."""

    wording = WORDING
    driver_errors = (apsw.Error,)
    keeps_dead_entries = False
    poll_interval = 1.0

    def __init__(self, path: Path, tables: Tables, *, wording: Wording = WORDING) -> None:
        self.wording = wording
        super().__init__(tables, str(path))
        self.path = path
        self._writer = _Thread(path, self.statements, "zart-writer")
        self._reader = _Thread(path, self.statements, "zart-reader", write=False)
        self._turn = asyncio.Lock()
        self.hints: Hints | None = _FileHints(self._writer)

    async def _run_once(self, work: Work[T], attempt: int) -> T:
        return await self._writer.run(work, attempt)

    async def _read_once(self, work: Work[T], attempt: int) -> T:
        return await self._reader.run(work, attempt)

    def lacks_tables(self, error: BaseException) -> bool:
        return isinstance(error, apsw.SQLError) and str(error).startswith(
            ("no such table", "no such column", "SQLError: no such table")
        )

    def transient(self, error: BaseException) -> bool:
        return isinstance(
            error,
            apsw.BusyError
            | apsw.LockedError
            | apsw.FullError
            | apsw.IOError
            | apsw.ReadOnlyError
            | apsw.CantOpenError
            | apsw.ProtocolError,
        )

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session, None]:
        async with closing_session(_FileSession(self.path, self.statements)) as session:
            yield session

    async def exclusively(self, job: Callable[[Ddl], Awaitable[T]]) -> T:
        def run(connection: apsw.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = _drive(job(_SqliteDdl(connection)))
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            return result

        return await self._writer.call(run)

    @asynccontextmanager
    async def own_transaction(
        self, attempt: int
    ) -> AsyncGenerator[tuple[Any, apsw.Connection], None]:
        # One after the other, as there is one writer; and on a thread of their own: one that waits
        # for the lock must never have the thread that the lock's holder needs for its COMMIT.
        async with self._turn:
            with ThreadPoolExecutor(1, "zart-transaction") as thread:
                connection = await _to_its_end(thread, _open, self.path)
                try:
                    await _to_its_end(thread, connection.execute, "BEGIN IMMEDIATE")
                    yield _SqliteTransaction(connection, self.statements, attempt), connection
                    await _to_its_end(thread, connection.execute, "COMMIT")
                finally:
                    connection.close(True)

    def borrowed(self, connection: Any) -> _SqliteTransaction:
        if not isinstance(connection, apsw.Connection):
            raise TypeError(
                f"a SQLite scheduler joins the transaction of an apsw.Connection, not of a"
                f" {type(connection).__module__}.{type(connection).__qualname__}"
            )
        if not connection.in_transaction:
            raise ValueError("the connection has no open transaction to join: begin one first")
        return _SqliteTransaction(connection, self.statements, 1)

    async def close(self) -> None:
        await asyncio.gather(self._writer.close(), self._reader.close())


class _SqliteDdl:
    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str) -> None:
        self._connection.execute(sql)

    async def fetch(self, sql: str) -> list[Row]:
        return self._connection.execute(sql).fetchall()


class _SqliteTransaction:
    __slots__ = ("_connection", "_statements", "attempt")

    def __init__(self, connection: apsw.Connection, statements: Statements, attempt: int) -> None:
        self._connection = connection
        self._statements = statements
        self.attempt = attempt

    async def fetch(self, statement: str, /, **values: Any) -> list[Row]:
        named = self._statements[statement]
        if "names" in values:
            return self._ready_tasks(values["names"], values["amount"])
        return self._run(named, values).fetchall()

    def _run(self, named: Statement, values: Mapping[str, Any]) -> apsw.Cursor:
        cursor = self._connection.cursor()
        cursor.row_trace = None  # a user's connection may give its rows another form
        return cursor.execute(named.sql, named.bind(values, _spread))

    def _ready_tasks(self, stretches: Sequence[Stretch], amount: int) -> list[Row]:
        """The most urgent of all names: SQLite has no lateral join, so each probes the index.

        Taken name by name instead, a busy one would keep those after it waiting for ever.
        """
        named = self._statements["ready_tasks"]
        found: list[Row] = []
        for name in dict.fromkeys(stretch[:2] for stretch in stretches):
            values = {"queue": name[0], "task": name[1], "amount": amount}
            found += self._run(named, values).fetchall()
        return sorted(found, key=_by_urgency)[:amount]

    async def execute(self, statement: str, /, **values: Any) -> int:
        self._run(self._statements[statement], values).close()
        return self._connection.changes()


_by_urgency = itemgetter(5, 6, 0)
"""Priority, the time from which it has been ready, in whole milliseconds, and the id, which tells
in whose turn it was made."""


def _spread(rows: Sequence[Any]) -> Sequence[str]:
    return (_encode(rows).decode(),)


def _open(path: Path, *, create: bool = False) -> apsw.Connection:
    try:
        connection = apsw.Connection(str(path), flags=_CREATE if create else _OPEN)
    except apsw.CantOpenError as error:
        reason = ""
        if not path.parent.is_dir():
            reason = f": there is no folder {path.parent}"
        elif not create and not path.exists():
            reason = ": it is not there any more"
        raise apsw.CantOpenError(f"{path} cannot be opened{reason}") from error
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # A statement of many rows keeps what undoes it in a temporary file unless told otherwise,
    # which took a third of a flush's time.
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def _file(path: Path) -> tuple[int, int] | None:
    """Which file lies at a path now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


async def _to_its_end(thread: Executor, function: Callable[..., T], *arguments: Any) -> T:
    """Run in the thread; a caller that is cancelled waits for it all the same.

    A connection cannot be closed while a thread is at work on it: it would be left behind, and
    the writer's lock with it.
    """
    work = asyncio.get_running_loop().run_in_executor(thread, function, *arguments)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        work.exception()  # nobody else asks for it
        raise


def _drive(work: Awaitable[T]) -> T:
    coroutine = cast(Coroutine[Any, Any, T], work)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a transition awaited something else than its transaction")


def _transact(
    connection: apsw.Connection, statements: Statements, work: Work[T], attempt: int, begin: str
) -> T:
    connection.execute(begin)
    try:
        result: T = _drive(work(_SqliteTransaction(connection, statements, attempt)))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


_Job: TypeAlias = tuple[Callable[[apsw.Connection], Any], Callable[[Any, Any], None]]
"""What is to be done with the connection, and who gets the result or the error."""


class _Thread:
    """A thread with a connection of its own that runs what it is handed, in order."""

    def __init__(
        self, path: Path, statements: Statements, name: str, *, write: bool = True
    ) -> None:
        self._path = path
        self._statements = statements
        self._begin = "BEGIN IMMEDIATE" if write else "BEGIN"
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._started = False
        self._closed = False
        self._connection: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None
        """Which file the connection was opened on, the last time."""
        self._changed: Callable[[], None] | None = None
        self._version = 0
        self._next_look = 0.0
        self._written_at = 0.0
        self._watch: FileWatch | None = None
        self._has_tried = False

    async def watch(self, changed: Callable[[], None]) -> None:
        """Call back, in this thread, soon after another connection has committed.

        SQLite tells a connection of the commits of all others but not of its own, so the writer's
        own flushes ring nobody's bell.
        """
        self._changed = changed
        # A file that is locked is opened by the next job; until then polling goes on.
        with contextlib.suppress(apsw.BusyError):
            await self.call(lambda _: None)

    def unwatch(self) -> None:
        """Call back no more."""
        self._changed = None

    async def run(self, work: Work[T], attempt: int) -> T:
        result: T = await self.call(
            lambda connection: _transact(connection, self._statements, work, attempt, self._begin)
        )
        return result

    async def call(self, job: Callable[[apsw.Connection], T]) -> T:
        if self._closed:
            raise RuntimeError("the scheduler is closed")
        if not self._started:
            self._started = True
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def answer(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def reply(result: Any, error: BaseException | None) -> None:
            # A loop that has been closed raises this: nobody waits for the answer.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(answer, result, error)

        self._hand((job, reply))
        return await future

    async def close(self) -> None:
        self._closed = True
        if self._started:
            self._hand(None)
            await asyncio.to_thread(self._thread.join)

    def _hand(self, item: _Job | None) -> None:
        self._jobs.put(item)
        if (watch := self._watch) is not None:
            watch.ring()

    def _serve(self) -> None:
        while (item := self._next()) is not None:
            job, reply = item
            try:
                result = job(self._opened())
            except BaseException as error:
                reply(None, error)
            else:
                reply(result, None)
            del item, job, reply
        self._close()

    def _opened(self) -> apsw.Connection:
        """A connection to the file that lies there now.

        One that has been deleted, or another put in its place, would go on to take all that is
        written, and keep nothing of it.
        """
        file = _file(self._path)
        if self._connection is not None and file != self._file:
            _log.warning("%s has been deleted or replaced: it is opened anew", self._path)
            self._close()
        if self._connection is None:
            self._connection = _open(self._path, create=self._file is None)
            self._file = _file(self._path)
        return self._connection

    def _close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._connection is not None:
            self._connection.close(True)
        self._watch = self._connection = None
        self._has_tried = False

    def _next(self) -> _Job | None:
        """The next job; while it is watched, a look at the file whenever others may have committed.

        What is written is in the file some time before its commit can be seen, as long as a flush
        takes. So looks follow each write, at first often, then after a tenth of the time that has
        gone by since. One a second is for what is not told of.
        """
        # Kept for the length of a look: `unwatch` may come from the other thread in the middle.
        connection = self._connection
        while (changed := self._changed) is not None and connection is not None:
            if not self._has_tried:
                self._try_to_watch(connection)
            now = time.monotonic()
            pause = LOOK
            if self._watch is not None:
                pause = min(max(LOOK, (now - self._written_at) / 10), SELDOM)
            if now >= self._next_look:
                self._next_look = now + pause
                self._look(connection, changed)
            if self._watch is not None and pause > LOOK:
                if self._watch.wait(pause, lambda: not self._jobs.empty()):
                    self._written_at = self._next_look = time.monotonic()
                pause = 0
            with contextlib.suppress(queue.Empty):
                return self._jobs.get(timeout=pause)
        return self._jobs.get()

    def _try_to_watch(self, connection: apsw.Connection) -> None:
        """Where it cannot be had, a look follows the other."""
        self._has_tried = True
        with contextlib.suppress(apsw.Error, OSError):
            connection.pragma("data_version")  # with this the log is there
            self._watch = FileWatch(Path(connection.filename_wal))

    def _look(self, connection: apsw.Connection, changed: Callable[[], None]) -> None:
        """Read a counter in shared memory, which costs about two microseconds."""
        with contextlib.suppress(apsw.Error):  # polling goes on without it
            version = connection.pragma("data_version")
            if version != self._version:
                self._version = version
                changed()


class _FileSession:
    """A connection used by the thread that made it; its lock is a file lock beside the database."""

    def __init__(self, path: Path, statements: Statements) -> None:
        self._path = path
        self._statements = statements
        self._connection = _open(path)
        self._file = _file(path)
        self._held: list[tuple[int, Path]] = []

    @property
    def broken(self) -> bool:
        return _file(self._path) != self._file

    async def run(self, work: Work[T]) -> T:
        return _transact(self._connection, self._statements, work, 1, "BEGIN IMMEDIATE")

    async def hold(self, key: int) -> bool:
        file = self._lock_file(key)
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LockTakenError from None
        self._held.append((descriptor, file))
        return True

    async def released(self, keys: list[int]) -> set[int]:
        return {key for key in keys if self._released(key)}

    def _released(self, key: int) -> bool:
        try:
            descriptor = os.open(self._lock_file(key), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            os.close(descriptor)

    def _lock_file(self, key: int) -> Path:
        return self._path.with_name(f"{self._path.name}-worker-{key:x}")

    async def forget(self, key: int) -> None:
        self._lock_file(key).unlink(missing_ok=True)

    async def server_started_at(self) -> int:
        return 0

    async def close(self) -> None:
        for descriptor, file in self._held:
            file.unlink(missing_ok=True)
            os.close(descriptor)
        self._connection.close(True)


class _FileHints:
    """Hears of other processes' commits: the commit itself is the message."""

    def __init__(self, writer: _Thread) -> None:
        self._writer = writer

    async def start(self, received: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()

        def changed() -> None:
            # A loop that has been closed raises this: nobody listens any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(received, "")

        await self._writer.watch(changed)

    def send(self, message: str) -> None:
        """The commit is seen by the others as it is."""

    def note(self, message: str) -> None:
        """Nothing has to be told."""

    async def close(self) -> None:
        self._writer.unwatch()
