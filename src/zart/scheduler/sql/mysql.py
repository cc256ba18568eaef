"""MySQL 8 and MariaDB 10.6 and later, by asyncmy.

Connections commit nothing by themselves (autocommit is off), so a transaction begins with its
first statement; those that read alone have it on, and need no COMMIT.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import asyncmy
import msgspec
from asyncmy import errors
from asyncmy.constants import ER, SERVER_STATUS

from zart.scheduler.sql.database import (
    ANSWER_TIMEOUT,
    Database,
    Ddl,
    Hints,
    LockTakenError,
    Session,
    closing_session,
)
from zart.scheduler.sql.frontier import Stretch
from zart.scheduler.sql.hosts import address
from zart.scheduler.sql.mysql_hosts import MySQLHosts, refuses_to_serve, run
from zart.scheduler.sql.mysql_pool import Pool, lost
from zart.scheduler.sql.mysql_url import arguments, hosts
from zart.scheduler.sql.statements import Column, Statement, Statements, Tables, Wording
from zart.scheduler.sql.transaction import Row, Work

__all__ = ["MySQLDatabase"]

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode

_TRANSIENT = {
    1020,  # the record has changed since it was last read (MariaDB, snapshot isolation)
    1021,  # disk full
    1037,  # out of memory
    1038,
    1040,  # too many connections
    1041,
    1047,  # a Galera node that is not ready
    1053,  # shutdown
    1114,  # a table is full: no room on the disk
    1158,  # network
    1159,
    1160,
    1161,
    1180,  # an error during COMMIT
    1203,  # too many connections of this user
    1205,  # lock wait timeout
    1213,  # deadlock, or a Galera conflict
    1290,  # read-only: a failover is under way
    1317,  # interrupted
    1412,  # tables have been changed meanwhile
    1792,  # read-only transaction
    1836,  # read-only mode
    1927,  # connection killed (MariaDB)
    1969,  # the server's time limit for a statement
    2002,  # cannot connect
    2003,
    2006,  # server gone
    2013,  # connection lost
    2014,
    2055,
    3024,  # the server's time limit for a statement (MySQL)
    3100,  # group replication
    3101,
    4031,  # disconnected for being idle (MySQL)
}

# Payloads may be long; everything else is a name, and none is longer than the column it goes to.
_LONG = {"input", "output", "failure", "value", "error", "payload"}
_TEXT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"


def _rows(columns: Sequence[Column], place: Callable[[str], str]) -> str:
    fields = ", ".join(
        f"{column.name} {_type(column)} PATH '$[{number}]' ERROR ON ERROR"
        for number, column in enumerate(columns)
    )
    return f"JSON_TABLE({place('')}, '$[*]' COLUMNS ({fields}))"


def _type(column: Column) -> str:
    if column.type == "int":
        return "bigint"
    return f"longtext {_TEXT}" if column.name in _LONG else f"varchar(600) {_TEXT}"


WORDING = Wording(
    name="mysql",
    # Without a time zone: UNIX_TIMESTAMP() of a local time is ambiguous for an hour each autumn.
    now="TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    for_update="FOR UPDATE",
    for_share="FOR UPDATE",  # MariaDB has no FOR SHARE
    skip_locked="FOR UPDATE SKIP LOCKED",
    placeholder=lambda _number, _name: "%s",
    rows=_rows,
    reuses_parameters=False,
    join="STRAIGHT_JOIN",
)


class MySQLDatabase(Database):
    """One MySQL or MariaDB database."""

    wording = WORDING
    driver_errors = (errors.MySQLError,)
    # InnoDB looks for the end of a stretch only at a row that lives.
    reads_past_ends = True
    # Nothing can be listened to: the pace of looking is the time from schedule to start.
    poll_interval = 0.025
    hints: Hints | None = None

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
        self.wording = wording
        super().__init__(tables, address(url))
        self._arguments = arguments(url) | dict(options or {})
        self._answer_timeout = answer_timeout
        self._hosts = MySQLHosts(hosts(url), self._arguments)
        readers = max(1, connections // 4)
        self._writers = Pool(self._hosts, self._connect, max(1, connections - readers))
        self._readers = Pool(self._hosts, self._connect_committing, readers)
        # For users' transactions, which may take long: opened only where there are any. They begin
        # by a statement; without autocommit asyncmy takes no notice of a transaction's end.
        self._shared = Pool(self._hosts, self._connect_to_share, max(1, connections - readers))

    async def _connect(self) -> Any:
        return await self._hosts.connect(autocommit=False)

    async def _connect_committing(self) -> Any:
        return await self._hosts.connect(autocommit=True)

    async def _connect_to_share(self) -> Any:
        return await self._hosts.connect(autocommit=True, standstill=self.standstill)

    async def _run_once(self, work: Work[T], attempt: int) -> T:
        async with self._writers.acquire() as connection:
            async with asyncio.timeout(self._answer_timeout):
                return await _transact(connection, self.statements, work, attempt)

    async def _read_once(self, work: Work[T], attempt: int) -> T:
        async with self._readers.acquire() as connection, asyncio.timeout(self._answer_timeout):
            await self._hosts.look(connection)
            return await work(_MySQLTransaction(connection, self.statements, attempt))

    def lacks_tables(self, error: BaseException) -> bool:
        # unknown table, unknown column
        return isinstance(error, errors.MySQLError) and error.args[:1] in ((1146,), (1054,))

    def transient(self, error: BaseException) -> bool:
        if isinstance(error, errors.InterfaceError):
            return True  # asyncmy's word for a connection that is closed
        if isinstance(error, errors.MySQLError):
            return bool(error.args) and error.args[0] in _TRANSIENT
        return isinstance(error, OSError | TimeoutError | EOFError)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session, None]:
        connection = await self._connect()
        session = _MySQLSession(connection, self.statements, self._answer_timeout)
        async with closing_session(session):
            with self._hosts.leaving(connection):
                yield session

    async def exclusively(self, job: Callable[[Ddl], Awaitable[T]]) -> T:
        connection = await self._connect_committing()
        try:
            ddl = _MySQLDdl(connection)
            await ddl.lock(f"zart-migrate-{zlib.crc32(self._place().encode()):08x}")
            if self.tables.schema is not None:
                await ddl.execute(f"CREATE DATABASE IF NOT EXISTS {self.tables.schema} {_TEXT}")
            return await job(ddl)
        finally:
            connection.close()  # and the lock with it

    def _place(self) -> str:
        return f"{self._arguments['database']}.{self.tables.named('tasks')}"

    @asynccontextmanager
    async def own_transaction(self, attempt: int) -> AsyncGenerator[tuple[Any, Any], None]:
        async with self._shared.acquire() as connection, _transaction(connection):
            await connection.begin()
            yield _MySQLTransaction(connection, self.statements, attempt), connection

    def borrowed(self, connection: Any) -> _MySQLTransaction:
        if not isinstance(connection, asyncmy.Connection):
            raise TypeError(
                f"a MySQL scheduler joins the transaction of an asyncmy connection, not of a"
                f" {type(connection).__module__}.{type(connection).__qualname__}"
            )
        status: int = cast("Any", connection).server_status
        if not status & SERVER_STATUS.SERVER_STATUS_IN_TRANS:
            raise ValueError("the connection has no open transaction to join: begin one first")
        return _MySQLTransaction(connection, self.statements, 1)

    async def close(self) -> None:
        await asyncio.gather(*(p.close() for p in (self._writers, self._readers, self._shared)))


@asynccontextmanager
async def _transaction(connection: Any, *, keep: bool = False) -> AsyncGenerator[None, None]:
    """Commit at the end of the block, or roll back; a connection in doubt is closed.

    ``keep`` leaves one open whose server takes no writes at present, and the locks that it holds.
    """
    try:
        yield
        await connection.commit()
    except Exception as error:
        if refuses_to_serve(error) and not keep:
            connection.close()
        elif not lost(connection):
            await connection.rollback()
        raise


async def _transact(connection: Any, statements: Statements, work: Work[T], attempt: int) -> T:
    async with _transaction(connection):
        return await work(_MySQLTransaction(connection, statements, attempt))


class _MySQLTransaction:
    __slots__ = ("_connection", "_statements", "attempt")

    def __init__(self, connection: Any, statements: Statements, attempt: int) -> None:
        self._connection = connection
        self._statements = statements
        self.attempt = attempt

    async def fetch(self, statement: str, /, **values: Any) -> list[Row]:
        if statement == "ready_tasks":
            return await self._ready_tasks(values["names"], values["amount"])
        if statement == "fence":
            return await self._fence(values["entries"], values["unchanged"])
        return await self._rows(self._statements[statement], values)

    async def _rows(self, named: Statement, values: Mapping[str, Any]) -> list[Row]:
        cursor = await run(self._connection, named.sql, tuple(named.bind(values, _spread)))
        return cast("list[Row]", await cursor.fetchall())

    async def _fence(self, entries: Sequence[Row], unchanged: Container[Row]) -> list[Row]:
        """Lock tasks, and change those that nothing else will: of another claim none."""
        rows = await self._rows(self._statements["fence"], {"entries": entries})
        if keys := [row[:3] for row in rows if row[:4] in unchanged]:
            await self.execute("touch_tasks", entries=keys)
        return rows

    async def _ready_tasks(self, stretches: Sequence[Stretch], amount: int) -> list[Row]:
        """Lock ready tasks name by name, the name with the most urgent one first."""
        names = list(dict.fromkeys(stretch[:2] for stretch in stretches))
        if len(names) > 1:
            heads = await self._rows(self._statements["ready_names"], {"names": names})
            names = [(h[0], h[1]) for h in sorted(heads, key=lambda head: head[2:])]
        found: list[Row] = []
        for name in names:
            for queue, task, low, high, since in stretches:
                if (queue, task) != name or len(found) >= amount:
                    continue
                place = {"queue": queue, "task": task, "low": low, "high": high, "since": since}
                named = self._statements["ready_tasks" if low < high else "ready_tasks_since"]
                found += await self._rows(named, {**place, "amount": amount - len(found)})
        return found

    async def execute(self, statement: str, /, **values: Any) -> int:
        named = self._statements[statement]
        try:
            cursor = await run(self._connection, named.sql, tuple(named.bind(values, _spread)))
        except errors.IntegrityError as error:
            if statement == "insert_executions" and error.args[0] == ER.DUP_ENTRY:
                return 0  # the whole statement is undone, the transaction goes on
            raise
        return cast("int", cursor.rowcount)


def _spread(rows: Sequence[Any]) -> Sequence[str]:
    return (_encode(rows).decode(),)


class _MySQLDdl:
    """Changes of tables commit by themselves here; a named lock keeps other processes out."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def lock(self, name: str) -> None:
        try:
            rows = await self.fetch(f"SELECT GET_LOCK('{name}', 300)")
        except errors.NotSupportedError:
            return  # Galera has none; there each statement may be run twice without harm
        if rows[0][0] != 1:
            raise TimeoutError("another process has been changing the tables for five minutes")

    async def execute(self, sql: str) -> None:
        try:
            await run(self._connection, sql)
        except errors.IntegrityError as error:
            # The one row that a migration inserts is its own note: another process has made it.
            if error.args[0] != ER.DUP_ENTRY:
                raise

    async def fetch(self, sql: str) -> list[Row]:
        cursor = await run(self._connection, sql)
        return cast("list[Row]", await cursor.fetchall())


