"""Hints that something may have changed: in this process at once, between processes soon.

Polling is the truth: every hint may be lost, and each listener looks by itself now and then.
"""

from __future__ import annotations

import asyncio
import contextlib

from zart.scheduler.sql.database import Hints
from zart.scheduler.sql.transaction import Note

__all__ = ["DUE", "FINISHED", "READY", "WOKEN", "Bell", "WakeUps"]

READY = "ready"
"""Something can be claimed."""
WOKEN = "woken"
"""An execution that a worker is running has been woken or cancelled."""
DUE = "due"
"""A sleeper may be due earlier than was known."""
FINISHED = "finished"
"""An execution has ended."""


class Bell:
    """Rings for one listener; rings that come while nobody waits are kept as one."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()

    @property
    def rings(self) -> bool:
        """True while a ring waits to be heard."""
        return self._event.is_set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most so long; True when it rang."""
        if not self._event.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._event.wait()
        rang = self._event.is_set()
        self._event.clear()
        return rang


class WakeUps:
    """The bells of one scheduler, rung from this process and by its database's hints."""

    def __init__(self, hints: Hints | None) -> None:
        self._hints = hints
        self._bells: dict[str, set[Bell]] = {kind: set() for kind in (READY, WOKEN, DUE, FINISHED)}
        self._listening = False

    def ring(self, *kinds: str, told: Note | None = None) -> None:
        """Ring here, and tell other processes soon, unless they are told by this note."""
        for kind in kinds:
            for bell in self._bells[kind]:
                bell.ring()
            if told is None or not told.sent:
                self.tell(kind)

    def tell(self, kind: str) -> None:
        """Tell other processes soon."""
        if self._hints is not None:
            self._hints.send(kind)

    def note(self, *kinds: str) -> Note | None:
        """The same as a note for the statement that makes it so; None where `ring` has to tell."""
        return None if self._hints is None else self._hints.note(" ".join(kinds))

    async def attach(self, bell: Bell, *kinds: str) -> None:
        """Let a bell ring for these kinds."""
        for kind in kinds:
            self._bells[kind].add(bell)
        if not self._listening and self._hints is not None:
            self._listening = True
            try:
                await self._hints.start(self._received)
            except BaseException:
                self._listening = False
                raise

    def detach(self, bell: Bell) -> None:
        """Stop ringing a bell."""
        for bells in self._bells.values():
            bells.discard(bell)

    def _received(self, message: str) -> None:
        kinds = message.split() or list(self._bells)
        for kind in kinds:
            for bell in self._bells.get(kind, ()):
                bell.ring()

    async def close(self) -> None:
        if self._hints is not None:
            await self._hints.close()
