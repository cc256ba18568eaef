"""What a dialect provides: transactions that run again by themselves, sessions, hints.

Capabilities are asked of a database, never which database it is: `Database.hints` is None where
nothing can be listened to, `Session.hold` gives None where no session lock tells of a death.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

from zart.errors import DatabaseUnavailableError, MigrationError
from zart.scheduler.sql.statements import Statements, Tables, Wording
from zart.scheduler.sql.transaction import Note, Row, Transaction, Work
from zart.scheduler.sql.transitions.schedule import RaceLostError
from zart.scheduler.sql.trouble import Trouble

__all__ = [
    "Database",
    "Ddl",
    "Hints",
    "LockTakenError",
    "PoolExhaustedError",
    "Session",
    "patiently",
]

T = TypeVar("T")
_log = logging.getLogger("zart.database")

PATIENCE = 30.0
"""Seconds that a caller's operation is tried again before the database counts as unavailable."""
ANSWER_TIMEOUT = 30.0
"""Seconds that a server may take for one answer until its connection counts as lost."""
POOL_TIMEOUT = 30.0
"""Seconds to wait for a free connection."""
REPEATABLE = "the same call is safe to repeat"
"""Said of a write that may have been committed unseen; a few calls have to say something else."""


class LockTakenError(Exception):
    """Another session has the lock; maybe an old one, of whose end the server has not heard."""


class PoolExhaustedError(TimeoutError):
    """All connections have been at work for long, and others wait for one."""

    def __init__(self, connections: int) -> None:
        super().__init__(
            f"none of the {connections} connections was free within {POOL_TIMEOUT:g} s: keep"
            " transactions short, or give the scheduler more with `connections`"
        )


class Hints(Protocol):
    """Messages between processes that something may have changed; any of them may be lost."""

    async def start(self, received: Callable[[str], None]) -> None:
        """Begin to listen; ``received`` gets each message on the event loop."""
        ...

    def send(self, message: str) -> None:
        """Tell other processes soon; messages of one moment go together."""
        ...

    def note(self, message: str) -> Note | None:
        """A message for a statement to carry; None where it had better be sent."""
        ...

    async def close(self) -> None: ...


class Ddl(Protocol):
    """Runs statements that change tables."""

    async def execute(self, sql: str) -> None: ...

    async def fetch(self, sql: str) -> list[Row]: ...


class Session(Protocol):
    """One connection of its own, for a thread of its own."""

    async def run(self, work: Work[T]) -> T:
        """Run one transaction once; errors are the caller's."""
        ...

    async def hold(self, key: int) -> bool:
        """Hold a lock that dies with this session; False where the database has none.

        Raises `LockTakenError` when another session has it.
        """
        ...

    async def released(self, keys: list[int]) -> set[int]:
        """Those of the locks that no session holds."""
        ...

    async def forget(self, key: int) -> None:
        """Clear away what is left of a dead session's lock."""
        ...

    async def server_started_at(self) -> int:
        """When the server started, in microseconds: locks taken before that are gone."""
        ...

    @property
    def broken(self) -> bool:
        """True when the connection is known to be lost."""
        ...

    async def close(self) -> None: ...


