"""What a PostgreSQL, or a pooler in front of it, can do: asked at the first connection.

Between zart and the server may stand a pooler that hands each transaction to another of its
connections, and in place of the server one that only speaks its protocol. Then nothing that is set
on a connection lasts: no prepared statement, no LISTEN, no lock of a session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
import msgspec

from zart.scheduler.sql import lines
from zart.scheduler.sql.hosts import Hosts, each_host
from zart.scheduler.sql.lines import CONNECTING

__all__ = ["PLANNER", "WITHOUT_LISTEN", "Capabilities", "PostgresServer", "split_url"]

_driver: Any = asyncpg
"""It carries no types; what it gives is checked where it enters our own."""
_log = logging.getLogger("zart.database")

PARAMETER = "zart_capabilities"
WITHOUT_LISTEN = 0.05
"""Seconds between an idle worker's looks, where no notification comes."""

# Every statement here finds its rows by a key. A plan that is cached while a table is small would
# scan it for ever: so scans and what is built on them are the planner's last choice.
PLANNER = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
# The server hears of a client that is gone, too, and takes back its connection and its locks.
_KEEPALIVE = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_READ_COMMITTED = "read committed"
_PROBE = (
    "SELECT pg_backend_pid(), current_setting('default_transaction_isolation'),"
    " current_setting('enable_seqscan') = 'off', version()"
)
_RELATIVES = {"CockroachDB": "CockroachDB", "-YB-": "YugabyteDB"}
"""Engines that speak PostgreSQL's protocol, by a part of what they call their version."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What zart may use beyond transactions; each has a way to do without."""

    prepared_statements: bool = False
    """A statement that is prepared on a connection is there in its next transaction."""
    listen: bool = False
    """Notifications arrive: workers need not look often."""
    session_locks: bool = False
    """A lock lasts as long as its connection: a death is seen before the lease runs out."""
    skip_locked: bool = False
    """Claims pass by rows that others are claiming."""
    read_committed: bool = False
    """A statement sees what was committed before it; otherwise transactions are serializable."""


EVERYTHING = Capabilities(
    prepared_statements=True,
    listen=True,
    session_locks=True,
    skip_locked=True,
    read_committed=True,
)
# SKIP LOCKED and isolation are the server's own; all else lasts for one transaction.
POOLED = Capabilities(skip_locked=True, read_committed=True)
RELATIVE = Capabilities(prepared_statements=True, skip_locked=True)


def split_url(url: str) -> tuple[str, Capabilities | None]:
    """A URL without what it says for zart alone, and the capabilities that it names, if it does.

    ``?zart_capabilities=listen,skip_locked`` means these and no others, ``none`` none at all.
    Raises ValueError for a name that is none of them.
    """
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    told = [value for name, value in query if name == PARAMETER]
    if not told:
        return url, None
    rest = urlencode([(name, value) for name, value in query if name != PARAMETER])
    names = {name for name in told[-1].replace(" ", "").split(",") if name and name != "none"}
    if unknown := names - set(Capabilities.__struct_fields__):
        raise ValueError(
            f"{PARAMETER} names {', '.join(sorted(unknown))}: it takes some of"
            f" {', '.join(Capabilities.__struct_fields__)}, with commas between them, or none"
        )
    return urlunsplit(parts._replace(query=rest)), Capabilities(**dict.fromkeys(names, True))


