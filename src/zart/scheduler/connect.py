"""Connecting: a scheduler for each database, chosen by class or by URL."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from zart.duration import Duration, seconds
from zart.scheduler.durable import MAX_PAYLOAD, DurableScheduler, KnownTasks
from zart.scheduler.sql.database import ANSWER_TIMEOUT
from zart.scheduler.sql.engine import SqlEngine
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

        Raises `ImportError` without asyncpg, and `ValueError` for a URL, prefix or schema that
        cannot be used.

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
            connections=connections,
            answer_timeout=seconds(answer_timeout, what="answer_timeout"),
            options=options,
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
        `ImportError` without asyncmy, and `ValueError` for a URL, prefix or schema that cannot be
        used.

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
            connections=connections,
            answer_timeout=seconds(answer_timeout, what="answer_timeout"),
            options=options,
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
        `ValueError` for a URL without a path and a prefix that cannot be used.

        ::

            scheduler = await zart.SqliteScheduler.connect("shop.db")
        """
        database = SqliteDatabase(_path(url), Tables(prefix))
        return cls(
            SqlEngine(database), serializer=serializer, max_payload=max_payload, registry=registry
        )


def _path(url: str) -> Path:
    if not url.startswith("sqlite:"):
        return Path(url).absolute()
    path = unquote(urlsplit(url).path)
    if not path.startswith("/") or path == "/":
        raise ValueError(
            f"{url!r} names no file: write sqlite:///shop.db for a file here, or"
            " sqlite:////var/lib/shop.db for an absolute path"
        )
    return Path(path[1:]).absolute()


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
        kind = url.partition(":")[0]
        if kind not in _SCHEDULERS:
            raise ValueError(
                f"{without_password(url)!r} names no database that zart knows: begin with"
                " sqlite:///, postgresql:// or mysql://"
            )
        self._class: Any = _SCHEDULERS[kind]
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


def connect(url: str, **options: Any) -> Connecting:
    """A scheduler by URL: ``sqlite:///shop.db``, ``postgresql://...`` or ``mysql://...``.

    Enter what it gives as an async context manager, or await it. ``options`` are those of
    `PostgresScheduler.connect` and its siblings: ``prefix`` of the tables, ``schema``,
    ``connections``, ``answer_timeout``, ``serializer``, ``max_payload`` in bytes, ``registry``.
    The database is first spoken to when it is used.

    Raises `ValueError` for a URL of another kind; entering or awaiting raises `ImportError` for a
    driver that is not installed and `ValueError` or `TypeError` for options that do not fit.

    ::

        async with zart.connect("sqlite:///shop.db") as scheduler:
            await scheduler.migrate()
    """
    return Connecting(url, options)


def without_password(url: str) -> str:
    """A URL that may be shown: its password is left out, however badly the URL is written."""
    url = re.sub(r"([?&](?:password|passwd|sslpassword)=)[^&#]+", r"\1***", url)
    before_host, at, host = url.rpartition("@")
    colon = before_host.find(":", before_host.find("//") + 2 if "//" in before_host else 0)
    return f"{before_host[:colon]}:***@{host}" if at and colon >= 0 else url


def _missing(driver: str, extra: str) -> ImportError:
    return ImportError(f"this database needs {driver}: pip install 'pyzart[{extra}]'")