class Database(ABC):
    """A dialect with its connections."""

    wording: Wording
    driver_errors: tuple[type[Exception], ...]
    """What the driver raises itself, whoever uses its connection: all else that a user's function
    lets out is its own."""
    hints: Hints | None = None
    keeps_dead_entries = True
    """Whether what was claimed stays in the index of ready rows for a while."""
    reads_past_ends = False
    """Whether a look at an empty stretch of an index reads on through dead entries behind it."""
    poll_interval: float = 1.0
    """Seconds between an idle worker's looks, where hints do not come earlier."""
    standstill: float = 60.0
    """Seconds that a user's transaction may go without a statement: a process that stands still
    keeps its rows locked no longer than that, where the database can see to it."""

    def __init__(self, tables: Tables, address: str) -> None:
        self.tables = tables
        self.statements = Statements(self.wording, tables)
        self.trouble = Trouble(address)

    async def run(self, work: Work[T], *, repeating: str = REPEATABLE) -> T:
        """Run a transaction, again and again while its errors may pass.

        Raises `DatabaseUnavailableError` when patience runs out; ``repeating`` tells its reader
        about the same call once more.
        """
        with self.telling():
            return await patiently(
                self._run_once, self.transient, work, PATIENCE, self.trouble, repeating
            )

    async def run_alone(self, work: Work[T], *, repeating: str = REPEATABLE) -> T:
        """Run work of one statement, which is a transaction by itself where that saves anything."""
        with self.telling():
            return await patiently(
                self._run_alone_once, self.transient, work, PATIENCE, self.trouble, repeating
            )

    async def read(self, work: Work[T], *, patience: float = PATIENCE) -> T:
        """Run a transaction that only reads; it may not wait for writers.

        ``patience`` bounds the time in seconds.
        """
        with self.telling():
            return await patiently(
                self._read_once, self.transient, work, patience, self.trouble, None
            )

    async def change(self, job: Callable[[Ddl], Awaitable[T]]) -> T:
        """Run a job as `exclusively` does, again and again while its errors may pass.

        Raises `DatabaseUnavailableError` when patience runs out.
        """

        async def once(_: Work[T], attempt: int) -> T:
            return await self.exclusively(job)

        return await patiently(once, self.transient, _nothing, PATIENCE, self.trouble, REPEATABLE)

    @contextmanager
    def telling(self) -> Generator[None, None, None]:
        """Says what to do about errors of the driver that have one known cause."""
        try:
            yield
        except Exception as error:
            if not self.lacks_tables(error):
                raise
            raise MigrationError(
                f"zart's tables are missing in this database, or older than this package needs"
                f" ({error}): run `zart migrate`, or `await scheduler.migrate()` at start, with the"
                " same prefix and schema"
            ) from error

    def words_for(self, error: Exception) -> str | None:
        """What to say of an error that the driver raised in a user's function without a word."""
        return None

    @abstractmethod
    def lacks_tables(self, error: BaseException) -> bool:
        """True for the driver's error about a table or column that is not there."""

    @abstractmethod
    async def _run_once(self, work: Work[T], attempt: int) -> T: ...

    async def _run_alone_once(self, work: Work[T], attempt: int) -> T:
        return await self._run_once(work, attempt)

    async def _read_once(self, work: Work[T], attempt: int) -> T:
        return await self._run_once(work, attempt)

    @abstractmethod
    def transient(self, error: BaseException) -> bool:
        """True for an error that may pass when the transaction is run again."""

    @abstractmethod
    def session(self) -> Any:
        """An async context manager of a `Session`; may be entered in another thread's loop."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def exclusively(self, job: Callable[[Ddl], Awaitable[T]]) -> T:
        """Run a job that changes tables while no other process does, in one transaction where
        the database's tables are transactional."""

    @abstractmethod
    def own_transaction(self, attempt: int) -> Any:
        """An async context manager: a transaction that user code shares.

        Gives (transaction, driver connection); it is committed when the block ends without error.
        """

    @abstractmethod
    def borrowed(self, connection: Any) -> Transaction:
        """A transaction that a caller has open on a driver connection of its own."""


async def _nothing(_: Transaction) -> Any:
    """For what is no work of one transaction."""


async def patiently(
    once: Callable[[Work[T], int], Any],
    transient: Callable[[BaseException], bool],
    work: Work[T],
    patience: float,
    trouble: Trouble,
    repeating: str | None,
) -> T:
    """Run ``once`` until it succeeds, its error is not transient, or patience runs out.

    ``repeating`` says what a caller has to know who calls again; None where nothing is written.
    """
    began = time.monotonic()
    attempt = 1
    while True:
        try:
            result: T = await once(work, attempt)
        except RaceLostError:
            delay = 0.0
        except Exception as error:
            if not transient(error):
                raise
            delay = min(2.0, 0.01 * 2 ** min(attempt, 8)) * random.uniform(0.5, 1.0)
            trouble.met(error, began)
            if time.monotonic() + delay > began + patience:
                unsure = f"Whether the last try was committed is not known: {repeating}."
                raise DatabaseUnavailableError(
                    f"the database {trouble.address} did not answer within {patience:g} s and"
                    f" {attempt} tries;"
                    f" the last error was {type(error).__name__}: {error}."
                    f" {unsure if repeating else 'Nothing was to be written.'}"
                ) from error
        else:
            if attempt > 1:
                trouble.over()
            return result
        attempt += 1
        await asyncio.sleep(delay)


@asynccontextmanager
async def closing_session(session: Session) -> AsyncGenerator[Session, None]:
    """Closes a session at the end of a block, whatever state it is in."""
    try:
        yield session
    finally:
        try:
            await session.close()
        except Exception as error:
            _log.debug("closing a session: %s", error)
