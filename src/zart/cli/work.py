"""``zart worker``: a process that runs executions until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from zart.cli.command import Cli, command
from zart.cli.targets import registry_of
from zart.execution.registry import TaskRegistry
from zart.execution.worker import Worker
from zart.scheduler.config import WorkerConfig
from zart.scheduler.durable import DEFAULT_QUEUE

__all__ = ["add_to"]

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def worker(
    cli: Cli,
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE[:ATTRIBUTE]",
            help="A registry, a list of tasks or one task; of a module alone, all its tasks.",
            show_default=False,
        ),
    ],
    concurrency: Annotated[
        int,
        typer.Option("--concurrency", "-c", metavar="N", min=1, help="Executions at once."),
    ] = 100,
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", metavar="NAME", help="A queue; may be given again."),
    ] = None,
    shutdown_timeout: Annotated[
        str,
        typer.Option(metavar="TIME", help="Time for running ones at a stop."),
    ] = "30s",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every detail.")] = False,
) -> None:
    """Run executions until SIGTERM or SIGINT.

    The worker then claims no more and lets running ones end within the shutdown time-out; a
    second signal gives them back at once. Another worker goes on with what was given back.
    """
    logging.basicConfig(level=logging.INFO, format=_FORMAT)
    logging.getLogger("zart").setLevel(logging.DEBUG if verbose else logging.INFO)
    registry = registry_of(target)
    config = WorkerConfig(
        concurrency=concurrency,
        queues=tuple(queue or [DEFAULT_QUEUE]),
        shutdown_timeout=shutdown_timeout,
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_work(cli, registry, config))


async def _work(cli: Cli, registry: TaskRegistry, config: WorkerConfig) -> None:
    async with cli.scheduler(registry=registry) as scheduler:
        made = Worker(scheduler, registry, config)
        await made.run()
    if made.abandoned:
        # Handlers that catch their own cancellation would keep the event loop from closing.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (``pyzart[fast]``)."""
    try:
        import uvloop  # noqa: PLC0415 an extra
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def add_to(app: typer.Typer) -> None:
    """Enter this room's commands."""
    command(app, "worker", worker)
