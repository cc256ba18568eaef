"""Threads for plain ``def`` steps.

A thread of the standard executor is joined when the process ends, so a step that hangs would keep
its worker from stopping; and a bounded pool would let a few such steps starve the others. These
threads are daemons, and a new one is made when none is idle: the worker's slots bound them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["NotBegunError", "in_thread"]

T = TypeVar("T")

_IDLE_SECONDS = 30.0
_Jobs = queue.SimpleQueue[Callable[[], Callable[[], None]]]
"""A job does its work and gives back what tells of it."""
_idle: list[_Jobs] = []
_lock = threading.Lock()


class NotBegunError(Exception):
    """The thread came to the function when it might not begin any more."""


async def in_thread(function: Callable[[], T], may_begin: Callable[[], bool] = lambda: True) -> T:
    """Run a function in a daemon thread, with the caller's context variables.

    ``may_begin`` is asked in the thread, right before: the way there takes as long as a busy or a
    paused machine makes it. Raises `NotBegunError` where it says no; where the caller has been
    cancelled meanwhile, nothing begins either.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def answer(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def job() -> Callable[[], None]:
        result: Any = None
        failed: BaseException | None = None
        try:
            # In this order: a lost claim's task is cancelled before the lease has its new name.
            if not may_begin() or future.done():
                raise NotBegunError
            result = context.run(function)
        except (StopIteration, GeneratorExit, KeyboardInterrupt) as error:
            # A future cannot carry the first, asyncio takes the others for its own; here they are
            # errors as any other, for no keyboard and no loop sends them to a thread.
            failed = RuntimeError(f"the step's function raised {type(error).__name__}")
            failed.__cause__ = error
        except BaseException as error:
            failed = error

        def tell() -> None:
            # A loop that has been closed raises: nobody waits for the answer.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(answer, result, failed)

        return tell

    with _lock:
        jobs = _idle.pop() if _idle else None
    if jobs is None:
        jobs = _new_thread()
    jobs.put(job)
    return await future


def _new_thread() -> _Jobs:
    jobs: _Jobs = queue.SimpleQueue()
    threading.Thread(target=_serve, args=(jobs,), name="zart-step", daemon=True).start()
    return jobs


def _serve(jobs: _Jobs) -> None:
    while True:
        try:
            job = jobs.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            with _lock:
                if jobs not in _idle:
                    continue  # a job is on its way
                _idle.remove(jobs)
            return
        tell = job()
        del job
        # Idle before it tells: who hears of it finds this thread, and makes no other one.
        with _lock:
            _idle.append(jobs)
        tell()
        del tell
