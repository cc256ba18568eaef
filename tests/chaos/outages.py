"""What keeps a database from serving for a while, and how it ends; one class for each.

await ride_out(running, Restart(server, database), budget.chance)
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any, ClassVar, Protocol

import asyncmy
import asyncpg

from tests.chaos.load import Load, Rate
from tests.chaos.own import Administrator
from tests.crash.processes import until
from tests.databases import Database, mysql_arguments
from tests.figures import took
from tests.servers import MariadbServer, PostgresServer, Server
from zart.testing.conformance.rows import on_driver

__all__ = [
    "FEW",
    "Ended",
    "Killed",
    "NoConnections",
    "Outage",
    "ReadOnly",
    "ride_out",
    "worker_names",
]

_log = logging.getLogger("tests.chaos")

WITHIN = 10.0
"""Seconds from the end of an outage until the rate is back."""
STANDS = 1.0
"""Seconds for which nothing is committed any more, before an outage is ended."""
LINES = 12
"""What a worker's log may say of one outage at most."""
CONNECTIONS = 40
"""What the servers of these tests let in."""


class Outage(Protocol):
    """Something that keeps a database from serving."""

    @property
    def name(self) -> str: ...

    @property
    def says(self) -> tuple[str, ...]:
        """Words of which the log must have one; none where it ends too soon for that."""
        ...

    async def begin(self) -> None: ...

    async def end(self) -> None: ...


async def ride_out(running: Load, outage: Outage, before: Rate) -> float:
    """Let it begin, see the work stand still, end it, and see all go on as before.

    Gives the seconds from its end until the rate is back.
    """
    names = await worker_names(running)
    read = {member.id: len(member.log.read_text()) for member in running.workers.members}

    def told() -> list[list[str]]:
        """What each worker's log has said since of trouble, in lines."""
        logs = [(member.log.read_text(), read[member.id]) for member in running.workers.members]
        trouble = ("WARNING", "ERROR")
        return [[x for x in text[at:].splitlines() if x.startswith(trouble)] for text, at in logs]

    def says() -> bool:
        lines = [line for said in told() for line in said]
        return any(word in line for line in lines for word in outage.says)

    async def stands() -> bool:
        now = time.monotonic()
        return running.meter.rate(now - STANDS, now) == 0 and says()

    try:
        await outage.begin()
        if outage.says:
            what = f"nothing is committed any more, and the log says why: {outage.name}"
            await until(stands, what, seconds=30)
    finally:
        await outage.end()
    seconds = await running.back_to(before, within=WITHIN)
    took(f"{outage.name}: rate back", seconds)
    assert await worker_names(running) == names, running.workers.logs()
    assert max(map(len, told())) <= LINES, told()
    return seconds


async def worker_names(running: Load) -> set[str]:
    """The names under which workers are entered: they change when one is taken for dead."""
    return {row.id for row in await running.scheduler.workers()}


class Killed:
    """The server dies by SIGKILL, and is started again."""

    says: ClassVar[tuple[str, ...]] = ()

    def __init__(self, server: Server, chance: random.Random) -> None:
        self.name = f"{server.name} killed"
        self._server = server
        self._away = chance.uniform(0, 1)

    async def begin(self) -> None:
        await asyncio.to_thread(self._server.kill)
        await asyncio.sleep(self._away)

    async def end(self) -> None:
        await asyncio.to_thread(self._server.start)


class Ended:
    """Every connection is ended by the administrator at once, then each heartbeat's by itself."""

    says: ClassVar[tuple[str, ...]] = ()

    def __init__(self, database: Database) -> None:
        self.name = f"{database.kind} connections ended"
        self._administrator = Administrator(database)

    async def begin(self) -> None:
        assert await self._administrator.end_connections() > 4

    async def end(self) -> None:
        await until(self._all_hold, "heartbeats are back", seconds=10)
        for worker, holder in (await self._administrator.lock_holders()).items():
            assert await self._administrator.end_connections([holder]) == 1

            async def is_back(worker: str = worker, holder: int = holder) -> bool:
                return (await self._administrator.lock_holders()).get(worker, holder) != holder

            await until(is_back, "the heartbeat is back on another connection", seconds=10)

    async def _all_hold(self) -> bool:
        rows = await self._administrator.run("SELECT id FROM zart_workers")
        return len(await self._administrator.lock_holders()) == len(rows)


class ReadOnly:
    """The server takes no writes any more, as a standby does."""

    says = ("read-only", "read_only", "read only")

    def __init__(self, database: Database) -> None:
        self.name = f"{database.kind} read-only"
        self._kind = database.kind
        self._administrator = Administrator(database)

    async def begin(self) -> None:
        await self._switch("on")

    async def end(self) -> None:
        await self._switch("off")

    async def _switch(self, value: str) -> None:
        if self._kind == "mysql":
            await self._administrator.run(f"SET GLOBAL read_only = {value}")
        else:
            await self._administrator.run(
                f"ALTER SYSTEM SET default_transaction_read_only = {value}"
            )
            await self._administrator.run("SELECT pg_reload_conf()")


class NoConnections:
    """Another application takes every connection."""

    says = ("too many", "slots", "Too many")

    def __init__(self, database: Database) -> None:
        self.name = f"{database.kind} out of connections"
        self._database = database
        self._held: list[Any] = []

    async def begin(self) -> None:
        """Cut all others', and be quicker than they are, until none is left."""
        first = await self._connect()
        self._held.append(first)

        async def has_all() -> bool:
            others = await self._end_others(first)
            await asyncio.gather(*(self._take() for _ in range(10)))
            return others == 0

        await until(has_all, "all connections are taken", seconds=30)

    async def _take(self) -> None:
        while True:
            try:
                self._held.append(await self._connect())
            except (asyncpg.TooManyConnectionsError, asyncmy.errors.OperationalError):
                return

    async def _connect(self) -> Any:
        if self._database.kind == "postgres":
            return await asyncpg.connect(self._database.url)
        return await asyncmy.connect(**mysql_arguments(self._database.url))

    async def _end_others(self, first: Any) -> int:
        """End every connection that is not this one's; gives how many there were."""
        if self._database.kind == "postgres":
            mine = [connection.get_server_pid() for connection in self._held]
            return len(
                await first.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type ="
                    " 'client backend' AND pid <> ALL($1::int[])",
                    mine,
                )
            )
        mine = [connection.thread_id() for connection in self._held]
        rows = await on_driver(
            first, "SELECT id FROM information_schema.processlist WHERE db IS NOT NULL"
        )
        others = [number for (number,) in rows if number not in mine]
        for number in others:
            try:
                await on_driver(first, f"KILL {number}")
            except asyncmy.errors.OperationalError as error:
                _log.debug("it had ended: %s", error)
        return len(others)

    async def end(self) -> None:
        held, self._held = self._held, []
        for connection in held:
            if self._database.kind == "postgres":
                await connection.close()
            else:
                await connection.ensure_closed()


class _FewPostgres(PostgresServer):
    def _command(self) -> list[str]:
        return [*super()._command(), f"--max_connections={CONNECTIONS}"]


class _FewMariadb(MariadbServer):
    def _command(self) -> list[str]:
        return [*super()._command(), f"--max-connections={CONNECTIONS}"]


FEW: dict[str, type[Server]] = {"postgres": _FewPostgres, "mysql": _FewMariadb}
"""Servers that let in few connections."""
