"""PostgreSQL 13 and later, by asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import asyncpg
import msgspec

from zart.scheduler.sql.database import (
    ANSWER_TIMEOUT,
    POOL_TIMEOUT,
    Database,
    Ddl,
    Hints,
    LockTakenError,
    PoolExhaustedError,
    Session,
    closing_session,
)
from zart.scheduler.sql.hosts import address
from zart.scheduler.sql.postgres_server import PLANNER, WITHOUT_LISTEN, PostgresServer
from zart.scheduler.sql.statements import Column, Statements, Tables, Wording
from zart.scheduler.sql.transaction import Note, Row, Work
from zart.scheduler.sql.transitions.schedule import RaceLostError

__all__ = ["PLANNER", "PostgresDatabase"]

T = TypeVar("T")
_driver: Any = asyncpg
"""It carries no types; what it gives is checked where it enters our own."""
_log = logging.getLogger("zart.database")

# Batches travel as array literals in text: asyncpg's own encoding of a list looks up two abstract
# classes for each element, which took a third of a flush's time.
_TYPES = {"text": "text::text[]", "int": "text::bigint[]"}
_encode = msgspec.json.Encoder().encode
AT_HAND = 2
"""Connections that are kept at hand between two statements: to take one from the pool and to give
it back starts two tasks, and takes as long as a third of a statement."""
SLOW = 0.05
"""Seconds of work on a connection after which it plans its statements anew. A plan that was made
while the tables held a row, and the server knew it, reads all that there is by now for each row of
a batch, and is kept until the next ANALYZE. To plan a statement again takes half a millisecond."""
CANCELLING = 1.0
"""Seconds that a server may take to cancel a statement."""
_LONG = 86_400.0
"""Seconds that a change of tables may take: an index on a large one does."""

_USUAL_PLANNER = "; ".join(f"SET LOCAL {setting} = on" for setting in PLANNER)

_NO_PRIMARY = _driver.exceptions.TargetServerAttributeNotMatched

_TRANSIENT = (
    "40",  # serialization failure, deadlock
    "08",  # connection
    "53",  # disk full, out of memory, too many connections
    "57",  # shutdown, crash, cannot connect now, query cancelled
    "58",  # the server's own file system
    "25006",  # read-only: a failover is under way
    "25P03",  # this process stood still too long in the middle of a transaction
    "55P03",  # lock not available
    "XX000",  # a pooler's word for a lost server
)


# A batch has to be what tables are probed with, never the other way around. The planner takes a
# limit that it cannot know for a tenth of the rows: of the ten that it expects of an array, one.
# With more than one, while a table was small, it chose to read all of its index for each row of the
# batch, and kept that plan when the table had grown.
_FEW = "LIMIT (SELECT 1000000000)"


def _rows(columns: Sequence[Column], place: Callable[[str], str]) -> str:
    arrays = ", ".join(f"{place(c.name)}::{_TYPES[c.type]}" for c in columns)
    names = ", ".join(c.name for c in columns)
    return f"(SELECT * FROM unnest({arrays}) AS u({names}) {_FEW})"


WORDING = Wording(
    name="postgres",
    now="(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
    for_update="FOR UPDATE OF t",
    # A claim's update conflicts with FOR SHARE; FOR KEY SHARE would let it through.
    for_share="FOR SHARE OF t",
    skip_locked="FOR UPDATE SKIP LOCKED",
    placeholder=lambda number, _name: f"${number}",
    rows=_rows,
    reuses_parameters=True,
)


class PostgresDatabase(Database):
    """One PostgreSQL database."""

    wording = WORDING
    driver_errors = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
    poll_interval = 1.0

    def __init__(
        self,
        url: str,
        tables: Tables,
        *,
        connections: int = 8,
        answer_timeout: float = ANSWER_TIMEOUT,
        options: Mapping[str, Any] | None = None,
        wording: Wording = WORDING,
    ) -> None:
        given = {"command_timeout": answer_timeout, **(options or {})}
        self._answer_timeout = given["command_timeout"]
        self.server = PostgresServer(url, given, self.transient, self._fit)
        if not self.server.capabilities.skip_locked:  # claims wait for each other instead
            wording = msgspec.structs.replace(wording, skip_locked="FOR UPDATE")
        self.wording = wording
        super().__init__(tables, address(url))
        self._connections = connections
        self._pool: Any = None
        self._at_hand: list[Any] = []
        """Connections of the pool that are free, and not given back to it."""
        self._awaited = 0
        """How many wait for one of the pool's."""
        channel = zlib.crc32(tables.named("tasks").encode())
        self.hints: Hints | None = _Notifications(
            self._connect_to_listen, f"zart_{channel:08x}", self.server.known_to_listen
        )
        self._fit()

    def _fit(self) -> None:
        """Look as often as there is need, by what is known of the server."""
        self.poll_interval = 1.0 if self.server.capabilities.listen else WITHOUT_LISTEN

    async def open(self) -> None:
        """Make the pool; connections are opened when they are first used."""
        self._pool = await _driver.create_pool(
            self.server.url,
            min_size=0,
            max_size=self._connections,
            max_inactive_connection_lifetime=300,
            reset=_no_reset,
            connect=self.server.connect_with,
            **self.server.options,
        )

    async def _connect_to_listen(self) -> Any | None:
        """A connection on which notifications arrive; None where none would."""
        if not self.server.can("listen"):
            return None
        connection = await self.server.connect()
        if self.server.can("listen"):  # it was thought so until the first connection
            return connection
        await connection.close()
        return None

    async def _run_once(self, work: Work[T], attempt: int) -> T:
        async with self._acquired() as connection:
            return await self._transact(connection, work, attempt)

    async def _transact(self, connection: Any, work: Work[T], attempt: int) -> T:
        return await _transact(connection, self.server.begin, self.statements, work, attempt)

    async def _run_alone_once(self, work: Work[T], attempt: int) -> T:
        # Outside of BEGIN a statement commits by itself, in the session's isolation.
        async with self._acquired() as connection:
            if not self.server.alone:
                return await self._transact(connection, work, attempt)
            return await work(_PostgresTransaction(connection, self.statements, attempt))

    async def _read_once(self, work: Work[T], attempt: int) -> T:
        # Within a transaction each statement would see what is committed by then all the same, so
        # BEGIN and COMMIT would be two round trips for nothing.
        async with self._acquired() as connection:
            return await work(_PostgresTransaction(connection, self.statements, attempt))

    @asynccontextmanager
    async def _acquired(self, *, lent: bool = False) -> AsyncGenerator[Any, None]:
        # One that is lent goes back to the pool, which makes what a user has kept of it unusable.
        # So does one that met an error: the pool leaves nothing of a transaction behind.
        pool = self._pool
        if pool is None:
            raise RuntimeError("the scheduler is not connected, or closed")
        connection = await self._taken(pool)
        well = False
        began = time.monotonic()
        try:
            yield connection
            well = not lent
            if well and time.monotonic() - began > SLOW:
                await self._plan_anew(connection)
        except TimeoutError:
            await _end_statement(connection)
            await self._plan_anew(connection)
            raise
        except asyncio.CancelledError:
            await _end_statement(connection)
            raise
        except (asyncpg.InternalClientError, asyncpg.ReadOnlySQLTransactionError):
            # One that has ended without knowing it; or one to a standby: a new connection may find
            # the primary, this one never will.
            connection.terminate()
            raise
        finally:
            may_stay = well and pool is self._pool and not self._awaited
            if may_stay and len(self._at_hand) < AT_HAND and not _has_ended(connection):
                self._at_hand.append(connection)
            else:
                await pool.release(connection)

    async def _plan_anew(self, connection: Any) -> None:
        """Forget the plans that a connection keeps, where it does, and the server is PostgreSQL."""
        if self.server.alone and self.server.can("prepared_statements"):
            with contextlib.suppress(*self.driver_errors, OSError):
                await connection.execute("DISCARD PLANS")

    async def _taken(self, pool: Any) -> Any:
        while self._at_hand:
            connection = self._at_hand.pop()
            if not _has_ended(connection):
                return connection
            with contextlib.suppress(asyncpg.InterfaceError):  # the pool has it back already
                connection.terminate()
        return await self._free_connection(pool)

    async def _free_connection(self, pool: Any) -> Any:
        self._awaited += 1
        try:
            return await pool.acquire(timeout=POOL_TIMEOUT)
        except TimeoutError:
            if pool.get_idle_size() or pool.get_size() < self._connections:
                raise  # it was a new one that could not be made
            raise PoolExhaustedError(self._connections) from None
        finally:
            self._awaited -= 1

    def lacks_tables(self, error: BaseException) -> bool:
        # undefined table, column, schema
        return isinstance(error, asyncpg.PostgresError) and getattr(error, "sqlstate", None) in (
            "42P01",
            "42703",
            "3F000",
        )

    def transient(self, error: BaseException) -> bool:
        if isinstance(error, asyncpg.PostgresError):
            return str(getattr(error, "sqlstate", "")).startswith(_TRANSIENT)
        if isinstance(error, asyncpg.InterfaceError):
            # asyncpg's word for a wrong use, and for a connection or pool that has been closed.
            return "clos" in str(error) or "released" in str(error)
        if isinstance(error, asyncpg.InternalClientError):
            # A connection that the server has ended and whose stream has not: "cannot switch to
            # state 15; another operation is in progress". Or, of several hosts none is the primary.
            return "cannot switch to state" in str(error) or isinstance(error, _NO_PRIMARY)
        return isinstance(error, OSError | TimeoutError | EOFError)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session, None]:
        async with closing_session(
            _PostgresSession(await self.server.connect(), self.server, self.statements)
        ) as session:
            yield session

    async def exclusively(self, job: Callable[[Ddl], Awaitable[T]]) -> T:
        # Read committed: what another process has migrated while this one waited is to be seen.
        async with (
            self._acquired(lent=True) as connection,
            connection.transaction(isolation="read_committed"),
        ):
            key = zlib.crc32(f"zart migrate {self.tables.named('tasks')}".encode())
            await connection.execute("SELECT pg_advisory_xact_lock($1)", key, timeout=_LONG)
            if self.tables.schema is not None:
                await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self.tables.schema}")
            return await job(_PostgresDdl(connection))

    @asynccontextmanager
    async def own_transaction(self, attempt: int) -> AsyncGenerator[tuple[Any, Any], None]:
        async with self._acquired(lent=True) as connection:
            # What the session is set to for our own statements is not for the user's.
            level = self.server.isolation.replace(" ", "_")
            limit = f"{self.standstill * 1000:.0f}"
            local = f"SET LOCAL idle_in_transaction_session_timeout = {limit}"
            if self.server.settings:
                local = f"{local}; {_USUAL_PLANNER}"
            async with connection.transaction(isolation=level):
                await connection.execute(local)
                yield _PostgresTransaction(connection, self.statements, attempt), connection

    def words_for(self, error: Exception) -> str | None:
        if type(error) is not TimeoutError or error.args or not _was_cut_by_driver(error):
            return None
        return (
            "a statement of this transaction had no answer in time and was cancelled:"
            f" `answer_timeout` of `zart.connect`, {self._answer_timeout} s here, bounds those"
            " that were given no `timeout=` of their own. Pass asyncpg one, as in"
            " connection.fetch(sql, timeout=120), or raise answer_timeout"
        )

    def borrowed(self, connection: Any) -> _PostgresTransaction:
        if not hasattr(connection, "fetch") or not hasattr(connection, "is_in_transaction"):
            raise TypeError(
                f"a PostgreSQL scheduler joins the transaction of an asyncpg connection, not of a"
                f" {type(connection).__module__}.{type(connection).__qualname__}"
            )
        if not connection.is_in_transaction():
            raise ValueError("the connection has no open transaction to join: begin one first")
        return _PostgresTransaction(connection, self.statements, 1)

    async def close(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(5):
                    while self._at_hand:
                        with contextlib.suppress(*self.driver_errors):  # it ends just now
                            await pool.release(self._at_hand.pop())
                    await pool.close()
            except TimeoutError:
                pool.terminate()


def _has_ended(connection: Any) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # the pool took it back when it ended
        return True


def _was_cut_by_driver(error: BaseException) -> bool:
    """True for a time-out of asyncpg's own, which it raises without a word."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and str(place.tb_frame.f_globals.get("__name__")).startswith("asyncpg")


async def _no_reset(connection: Any) -> None:
    """zart leaves nothing behind on a connection, so a round trip to clean it is saved."""


async def _transact(
    connection: Any, begin: str, statements: Statements, work: Work[T], attempt: int
) -> T:
    await connection.execute(begin)
    try:
        result: T = await work(_PostgresTransaction(connection, statements, attempt))
        await connection.execute("COMMIT")
    except (TimeoutError, asyncio.CancelledError):
        await _end_statement(connection)
        raise
    except BaseException:
        if not connection.is_closed():
            with contextlib.suppress(Exception):
                await connection.execute("ROLLBACK")
        raise
    return result


async def _end_statement(connection: Any) -> None:
    """End a statement whose answer was waited for long enough, and its transaction.

    asyncpg asks the server to cancel it, by a connection of its own: a statement that waits for a
    lock would go on waiting, and take it, though nobody is there. A line that then still gives no
    answer is cut.
    """
    if connection.is_closed():
        return
    try:
        async with asyncio.timeout(CANCELLING):
            await connection.execute("ROLLBACK")
    except Exception:
        connection.terminate()


class _PostgresTransaction:
    __slots__ = ("_connection", "_statements", "attempt")

    def __init__(self, connection: Any, statements: Statements, attempt: int) -> None:
        self._connection = connection
        self._statements = statements
        self.attempt = attempt

    async def fetch(self, statement: str, /, **values: Any) -> list[Row]:
        named = self._statements[statement]
        try:
            rows = await self._connection.fetch(named.sql, *named.bind(values, _spread))
        except asyncpg.UniqueViolationError as error:
            raise RaceLostError from error
        except asyncpg.ProgramLimitExceededError as error:
            if not values.get("message"):
                raise
            # The server's queue of notifications is full, for the sake of somebody who listens and
            # stands still in a transaction. What is to be written goes without its note.
            _log.warning("PostgreSQL takes no notification, others look by themselves: %s", error)
            return await self.fetch(statement, **{**values, "message": ""})
        return cast("list[Row]", rows)

    async def execute(self, statement: str, /, **values: Any) -> int:
        named = self._statements[statement]
        status: str = await self._connection.execute(named.sql, *named.bind(values, _spread))
        return int(status.rpartition(" ")[2])


def _spread(rows: Sequence[Any]) -> Sequence[str]:
    """The columns of a batch, each as PostgreSQL's text for an array."""
    return [_array(column) for column in zip(*rows, strict=True)]


def _array(values: Sequence[Any]) -> str:
    # JSON's text for a list is PostgreSQL's text for an array but for the brackets, as long as
    # quotes and backslashes are all that had to be escaped.
    text = _encode(values).decode()
    if "\\" in text and "\\" in text.replace("\\\\", "").replace('\\"', ""):
        return "{" + ",".join(map(_quoted, values)) + "}"
    return "{" + text[1:-1] + "}"


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _PostgresDdl:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, sql: str) -> None:
        await self._connection.execute(sql, timeout=_LONG)

    async def fetch(self, sql: str) -> list[Row]:
        return cast("list[Row]", await self._connection.fetch(sql, timeout=_LONG))