class PostgresServer:
    """Where connections come from, and what is known of the server that they lead to.

    ``changed`` is called when the first connection has shown it to be other than was thought.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        passes: Callable[[Exception], bool],
        changed: Callable[[], None],
    ) -> None:
        self.url, self._told = split_url(url)
        self.options = {"timeout": CONNECTING, **options}
        self._hosts = Hosts(each_host(self.url), options.get("timeout"))
        if len(self._hosts) > 1 and "target_session_attrs=" not in self.url:
            self.options.setdefault("target_session_attrs", "primary")
        self.capabilities = self._told or EVERYTHING
        self.isolation = _READ_COMMITTED
        """What the database's transactions are unless they say otherwise."""
        self.pooled = False
        self.settings: dict[str, str] = PLANNER | _KEEPALIVE
        """What each connection is made with; empty where a pooler takes none."""
        self.begin = ""
        """Begins a transaction of zart's own."""
        self.alone = True
        """True where a statement outside of BEGIN is such a transaction by itself."""
        self._passes = passes
        self._changed = changed
        self._asked = False
        self._fit()

    def _fit(self) -> None:
        # Fences rely on a locking read seeing the newest committed row, or failing: whatever the
        # server's default is. And a process that stands still in the middle of a transaction keeps
        # no row from those that take over.
        level = "READ COMMITTED" if self.capabilities.read_committed else "SERIALIZABLE"
        local = {"idle_in_transaction_session_timeout": "5s"}
        if not self.settings:
            local |= PLANNER
        settings = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in local.items())
        self.begin = f"BEGIN ISOLATION LEVEL {level}{settings}"
        self.alone = self.capabilities.read_committed and bool(self.settings)

    async def connect(self) -> Any:
        """A connection outside of any pool."""
        return await self.connect_with(self.url, **self.options)

    async def connect_with(self, _url: str, **options: Any) -> Any:
        """Connect as asyncpg does, with zart's settings, to the first host that serves."""
        # One host at a time: asyncpg's own list stops at one that accepts and does not answer.
        return await self._hosts.connect(lambda url: self._connect(url, options), self._passes)

    async def _connect(self, url: str, options: Mapping[str, Any]) -> Any:
        """Connect; the first time, look where it led, and do it again if that is news."""
        while True:
            made_for = self.settings, self.capabilities
            connection = await self._open(url, dict(options))
            try:
                if not self._asked:
                    await self._ask(connection)
                if made_for == (self.settings, self.capabilities):
                    return connection
                await connection.close()
            except BaseException:
                connection.terminate()
                raise

    async def _open(self, url: str, options: dict[str, Any]) -> Any:
        given: dict[str, str] = options.pop("server_settings", None) or {}
        if not self.capabilities.prepared_statements:
            options["statement_cache_size"] = 0
        try:
            settings = {**self.settings, **given}
            connection = await _driver.connect(url, server_settings=settings, **options)
        except asyncpg.PostgresError as error:
            if not self.settings or "startup parameter" not in str(error):
                raise
            _log.debug("a pooler refuses settings at connection: %s", error)
            self.settings = {}
            connection = await _driver.connect(url, server_settings=given, **options)
        lines.watch(connection._transport)
        return connection

    async def _ask(self, connection: Any) -> None:
        # By the unnamed statement: behind a pooler a name would stay on somebody else's connection.
        statement = await connection.prepare(_PROBE, name="")
        process, isolation, accepted, version = await statement.fetchrow()
        if self._asked:  # by another connection, meanwhile
            return
        self._asked = True
        self.isolation = isolation
        # A pooler makes up the process that it tells its client.
        self.pooled = process != connection.get_server_pid()
        if not accepted:
            self.settings = {}
        elif isolation != _READ_COMMITTED:
            self.settings = {**self.settings, "default_transaction_isolation": _READ_COMMITTED}
        what = next((name for part, name in _RELATIVES.items() if part in version), None)
        if self.pooled:
            what = "PostgreSQL behind a pooler"
        if self._told is None and what is not None:
            self.capabilities = POOLED if self.pooled else RELATIVE
        self._fit()
        self._changed()
        if self.capabilities != EVERYTHING:
            self._tell(what or "PostgreSQL")

    def _tell(self, what: str) -> None:
        missing = [name for name in Capabilities.__struct_fields__ if not self.can(name)]
        notes = [f"the database is {what}: zart does without {', '.join(missing)}"]
        if not self.capabilities.listen:
            notes.append(f"idle workers look for work every {WITHOUT_LISTEN:g} s")
        if not self.capabilities.session_locks:
            notes.append("a dead worker is seen when its lease runs out")
        _log.info("%s", "; ".join(notes))

    def known_to_listen(self) -> bool:
        """True when a connection has shown that notifications arrive, of single statements too."""
        return self._asked and self.capabilities.listen and self.alone

    def can(self, name: str) -> bool:
        """Whether the server has this capability."""
        return bool(getattr(self.capabilities, name))
