"""Numbered migrations, applied in order, each once, safely by several processes at once.

They only add what an older zart need not know of, so that during an upgrade old and new processes
serve one database. Should one ever have to take away or change what an older zart uses, its file is
called ``NNNN_breaking_...``: its name stands in the database, and those older refuse to begin.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from importlib.resources import files

import msgspec

from zart.errors import MigrationError
from zart.scheduler.sql.database import Database, Ddl
from zart.scheduler.sql.statements import Tables

__all__ = ["Migration", "accept", "migrate", "migrations", "script"]

_log = logging.getLogger("zart.database")
_BREAKING = "breaking_"


class Migration(msgspec.Struct, frozen=True):
    """One numbered change of the tables; ``sql`` has its table names filled in."""

    number: int
    name: str
    sql: str

    def statements(self) -> list[str]:
        """The single statements, without comments."""
        plain = re.sub(r"--[^\n]*", "", self.sql)
        return [part.strip() for part in plain.split(";") if part.strip()]


def migrations(dialect: str, tables: Tables) -> list[Migration]:
    """All migrations of a dialect, in order."""
    folder = files(__package__) / "migrations" / dialect
    found: list[Migration] = []
    for file in folder.iterdir():
        if match := re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name):
            sql = tables.fill(file.read_text(encoding="utf-8"))
            found.append(Migration(int(match[1]), match[2], sql))
    return sorted(found, key=lambda m: m.number)


def _bookkeeping(tables: Tables) -> str:
    return (
        f"CREATE TABLE IF NOT EXISTS {tables.named('migrations')}"
        " (number integer PRIMARY KEY, name varchar(100) NOT NULL)"
    )


def script(dialect: str, tables: Tables) -> str:
    """Every migration as one SQL text, for those who apply it by their own means."""
    parts = [f"{_bookkeeping(tables)};"]
    for migration in migrations(dialect, tables):
        parts.append(f"-- {migration.number:04d} {migration.name}\n{migration.sql.strip()}")
        parts.append(f"{_note(tables, migration)};")
    return "\n\n".join(parts) + "\n"


def _note(tables: Tables, migration: Migration) -> str:
    # Both values come from file names in the package, checked by a pattern.
    return (
        f"INSERT INTO {tables.named('migrations')} (number, name)"
        f" VALUES ({migration.number}, '{migration.name}')"
    )


def accept(known: Sequence[Migration], applied: Sequence[tuple[int, str]]) -> None:
    """Judge what a newer zart has applied; raises `MigrationError` if this one can't go with it."""
    numbers = {migration.number for migration in known}
    newer = sorted((number, name) for number, name in applied if number not in numbers)
    if not newer:
        return
    names = ", ".join(f"{number:04d}_{name}" for number, name in newer)
    if any(name.startswith(_BREAKING) for _, name in newer):
        raise MigrationError(
            f"a newer zart has changed the tables of this database ({names}) in a way that this"
            " version cannot work with: update the package in this process"
        )
    _log.info("the tables have been migrated by a newer zart (%s); they serve this one too", names)


async def migrate(database: Database) -> list[Migration]:
    """Apply what is missing; gives what was applied.

    Raises `MigrationError` as `accept` does, and `DatabaseUnavailableError`.
    """
    tables = database.tables
    known = migrations(database.wording.name, tables)

    async def job(ddl: Ddl) -> list[Migration]:
        await ddl.execute(_bookkeeping(tables))
        rows = await ddl.fetch(f"SELECT number, name FROM {tables.named('migrations')}")
        accept(known, [(row[0], row[1]) for row in rows])
        applied = {row[0] for row in rows}
        missing = [m for m in known if m.number not in applied]
        for migration in missing:
            for statement in migration.statements():
                await ddl.execute(statement)
            await ddl.execute(_note(tables, migration))
        return missing

    # Workers at work lock their rows in another order than this locks their tables: that passes.
    return await database.change(job)
