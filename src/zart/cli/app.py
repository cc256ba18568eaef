"""The entry point: every command, and what becomes of its errors."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer

from zart.cli import demo, doctor, executions, tables, work
from zart.cli.command import ExitCode
from zart.cli.secrets import without_secrets
from zart.cli.trouble import exit_code, in_words

__all__ = ["main"]

_HELP = """Durable execution in the database you already have.

The database is given as --url, or in the environment as ZART_URL:
sqlite:///shop.db, postgresql://..., mysql://...

Exit codes: 0 success; 1 failure, wrong usage too; 2 time-out; 3 not found.
"""

app = typer.Typer(
    name="zart",
    help=_HELP,
    rich_markup_mode=None,  # the plain help is quicker, and reads as well in a pipe
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (demo, tables, work, executions, doctor):
    room.add_to(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from zart import __version__  # noqa: PLC0415 the package's face imports every layer

        print(f"zart {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """The options before a command's name."""


about.__doc__ = _HELP


def main() -> NoReturn:
    """Run one command and end the process with its exit code."""
    _replace_closed_streams()
    # A value in the database may hold what the terminal's encoding has no letters for.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run())


def _replace_closed_streams() -> None:
    """Where the caller has closed a stream (`zart wait ID 2>&-`), Python has None in its place.

    In the order of their numbers, which these take; they stay open to the end, as Python's own do.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, mode, closefd=False))


def _run() -> int:
    try:
        # Typer's own help for a call without words is an error, which would be told in one line.
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False, prog_name="zart")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has heard enough: `zart list | head -1`.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILURE
    except Exception as error:
        return _tell(error)
    return code if isinstance(code, int) else ExitCode.SUCCESS


def _tell(error: Exception) -> int:
    """One line on stderr; the traceback where it was asked for."""
    traced = "".join(traceback.format_exception(error)) if _wants_traceback() else ""
    text = f"{traced}zart: {in_words(error)}\n"
    with contextlib.suppress(OSError):  # where it cannot be read, the exit code tells
        sys.stderr.write(without_secrets(text, _urls()))
    return exit_code(error)


def _wants_traceback() -> bool:
    return "--debug" in sys.argv[1:]


def _urls() -> list[str]:
    """Every word that may be a database's URL: usage errors come before options are read."""
    words: list[Any] = [os.environ.get("ZART_URL", ""), *sys.argv[1:]]
    return [word.removeprefix("--url=") for word in words if "://" in word or "@" in word]
