"""Marks that say on which databases a test runs."""

import pytest

from tests.databases import selected_kinds

__all__ = ["hinted", "servers_only"]


def _only(*kinds: str) -> pytest.MarkDecorator:
    chosen = [kind for kind in selected_kinds() if kind in kinds]
    parameters = [pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in chosen]
    return pytest.mark.parametrize("database", parameters, indirect=True)


servers_only = _only("postgres", "mysql")
"""For a test of what a file cannot do: its `database` is on a server."""
hinted = _only("sqlite", "postgres")
"""For a test where processes hear of each other's commits, and need not look."""
