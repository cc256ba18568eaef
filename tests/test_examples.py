"""What a newcomer tries first: the examples, and every program in README.md and docs."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
LIMIT = 60

EXAMPLES = {
    "checkout.py": """\
charging 42 to visa
receipt for o-1: charge-visa-42
tracking number: TN-7
1. charge: ok
2. send_receipt: ok
3. event shipped: ok
""",
    "compensation.py": """\
flight to Oslo booked
no room left in Oslo
flight to Oslo given back
failed: SoldOut Oslo
""",
    "onboarding.py": """\
Ada: onboarded
Bob: lost
to Ada: five things to try
to Ada: please confirm your address
to Ada: welcome
to Bob: please confirm your address
to Bob: you have not confirmed yet, so this ends here
""",
    "fan_out.py": """\
210 rows are public
20 steps ran on any worker
""",
    "agent.py": """\
3 notes on durable execution
turns
turns[3]/ask_model
""",
    "by_hand.py": """\
hello, world
the worker has stopped
""",
    "transaction.py": """\
Bob has 30
Bob has 30
Ada 70
Bob 30
""",
}
SIDE_BY_SIDE = {"onboarding.py"}
"""Two executions run at once: the order of their lines is theirs."""
ONCE = {"transaction.py"}
"""What it does, it does once: its second run finds the accounts as the first left them."""

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^```python(?P<title>[^\n]*)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)


def run(*arguments: str, folder: Path) -> str:
    """The output of a Python process that must end well."""
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ended.returncode == 0, f"{arguments} said:\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def test_every_example_is_run() -> None:
    """No example lies in the folder without its output being known here."""
    assert {file.name for file in (ROOT / "examples").glob("*.py")} == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    """Each example runs from an empty folder on a new SQLite file and prints what is known."""
    database = "example.db" if name == "by_hand.py" else "sqlite:///example.db"
    output = run(str(ROOT / "examples" / name), database, folder=tmp_path)
    assert _in_order(name, output) == EXAMPLES[name]
    if name not in ONCE:
        again = run(str(ROOT / "examples" / name), database, folder=tmp_path)
        assert _in_order(name, again) == EXAMPLES[name]
    assert (ast.get_docstring(ast.parse((ROOT / "examples" / name).read_text())) or "").strip()


def _in_order(name: str, output: str) -> str:
    return "".join(sorted(output.splitlines(keepends=True))) if name in SIDE_BY_SIDE else output


# -- pages ------------------------------------------------------------------------------------


def _blocks() -> list[Any]:
    found: list[Any] = []
    for page in PAGES:
        for number, block in enumerate(FENCE.finditer(page.read_text()), 1):
            found.append(pytest.param(block["code"], block["output"], id=f"{page.name}-{number}"))
    return found


@pytest.mark.parametrize(("code", "output"), _blocks())
def test_a_block_of_a_page_works(code: str, output: str | None, tmp_path: Path) -> None:
    """Each block is Python; one that imports zart is a program and prints what stands below.

    A second time, too, in the same folder: readers try things again.
    """
    if "import zart" not in code:
        # A fragment, in the middle of a workflow; the form is all that can be checked.
        compile(f"async def fragment():\n{_indented(code)}", "fragment", "exec")
        return
    (tmp_path / "program.py").write_text(code)
    for _ in range(2):
        assert run("program.py", folder=tmp_path) == (output or "")


def _indented(code: str) -> str:
    return "".join(f"    {line}" for line in code.splitlines(keepends=True))


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link of a page names a file that is there."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


# -- the tutorial -------------------------------------------------------------------------------


def _tutorial_program() -> str:
    for found in FENCE.finditer((ROOT / "docs" / "tutorial.md").read_text()):
        if "file=shop.py" in found["title"]:
            return found["code"]
    raise AssertionError("the tutorial has no shop.py")


class TutorialWorker:
    """``zart worker shop`` as the reader starts it, its output in a file."""

    def __init__(self, folder: Path, name: str) -> None:
        self.file = folder / name
        with self.file.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "zart", "worker", "shop"],
                cwd=folder,
                env={**ENVIRONMENT, "ZART_URL": "sqlite:///shop.db"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def has_said(self, text: str) -> None:
        """Wait for a line of its output."""
        deadline = time.monotonic() + LIMIT
        while text not in self.file.read_text():
            assert self.process.poll() is None, f"it has ended:\n{self.file.read_text()}"
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.file.read_text()}"
            time.sleep(0.02)


def test_the_tutorial_survives_kill_9(tmp_path: Path) -> None:
    """Followed to the letter, the tutorial ends with the result, and the card is charged once.

    But for the pause, which gives a reader the time to find the process id.
    """
    program = _tutorial_program()
    assert "time.sleep(20)" in program
    (tmp_path / "shop.py").write_text(program.replace("time.sleep(20)", "time.sleep(3)"))

    def zart(*arguments: str) -> str:
        return run("-m", "zart", arguments[0], "--url", "sqlite:///shop.db", *arguments[1:],
                   folder=tmp_path)  # fmt: skip

    order = '{"id": "o-1", "card": "visa", "total": 42}'
    zart("migrate")
    assert zart("schedule", "checkout", order, "--id", "order-1") == "order-1\n"
    assert "pending" in zart("status", "order-1")
    workers = [TutorialWorker(tmp_path, "first.log")]
    try:
        workers[0].has_said("packing o-1")
        workers[0].process.send_signal(signal.SIGKILL)
        workers[0].process.wait()
        assert "charge-visa-42" in zart("status", "order-1", "--verbose")
        workers.append(TutorialWorker(tmp_path, "second.log"))
        workers[1].has_said("packing o-1")
        zart("event", "order-1", "shipped", '"TN-7"')
        result = zart("wait", "order-1", "--timeout", "50s")
        assert "charge-visa-42, box of o-1, TN-7" in result
        workers[1].process.send_signal(signal.SIGTERM)
        assert workers[1].process.wait(LIMIT) == 0
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
    assert workers[0].file.read_text().count("charging") == 1
    assert "charging" not in workers[1].file.read_text()
