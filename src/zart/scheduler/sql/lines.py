"""Connections to a peer that has gone without a word: found out by the kernel, and soon.

A machine that loses power, a firewall that forgets a connection, a cut cable: no packet says so,
and by default a socket waits for hours, or for ever. With these a client hears of it within about
`UNACKNOWLEDGED` seconds, whether it was waiting for an answer or for a notification. What the
kernel cannot see, a peer that is there and does not answer, is bounded by the time that a
statement may take.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

__all__ = ["CONNECTING", "UNACKNOWLEDGED", "watch"]

UNACKNOWLEDGED = 10.0
"""Seconds that the other machine may leave something unacknowledged."""
CONNECTING = 10.0
"""Seconds that a new connection may take: the next try comes with fresh packets."""

_PROBE_AFTER = 5
_PROBE_EVERY = 2
_PROBES = 3

# Not every system has each of them.
_OPTIONS = {
    "TCP_KEEPIDLE": _PROBE_AFTER,
    "TCP_KEEPINTVL": _PROBE_EVERY,
    "TCP_KEEPCNT": _PROBES,
    "TCP_USER_TIMEOUT": int(UNACKNOWLEDGED * 1000),
}


def watch(transport: Any) -> None:
    """Let a TCP transport end with an error when its peer is gone."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if hasattr(socket, name):
            with contextlib.suppress(OSError):  # a system that knows it and won't have it
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
