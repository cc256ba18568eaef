"""The command `zart`, called as a user calls it: a process of its own, its output in pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
"""Where `zart` is called in: the module `shop` is there."""
SECONDS = 60


class Zart:
    """Calls commands on one database."""

    def __init__(self, url: str | None) -> None:
        variables = {k: v for k, v in os.environ.items() if not k.startswith("ZART_")}
        self.environment = variables | ({"ZART_URL": url} if url else {})
        source = str(FOLDER.parents[1] / "src")
        self.environment["PYTHONPATH"] = source

    def __call__(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "zart", *arguments],
            cwd=FOLDER,
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def succeed(self, *arguments: str, given: str = "") -> str:
        """The output of a command that must succeed."""
        done = self(*arguments, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """The JSON of a command that must succeed."""
        return json.loads(self.succeed(*arguments, "--json"))

    @contextmanager
    def worker(self, target: str, *options: str) -> Iterator[subprocess.Popen[str]]:
        """A worker process, ended at the end of the block if it still lives."""
        process = subprocess.Popen(
            [sys.executable, "-m", "zart", "worker", target, *options],
            cwd=FOLDER,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()
