"""Connecting: a scheduler for each database, chosen by class or by URL."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

from zart.duration import Duration, describe, seconds
from zart.scheduler.durable import MAX_PAYLOAD, DurableScheduler, KnownTasks
from zart.scheduler.sql.database import ANSWER_TIMEOUT
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.hosts import without_password
from zart.scheduler.sql.sqlite import SqliteDatabase
from zart.scheduler.sql.statements import Tables
from zart.serialization import Serializer

__all__ = [
    "Connecting",
    "MySQLScheduler",
    "PostgresScheduler",
    "SqliteScheduler",
    "connect",
    "without_password",
]


class PostgresScheduler(DurableScheduler):
    """A scheduler on PostgreSQL 13 or later."""

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        prefix: str = "zart_",
        schema: str | None = None,
        connections: int = 8,
        answer_timeout: Duration = ANSWER_TIMEOUT,
        serializer: Serializer | None = None,
        max_payload: int = MAX_PAYLOAD,
        registry: KnownTasks | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A scheduler on PostgreSQL by ``postgresql://`` URL; connections open when first used.

        ``prefix`` begins the names of zart's tables, ``schema`` is where they lie; ``connections``
        is how many there may be. One that leaves a statement unanswered for ``answer_timeout``
        counts as lost. ``max_payload`` is in bytes of JSON. With a ``registry``, task names and
        inputs are checked when they are scheduled. ``options`` go to asyncpg.

        Raises `ImportError` without asyncpg, and `ValueError` for a URL or an option that cannot
        be used.

        ::

            scheduler = await zart.PostgresScheduler.connect(url, schema="jobs", connections=4)
        """
        try:
            from zart.scheduler.sql.postgres import PostgresDatabase  # noqa: PLC0415 an extra
        except ImportError as error:
            raise _missing("asyncpg", "postgres") from error
        database = PostgresDatabase(
            url,
            Tables(prefix, schema),
            connections=_connections(connections),
            answer_timeout=_answer_timeout(answer_timeout),
            options=_mapping(options),
        )
        await database.open()
        return cls(
            SqlEngine(database), serializer=serializer, max_payload=max_payload, registry=registry
        )


