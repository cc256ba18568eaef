"""A pool of asyncmy connections that gives out none that is in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from zart.scheduler.sql.database import POOL_TIMEOUT, PoolExhaustedError
from zart.scheduler.sql.mysql_hosts import MySQLHosts

__all__ = ["Pool", "lost"]


def lost(connection: Any) -> bool:
    """True when the connection is known to be broken, as soon as its stream has ended."""
    # asyncmy's own pool looks at this too; `connected` stays true until the next statement fails.
    return not connection.connected or bool(connection._stream_broken)


class Pool:
    """Up to ``size`` connections, opened when they are first needed, the last used first.

    A connection whose block was cancelled may have half an answer on its stream, and one that
    the server has killed has none: both are closed instead of being used again, and the idle ones
    with them, for they led to the same server. So is one whose server others have left.
    """

    def __init__(self, hosts: MySQLHosts, connect: Callable[[], Awaitable[Any]], size: int) -> None:
        self._hosts = hosts
        self._connect = connect
        self._size = size
        self._free = asyncio.Semaphore(size)
        self._idle: list[Any] = []
        self._used: set[Any] = set()
        self._closed = False

    @asynccontextmanager
    async def acquire(self) -> AsyncGenerator[Any, None]:
        """A connection for the length of a block."""
        try:
            async with asyncio.timeout(POOL_TIMEOUT):
                await self._free.acquire()
        except TimeoutError:
            raise PoolExhaustedError(self._size) from None
        try:
            connection = await self._take()
            self._used.add(connection)
            try:
                with self._hosts.leaving(connection):
                    yield connection
            except Exception:
                self._put_back(connection)
                raise
            except BaseException:
                self._used.discard(connection)
                connection.close()
                raise
            else:
                self._put_back(connection)
        finally:
            self._free.release()

    async def _take(self) -> Any:
        if self._closed:
            raise RuntimeError("the scheduler is closed")
        while self._idle:
            connection = self._idle.pop()
            if not lost(connection) and self._hosts.serves(connection):
                return connection
            connection.close()
        return await self._connect()

    def _put_back(self, connection: Any) -> None:
        self._used.discard(connection)
        if self._closed:
            connection.close()
        elif lost(connection):
            connection.close()
            idle, self._idle = self._idle, []
            for other in idle:
                other.close()
        elif not self._hosts.serves(connection):
            connection.close()
        else:
            self._idle.append(connection)

    async def close(self) -> None:
        """Close what is idle in good order, and cut off what is still at work."""
        self._closed = True
        for connection in list(self._used):
            connection.close()
        idle, self._idle = self._idle, []
        try:
            async with asyncio.timeout(5):
                for connection in idle:
                    await connection.ensure_closed()
        except TimeoutError:
            for connection in idle:
                connection.close()
