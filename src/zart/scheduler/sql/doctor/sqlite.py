"""What only SQLite has: a file, the file system it lies on, and its write-ahead log."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from zart.scheduler.findings import Finding
from zart.scheduler.sql.database import Database
from zart.scheduler.sql.doctor.check import Check, fetch, graded, ok, problem, warning
from zart.scheduler.sql.sqlite import SqliteDatabase

__all__ = ["CHECKS", "file_system", "missing_file"]

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "smbfs",
    "virtiofs",
}
_MEMORY = {"ramfs", "tmpfs"}
_OLDEST = (3, 51, 3)
_MEBIBYTE = 1 << 20
_LOG = (64.0 * _MEBIBYTE, 2048.0 * _MEBIBYTE)
"""Bytes that the write-ahead log may have; SQLite itself begins anew at about 4 MiB."""
_FULL = 2


def _path(database: Database) -> Path:
    return cast("SqliteDatabase", database).path


def missing_file(database: Database) -> Finding | None:
    """The finding that there is no file; looking at it further would make one."""
    if (path := _path(database)).exists():
        return None
    return problem(
        "connection",
        f"there is no file {path}",
        "nothing can be scheduled, and no worker can work",
        "check the URL, or make it with `zart migrate`",
    )


async def server(database: Database) -> Sequence[Finding]:
    version: str = (await fetch(database, "doctor_server"))[0][0]
    if tuple(int(part) for part in version.split(".")[:3]) < _OLDEST:
        return [
            problem(
                "server",
                f"SQLite {version}",
                "versions before 3.51.3 may corrupt a database that several connections write to",
                "bring apsw up to date",
            )
        ]
    return [ok("server", f"SQLite {version}, {_path(database)}")]


async def durability(database: Database) -> Sequence[Finding]:
    findings: list[Finding] = []
    mode: str = (await fetch(database, "doctor_journal"))[0][0]
    if mode != "wal":
        findings.append(
            problem(
                "durability",
                f"journal_mode is {mode}",
                "readers and the writer wait for each other, and other processes' work is not seen",
                "let the file lie on a file system with shared memory, where WAL works",
            )
        )
    level: int = (await fetch(database, "doctor_synchronous"))[0][0]
    if level < _FULL:
        findings.append(
            problem(
                "durability",
                f"synchronous is {level}",
                "a power cut may forget what was acknowledged: recorded steps run again",
                "set it to FULL",
            )
        )
    return findings or [ok("durability", "journal_mode is wal, synchronous is full")]


async def log_size(database: Database) -> Sequence[Finding]:
    path = _path(database)
    log = path.with_name(path.name + "-wal")
    size = log.stat().st_size if log.exists() else 0
    return [
        graded(
            "write-ahead log",
            f"{size / _MEBIBYTE:,.1f} MiB",
            size,
            _LOG,
            meaning="it could not be written back and begun anew, so each read searches a longer"
            " log: a reader has a transaction open all the time",
            advice="find the process that reads without an end (fuser on the file), and end it; the"
            " file itself shrinks when the last one closes it",
        )
    ]


async def place(database: Database) -> Sequence[Finding]:
    """The file system that the file lies on."""
    try:
        mounts = await asyncio.to_thread(_MOUNTS.read_text)
    except FileNotFoundError:  # no Linux
        return []
    kind = file_system(_path(database), mounts)
    if kind in _NETWORK or kind.startswith("fuse."):
        return [
            problem(
                "file system",
                f"{kind}, which may be a network's",
                "locks and shared memory do not reach other machines, or not reliably: the database"
                " may be corrupted, and one execution run by two workers",
                "put the file on a disk of this machine; several machines need PostgreSQL or MySQL",
            )
        ]
    if kind in _MEMORY:
        return [
            warning(
                "file system",
                f"{kind}, which is memory",
                "all is gone when the machine stops",
                "put the file on a disk",
            )
        ]
    return [ok("file system", kind or "unknown")]


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that a path lies on, by the text of /proc/self/mountinfo."""
    place = str(path.resolve())
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), before.split()[4])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two on one point the later one covers the other
            best, kind = point, after.split()[0]
    return kind


CHECKS: Sequence[Check] = (server, durability, log_size, place)
