"""Errors as the command line tells them: a line that teaches the mend, and an exit code."""

from __future__ import annotations

from typing import Any

import typer

from zart.cli.command import ExitCode
from zart.errors import ExecutionNotFoundError, WaitTimedOutError, ZartError

__all__ = ["exit_code", "in_words"]

# Typer's errors of usage have this ancestor, whichever click the installed typer carries.
_USAGE: Any = typer.BadParameter.__mro__[1]


def exit_code(error: Exception) -> ExitCode:
    """The exit code that an error stands for."""
    if isinstance(error, WaitTimedOutError):
        return ExitCode.TIMED_OUT
    if isinstance(error, ExecutionNotFoundError):
        return ExitCode.NOT_FOUND
    return ExitCode.FAILURE


def in_words(error: Exception) -> str:
    """What happened and what to do about it, in one line."""
    if isinstance(error, _USAGE):
        return _usage(error)
    if isinstance(error, ZartError | ValueError | ImportError | typer.Abort):
        text = str(error) or type(error).__name__
    else:
        text = f"{type(error).__name__}: {error} (--debug shows the traceback)"
    return " ".join(text.split())


def _usage(error: Any) -> str:
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "zart"
    return f"{message.rstrip('.')}; `{command} --help` tells more"
