"""``zart migrate``: the tables."""

from __future__ import annotations

from typing import Annotated

import typer

from zart.cli.command import Cli, command
from zart.scheduler.durable import DurableScheduler
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.migrate import script

__all__ = ["add_to"]


async def migrate(
    cli: Cli,
    print_: Annotated[
        bool, typer.Option("--print", help="Only print the SQL; the database is not touched.")
    ] = False,
) -> None:
    """Create zart's tables, or bring them up to date.

    Safe at every deploy, and by several processes at once.
    """
    if print_:
        async with cli.unchecked_scheduler() as scheduler:
            _print_script(cli, scheduler)
        return
    async with cli.scheduler(may_create=True) as scheduler:
        applied = await scheduler.migrate()
    if cli.out.as_json:
        cli.out.json({"applied": applied})
    elif applied:
        for name in applied:
            cli.out.line(f"applied {name}", style="green")
    else:
        cli.out.line("the tables are up to date")


def _print_script(cli: Cli, scheduler: DurableScheduler) -> None:
    backend = scheduler.backend
    if not isinstance(backend, SqlEngine):
        raise TypeError(f"{type(backend).__name__} has no SQL to print")
    text = script(backend.database.wording.name, backend.database.tables)
    if cli.out.as_json:
        cli.out.json({"sql": text})
    else:
        print(text, end="")


def add_to(app: typer.Typer) -> None:
    """Enter this room's commands."""
    command(app, "migrate", migrate)
