"""Every command as a process: output, JSON, exit codes; an execution's life on every database."""

from __future__ import annotations

import json
import time

from tests.cli.command import Zart
from tests.databases import Database

ORDER = '{"id": "o-1", "total": 21}'
RECORD = {
    *("id", "task", "queue", "status", "input", "output", "failure", "run", "attempt", "crashes"),
    *("priority", "worker", "parent", "waiting_for", "created", "started", "finished", "due"),
}
STEP = {
    *("name", "kind", "run", "outcome", "value", "failure", "started", "finished", "due"),
    *("seconds", "tries", "attempts"),
}


def test_an_execution_is_led_from_its_schedule_to_its_result(database: Database) -> None:
    """One execution's whole life can be led from the command line, in words and in JSON."""
    zart = Zart(database.url)
    assert zart.json("migrate") == {"applied": ["0001_tables"]}
    assert zart.succeed("migrate") == "the tables are up to date\n"

    assert zart.succeed("schedule", "print", ORDER, "--id", "p-1", "--registry", "shop") == "p-1\n"
    again = zart.json("schedule", "print", ORDER, "--id", "p-1")
    assert again == {"id": "p-1", "task": "print", "created": False}
    read = zart.succeed("schedule", "print", "-", "--id", "p-1", "--registry", "shop", given=ORDER)
    assert read == "p-1\n"
    late = zart("wait", "p-1", "--timeout", "50ms")
    assert (late.returncode, late.stdout) == (2, "")

    with zart.worker("shop:registry", "--concurrency", "2"):
        zart.succeed("event", "p-1", "ink", "-", given='"blue"')
        assert zart.succeed("wait", "p-1", "--timeout", "30s") == "o-1: 42 in blue\n"

        failed = zart("schedule", "jam", "--id", "j-1", "--wait", "--timeout", "30s", "--json")
        assert failed.returncode == 1
        assert json.loads(failed.stdout)["failure"]["message"].startswith("step 'refuse' failed")
        assert len(failed.stderr.splitlines()) == 1

    record = zart.json("status", "p-1", "--verbose")
    assert set(record) == RECORD | {"steps", "attempts"}
    assert (record["status"], record["output"]) == ("completed", "o-1: 42 in blue")
    assert record["input"] == {"id": "o-1", "total": 21}
    assert [(s["name"], s["outcome"], s["tries"]) for s in record["steps"]] == [
        ("press", "ok", 1),
        ("event ink", "ok", 1),
    ]
    assert all(set(step) == STEP for step in record["steps"])
    failure = json.loads(failed.stdout)["failure"]
    assert (failure["step"], failure["step_type"]) == ("refuse", "ValueError")
    timeline = zart.succeed("status", "j-1", "--verbose")
    assert "refuse: attempt 1 failed" in timeline
    assert "refuse: attempt 2 failed" in timeline
    row = next(line for line in timeline.splitlines() if line.startswith("on_failure"))
    assert "StepFailedError: step 'refuse' failed: ValueError: no" in row
    assert "Traceback" not in row
    assert "\x1b" not in timeline


def test_why_an_execution_is_tried_again_is_shown(sqlite_database: Database) -> None:
    """Its status tells the last error and the next try; the timeline has each attempt."""
    zart = Zart(sqlite_database.url)
    zart.succeed("migrate")
    zart.succeed("schedule", "stall", "--id", "s-1")
    with zart.worker("shop:registry"):
        while (record := zart.json("status", "s-1"))["status"] != "waiting":
            time.sleep(0.05)
    [attempt] = record["attempts"]
    assert (record["waiting_for"], record["due"]) == (["retry"], attempt["retry"])
    assert attempt["failure"]["message"] == "no\npower"
    for words, name in ((("status", "s-1"), "last try"), (("status", "s-1", "-v"), "the run:")):
        [line] = [each for each in zart.succeed(*words).splitlines() if each.startswith(name)]
        assert "attempt 1 failed at 2" in line
        assert f"ConnectionError: no power; the next one at {attempt['retry']}" in line
    assert f"retry until {attempt['retry']}" in zart.succeed("list")


def test_executions_are_listed_cancelled_and_restarted(sqlite_database: Database) -> None:
    """What waits can be listed, cancelled and begun anew; a missing one is exit code 3."""
    zart = Zart(sqlite_database.url)
    missing = zart("list")
    assert missing.returncode == 1
    assert "`zart migrate`" in missing.stderr
    zart.succeed("migrate")

    long_id = "a-long-id-" + "x" * 100
    zart.succeed("schedule", "print", ORDER, "--id", long_id, "--delay", "1h", "--priority", "3")
    zart.succeed("schedule", "jam", "--id", "j-1")
    listed = zart.json("list")
    assert [(e["id"], e["status"]) for e in listed] == [("j-1", "pending"), (long_id, "waiting")]
    assert set(listed[0]) == RECORD
    assert [e["id"] for e in zart.json("list", "--task", "print", "--limit", "1")] == [long_id]
    assert zart.json("list", "--status", "failed") == []
    plain = zart.succeed("list").splitlines()
    assert plain[0].split() == ["id", "task", "status", "created", "took", "note"]
    assert plain[2].split()[:3] == [long_id, "print", "waiting"]
    assert f"start until {listed[1]['due']}" in plain[2]

    assert zart.json("cancel", long_id)["status"] == "cancelled"
    waited = zart("wait", long_id)
    assert (waited.returncode, waited.stdout) == (1, "")
    assert "was cancelled" in waited.stderr
    assert zart("event", long_id, "ink").returncode == 1
    assert zart.json("restart", long_id) == {"id": long_id, "run": 2}
    assert zart.json("status", long_id)["run"] == 2
    alive = zart("restart", long_id)
    assert (alive.returncode, alive.stdout) == (1, "")
    assert "is pending: a restart would give its present run up" in alive.stderr
    assert zart.json("restart", long_id, "--force") == {"id": long_id, "run": 3}

    for words in (
        ("status", "nope"),
        ("wait", "nope"),
        ("event", "nope", "x"),
        ("cancel", "nope"),
        ("restart", "nope"),
    ):
        done = zart(*words)
        assert (done.returncode, done.stdout) == (3, "")
        assert len(done.stderr.splitlines()) == 1


def test_migrate_prints_its_sql_and_touches_nothing(database: Database) -> None:
    """`migrate --print` gives the SQL, with the chosen prefix, and makes no table."""
    zart = Zart(database.url)
    printed = zart.succeed("migrate", "--print", "--prefix", "my_")
    assert "CREATE TABLE" in printed
    assert "my_executions" in printed
    assert "zart_" not in printed
    assert zart("list", "--prefix", "my_").returncode == 1
