"""The command line: ``zart migrate``, ``worker``, ``schedule``, ``status`` and the others.

`app` has the entry point, `command` what every command shares, `output` how answers look; the
commands themselves stand in `executions`, `tables`, `work` and `demo`.
"""

from zart.cli.app import main

__all__ = ["main"]
