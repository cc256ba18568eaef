"""A TCP proxy between a client and its database, that does to the line what networks do.

    async with proxied(database.url) as proxy:
        async with zart.connect(proxy.url) as scheduler:
            proxy.cut()                  # every connection ends, new ones are let in
            proxy.freeze()               # nothing passes, nothing is closed
            proxy.forget()               # the same for ever, but new connections work: half-open
            proxy.cut_at(7)              # the seventh request from now is lost, its line cut
            proxy.cut_at(7, answered=True)   # it is executed, but its answer is lost

A request is what a client sends in one piece: drivers write one for each round trip. Requests
are counted over all connections, in the order in which they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

PIECE = 65536


class Proxy:
    """Forwards what comes to its port; made by `proxied`."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._lines: set[_Line] = set()
        self._server: asyncio.Server | None = None
        self._flow = asyncio.Event()
        self._flow.set()
        self._cut_at: int | None = None
        self._answered = False
        self.counts = b""
        """Only requests that contain this are counted."""
        self.hides_ends = False
        """Whether a server's closing of a line stays unseen for the client."""
        self.latency = 0.0
        """Seconds by which each piece is late, in both directions."""
        self.speed = 0.0
        """Bytes a second that a line carries; 0 for no limit."""
        self.requests = 0
        """How many have come so far."""
        self.answers = 0
        """How many pieces of answers have gone to clients."""
        self.connections = 0
        """How many were ever opened."""
        self.was_cut = asyncio.Event()
        """Set once the request of `cut_at` has come and its line is cut."""

    # -- what a test does ---------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The database's URL by way of this proxy."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        user = self._target.netloc.rpartition("@")[0]
        return urlunsplit(self._target._replace(netloc=f"{user}@{host}:{port}"))

    def cut(self) -> int:
        """Break every connection; gives how many there were."""
        lines = list(self._lines)
        for line in lines:
            line.abort()
        return len(lines)

    def freeze(self) -> None:
        """Let nothing pass from now on, on old connections and on new ones; close none."""
        self._flow.clear()

    def thaw(self) -> None:
        """Let everything pass again that has waited, and what comes."""
        self._flow.set()

    def forget(self) -> None:
        """Leave all connections open and dumb for ever; new ones work."""
        for line in self._lines:
            line.dead = True
        self._flow.set()

    def cut_at(self, number: int, *, answered: bool = False) -> None:
        """Cut the line of the request that comes as the ``number``-th from now.

        It is lost, or if ``answered`` forwarded, and its answer lost.
        """
        self.was_cut.clear()
        self._cut_at = self.requests + number
        self._answered = answered

    def spare(self) -> None:
        """Take `cut_at` back."""
        self._cut_at = None

    # -- what lines ask -----------------------------------------------------------------------

    def passes(self, line: _Line) -> bool:
        """Count a request; False when its line is to be cut instead of forwarding it."""
        self.requests += 1
        if self.requests != self._cut_at:
            return True
        if self._answered:
            line.loses_answer = True
            return True
        self.was_cut.set()
        return False

    async def passage(self, line: _Line, piece: bytes) -> None:
        """Wait as long as a piece is under way."""
        if self.latency or self.speed:
            await asyncio.sleep(self.latency + (len(piece) / self.speed if self.speed else 0))
        await self._flow.wait()
        if line.dead:
            await asyncio.Event().wait()  # until the line is aborted

    # -- at work ------------------------------------------------------------------------------

    async def open(self, listener: socket.socket | None = None) -> None:
        where: Any = {"sock": listener} if listener else {"host": "127.0.0.1", "port": 0}
        self._server = await asyncio.start_server(self._accept, **where)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for line in list(self._lines):
            line.abort()
        await asyncio.gather(*(line.ended.wait() for line in list(self._lines)))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        line = _Line(self, reader, writer)
        self._lines.add(line)
        try:
            port = self._target.port or {"mysql": 3306}.get(self._target.scheme, 5432)
            await line.serve(self._target.hostname or "127.0.0.1", port)
        finally:
            self._lines.discard(line)
            line.ended.set()


class _Line:
    """One connection of a client, and the one to the server that stands behind it."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writers = [writer]
        self._pumps: list[asyncio.Task[None]] = []
        self.loses_answer = False
        self.dead = False
        self.ended = asyncio.Event()

    async def serve(self, host: str, port: int) -> None:
        """Forward until one side closes, or until the line is cut."""
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            self.abort()
            return
        client = self._writers[0]
        self._writers.append(writer)
        self._pumps = [
            asyncio.create_task(self._requests(self._reader, writer)),
            asyncio.create_task(self._answers(reader, client)),
        ]
        await asyncio.wait(self._pumps, return_when=asyncio.FIRST_COMPLETED)
        if self._proxy.hides_ends and not self._pumps[0].done():
            await asyncio.wait(self._pumps[:1])
        self.abort()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                if self._proxy.counts in piece and not self._proxy.passes(self):
                    return
                await self._forward(piece, writer)
        if self.dead:  # the server hears nothing of the client's end either
            await asyncio.Event().wait()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                if self.loses_answer:
                    self._proxy.was_cut.set()
                    return
                await self._forward(piece, writer)
                self._proxy.answers += 1

    async def _forward(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        await self._proxy.passage(self, piece)
        writer.write(piece)
        await writer.drain()

    def abort(self) -> None:
        """Reset both connections."""
        for pump in self._pumps:
            pump.cancel()
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def proxied(url: str, listener: socket.socket | None = None) -> AsyncGenerator[Proxy, None]:
    """A proxy in front of the server of a URL, on a port of loopback or a listening socket."""
    proxy = Proxy(url)
    await proxy.open(listener)
    try:
        yield proxy
    finally:
        await proxy.close()
