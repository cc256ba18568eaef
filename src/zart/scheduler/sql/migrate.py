"""Numbered migrations, applied in order, each once, safely by several processes at once."""

from __future__ import annotations

import re
from importlib.resources import files

import msgspec

from zart.scheduler.sql.database import Database, Ddl
from zart.scheduler.sql.statements import Tables

__all__ = ["Migration", "migrate", "migrations", "script"]


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


async def migrate(database: Database) -> list[Migration]:
    """Apply what is missing; gives what was applied.

    Migrations only add, so tables that a newer zart has migrated serve this one too.
    """
    tables = database.tables
    known = migrations(database.wording.name, tables)

    async def job(ddl: Ddl) -> list[Migration]:
        await ddl.execute(_bookkeeping(tables))
        rows = await ddl.fetch(f"SELECT number FROM {tables.named('migrations')}")
        applied = {row[0] for row in rows}
        missing = [m for m in known if m.number not in applied]
        for migration in missing:
            for statement in migration.statements():
                await ddl.execute(statement)
            await ddl.execute(_note(tables, migration))
        return missing

    return await database.exclusively(job)
