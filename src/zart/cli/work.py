"""``zart worker``: a process that runs executions until it is told to stop."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from zart.cli.command import Cli, ExitCode, command
from zart.cli.processes import Leash, Supervisor, worker_command
from zart.cli.targets import registry_of
from zart.duration import seconds
from zart.execution.registry import TaskRegistry
from zart.execution.worker import Worker
from zart.scheduler.config import WorkerConfig
from zart.scheduler.durable import DEFAULT_QUEUE

__all__ = ["add_to"]

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_FORMAT_OF_SEVERAL = "%(asctime)s %(levelname)-7s [%(process)d] %(name)s: %(message)s"
"""Where several processes write to one log, each line tells whose it is."""


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
        typer.Option(
            "--concurrency", "-c", metavar="N", min=1, help="Executions at once in a process."
        ),
    ] = 100,
    processes: Annotated[
        int,
        typer.Option("--processes", "-p", metavar="N", min=1, help="Worker processes."),
    ] = 1,
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", metavar="NAME", help="A queue; may be given again."),
    ] = None,
    shutdown_timeout: Annotated[
        str,
        typer.Option(metavar="TIME", help="Time for running ones at a stop."),
    ] = "30s",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every detail.")] = False,
    leash: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> int:
    """Run executions until SIGTERM or SIGINT.

    The worker then claims no more and lets running ones end within the shutdown time-out; a
    second signal gives them back at once. Another worker goes on with what was given back. With
    several processes, one that dies is replaced. With --json each line of the log is an object.
    """
    limit = seconds(shutdown_timeout, what="--shutdown-timeout")
    _log_to_stderr(several=processes > 1 or leash is not None, as_json=cli.out.as_json)
    logging.getLogger("zart").setLevel(logging.DEBUG if verbose else logging.INFO)
    config = WorkerConfig(
        concurrency=concurrency,
        queues=tuple(queue or [DEFAULT_QUEUE]),
        shutdown_timeout=shutdown_timeout,
    )
    if processes > 1 and leash is None:
        line = worker_command(target, *_options(cli, config, verbose=verbose))
        with asyncio.Runner() as runner:
            return runner.run(_supervise(cli, line, processes, limit))
    held = None if leash is None else Leash(leash, limit)
    # While Python takes itself apart it would die of one. Before those of the user's module, so
    # that it is called after them.
    atexit.register(_answer_signals, signal.SIG_IGN)
    registry = registry_of(target)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_work(cli, registry, config, held))
    return ExitCode.SUCCESS


async def _supervise(cli: Cli, command: list[str], processes: int, limit: float) -> int:
    environment = cli.environment
    supervisor = Supervisor(command, environment, processes=processes, shutdown_timeout=limit)
    return await supervisor.run()


class _JsonLine(logging.Formatter):
    """A record as one JSON object on one line, as collectors of logs want it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def _log_to_stderr(*, several: bool, as_json: bool) -> None:
    text = logging.Formatter(_FORMAT_OF_SEVERAL if several else _FORMAT)
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLine() if as_json else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _options(cli: Cli, config: WorkerConfig, *, verbose: bool) -> list[str]:
    """The same options again, for a process of several; the database goes by environment."""
    options = [f"--concurrency={config.concurrency}"]
    options += [f"--shutdown-timeout={config.shutdown_timeout}"]
    options += [f"--queue={queue}" for queue in config.queues]
    options += ["--verbose"] * verbose
    options += ["--json"] * cli.out.as_json
    options += ["--debug"] * ("--debug" in sys.argv[1:])
    return options


class _Announced(Worker):
    """A worker whose supervisor hears that it has begun."""

    leash: Leash | None = None

    async def start(self) -> None:
        await super().start()
        if self.leash is not None:
            self.leash.ready()


async def _work(
    cli: Cli, registry: TaskRegistry, config: WorkerConfig, leash: Leash | None
) -> None:
    async with cli.scheduler(registry=registry) as scheduler:
        made = _Announced(scheduler, registry, config)
        made.leash = leash
        await made.run()
        # All is given back by now: one more signal has nothing to break off but the closing.
        _answer_signals(_end_at_once)
    if made.abandoned:
        # Handlers that catch their own cancellation would keep the event loop from closing.
        _end_at_once()


def _answer_signals(handler: Callable[..., None] | signal.Handlers) -> None:
    """From now on answer those that stop a worker so, once it has stopped."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _end_at_once(*_: object) -> None:
    """End the process in good order, whatever still runs in it."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ExitCode.SUCCESS)


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
