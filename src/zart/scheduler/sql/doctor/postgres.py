"""What only PostgreSQL has: poolers, vacuum, its settings for durability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from zart.scheduler.findings import Finding
from zart.scheduler.sql.database import Database
from zart.scheduler.sql.doctor.check import Check, amount, fetch, graded, ok, problem, span, warning
from zart.scheduler.sql.statements import TABLES
from zart.scheduler.sql.transaction import Row

if TYPE_CHECKING:  # its driver is an extra
    from zart.scheduler.sql.postgres import PostgresDatabase
    from zart.scheduler.sql.postgres_server import PostgresServer

__all__ = ["CHECKS"]

_OLDEST = 130_000
_PINNED = (60.0, 1800.0)
"""Seconds that a transaction may be open."""
_BEHIND = (1_000_000.0, 50_000_000.0)
"""Transactions that a replication slot may be behind."""
_DEAD = 50_000
"""Dead rows of one table that are nothing out of the ordinary."""


def _server(database: Database) -> PostgresServer:
    return cast("PostgresDatabase", database).server


async def server(database: Database) -> Sequence[Finding]:
    number, version, recovering = (await fetch(database, "doctor_server"))[0]
    if recovering:
        return [
            problem(
                "server",
                f"PostgreSQL {version}, a standby",
                "it can be read only: nothing is scheduled, claimed or recorded here",
                "connect to the primary; with several hosts in the URL zart looks for it by itself",
            )
        ]
    if number < _OLDEST:
        return [
            problem(
                "server",
                f"PostgreSQL {version}",
                "zart needs 13 or later",
                "bring the server up to date",
            )
        ]
    return [ok("server", f"PostgreSQL {version}")]


async def isolation(database: Database) -> Sequence[Finding]:
    level = _server(database).isolation
    found = f"{level} by default"
    if level != "read committed":
        found += "; zart's own transactions are read committed, yours in ctx.transaction are not"
    return [ok("isolation", found)]


async def capabilities(database: Database) -> Sequence[Finding]:
    found = _server(database)
    missing = [name for name in found.capabilities.__struct_fields__ if not found.can(name)]
    if not missing:
        return [ok("capabilities", "all that zart can use")]
    return [
        warning(
            "capabilities",
            ("behind a pooler, " if found.pooled else "") + f"without {', '.join(missing)}",
            "it works, and costs time: " + "; ".join(_COSTS[name] for name in missing),
            "let the workers' URL lead to the server itself and leave the pooler to the"
            " applications that only schedule; or, if the pooler keeps sessions, say so in the URL:"
            f" ?zart_capabilities={','.join(found.capabilities.__struct_fields__)}"
            if found.pooled
            else "if the server has them, let the URL's zart_capabilities name them",
        )
    ]


_COSTS = {
    "prepared_statements": "each statement is parsed and planned anew",
    "listen": "idle workers look for work many times a second",
    "session_locks": "a dead worker is seen only when its lease has run out",
    "skip_locked": "claims of several workers wait for each other",
    "read_committed": "transactions that meet are run again",
}


async def durability(database: Database) -> Sequence[Finding]:
    settings = {row[0]: row[1] for row in await fetch(database, "doctor_settings")}
    weak = {
        "fsync": "a power cut may destroy the whole database",
        "full_page_writes": "a power cut may leave torn pages",
        "synchronous_commit": "a crash of the server forgets up to about a second of what was"
        " acknowledged: recorded steps run again",
    }
    findings = [
        problem(
            "durability",
            f"{name} is off",
            meaning,
            f"set {name} to on, for the server, this database and this user",
        )
        for name, meaning in weak.items()
        if settings.get(name) == "off"
    ]
    if settings.get("synchronous_standby_names") and settings["synchronous_commit"] == "local":
        findings.append(
            warning(
                "durability",
                "synchronous_commit is local, and there are synchronous standbys",
                "a failover may forget what was acknowledged",
                "set synchronous_commit to on for this database and this user",
            )
        )
    return findings or [ok("durability", "what is acknowledged is on disk")]


async def autovacuum(database: Database) -> Sequence[Finding]:
    settings = {row[0]: row[1] for row in await fetch(database, "doctor_settings")}
    off = [name for name in ("autovacuum", "track_counts") if settings.get(name) == "off"]
    off += [
        f"autovacuum_enabled of {row[0]}"
        for row in await _tables(database)
        if "autovacuum_enabled=false" in row[3] or "autovacuum_enabled=off" in row[3]
    ]
    if not off:
        return [ok("autovacuum", "on")]
    return [
        problem(
            "autovacuum",
            f"off: {', '.join(off)}",
            "dead rows are never removed: zart's tables and indexes grow, and claims slow down",
            "switch it on; zart's tables come with settings of their own for it",
        )
    ]


async def snapshots(database: Database) -> Sequence[Finding]:
    """What keeps vacuum from removing dead rows."""
    rows = await fetch(database, "doctor_snapshots")
    timed = [row for row in rows if row[3] is not None]
    findings: list[Finding] = []
    if timed:
        kind, name, what, seconds, age = timed[0]
        findings.append(
            graded(
                "oldest snapshot",
                f"{kind} {name} ({what}) for {span(seconds)}, {amount(age, 'transaction')} behind",
                seconds,
                _PINNED,
                meaning="no dead row that is younger can be removed: zart's tables grow meanwhile,"
                " and claims read past what is dead",
                advice=_END[kind].format(name=name),
            )
        )
    for kind, name, what, _, age in rows:
        if kind == "replication slot":
            findings.append(
                graded(
                    "replication slot",
                    f"{name} ({what}) is {amount(age, 'transaction')} behind",
                    age,
                    _BEHIND,
                    meaning="no dead row that is younger can be removed, whether anyone reads from"
                    " the slot or not",
                    advice="let its reader catch up, or drop it with pg_drop_replication_slot",
                )
            )
    return findings or [ok("oldest snapshot", "no other transaction is open")]


_END = {
    "transaction": "find out what it does, and end it: SELECT pg_terminate_backend({name}). Long"
    " reports belong on a replica; idle_in_transaction_session_timeout ends forgotten ones",
    "prepared transaction": "COMMIT PREPARED or ROLLBACK PREPARED it",
}


async def dead_rows(database: Database) -> Sequence[Finding]:
    rows = await _tables(database)
    if not rows:
        return []
    name, live, dead, _, size = max(rows, key=lambda row: row[2])
    found = f"{name} has the most: {dead:,}, beside {live:,} live ({size / 1048576:,.0f} MiB)"
    if dead <= max(_DEAD, live):
        return [ok("dead rows", found)]
    return [
        warning(
            "dead rows",
            found,
            "vacuum does not keep up, or something keeps it from removing them; reads and claims"
            " slow down",
            "look at 'oldest snapshot' and 'autovacuum' first; then VACUUM it, and give autovacuum"
            " more to spend (autovacuum_vacuum_cost_limit)",
        )
    ]


async def _tables(database: Database) -> list[Row]:
    names = [(database.tables.named(table),) for table in TABLES]
    return await fetch(database, "doctor_dead_rows", tables=names)


CHECKS: Sequence[Check] = (
    server,
    capabilities,
    isolation,
    durability,
    autovacuum,
    snapshots,
    dead_rows,
)
