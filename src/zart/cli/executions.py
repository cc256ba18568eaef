"""The commands about single executions: schedule, wait, event, cancel, restart."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from zart.cli import looking
from zart.cli.command import Cli, ExitCode, command
from zart.cli.output import printable
from zart.cli.records import as_record, value_text
from zart.cli.targets import registry_of
from zart.errors import DecodeError, PayloadError, UnknownTaskError
from zart.execution.registry import TaskRegistry
from zart.models import Execution, Status
from zart.scheduler.durable import DEFAULT_QUEUE
from zart.serialization import Serializer

__all__ = ["add_to"]

Id = Annotated[str, typer.Argument(metavar="ID", help="The execution's id.", show_default=False)]
Timeout = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="How long to wait: 30s, 5m; for ever unless given."),
]


async def schedule(
    cli: Cli,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The task's name.", show_default=False)
    ],
    payload: Annotated[
        str | None,
        typer.Argument(metavar="JSON", help="Its input; - reads stdin.", show_default=False),
    ] = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Its id; a new UUID unless given.")
    ] = None,
    queue: Annotated[
        str, typer.Option("--queue", "-q", metavar="NAME", help="The queue.")
    ] = DEFAULT_QUEUE,
    priority: Annotated[int, typer.Option(metavar="N", help="Lower goes first.")] = 0,
    delay: Annotated[
        str | None, typer.Option(metavar="TIME", help="Start after this time: 5m, 2h.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Start at this ISO time: 2030-01-31T08:00Z.")
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(metavar="MODULE[:ATTRIBUTE]", help="Check name and input by these."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait, and print the result.")] = False,
    timeout: Timeout = None,
) -> ExitCode:
    """Schedule an execution and print its id.

    The same id with the same task and input gives the execution that is there already.
    """
    if delay is not None and at is not None:
        raise ValueError("--delay and --at cannot both say when it starts: give one")
    if timeout is not None and not wait:
        raise ValueError("--timeout bounds the waiting: give --wait too")
    known = registry_of(registry) if registry else None
    text = _text(payload)
    data = _typed(known, name, text) if known else _json(text, "the input")
    async with cli.scheduler(registry=known) as scheduler:
        handle = await scheduler.schedule(
            name, data, id=id, queue=queue, priority=priority, delay=delay, at=_moment(at)
        )
        if not handle.created:
            cli.out.note(f"execution {handle.id!r} was there already")
        if wait:
            return _report(cli, await scheduler.wait(handle.id, timeout))
    if cli.out.as_json:
        cli.out.json({"id": handle.id, "task": name, "created": handle.created})
    else:
        cli.out.line(handle.id)
    return ExitCode.SUCCESS


def _text(given: str | None) -> str:
    """The JSON text that an argument is, or that it says to read; nothing given is null."""
    if given is None:
        return "null"
    if given == "-":
        # What is no UTF-8 is told like any other text that is no JSON.
        return sys.stdin.buffer.read().decode(errors="surrogateescape")
    return given


def _json(text: str, what: str) -> Any:
    """The value of a JSON text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise PayloadError(
            f"{what} is no valid JSON: {error}. A JSON string needs its quotes: '\"text\"'"
        ) from error


def _typed(registry: TaskRegistry, name: str, text: str) -> Any:
    """The input as the task's own type; raises `UnknownTaskError` or `PayloadError`."""
    handler = registry.find(name)
    if handler is None:
        known = ", ".join(n for n in sorted(registry.names) if registry.find(n)) or "none"
        raise UnknownTaskError(f"no task {name!r} in the registry; it has: {known}")
    _json(text, "the input")
    try:
        return Serializer().shape(handler.data_type).decode(text)
    except DecodeError as error:
        why = error.__cause__ or error  # the checker's own words, without advice on stored data
        raise PayloadError(f"the input does not fit task {name!r}: {why}") from error


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"--at {text!r} is no ISO time: write it as 2030-01-31T08:00:00Z"
        ) from error


async def wait(cli: Cli, id: Id, timeout: Timeout = None) -> ExitCode:
    """Wait until an execution has ended and print its result.

    Exit code 1 when it failed or was cancelled, 2 when it has not ended in time.
    """
    async with cli.scheduler() as scheduler:
        return _report(cli, await scheduler.wait(id, timeout))


def _report(cli: Cli, ended: Execution) -> ExitCode:
    """Print a finished execution's result, or why there is none."""
    if cli.out.as_json:
        cli.out.json(as_record(ended))
    elif ended.status is Status.COMPLETED:
        cli.out.line(value_text(ended.output))
    if ended.status is Status.COMPLETED:
        return ExitCode.SUCCESS
    cause = f": {ended.failure.type}: {ended.failure.message}" if ended.failure else ""
    word = "was cancelled" if ended.status is Status.CANCELLED else ended.status.value
    text = f"zart: execution {ended.id!r} {word}{cause}"
    cli.out.note(printable(" ".join(text.split())))
    return ExitCode.FAILURE


async def event(
    cli: Cli,
    id: Id,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The event's name.", show_default=False)
    ],
    payload: Annotated[
        str | None,
        typer.Argument(metavar="JSON", help="Its payload; - reads stdin.", show_default=False),
    ] = None,
) -> None:
    """Deliver an event to an execution.

    It may come before or while the execution waits for it.
    """
    data = _json(_text(payload), "the payload")
    async with cli.scheduler() as scheduler:
        await scheduler.offer_event(id, name, data)
    if cli.out.as_json:
        cli.out.json({"id": id, "event": name, "delivered": True})
    else:
        cli.out.line(f"delivered {name} to {id}")


async def cancel(cli: Cli, id: Id) -> None:
    """End an execution as cancelled: no later step of it starts."""
    async with cli.scheduler() as scheduler:
        await scheduler.cancel(id)
        if cli.out.as_json:
            cli.out.json(as_record(await scheduler.get(id)))
        else:
            cli.out.line(f"cancelled {id}")


async def restart(
    cli: Cli,
    id: Id,
    force: Annotated[
        bool, typer.Option("--force", help="Also one that is alive: its present run is given up.")
    ] = False,
) -> None:
    """Begin a new run of an execution that has ended.

    It starts from the top, with all steps; the old run stays as history.
    """
    async with cli.scheduler() as scheduler:
        if not force and not (status := (await scheduler.get(id)).status).finished:
            raise ValueError(
                f"execution {id!r} is {status}: a restart would give its present run up and run"
                " all its steps again. Wait or cancel it first, or say --force"
            )
        run = await scheduler.restart(id)
    if cli.out.as_json:
        cli.out.json({"id": id, "run": run})
    else:
        cli.out.line(f"began run {run} of {id}")


def add_to(app: typer.Typer) -> None:
    """Enter this room's commands."""
    command(app, "schedule", schedule)
    looking.add_to(app)
    command(app, "wait", wait)
    command(app, "event", event)
    command(app, "cancel", cancel)
    command(app, "restart", restart)
