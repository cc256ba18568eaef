"""The event loop that the benchmarks run on: uvloop where it is installed, as users may."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

try:
    from uvloop import new_event_loop as _new_loop

    NAME = "uvloop"
except ImportError:
    from asyncio import new_event_loop as _new_loop

    NAME = "asyncio"

__all__ = ["NAME", "run"]

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop of its own."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)
