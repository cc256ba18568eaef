"""What a transition needs from a database: one transaction, with statements by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, TypeVar

__all__ = ["Row", "Transaction", "Work"]

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


T = TypeVar("T")
Work: TypeAlias = Callable[[Transaction], Awaitable[T]]
