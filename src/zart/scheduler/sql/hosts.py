"""Several servers of one database: connections go to the first that serves.

All connections of a process stay with one server while it serves, so that what one of them has
written the next one reads. When it is gone, each asks the others in turn.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar
from urllib.parse import urlsplit, urlunsplit

from zart.scheduler.sql.lines import CONNECTING

__all__ = ["Hosts", "address", "each_host", "without_password"]

Place = TypeVar("Place")
Connection = TypeVar("Connection")

ONE_OF_SEVERAL = 3.0
"""Seconds that one of several servers may take for a new connection before the next is asked."""


class Hosts(Generic[Place]):
    """The servers in the order in which they are tried; used by the threads of one scheduler."""

    def __init__(self, places: Sequence[Place], seconds: float | None = None) -> None:
        self._places = list(places)
        self._seconds = seconds or (CONNECTING if len(places) == 1 else ONE_OF_SEVERAL)

    def __len__(self) -> int:
        return len(self._places)

    async def connect(
        self,
        connect: Callable[[Place], Awaitable[Connection]],
        passes: Callable[[Exception], bool],
    ) -> Connection:
        """Connect to the first that serves; raises the last one's error when none does.

        ``passes`` says of an error that another server, or a later time, may do without it.
        """
        last: Exception | None = None
        for place in self._places:  # a list that is replaced and never changed
            try:
                async with asyncio.timeout(self._seconds):
                    return await connect(place)
            except Exception as error:
                if not passes(error):
                    raise
                last = error
                self._places = [*(other for other in self._places if other != place), place]
        assert last is not None
        raise last


def each_host(url: str) -> list[str]:
    """The same URL for each of the hosts that it names with commas between them."""
    parts = urlsplit(url)
    user, at, places = parts.netloc.rpartition("@")
    if "," not in places:
        return [url]
    return [urlunsplit(parts._replace(netloc=f"{user}{at}{place}")) for place in places.split(",")]


def address(url: str) -> str:
    """Hosts and database of a URL, as an error may show them: without user and password."""
    shown = without_password(url).rpartition("@")[2]
    return (
        shown.partition("://")[2].partition("?")[0] if "://" in shown else shown.partition("?")[0]
    )


def without_password(url: str) -> str:
    """A URL that may be shown: its password is left out, however badly the URL is written."""
    url = re.sub(r"([?&](?:password|passwd|sslpassword)=)[^&#]+", r"\1***", url)
    before_host, at, host = url.rpartition("@")
    colon = before_host.find(":", before_host.find("//") + 2 if "//" in before_host else 0)
    return f"{before_host[:colon]}:***@{host}" if at and colon >= 0 else url
