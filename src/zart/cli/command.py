"""What every command shares: the database's options, the output, and one way to be defined."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Annotated, Any, cast, get_type_hints

import msgspec
import typer

from zart.cli.output import Output
from zart.errors import MigrationError
from zart.scheduler.connect import connect
from zart.scheduler.durable import DurableScheduler, KnownTasks
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.sqlite import SqliteDatabase

__all__ = ["Cli", "ExitCode", "command"]

_PATIENCE = 5.0
"""Seconds until a database that does not answer is reported, instead of being tried again."""


class ExitCode(IntEnum):
    """What the end of the process tells."""

    SUCCESS = 0
    FAILURE = 1
    TIMED_OUT = 2
    NOT_FOUND = 3


class Cli(msgspec.Struct, frozen=True):
    """One call of a command: where its database is, and where its answers go."""

    url: str | None
    prefix: str
    schema: str | None
    out: Output

    @property
    def database_url(self) -> str:
        """The database's URL; raises ValueError where none was given."""
        if not self.url:
            raise ValueError(
                "which database? Give --url, or set ZART_URL: sqlite:///shop.db,"
                " postgresql://user@host/name or mysql://user@host/name"
            )
        return self.url

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that shall work on the same database.

        Every user of the machine can see the arguments of a process, but not its environment.
        """
        own = {"ZART_URL": self.database_url, "ZART_PREFIX": self.prefix}
        if self.schema:
            own["ZART_SCHEMA"] = self.schema
        return {k: v for k, v in os.environ.items() if k != "ZART_SCHEMA"} | own

    @asynccontextmanager
    async def scheduler(
        self, *, registry: KnownTasks | None = None, may_create: bool = False
    ) -> AsyncGenerator[DurableScheduler, None]:
        """A connected scheduler, once its database has answered.

        ``may_create``: a SQLite file that is not there is made, otherwise it is an error.
        """
        async with self.unchecked_scheduler(registry=registry) as scheduler:
            backend = scheduler.backend
            if isinstance(backend, SqlEngine):
                database = backend.database
                if isinstance(database, SqliteDatabase) and not may_create:
                    _must_exist(database)
                await database.read(_nothing, patience=_PATIENCE)
            yield scheduler

    @asynccontextmanager
    async def unchecked_scheduler(
        self, *, registry: KnownTasks | None = None
    ) -> AsyncGenerator[DurableScheduler, None]:
        """A scheduler whose database has not been spoken to yet."""
        options: dict[str, Any] = {"prefix": self.prefix, "registry": registry}
        if self.schema is not None:
            if self.database_url.startswith("sqlite"):
                raise ValueError(
                    "SQLite has no schemas: leave --schema out; --prefix tells tables apart"
                )
            options["schema"] = self.schema
        async with connect(self.database_url, **options) as scheduler:
            yield scheduler


def _must_exist(database: SqliteDatabase) -> None:
    if not database.path.exists():
        raise MigrationError(
            f"there is no file {database.path}: check the URL, or make it with `zart migrate`"
        )


async def _nothing(_: Any) -> None:
    return None


def command(
    app: typer.Typer, name: str, body: Callable[..., Any], *, own_tables: bool = False
) -> None:
    """Enter a command.

    ``body`` takes a `Cli` and the command's own arguments; it may be async, and gives an exit code
    or None. The shared options are added to its signature here, so that no command repeats them.
    ``own_tables``: it makes tables of its own, so that no prefix is asked for, and a database has
    to be named to it, not only be there in the environment.
    """
    hints = get_type_hints(body, include_extras=True)
    own = [
        p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for p in list(inspect.signature(body).parameters.values())[1:]
    ]
    shared = _parameters(_options_of_own_tables if own_tables else _options)

    def run(**values: Any) -> None:
        given = {p.name: values.pop(p.name) for p in shared}
        out = Output(as_json=given["json"])
        cli = Cli(given["url"], given.get("prefix", "zart_"), given["schema"], out)
        code: Any = body(cli, **values)
        if inspect.iscoroutine(code):
            code = asyncio.run(cast("Coroutine[Any, Any, Any]", code))
        if code:
            raise typer.Exit(int(code))

    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {}
    run.__doc__ = body.__doc__
    app.command(name)(run)


Schema = Annotated[
    str | None,
    typer.Option(
        envvar="ZART_SCHEMA",
        metavar="NAME",
        help="The tables' schema, where the database has them.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show an error's traceback.")]


def _options(
    *,
    url: Annotated[
        str | None,
        typer.Option(envvar="ZART_URL", metavar="URL", help="The database.", show_default=False),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(
            envvar="ZART_PREFIX", metavar="NAME", help="What the tables' names begin with."
        ),
    ] = "zart_",
    schema: Schema = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Only its signature counts: the options of every command."""


def _options_of_own_tables(
    *,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The database; a temporary SQLite file unless given."),
    ] = None,
    schema: Schema = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Only its signature counts."""


def _parameters(options: Callable[..., None]) -> list[inspect.Parameter]:
    hints = get_type_hints(options, include_extras=True)
    parameters = inspect.signature(options).parameters.values()
    return [p.replace(annotation=hints[p.name]) for p in parameters]
