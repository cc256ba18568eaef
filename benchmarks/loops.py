"""The event loop that the benchmarks run on: uvloop where it is installed, as users may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

new_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    import uvloop

    new_loop, NAME = uvloop.new_event_loop, "uvloop"
except ImportError:
    new_loop, NAME = asyncio.new_event_loop, "asyncio"

__all__ = ["NAME", "run"]

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, plain: bool = False) -> T:
    """Run a coroutine to its end on a loop of its own; on asyncio's own if `plain`."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop if plain else new_loop) as runner:
        return runner.run(main)
