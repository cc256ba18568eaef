"""What the log says while the database cannot serve: once, now and then again, and that it is over.

Everything that needs the database is tried again meanwhile, by many hands at once. Each of them
tells this, and what stands in the log is one line.
"""

from __future__ import annotations

import logging
import threading
import time

__all__ = ["Trouble"]

_log = logging.getLogger("zart.database")

AFTER = 0.5
"""Seconds that something must have failed until it is worth a word: most passes sooner."""
EVERY = 30.0
"""Seconds until the same is said again."""


class Trouble:
    """The troubles of one database, as told by whoever meets them, in any thread."""

    def __init__(self, address: str) -> None:
        self.address = address
        """Which database it is, as it may be shown."""
        self._lock = threading.Lock()
        self._since = 0.0
        self._said: dict[str, float] = {}

    def met(self, error: BaseException, began: float) -> None:
        """Something has failed, not for the first time since ``began``, and is tried again."""
        now = time.monotonic()
        if now - began < AFTER:
            return
        kind = f"{type(error).__name__} {getattr(error, 'sqlstate', '') or error.args[:1]}"
        with self._lock:
            if now - self._said.get(kind, -EVERY) < EVERY:
                return
            self._said[kind] = now
            self._since = self._since or began
        _log.warning(
            "the database%s does not serve: %s: %s; what is to be written waits, and is"
            " tried again",
            self.address and f" {self.address}",
            type(error).__name__,
            error,
        )

    def over(self) -> None:
        """What had failed has succeeded."""
        if not self._since:
            return
        with self._lock:
            since, self._since = self._since, 0.0
        if since:
            seconds = time.monotonic() - since
            where = self.address and f" {self.address}"
            _log.warning("the database%s serves again, after %.1f s", where, seconds)
