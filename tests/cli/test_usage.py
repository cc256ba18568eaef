"""Wrong usage: one clear line, exit code 1, nothing written, and no password shown."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.cli.command import Zart
from tests.databases import Database
from zart.cli.secrets import without_secrets
from zart.scheduler.connect import without_password

SECRET = "s3cr/et@word"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list",), "Give --url, or set ZART_URL"),
        (("bogus",), "No such command 'bogus'"),
        (("wait",), "Missing argument 'ID'"),
        (("list", "--status", "lost"), "'lost' is not one of"),
        (("list", "--url", "oracle://db"), "begin with sqlite:///, postgresql:// or mysql://"),
        (("list", "--url", "sqlite:///not-there.db"), "there is no file"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_1(words: tuple[str, ...], said: str) -> None:
    """Whatever is wrong with a call is said in one line on stderr, with exit code 1."""
    done = Zart(None)(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_bare_command_shows_its_help() -> None:
    """Without a command it says which there are, one on a line."""
    assert Zart(None).succeed() == Zart(None).succeed("--help")


def test_streams_that_the_caller_has_closed_change_no_exit_code(sqlite_database: Database) -> None:
    """What cannot be said is left out: the command does the same and ends with the same code."""
    zart = Zart(sqlite_database.url)
    zart.succeed("migrate")
    zart.succeed("schedule", "print", "{}", "--id", "p-1")
    for closed in ("<&- >&-", "2>&-", "2>/dev/full"):
        call = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "zart"]
        for words, code in (
            (("event", "p-1", "ink"), 0),
            (("wait", "p-1", "--timeout", "1ms"), 2),
            (("status", "p-2"), 3),
        ):
            done = subprocess.run([*call, *words], env=zart.environment, check=False)
            assert done.returncode == code, (closed, words)


def test_a_payload_that_does_not_fit_is_refused(sqlite_database: Database) -> None:
    """Bad JSON, input of another type, an unknown task or a bad time schedules nothing."""
    zart = Zart(sqlite_database.url)
    zart.succeed("migrate")
    for words, said in (
        (("print", "{id: 1}"), "no valid JSON"),
        (("print", '{"id": "o-1"}', "--registry", "shop"), "does not fit task 'print'"),
        (("prnt", "{}", "--registry", "shop:registry"), "no task 'prnt' in the registry"),
        (("print", "{}", "--at", "noon"), "no ISO time"),
        (("print", "{}", "--delay", "soon"), "delay 'soon' cannot be read"),
        (("print", "{}", "--delay", "1s", "--at", "2030-01-01T00:00:00Z"), "cannot both"),
        (("print", "{}", "--timeout", "1s"), "give --wait too"),
    ):
        done = zart("schedule", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
    assert zart.json("list") == []


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@127.0.0.1:1/shop",
        "postgresql://ada:s3cret-word@127.0.0.1:1/shop",
        "postgresq://ada:s3cret-word@127.0.0.1:1/shop",
        "postgresql//ada:s3cret-word@127.0.0.1:1/shop",
        "mysql://ada:s3cret-word@127.0.0.1:1/shop",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    """No error shows a password, not even with a traceback, nor one of a badly written URL."""
    done = Zart(None)("list", "--url", url, "--debug")
    assert done.returncode == 1
    assert not re.search(r"s3cr|word", done.stderr)


def test_passwords_are_found_wherever_they_stand() -> None:
    """A password is hidden in the URL itself and in any text that repeats it."""
    assert without_password("postgresql://ada:pw@db/shop") == "postgresql://ada:***@db/shop"
    assert without_password("mysql://ada:p@/w@db/shop") == "mysql://ada:***@db/shop"
    assert (
        without_password("postgresql://db/shop?password=pw") == "postgresql://db/shop?password=***"
    )
    for plain in ("sqlite:////tmp/a@b.db", "mysql://ada@db/shop", "postgresql://db:5432/shop"):
        assert without_password(plain) == plain
    url = "postgresql://ada:p%40ssword@db/shop"
    assert without_secrets("denied for p@ssword", [url]) == "denied for ***"
