"""`zart demo` on every database, and the check that it makes of itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest

import zart
from tests.cli.command import Zart
from tests.databases import Database
from zart.cli.demo_report import Evidence, problems
from zart.cli.demo_shop import Line
from zart.scheduler.sql.database import Ddl
from zart.scheduler.sql.engine import SqlEngine

NOW = datetime.now(UTC)


async def tables(database: Database) -> set[str]:
    """The names of all tables in the database."""
    names = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
        "postgres": "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
        "mysql": "SELECT table_name FROM information_schema.tables WHERE table_schema = database()",
    }

    async def job(ddl: Ddl) -> set[str]:
        return {str(row[0]) for row in await ddl.fetch(names[database.kind])}

    async with zart.connect(database.url) as scheduler:
        assert isinstance(scheduler.backend, SqlEngine)
        return await scheduler.backend.database.exclusively(job)


async def test_the_demo_survives_its_kill(database: Database) -> None:
    """The demo ends well, shows a plain timeline, and leaves the user's tables as they were."""
    command = Zart(database.url)
    command.succeed("migrate")
    before = await tables(database)
    shown = command.succeed("demo", "--url", database.url)
    assert "kill -9" in shown
    assert "took over" in shown
    assert "result: TN-7" in shown
    assert "no finished step ran twice" in shown
    assert "\x1b" not in shown
    assert command.json("list") == []
    assert "zart_executions" in before
    assert await tables(database) == before


def test_the_demo_needs_no_database() -> None:
    """Without a URL it makes a SQLite file of its own; in JSON it tells what ran where."""
    told = Zart(None).json("demo")
    assert (told["ok"], told["result"], told["problems"]) == (True, "TN-7", [])
    ran = {step["name"]: step["began_in"] for step in told["steps"]}
    assert ran == {
        "charge": [told["killed"]],
        "send_receipt": [told["killed"], told["survivor"]],
        "event shipped": [],
    }


def evidence() -> Evidence:
    """What a good demo leaves."""
    execution = zart.Execution(
        id="order-o-1",
        task="checkout",
        queue="default",
        status=zart.Status.COMPLETED,
        input="{}",
        output=json.dumps("TN-7"),
        failure=None,
        run=1,
        attempt=1,
        crashes=1,
        priority=0,
        worker=None,
        parent=None,
        created=NOW,
        started=NOW,
        finished=NOW,
        due=None,
    )
    steps = tuple(
        zart.StepRecord(
            name=name,
            kind="step",
            run=1,
            position=1,
            outcome=zart.Outcome.OK,
            value=None,
            failure=None,
            started=NOW,
            finished=NOW,
            due=None,
        )
        for name in ("charge", "send_receipt", "event shipped")
    )
    ledger = (
        Line("charge", "begin", 1),
        Line("charge", "end", 1),
        Line("send_receipt", "begin", 1),
        Line("send_receipt", "begin", 2),
        Line("send_receipt", "end", 2),
    )
    return Evidence(
        execution=execution, steps=steps, ledger=ledger, killed=1, survivor=2, expected='"TN-7"'
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), []),
        ((Line("charge", "begin", 2),), ["charge had finished and ran again"]),
        ((Line("charge", "end", 2),), ["charge had finished and ran again"]),
    ],
)
def test_the_demo_sees_a_step_that_ran_again(more: tuple[Line, ...], said: list[str]) -> None:
    """A finished step that ran again, or ended again, is told and fails the demo."""
    good = evidence()
    seen = msgspec.structs.replace(good, ledger=(*good.ledger, *more))
    assert problems(seen) == said


def test_the_demo_sees_a_missing_step_and_a_wrong_result() -> None:
    """Fewer recorded steps or another result than promised are told."""
    good = evidence()
    other = msgspec.structs.replace(good.execution, output='"TN-8"')
    seen = msgspec.structs.replace(good, execution=other, steps=good.steps[1:])
    assert len(problems(seen)) == 2
