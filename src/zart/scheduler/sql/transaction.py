"""What a transition needs from a database: one transaction, with statements by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, TypeVar

__all__ = ["Note", "Row", "Transaction", "Work", "carrying"]

Row: TypeAlias = tuple[Any, ...]


class Transaction(Protocol):
    """One open transaction."""

    @property
    def attempt(self) -> int:
        """1 on the first try; higher when an earlier one may have been committed unseen."""
        ...

    async def fetch(self, statement: str, /, **values: Any) -> list[Row]:
        """The rows of a named statement."""
        ...

    async def execute(self, statement: str, /, **values: Any) -> int:
        """Run a named statement; gives the number of rows it matched."""
        ...


class Note:
    """A hint that a statement carries, told by its commit: no round trip of its own."""

    __slots__ = ("_carried", "channel", "message", "sent")

    def __init__(self, channel: str, message: str, carried: Callable[[], None]) -> None:
        self.channel = channel
        self.message = message
        self._carried = carried
        self.sent = False
        """True when the commit is known that has told of it."""

    def carried(self) -> None:
        """Its statement is committed."""
        self.sent = True
        self._carried()


def carrying(note: Note | None) -> dict[str, str]:
    """The values of a statement that may carry a note."""
    return {"channel": note.channel if note else "", "message": note.message if note else ""}


T = TypeVar("T")
Work: TypeAlias = Callable[[Transaction], Awaitable[T]]
