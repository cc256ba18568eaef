"""What only MySQL and MariaDB have: InnoDB's history, their settings for durability."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zart.scheduler.findings import Finding
from zart.scheduler.sql.database import Database
from zart.scheduler.sql.doctor.check import Check, amount, fetch, graded, ok, problem, span, warning

__all__ = ["CHECKS"]

_OLDEST = {"MariaDB": (10, 6), "MySQL": (8, 0)}
_PINNED = (60.0, 1800.0)
"""Seconds that a transaction may be open."""
_HISTORY = (1_000_000.0, 20_000_000.0)
"""Changes that InnoDB may keep."""


async def server(database: Database) -> Sequence[Finding]:
    version, read_only = (await fetch(database, "doctor_server"))[0]
    kind = "MariaDB" if "mariadb" in version.lower() else "MySQL"
    numbers = re.match(r"(\d+)\.(\d+)", version)
    found = f"{kind} {version}"
    if read_only:
        return [
            problem(
                "server",
                f"{found}, read-only",
                "nothing is scheduled, claimed or recorded here",
                "connect to the primary, or SET GLOBAL read_only = OFF",
            )
        ]
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < _OLDEST[kind]:
        return [
            problem(
                "server",
                found,
                f"zart needs {kind} {'.'.join(map(str, _OLDEST[kind]))} or later",
                "bring the server up to date",
            )
        ]
    return [ok("server", found)]


async def _settings(database: Database) -> dict[str, str]:
    return {row[0].lower(): row[1] for row in await fetch(database, "doctor_settings")}


async def isolation(database: Database) -> Sequence[Finding]:
    settings = await _settings(database)
    level = settings.get("transaction_isolation") or settings.get("tx_isolation") or "unknown"
    return [ok("isolation", f"{level} by default; zart's connections are READ-COMMITTED")]


async def capabilities(database: Database) -> Sequence[Finding]:
    if (await _settings(database)).get("wsrep_on") == "ON":
        return [ok("capabilities", "Galera: a dead worker is seen when its lease runs out")]
    return [ok("capabilities", "session locks: a dead worker is seen within about two seconds")]


async def durability(database: Database) -> Sequence[Finding]:
    settings = await _settings(database)
    findings: list[Finding] = []
    if (flush := settings.get("innodb_flush_log_at_trx_commit", "1")) != "1":
        findings.append(
            problem(
                "durability",
                f"innodb_flush_log_at_trx_commit is {flush}",
                "a power cut forgets up to about a second of what was acknowledged: recorded steps"
                " run again",
                "set it to 1",
            )
        )
    if (method := settings.get("innodb_flush_method", "")).lower() == "nosync":
        findings.append(
            problem(
                "durability",
                f"innodb_flush_method is {method}",
                "a power cut may destroy the whole database",
                "set it to O_DIRECT or fsync",
            )
        )
    if settings.get("innodb_doublewrite", "ON").upper() in ("OFF", "0"):
        findings.append(
            warning(
                "durability",
                "innodb_doublewrite is off",
                "a power cut may leave torn pages, unless the file system writes whole ones",
                "set it to ON",
            )
        )
    if settings.get("log_bin") == "ON" and settings.get("sync_binlog") != "1":
        findings.append(
            warning(
                "durability",
                f"sync_binlog is {settings.get('sync_binlog')}",
                "after a power cut replicas may have what the primary has forgotten, or miss what"
                " it has",
                "set it to 1",
            )
        )
    return findings or [ok("durability", "what is acknowledged is on disk")]


async def snapshots(database: Database) -> Sequence[Finding]:
    """What keeps InnoDB's history from being purged."""
    rows = await fetch(database, "doctor_snapshots")
    if not rows:
        return [ok("oldest snapshot", "no other transaction is open")]
    thread, state, seconds = rows[0]
    return [
        graded(
            "oldest snapshot",
            f"the transaction of connection {thread} ({state.lower()}) for {span(seconds)}",
            seconds,
            _PINNED,
            meaning="whatever was changed since is kept as history: claims read past what is gone",
            advice=f"find out what it does, and end it: KILL {thread}. Long reports belong on a"
            " replica",
        )
    ]


async def history(database: Database) -> Sequence[Finding]:
    rows = await fetch(database, "doctor_history")
    length = int(rows[0][0]) if rows else 0
    return [
        graded(
            "history",
            f"{amount(length, 'change')} not yet purged",
            length,
            _HISTORY,
            meaning="purge does not keep up, or an open transaction holds it back; reads and claims"
            " slow down",
            advice="look at 'oldest snapshot'; raise innodb_purge_threads",
        )
    ]


CHECKS: Sequence[Check] = (server, capabilities, isolation, durability, snapshots, history)
