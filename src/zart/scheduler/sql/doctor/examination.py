"""The order of an examination."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from zart.errors import DatabaseUnavailableError
from zart.scheduler.findings import Finding
from zart.scheduler.sql.database import Database
from zart.scheduler.sql.doctor import mysql, postgres, sqlite, work
from zart.scheduler.sql.doctor.check import Check, amount, fetch, ok, problem, span, warning
from zart.scheduler.sql.migrate import migrations

__all__ = ["examine"]

_CHECKS: Mapping[str, Sequence[Check]] = {
    "mysql": mysql.CHECKS,
    "postgres": postgres.CHECKS,
    "sqlite": sqlite.CHECKS,
}
_SLOW = 0.02
"""Seconds for one round trip from which on it is worth a word."""
_WRONG = 1.0
"""Seconds that the two clocks may differ."""


async def examine(database: Database) -> list[Finding]:
    """Look at everything; a check that cannot be made is a finding too."""
    findings = await _guarded(_connection, database)
    if any(finding.level == "problem" for finding in findings):
        return findings
    for check in (*_CHECKS[database.wording.name], _clock, _tables):
        findings += await _guarded(check, database)
    if not any(finding.check == "tables" and finding.level == "problem" for finding in findings):
        for check in work.CHECKS:
            findings += await _guarded(check, database)
    return findings


async def _guarded(check: Check, database: Database) -> list[Finding]:
    try:
        return list(await check(database))
    except Exception as error:
        name = getattr(check, "__name__", "check").strip("_").replace("_", " ")
        cause = (isinstance(error, DatabaseUnavailableError) and error.__cause__) or error
        text = " ".join(f"{type(cause).__name__}: {cause}".split())
        if check is _connection:
            return [
                problem(
                    "connection",
                    text,
                    "nothing can be scheduled, and no worker can work",
                    "check the URL, that the server runs, and what its log says",
                )
            ]
        return [
            warning(
                name,
                f"could not be looked at: {text}",
                "whether it is in order is not known",
                "give this user the right to look (pg_monitor on PostgreSQL, PROCESS on MySQL), or"
                " ask an administrator",
            )
        ]


async def _connection(database: Database) -> Sequence[Finding]:
    if database.wording.name == "sqlite" and (missing := sqlite.missing_file(database)):
        return [missing]
    await fetch(database, "doctor_now")  # the first one connects
    times: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        await fetch(database, "doctor_now")
        times.append(time.perf_counter() - began)
    trip = min(times)
    found = f"answers in {span(trip)}"
    if trip < _SLOW:
        return [ok("connection", found)]
    return [
        warning(
            "connection",
            found,
            "every step that is recorded waits for at least one such round trip",
            "run the workers nearer to the database; look at its load",
        )
    ]


async def _clock(database: Database) -> Sequence[Finding]:
    began = time.time()
    rows = await fetch(database, "doctor_now")
    middle = (began + time.time()) / 2
    ahead = rows[0][0] / 1_000_000 - middle
    direction = "ahead of" if ahead > 0 else "behind"
    if abs(ahead) < _WRONG:
        return [ok("clock", f"the database's is {span(abs(ahead))} {direction} this machine's")]
    return [
        warning(
            "clock",
            f"the database's is {span(abs(ahead))} {direction} this machine's",
            "zart goes by the database's clock, so nothing comes early or late; times in logs do"
            " not match, and a time of this machine given as `at=` is off by as much",
            "let both machines follow the same time server",
        )
    ]


async def _tables(database: Database) -> Sequence[Finding]:
    known = {m.number for m in migrations(database.wording.name, database.tables)}
    place = database.tables.named("...")
    try:
        rows = await fetch(database, "doctor_migrations")
    except Exception as error:
        if not database.lacks_tables(error.__cause__ or error):
            raise
        rows = []
    applied = {row[0] for row in rows}
    if missing := known - applied:
        what = amount(len(missing), "migration")
        return [
            problem(
                "tables",
                f"{what} missing" if applied else f"there are no tables {place}",
                "this package reads and writes columns that are not there",
                "run `zart migrate`, with the same prefix and schema",
            )
        ]
    if newer := applied - known:
        return [
            warning(
                "tables",
                f"migrated by a newer zart ({amount(len(newer), 'migration')} ahead)",
                "migrations only add, so this version works; it does not know what is new",
                "bring this machine's package up to date",
            )
        ]
    return [ok("tables", f"{place} are up to date ({amount(len(applied), 'migration')})")]