class _MySQLSession:
    def __init__(self, connection: Any, statements: Statements, answer_timeout: float) -> None:
        self._connection = connection
        self._statements = statements
        self._answer_timeout = answer_timeout

    @property
    def broken(self) -> bool:
        return lost(self._connection)

    async def run(self, work: Work[T]) -> T:
        async with asyncio.timeout(self._answer_timeout), _transaction(self._connection, keep=True):
            return await work(_MySQLTransaction(self._connection, self._statements, 1))

    async def _fetch(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        async with asyncio.timeout(self._answer_timeout):
            cursor = await run(self._connection, sql, tuple(values))
            return cast("list[Row]", await cursor.fetchall())

    async def hold(self, key: int) -> bool:
        # Locks of a Galera node are unknown to the others: they would see a death in each.
        if await self._fetch("SHOW VARIABLES WHERE Variable_name = 'wsrep_on' AND Value = 'ON'"):
            return False
        rows = await self._fetch("SELECT GET_LOCK(%s, 0)", [_lock(key)])
        if rows[0][0] == 0:
            raise LockTakenError
        return bool(rows[0][0] == 1)

    async def released(self, keys: list[int]) -> set[int]:
        looks = ", ".join(["IS_FREE_LOCK(%s)"] * len(keys))
        rows = await self._fetch(f"SELECT {looks}", [_lock(key) for key in keys])
        return {key for key, free in zip(keys, rows[0], strict=True) if free == 1}

    async def forget(self, key: int) -> None:
        """The server forgot it with the session."""

    async def server_started_at(self) -> int:
        # In whole seconds, up to one too late: a lock taken in that second tells nothing.
        up = await self._fetch("SHOW GLOBAL STATUS LIKE 'Uptime'")
        now = await self._fetch(f"SELECT {WORDING.now}")
        return int(now[0][0]) - int(up[0][1]) * 1_000_000

    async def close(self) -> None:
        async with asyncio.timeout(2):
            await self._connection.ensure_closed()


def _lock(key: int) -> str:
    return f"zart-worker-{key:x}"
