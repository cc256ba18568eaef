"""The command that examines."""

from __future__ import annotations

from tests.cli.command import Zart
from tests.databases import Database


def test_problems_end_in_exit_code_1_and_say_what_to_do(database: Database) -> None:
    """In words: level, check and finding in columns, then what it means and the way out."""
    zart = Zart(database.url)
    if database.kind == "sqlite":
        missing = zart("doctor")
        assert (missing.returncode, "there is no file" in missing.stdout) == (1, True)
        zart.succeed("migrate", "--prefix", "other_")
    before = zart("doctor")
    assert before.returncode == 1
    assert "problem: tables: there are no tables zart_..." in before.stdout
    assert "what to do: run `zart migrate`" in before.stdout
    zart.succeed("migrate")
    lines = zart.succeed("doctor").splitlines()
    assert lines[0].split() == ["level", "check", "found"]
    assert [line.split()[:2] for line in lines[1:] if "up to date" in line] == [["ok", "tables"]]


def test_findings_in_json_have_stable_keys(database: Database) -> None:
    """The worst level of all, and each finding whole."""
    zart = Zart(database.url)
    zart.succeed("migrate")
    answer = zart.json("doctor")
    assert answer["level"] == "warning"  # no worker is alive
    keys = {"level", "check", "found", "meaning", "advice"}
    assert {frozenset(finding) for finding in answer["findings"]} == {frozenset(keys)}


def test_a_database_that_does_not_answer_is_a_finding() -> None:
    """With exit code 1, without its password."""
    done = Zart("postgresql://me:s3cret-word@127.0.0.1:1/shop")("doctor", "--json")
    assert done.returncode == 1
    assert '"check":"connection"' in done.stdout
    assert "s3cret-word" not in done.stdout + done.stderr