class _PostgresSession:
    def __init__(self, connection: Any, server: PostgresServer, statements: Statements) -> None:
        self._connection = connection
        self._server = server
        self._statements = statements

    @property
    def broken(self) -> bool:
        return bool(self._connection.is_closed())

    async def run(self, work: Work[T]) -> T:
        return await _transact(self._connection, self._server.begin, self._statements, work, 1)

    async def hold(self, key: int) -> bool:
        if not self._server.capabilities.session_locks:
            return False
        if not await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", key):
            raise LockTakenError
        return True

    async def released(self, keys: list[int]) -> set[int]:
        # A shared lock for the length of the statement: two that look at once don't see each other.
        rows = await self._connection.fetch(
            "SELECT k FROM unnest($1::bigint[]) AS k WHERE pg_try_advisory_xact_lock_shared(k)",
            keys,
        )
        return {row[0] for row in rows}

    async def forget(self, key: int) -> None:
        """The server forgot it with the session."""

    async def server_started_at(self) -> int:
        value: int = await self._connection.fetchval(
            "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint"
        )
        return value

    async def close(self) -> None:
        await self._connection.close(timeout=2)


_NOTIFY = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"


class _Notifications:
    """LISTEN and NOTIFY on a connection of their own.

    Messages of one moment go as one NOTIFY; a NOTIFY is a commit, which waits for no flush here,
    as a hint may be lost. After a lost connection everything may have changed,
    so listeners hear an empty message.

    Inside a writing transaction a NOTIFY holds a lock of the whole server until that is flushed:
    one in each commit makes all of them go one by one. But after a pause it is what others hear
    soonest, so the first one is for the statement itself to carry.
    """

    GATHER = 0.002
    """Seconds between two messages, at least; one after a pause goes at once."""
    REST = 4
    """How many times as long as sending the last one took: telling takes a fifth of the time."""
    PAUSE = 0.01
    """Seconds without a message after which a statement may carry one."""
    SHARE = 10
    """How many times as long as the last such statement took the pause is, at least: where many
    processes wait for that lock, each asks for it the less."""
    QUIET = 15.0
    """Seconds without a message to send after which the connection is tried."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any | None]],
        channel: str,
        arrives: Callable[[], bool],
    ) -> None:
        self._connect = connect
        self._arrives = arrives
        self._own = f"by:{secrets.token_hex(6)}"
        """A word of each message, by which this process knows it: it has rung here already."""
        self._sent_at = -math.inf
        self._pause = self.PAUSE
        self._deaf = False
        self._channel = channel
        self._received: Callable[[str], None] | None = None
        self._pending: set[str] = set()
        self._wanted = asyncio.Event()
        self._sent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, received: Callable[[str], None]) -> None:
        self._received = received
        self._wanted.set()
        if self._task is None:
            self._task = asyncio.create_task(self._keep_up(), name="zart-hints")

    def send(self, message: str) -> None:
        if self._deaf:
            return
        self._pending.add(message)
        self._sent.clear()
        self._wanted.set()
        if self._task is None:
            self._task = asyncio.create_task(self._keep_up(), name="zart-hints")

    def note(self, message: str) -> Note | None:
        began = time.monotonic()
        if self._pending or began < self._sent_at + self._pause or not self._arrives():
            return None
        self._sent_at = began

        def carried() -> None:
            self._sent_at = time.monotonic()
            self._pause = max(self.PAUSE, self.SHARE * (self._sent_at - began))

        return Note(self._channel, f"{message} {self._own}", carried)

    async def close(self) -> None:
        if self._task is not None:
            if self._pending:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._sent.wait(), 0.5)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _keep_up(self) -> None:
        delay = 0.1
        while True:
            try:
                connection = await self._connect()
                if connection is None:  # no message would arrive: polling goes on without
                    self._deaf = True
                    self._pending.clear()
                    self._sent.set()
                    return
                try:
                    delay = 0.1
                    await self._serve(connection)
                finally:
                    connection.terminate()
            except Exception as error:  # whatever it was: without this task nobody listens
                _log.debug("hints pause, polling goes on: %s", error)
                await asyncio.sleep(delay)
                delay = min(2.0, delay * 2)

    async def _serve(self, connection: Any) -> None:
        connection.add_termination_listener(self._ended)
        if self._received is not None:
            await connection.add_listener(self._channel, self._heard)
            self._received("")
        listening = self._received is not None
        rest = self.GATHER
        while not connection.is_closed():
            if self._received is not None and not listening:
                await connection.add_listener(self._channel, self._heard)
                listening = True
            try:
                async with asyncio.timeout(self.QUIET):
                    await self._wanted.wait()
            except TimeoutError:  # is the other end still there? Nothing else would tell
                await connection.execute("SELECT 1")
                continue
            if (pause := self._sent_at + rest - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            self._wanted.clear()
            messages, self._pending = self._pending, set()
            if messages and not connection.is_closed():
                words = " ".join([*sorted(messages), self._own])
                began = time.monotonic()
                await connection.execute(_NOTIFY, self._channel, words)
                self._sent_at = time.monotonic()
                rest = max(self.GATHER, self.REST * (self._sent_at - began))
            if not self._pending:
                self._sent.set()

    def _ended(self, _connection: Any) -> None:
        self._wanted.set()

    def _heard(self, _connection: Any, _sender: int, _channel: str, payload: object) -> None:
        if self._received is not None and self._own not in str(payload):
            self._received(str(payload))
