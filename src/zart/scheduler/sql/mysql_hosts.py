"""Connections that are ready to work, to a server that may be worked with."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary

import asyncmy
from asyncmy import errors
from asyncmy.constants import CLIENT, ER
from asyncmy.cursors import Cursor

from zart.scheduler.sql import lines
from zart.scheduler.sql.hosts import Hosts

__all__ = ["Host", "MySQLHosts", "refuses_to_serve", "run"]

Host: TypeAlias = tuple[str, int]

LOOK = 1.0
"""Seconds between looks at whether readers still have the primary."""

# Fences rely on a locking read seeing the newest committed row; the rest makes texts and times
# mean the same whatever the server's defaults are. Notes ("table exists") would each cost asyncmy
# a round trip and a line in the log.
_SETTINGS = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO',"
    " sql_notes = 0, innodb_lock_wait_timeout = 10",
)
# A process that stands still in the middle of a transaction keeps no row from those that take over.
# MySQL has no such limit but one for idle connections as a whole.
_IMPATIENT = (
    "SET SESSION sql_notes = 0"
    " /*M!100301 , idle_transaction_timeout = {limit:.0f} */"
    " /*!80000 , wait_timeout = {idle:.0f} */"
)
_STANDSTILL = 5.0
"""Seconds between two statements of a transaction of zart's own."""
_ROLE = "SHOW VARIABLES WHERE Variable_name IN ('read_only', 'wsrep_on') AND Value = 'ON'"
# A Galera node applies what others have committed a moment later. A worker that changes its node
# would miss its own claims there: so each transaction first waits for all that was committed
# before it began. It also makes a node that has lost its group say so (error 1047).
_CAUSAL = ("SET SESSION wsrep_sync_wait = 7", "DO 1")

_REFUSALS = {
    1047,  # a Galera node without its group
    1053,  # shutdown
    1290,  # read-only: another server is the primary now
    1792,
    1836,
}


def refuses_to_serve(error: BaseException) -> bool:
    """True when the server says that it is not, or no longer, the one to talk to."""
    return isinstance(error, errors.MySQLError) and bool(_REFUSALS.intersection(error.args[:1]))


class MySQLHosts:
    """The servers that a URL names, and which connections lead to the one that serves.

    A primary that becomes a replica closes no connection, and refuses only what writes. So
    connections are of a generation: when one of them is refused, or a new one leads to another
    server, a new generation begins, and those of older ones are used no more.
    """

    def __init__(self, hosts: Sequence[Host], arguments: Mapping[str, Any]) -> None:
        if {"host", "port"} & arguments.keys():  # given beside the URL
            hosts = [(arguments.get("host", hosts[0][0]), arguments.get("port", hosts[0][1]))]
        self._hosts = Hosts(hosts, arguments.get("connect_timeout"))
        self._arguments = dict(arguments)
        self._arguments["client_flag"] = CLIENT.FOUND_ROWS | int(arguments.get("client_flag", 0))
        self._place: Host | None = None
        self._generation = 0
        self._generations: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._next_look = 0.0

    async def connect(self, *, autocommit: bool, standstill: float | None = None) -> Any:
        """A connection to the first that serves; raises the last one's error when none does.

        ``standstill`` is how many seconds a transaction may go without a statement; by default
        what suits zart's own, and no limit where statements commit by themselves.
        """
        if standstill is None and not autocommit:
            standstill = _STANDSTILL
        while True:
            generation = self._generation
            place, connection = await self._hosts.connect(
                lambda host: self._open(host, autocommit, standstill), _passes
            )
            if generation == self._generation:
                break
            connection.close()  # what others have met meanwhile is news to this one
        if self._place not in (None, place):
            self._generation = generation = generation + 1
        self._place = place
        self._generations[connection] = generation
        return connection

    def serves(self, connection: Any) -> bool:
        """False when a connection leads to a server that others have left."""
        return self._generations.get(connection) == self._generation

    @contextmanager
    def leaving(self, connection: Any) -> Generator[None, None, None]:
        """Leaves the server, for all connections, when it refuses to serve this one."""
        try:
            yield
        except errors.MySQLError as error:
            if refuses_to_serve(error):
                connection.close()
                if self.serves(connection):
                    self._generation += 1
            raise

    async def look(self, connection: Any) -> None:
        """Ask now and then whether a connection that never writes still has the primary.

        Raises what the server would say to a write.
        """
        if len(self._hosts) > 1 and (now := time.monotonic()) >= self._next_look:
            self._next_look = now + LOOK
            self._expect_primary(await _roles(connection), connection)

    async def _open(
        self, host: Host, autocommit: bool, standstill: float | None
    ) -> tuple[Host, Any]:
        where = {"host": host[0], "port": host[1], "autocommit": autocommit}
        connection = await cast("Any", asyncmy).connect(**{**self._arguments, **where})
        try:
            lines.watch(connection._transport)
            for setting in _SETTINGS:
                await _ask(connection, setting)
            if standstill is not None:
                idle = max(20.0, standstill)
                await _ask(connection, _IMPATIENT.format(limit=standstill, idle=idle))
            roles = await _roles(connection)
            if "wsrep_on" in roles:
                for setting in _CAUSAL:
                    await _ask(connection, setting)
            self._expect_primary(roles, connection)
        except BaseException:
            connection.close()
            raise
        return host, connection

    def _expect_primary(self, roles: set[str], connection: Any) -> None:
        # Not left to the first write: an account with every right may write to a replica.
        if "read_only" in roles and len(self._hosts) > 1:
            raise errors.OperationalError(
                ER.OPTION_PREVENTS_STATEMENT, f"{connection._host}:{connection._port} is read-only"
            )


def _passes(error: Exception) -> bool:
    return isinstance(error, errors.MySQLError | OSError)


async def _roles(connection: Any) -> set[str]:
    return {name for name, _ in await _ask(connection, _ROLE)}


async def _ask(connection: Any, sql: str) -> Sequence[tuple[Any, ...]]:
    cursor = await run(connection, sql)
    return cast("Sequence[tuple[Any, ...]]", await cursor.fetchall() or ())


async def run(connection: Any, sql: str, values: Sequence[Any] | None = None) -> Any:
    """Run one statement; gives asyncmy's cursor, which holds all rows.

    Its rows are tuples, whatever a user's connection, or ``options``, would have them be.
    """
    cursor = connection.cursor(Cursor)
    await cursor.execute(sql, values)
    return cursor
