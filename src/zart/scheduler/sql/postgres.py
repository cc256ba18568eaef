"""PostgreSQL 13 and later, by asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import asyncpg
import msgspec

from zart.scheduler.sql.database import Database, Ddl, Hints, Session, closing_session
from zart.scheduler.sql.statements import Column, Statements, Tables, Wording
from zart.scheduler.sql.transaction import Row, Work

__all__ = ["PLANNER", "PostgresDatabase"]

T = TypeVar("T")
_driver: Any = asyncpg
"""It carries no types; what it gives is checked where it enters our own."""
_log = logging.getLogger("zart.database")

# Fences rely on a locking read seeing the newest committed row, whatever the server's default is.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# Batches travel as array literals in text: asyncpg's own encoding of a list looks up two abstract
# classes for each element, which took a third of a flush's time.
_TYPES = {"text": "text::text[]", "int": "text::bigint[]"}
_encode = msgspec.json.Encoder().encode

# Every statement here finds its rows by a key. A plan that is cached while a table is small would
# scan it for ever: so scans and what is built on them are the planner's last choice.
PLANNER = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
_USUAL_PLANNER = "; ".join(f"SET LOCAL {setting} = on" for setting in PLANNER)

_TRANSIENT = (
    "40",  # serialization failure, deadlock
    "08",  # connection
    "53",  # disk full, out of memory, too many connections
    "57",  # shutdown, crash, cannot connect now, query cancelled
    "58",  # the server's own file system
    "25006",  # read-only: a failover is under way
    "55P03",  # lock not available
    "XX000",  # a pooler's word for a lost server
)


def _rows(columns: Sequence[Column], place: Callable[[str], str]) -> str:
    arrays = ", ".join(f"{place(c.name)}::{_TYPES[c.type]}" for c in columns)
    names = ", ".join(c.name for c in columns)
    return f"(SELECT * FROM unnest({arrays}) AS u({names}))"


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
    poll_interval = 1.0

    def __init__(
        self,
        url: str,
        tables: Tables,
        *,
        connections: int = 8,
        options: Mapping[str, Any] | None = None,
        wording: Wording = WORDING,
    ) -> None:
        self.wording = wording
        super().__init__(tables)
        self._options: dict[str, Any] = {"command_timeout": 60, **(options or {})}
        self._url = url
        self._connections = connections
        self._planner = dict(PLANNER)
        self._pool: Any = None
        channel = zlib.crc32(tables.named("tasks").encode())
        self.hints: Hints | None = _Notifications(self._connect, f"zart_{channel:08x}")

    async def open(self) -> None:
        """Make the pool; connections are opened when they are first used."""
        self._pool = await _driver.create_pool(
            self._url,
            min_size=0,
            max_size=self._connections,
            max_inactive_connection_lifetime=300,
            reset=_no_reset,
            connect=self._connect_with,
            **self._options,
        )

    async def _connect(self) -> Any:
        return await self._connect_with(self._url, **self._options)

    async def _connect_with(self, *arguments: Any, **options: Any) -> Any:
        """Connect with a planner that looks rows up by their keys; without it behind a pooler."""
        given: dict[str, str] = options.pop("server_settings", None) or {}
        try:
            settings = {**self._planner, **given}
            return await _driver.connect(*arguments, server_settings=settings, **options)
        except asyncpg.PostgresError as error:
            if not self._planner or "startup parameter" not in str(error):
                raise
            _log.debug("a pooler refuses settings at connection: %s", error)
            self._planner = {}
            return await _driver.connect(*arguments, server_settings=given, **options)

    async def _run_once(self, work: Work[T], attempt: int) -> T:
        async with self._acquired() as connection:
            return await _transact(connection, self.statements, work, attempt)

    async def _run_alone_once(self, work: Work[T], attempt: int) -> T:
        # Outside of BEGIN a statement commits by itself. Where the server's default isolation is
        # stricter, a lock on a row that has just changed fails and the statement runs again.
        async with self._acquired() as connection:
            return await work(_PostgresTransaction(connection, self.statements, attempt))

    @asynccontextmanager
    async def _acquired(self) -> AsyncGenerator[Any, None]:
        if self._pool is None:
            raise RuntimeError("the scheduler is not connected, or closed")
        async with self._pool.acquire(timeout=30) as connection:
            yield connection

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
        return isinstance(error, OSError | TimeoutError | EOFError)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session, None]:
        async with closing_session(
            _PostgresSession(await self._connect(), self.statements)
        ) as session:
            yield session

    async def exclusively(self, job: Callable[[Ddl], Awaitable[T]]) -> T:
        async with self._acquired() as connection, connection.transaction():
            key = zlib.crc32(f"zart migrate {self.tables.named('tasks')}".encode())
            await connection.execute("SELECT pg_advisory_xact_lock($1)", key)
            if self.tables.schema is not None:
                await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self.tables.schema}")
            return await job(_PostgresDdl(connection))

    @asynccontextmanager
    async def own_transaction(self, attempt: int) -> AsyncGenerator[tuple[Any, Any], None]:
        async with self._acquired() as connection, connection.transaction():
            if self._planner:  # what is for our own statements is not for the user's
                await connection.execute(_USUAL_PLANNER)
            yield _PostgresTransaction(connection, self.statements, attempt), connection

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
                await asyncio.wait_for(pool.close(), 5)
            except TimeoutError:
                pool.terminate()


async def _no_reset(connection: Any) -> None:
    """zart leaves nothing behind on a connection, so a round trip to clean it is saved."""


async def _transact(connection: Any, statements: Statements, work: Work[T], attempt: int) -> T:
    await connection.execute(_BEGIN)
    try:
        result: T = await work(_PostgresTransaction(connection, statements, attempt))
        await connection.execute("COMMIT")
    except BaseException:
        if not connection.is_closed():
            with contextlib.suppress(Exception):
                await connection.execute("ROLLBACK")
        raise
    return result


class _PostgresTransaction:
    __slots__ = ("_connection", "_statements", "attempt")

    def __init__(self, connection: Any, statements: Statements, attempt: int) -> None:
        self._connection = connection
        self._statements = statements
        self.attempt = attempt

    async def fetch(self, statement: str, /, **values: Any) -> list[Row]:
        named = self._statements[statement]
        rows = await self._connection.fetch(named.sql, *named.bind(values, _spread))
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
        await self._connection.execute(sql)

    async def fetch(self, sql: str) -> list[Row]:
        return cast("list[Row]", await self._connection.fetch(sql))


class _PostgresSession:
    def __init__(self, connection: Any, statements: Statements) -> None:
        self._connection = connection
        self._statements = statements

    @property
    def broken(self) -> bool:
        return bool(self._connection.is_closed())

    async def run(self, work: Work[T]) -> T:
        return await _transact(self._connection, self._statements, work, 1)

    async def hold(self, key: int) -> bool:
        await self._connection.execute("SELECT pg_advisory_lock($1)", key)
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


class _Notifications:
    """LISTEN and NOTIFY on a connection of their own, never inside a writing transaction.

    Messages of one moment go as one NOTIFY. After a lost connection everything may have changed,
    so listeners hear an empty message.
    """

    GATHER = 0.0005

    def __init__(self, connect: Callable[[], Awaitable[Any]], channel: str) -> None:
        self._connect = connect
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
        self._pending.add(message)
        self._sent.clear()
        self._wanted.set()
        if self._task is None:
            self._task = asyncio.create_task(self._keep_up(), name="zart-hints")

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
                try:
                    delay = 0.1
                    await self._serve(connection)
                finally:
                    connection.terminate()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                _log.debug("hints pause, polling goes on: %s", error)
                await asyncio.sleep(delay)
                delay = min(2.0, delay * 2)

    async def _serve(self, connection: Any) -> None:
        connection.add_termination_listener(self._ended)
        if self._received is not None:
            await connection.add_listener(self._channel, self._heard)
            self._received("")
        listening = self._received is not None
        while not connection.is_closed():
            if self._received is not None and not listening:
                await connection.add_listener(self._channel, self._heard)
                listening = True
            await self._wanted.wait()
            await asyncio.sleep(self.GATHER)
            self._wanted.clear()
            messages, self._pending = self._pending, set()
            if messages and not connection.is_closed():
                await connection.execute(
                    "SELECT pg_notify($1, $2)", self._channel, " ".join(sorted(messages))
                )
            if not self._pending:
                self._sent.set()

    def _ended(self, _connection: Any) -> None:
        self._wanted.set()

    def _heard(self, connection: Any, sender: int, _channel: str, payload: object) -> None:
        # What this process has sent it has rung here already.
        if self._received is not None and sender != connection.get_server_pid():
            self._received(str(payload))
