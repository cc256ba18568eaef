"""``zart doctor``: what is wrong, what it means, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import typer

from zart.cli.command import Cli, ExitCode, command
from zart.cli.output import Cell
from zart.cli.secrets import without_secrets
from zart.scheduler.findings import Finding, FindingLevel

__all__ = ["add_to"]

_STYLES = {FindingLevel.OK: "green", FindingLevel.WARNING: "yellow", FindingLevel.PROBLEM: "red"}
_WORST_FIRST = (FindingLevel.PROBLEM, FindingLevel.WARNING, FindingLevel.OK)


async def doctor(cli: Cli) -> ExitCode:
    """Examine the database, the workers and the queue.

    Nothing is changed. A problem, as opposed to a warning, ends in exit code 1.
    """
    async with cli.unchecked_scheduler() as scheduler:
        findings = [_shown(finding, cli.database_url) for finding in await scheduler.doctor()]
    if cli.out.as_json:
        cli.out.json({"level": _worst(findings), "findings": findings})
    else:
        _show(cli, findings)
    return ExitCode.FAILURE if _worst(findings) is FindingLevel.PROBLEM else ExitCode.SUCCESS


def _shown(finding: Finding, url: str) -> Finding:
    # A driver's error may name what it was given.
    return msgspec.structs.replace(finding, found=without_secrets(finding.found, [url]))


def _worst(findings: Sequence[Finding]) -> FindingLevel:
    levels = {finding.level for finding in findings}
    return next(level for level in _WORST_FIRST if level in levels)


def _show(cli: Cli, findings: Sequence[Finding]) -> None:
    out = cli.out
    rows: list[list[Cell]] = [
        [(finding.level.value, _STYLES[finding.level]), (finding.check, "bold"), finding.found]
        for finding in findings
    ]
    out.table(["level", "check", "found"], rows)
    for level in _WORST_FIRST[:-1]:
        for finding in findings:
            if finding.level is level:
                out.line()
                out.line(f"{level.value}: {finding.check}: {finding.found}", _STYLES[level])
                out.line(f"  it means: {finding.meaning}")
                out.line(f"  what to do: {finding.advice}")


def add_to(app: typer.Typer) -> None:
    """Enter this room's commands."""
    command(app, "doctor", doctor)
