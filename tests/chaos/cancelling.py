"""Cancels a coroutine at a chosen place, and looks for what it leaves behind."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import asyncmy
import asyncpg

from tests import databases
from tests.crash.processes import until
from tests.databases import Database

WAITING = "waiting"
"""The cancel comes while the coroutine waits."""
ANSWERED = "answered"
"""The cancel comes when what it waits for is there, and it has not gone on yet."""
LONGEST = 20
"""Seconds in which whatever is cancelled must have ended."""


class Places:
    """Steps a coroutine, and does something to its task at the ``number``-th place it waits at."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        number: int,
        act: Callable[[asyncio.Task[Any]], object] = asyncio.Task.cancel,
        when: str = WAITING,
    ) -> None:
        self._coroutine = coroutine
        self._number = number
        self._act = act
        self._when = when
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                if error is None:
                    waits_for = self._coroutine.send(answer)
                else:
                    waits_for = self._coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            self.count += 1
            if self.count == self._number:
                self._disturb(waits_for)
            answer, error = None, None
            try:
                answer = yield waits_for
            except BaseException as thrown:
                error = thrown

    def _disturb(self, waits_for: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._when == ANSWERED and isinstance(waits_for, asyncio.Future):
            waits_for.add_done_callback(lambda _: self._act(task))
        else:
            asyncio.get_running_loop().call_soon(self._act, task)


async def cancelled_at(
    coroutine: Coroutine[Any, Any, Any], number: int, when: str = WAITING
) -> bool:
    """Run it, cancelled at that place; False when it ended without coming there."""
    places = Places(coroutine, number, when=when)

    async def run() -> Any:
        return await places

    task = asyncio.create_task(run(), name="cancelled")
    done, _ = await asyncio.wait([task], timeout=LONGEST)
    assert done, f"it hangs after a cancel at place {number} ({when}): {task.get_stack()}"
    if not task.cancelled() and (error := task.exception()) is not None:
        raise AssertionError(f"place {number} ({when})") from error
    return places.count >= number


class Remains:
    """What this process and its database hold, compared with an earlier moment."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tasks = self._task_names()
        self._threads = self._thread_names()

    async def none(self, *, connections: int) -> None:
        """No more tasks and threads than then, no transaction open, and so many connections."""
        held: Any = None

        async def gone() -> bool:
            nonlocal held
            held = (
                self._task_names() - self._tasks,
                self._thread_names() - self._threads,
                await open_transactions(self._database),
                await connected(self._database),
            )
            return not any(held[:3]) and held[3] <= connections

        try:
            await until(gone, "", seconds=LONGEST)
        except AssertionError:
            raise AssertionError(f"left behind: {held}; {connections} connections may be") from None

    @staticmethod
    def _task_names() -> Counter[str]:
        here = asyncio.current_task()
        return Counter(
            f"{task.get_name().rstrip('0123456789')} {task.get_coro()}".split(" at ")[0]
            for task in asyncio.all_tasks()
            if task is not here
        )

    @staticmethod
    def _thread_names() -> Counter[str]:
        # Threads for plain functions, ours and asyncio's own, are kept idle for the next call.
        names = (thread.name for thread in threading.enumerate())
        return Counter(name for name in names if not name.startswith(("asyncio_", "zart-step")))


async def connected(database: Database) -> int:
    """How many connections to the database are open, but for the one that asks."""
    if database.kind == "sqlite":
        # SQLite keeps the file of a connection that was closed for the next one, as long as any
        # other is open; but not its write-ahead log.
        log = f"{Path(database.url.removeprefix('sqlite:///')).name}-wal"
        return sum(name.endswith(log) for name in _open_files())
    if database.kind == "postgres":
        return int((await _on_postgres(database, _POSTGRES_CONNECTIONS))[0][0])
    return int((await _on_mysql(database, _MYSQL_CONNECTIONS))[0][0])


async def open_transactions(database: Database) -> int:
    """How many transactions stand open with nothing going on in them."""
    if database.kind == "sqlite":
        return 0  # a writer that is left behind stops every other: what comes next shows it
    if database.kind == "postgres":
        return int((await _on_postgres(database, _POSTGRES_TRANSACTIONS))[0][0])
    return int((await _on_mysql(database, _MYSQL_TRANSACTIONS))[0][0])


_POSTGRES_CONNECTIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND backend_type = 'client backend'"""
_POSTGRES_TRANSACTIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'"""
_MYSQL_CONNECTIONS = """
    SELECT count(*) FROM information_schema.processlist
    WHERE db = DATABASE() AND id <> CONNECTION_ID()"""
_MYSQL_TRANSACTIONS = """
    SELECT count(*) FROM information_schema.innodb_trx t
    JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
    WHERE p.db = DATABASE() AND p.command = 'Sleep'"""


async def _on_postgres(database: Database, sql: str) -> list[Any]:
    connection = await asyncpg.connect(database.url)
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


async def _on_mysql(database: Database, sql: str) -> list[Any]:
    connecting = asyncmy.connect(**databases.mysql_arguments(database.url))
    async with connecting as connection, connection.cursor() as cursor:
        await cursor.execute(sql)
        return list(await cursor.fetchall())


def _open_files() -> list[str]:
    names: list[str] = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(entry.readlink()))
        except OSError:  # closed since it was listed
            continue
    return names