class MySQLScheduler(DurableScheduler):
    """A scheduler on MySQL 8 or MariaDB 10.6 and later."""

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        prefix: str = "zart_",
        schema: str | None = None,
        connections: int = 8,
        answer_timeout: Duration = ANSWER_TIMEOUT,
        serializer: Serializer | None = None,
        max_payload: int = MAX_PAYLOAD,
        registry: KnownTasks | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A scheduler on MySQL or MariaDB by ``mysql://`` URL; connections open when first used.

        The arguments are those of `PostgresScheduler.connect`; ``options`` go to asyncmy. Raises
        `ImportError` without asyncmy, and `ValueError` for a URL or an option that cannot be used.

        ::

            scheduler = await zart.MySQLScheduler.connect("mysql://user:password@host/shop")
        """
        try:
            from zart.scheduler.sql.mysql import MySQLDatabase  # noqa: PLC0415 an extra
        except ImportError as error:
            raise _missing("asyncmy", "mysql") from error
        database = MySQLDatabase(
            url,
            Tables(prefix, schema),
            connections=_connections(connections),
            answer_timeout=_answer_timeout(answer_timeout),
            options=_mapping(options),
        )
        return cls(
            SqlEngine(database), serializer=serializer, max_payload=max_payload, registry=registry
        )


class SqliteScheduler(DurableScheduler):
    """A scheduler on one SQLite file, shared by the processes of one machine."""

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        prefix: str = "zart_",
        serializer: Serializer | None = None,
        max_payload: int = MAX_PAYLOAD,
        registry: KnownTasks | None = None,
    ) -> Self:
        """A scheduler on a file, by path or ``sqlite:///`` URL; it is made when first used.

        The arguments are those of `PostgresScheduler.connect`, as far as a file has them. Raises
        `ValueError` for a URL without a path, or with more than one, for ``:memory:`` and for a
        prefix that cannot be used.

        ::

            scheduler = await zart.SqliteScheduler.connect("shop.db")
        """
        database = SqliteDatabase(_path(url), Tables(prefix))
        return cls(
            SqlEngine(database), serializer=serializer, max_payload=max_payload, registry=registry
        )


def _connections(given: Any) -> int:
    if type(given) is not int or given < 1:
        raise ValueError(f"connections is a whole number from 1 on, not {given!r:.80}")
    return given


def _answer_timeout(given: Duration) -> float:
    length = seconds(given, what="answer_timeout")
    if not length:
        raise ValueError(
            f"answer_timeout {given!r} leaves no time for an answer: the default is"
            f" {describe(ANSWER_TIMEOUT)}"
        )
    return length


def _mapping(given: Any) -> Mapping[str, Any] | None:
    if not isinstance(given, Mapping | None):
        raise TypeError(f"options is a dict of the driver's arguments, not {given!r:.80}")
    return given  # pyright: ignore[reportUnknownVariableType]


_FILE = (
    "write sqlite:///shop.db for a file here, or sqlite:////var/lib/shop.db for an absolute path"
)


def _path(url: Any) -> Path:
    if not isinstance(url, str):
        raise TypeError(f"a SQLite scheduler takes a path or a URL as text, not {url!r:.80}")
    path = _path_of_url(url) if url.startswith("sqlite:") else url
    if not path:
        raise ValueError(f"{url!r} names no file: {_FILE}")
    if path == ":memory:" or path.startswith("file::memory:"):
        raise ValueError(
            f"{url!r} is no file: each connection would have a database in memory for itself, and"
            " nothing in it would outlive the process. For a test take a file in a temporary folder"
        )
    if path.startswith("file:"):
        raise ValueError(f"{url!r} holds a URL of SQLite's own, which zart does not take: {_FILE}")
    # The locks that show workers as alive lie beside the file: one file must have one name, by
    # whichever link a process comes to it.
    return Path(path).resolve()


def _path_of_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        mark = "?" if parts.query else "#"
        raise ValueError(
            f"{url!r} has a {mark}, and after it something that zart does not know of a file:"
            f" leave it out, or write it as {quote(mark)} where it belongs to the name"
        )
    if parts.netloc or not url.startswith("sqlite:///"):
        raise ValueError(f"{url!r} names no file: {_FILE}")
    return unquote(parts.path[1:])


_SCHEDULERS: dict[str, type[DurableScheduler]] = {
    "sqlite": SqliteScheduler,
    "postgresql": PostgresScheduler,
    "postgres": PostgresScheduler,
    "mysql": MySQLScheduler,
    "mariadb": MySQLScheduler,
}


class Connecting:
    """What `connect` gives: await it, or enter it as an async context manager, for the scheduler.

    Entered, it closes the scheduler at the end of the block; awaited, that is the caller's part.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        kind = _kind(url)
        if kind not in _SCHEDULERS:
            raise ValueError(
                f"{without_password(url)!r} names no database that zart knows: begin with"
                " sqlite:///, postgresql:// or mysql://"
            )
        self._class: Any = _SCHEDULERS[kind]
        if unknown := options.keys() - _options(self._class):
            raise TypeError(_refused(self._class, min(unknown)))
        self._url = url
        self._options = options
        self._scheduler: DurableScheduler | None = None

    async def _connect(self) -> DurableScheduler:
        scheduler: DurableScheduler = await self._class.connect(self._url, **self._options)
        return scheduler

    def __await__(self) -> Generator[Any, None, DurableScheduler]:
        return self._connect().__await__()

    async def __aenter__(self) -> DurableScheduler:
        self._scheduler = await self._connect()
        return self._scheduler

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._scheduler is not None
        await self._scheduler.close()


def _kind(url: Any) -> str:
    if not isinstance(url, str):
        raise TypeError(f"a database's URL is text, not {url!r:.80}")
    return url.partition(":")[0]


def _options(kind: Any) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(kind.connect).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _refused(kind: type[DurableScheduler], option: str) -> str:
    """What is said of an option that a database does not have."""
    others = [name for name, other in _SCHEDULERS.items() if option in _options(other)]
    if others:
        return (
            f"{kind.__name__} has no {option!r}: that is an option of servers, for URLs that begin"
            f" with {', '.join(others)}"
        )
    return f"there is no option {option!r}: {kind.__name__} takes {', '.join(_options(kind))}"


def connect(url: str, **options: Any) -> Connecting:
    """A scheduler by URL: ``sqlite:///shop.db``, ``postgresql://...`` or ``mysql://...``.

    Enter what it gives as an async context manager, or await it. ``options`` are those of
    `PostgresScheduler.connect` and its siblings: ``prefix`` of the tables, ``schema``,
    ``connections``, ``answer_timeout``, ``serializer``, ``max_payload`` in bytes, ``registry``.
    The database is first spoken to when it is used.

    Raises `ValueError` for a URL of another kind and `TypeError` for an option that its database
    does not have; entering or awaiting raises `ImportError` for a driver that is not installed and
    `ValueError` or `TypeError` for a URL or options that do not fit.

    ::

        async with zart.connect("sqlite:///shop.db") as scheduler:
            await scheduler.migrate()
    """
    return Connecting(url, options)


def _missing(driver: str, extra: str) -> ImportError:
    return ImportError(f"this database needs {driver}: pip install 'pyzart[{extra}]'")
